"""PostgreSQL refuses to run as root. When we are root, it runs as another account that can reach its files."""

from __future__ import annotations

import os
import pwd
import stat
import struct
from pathlib import Path

from lakehouse.core.errors import StackError
from lakehouse.stack.processes import User

_ACL = "system.posix_acl_access"
_ACL_VERSION = 2
_USER_OBJECT, _USER, _GROUP_OBJECT, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF
_ENTER = 1


def server_user(data: Path) -> User | None:
    """None when we are not root; else the owner of the data folder if there is one, else `postgres`, else `nobody`."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return User(data.stat().st_uid, data.stat().st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(entry.pw_uid, entry.pw_gid)
    raise StackError(
        "PostgreSQL does not run as root, and no account `postgres` or `nobody` exists",
        todo="run as an ordinary user, or create one: useradd --system postgres",
    )


def let_enter(user: User, path: Path) -> None:
    """Let ``user``, and nobody else, pass through the folders above ``path``; they still cannot list them."""
    for folder in reversed(path.absolute().parents):
        if not _can_enter(user, folder):
            _grant(user, folder)


def _can_enter(user: User, folder: Path) -> bool:
    state = folder.stat()
    if state.st_uid == user.uid:
        return bool(state.st_mode & stat.S_IXUSR)
    entries = _read_acl(folder)
    if (_USER, user.uid) in entries:
        # A later chmod of the folder takes rights away through the mask.
        return bool(entries[_USER, user.uid] & entries.get((_MASK, _NO_ID), _ENTER) & _ENTER)
    return bool(state.st_mode & (stat.S_IXGRP if state.st_gid == user.gid else stat.S_IXOTH))


def _grant(user: User, folder: Path) -> None:
    entries = _read_acl(folder) or _acl_of_mode(folder.stat().st_mode)
    entries[_USER, user.uid] = entries.get((_USER, user.uid), 0) | _ENTER
    entries[_MASK, _NO_ID] = entries.get((_MASK, _NO_ID), entries[_GROUP_OBJECT, _NO_ID]) | _ENTER
    packed = b"".join(struct.pack("<HHI", tag, rights, ident) for (tag, ident), rights in sorted(entries.items()))
    try:
        os.setxattr(folder, _ACL, struct.pack("<I", _ACL_VERSION) + packed)
    except OSError as error:
        raise StackError(
            f"PostgreSQL's account (uid {user.uid}) cannot enter {folder}: {error.strerror}",
            todo="set LAKEHOUSE_HOME and the project's folder to places that others may enter, or don't run as root",
        ) from None


def _read_acl(folder: Path) -> dict[tuple[int, int], int]:
    try:
        packed = os.getxattr(folder, _ACL)
    except OSError:
        return {}
    return {(tag, ident): rights for tag, rights, ident in struct.iter_unpack("<HHI", packed[4:])}


def _acl_of_mode(mode: int) -> dict[tuple[int, int], int]:
    return {
        (_USER_OBJECT, _NO_ID): mode >> 6 & 7,
        (_GROUP_OBJECT, _NO_ID): mode >> 3 & 7,
        (_OTHER, _NO_ID): mode & 7,
    }
