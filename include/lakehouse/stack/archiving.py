"""The local PostgreSQL's log goes into the bucket of backups, segment by segment, where there is such a bucket.

PostgreSQL runs our program for each. It knows whoever writes backups, and nothing else of the settings: that is in a
folder of its own, which only the server's account can read.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import lakehouse
from lakehouse.core.settings import Settings
from lakehouse.stack.accounts import let_enter
from lakehouse.stack.files import private_folder, write_env
from lakehouse.stack.processes import User

SECONDS = 300
"""What was committed is in the bucket after so many seconds, however little that is."""
_PROGRAM = "lakehouse.backup.archive_wal"
_CODE = Path(lakehouse.__file__).resolve().parents[1]


def is_on(settings: Settings) -> bool:
    """Whether there is a place for the log."""
    return bool(settings.backup_bucket)


def options(folder: Path) -> dict[str, str]:
    """The options of a server that archives."""
    return {"archive_mode": "on", "archive_timeout": str(SECONDS), "archive_command": _command(folder)}


def facts(settings: Settings) -> tuple[object, ...]:
    """What a running server must have been started with; nothing where nothing is archived."""
    return (SECONDS, _command(folder_of(settings.home))) if is_on(settings) else ()


def folder_of(home: Path) -> Path:
    """Where it is written who writes backups."""
    return home / "postgres.archiving"


def write_identity(settings: Settings, user: User | None) -> None:
    """Tell the program where the bucket is, and who may write there. It is read for each segment: no restart."""
    folder = private_folder(folder_of(settings.home))
    lines = {
        "LAKEHOUSE_BACKUP_BUCKET": settings.backup_bucket,
        "LAKEHOUSE_BACKUP_S3_ENDPOINT": settings.backup_s3_endpoint or settings.s3_endpoint,
        "LAKEHOUSE_BACKUP_S3_REGION": settings.backup_s3_region or settings.s3_region,
        "LAKEHOUSE_BACKUP_S3_ACCESS_KEY_ID": settings.backup_s3_access_key_id or settings.s3_access_key_id,
        "LAKEHOUSE_BACKUP_S3_SECRET_ACCESS_KEY": (
            settings.backup_s3_secret_access_key.get_secret_value() or settings.s3_secret_access_key.get_secret_value()
        ),
        "LAKEHOUSE_BACKUP_LOCK_DAYS": str(settings.backup_lock_days),
    }
    write_env(folder / "stack.env", lines, "Written by `lakehouse up`, for the program that archives PostgreSQL's log.")
    if user:
        let_enter(user, folder)
        for path in (folder, folder / "stack.env"):
            os.chown(path, user.uid, user.gid)
        let_run_python(user)


def let_run_python(user: User) -> None:
    """Let the server's account reach this Python and our code."""
    for path in (Path(sys.executable), Path(sys.executable).resolve(), Path(sys.prefix), Path(sys.base_prefix), _CODE):
        let_enter(user, path / "_")


def _command(folder: Path) -> str:
    words = [sys.executable, "-P", "-B", "-m", _PROGRAM, str(folder)]
    quoted = " ".join(shlex.quote(word) for word in words).replace("%", "%%")
    code = shlex.quote(str(_CODE)).replace("%", "%%")
    return f'PYTHONPATH={code} exec {quoted} "%p" "%f"'
