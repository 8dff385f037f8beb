"""Files of the local stack: private ones written whole or not at all, ``KEY=value`` files, and a lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from lakehouse.core.errors import SettingsError, StackError

_POLL_SECONDS = 0.1
_PLAIN = re.compile(r"[A-Za-z0-9_./:@=+,-]*")


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner can enter."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Write ``text`` with mode 0600; a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_env(path: Path) -> dict[str, str]:
    """The ``KEY=value`` lines of a file; empty where there is no file."""
    if not path.exists():
        return {}
    lines = (line for line in path.read_text().split("\n") if "=" in line and not line.startswith("#"))
    return {key: _unquoted(value) for key, _, value in (line.partition("=") for line in lines)}


def write_env(path: Path, values: Mapping[str, str], comment: str) -> None:
    """Write a mapping as ``KEY=value`` lines, privately, so that settings read the very same values.

    Raises :class:`SettingsError` naming the keys whose values such a file cannot hold.
    """
    if wrong := [key for key, value in values.items() if not value.isprintable() or "${" in value]:
        raise SettingsError(
            f"{', '.join(wrong)} cannot be kept in a file: it holds ${{ or a character that cannot be printed",
            where=str(path),
            todo="choose another value",
        )
    lines = [f"# {comment}", *(f"{key}={_quoted(value)}" for key, value in values.items())]
    write_private(path, "\n".join(lines) + "\n")


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith("'") else value


@contextlib.contextmanager
def file_lock(path: Path, timeout_seconds: float, what: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; it ends with the process, however that ends.

    Raises :class:`StackError` when another process holds it for longer than ``timeout_seconds``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _acquire(file.fileno(), time.monotonic() + timeout_seconds, path, what)
        yield


def _acquire(handle: int, deadline: float, path: Path, what: str) -> None:
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StackError(
                    f"another process is still busy with {what}", where=str(path), todo="wait for it, or stop it"
                ) from None
        time.sleep(_POLL_SECONDS)
