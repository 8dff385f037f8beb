"""The server of backups on the local stack: a second MinIO, with a port, a data folder and root credentials of its own.

It runs beside a MinIO of ours only. A place that somebody else gives wins, and then none is started.
"""

from __future__ import annotations

import signal
from pathlib import Path

from lakehouse.core.errors import StackError
from lakehouse.core.settings import Settings
from lakehouse.stack import backup_access, credentials, minio, ports
from lakehouse.stack.backup_access import BUCKET, Place
from lakehouse.stack.credentials import Credentials
from lakehouse.stack.files import private_folder
from lakehouse.stack.processes import User
from lakehouse.stack.supervisor import Identity, Launch

KIND = "backups"
_STOP = ((signal.SIGTERM, 15.0),)
_FOLDER = "LAKEHOUSE_BACKUP_DATA"


def identity(settings: Settings) -> Identity:
    """The server, wherever its data are."""
    return Identity(KIND, KIND, minio.PROGRAM, settings.home, _STOP, settings.backup_data)


def is_external(settings: Settings) -> bool:
    """Whether somebody else says where backups go. What `up` wrote by itself does not count."""
    ours = credentials.read_stack_env(settings.home).get("LAKEHOUSE_BACKUP_S3_ENDPOINT", "")
    return settings.backup_server == "external" or settings.backup_s3_endpoint not in ("", ours)


def launch(settings: Settings, kept: Credentials, program: Path) -> Launch:
    """How to start it."""
    data, secrets, lock_days = identity(settings).data, kept.backups, settings.backup_lock_days
    certificates = settings.home / "minio-certs"

    def make_ready(port: int) -> None:
        backup_access.make(Place(_endpoint(port), settings.s3_region, _bucket(settings), lock_days, secrets))

    return Launch(
        wanted_port=settings.backup_s3_port,
        remembered_port=credentials.remembered_backup_port(settings.home),
        port_setting="LAKEHOUSE_BACKUP_S3_PORT",
        ready_for=kept.fingerprint(vars(secrets), _bucket(settings), lock_days, settings.backup_s3_port, str(data)),
        prepare=lambda: _prepare(settings, data),
        command=lambda port: minio.command(program, data, port, ports.any_free(), certificates),
        environment=minio.environment(secrets.root_key_id, secrets.root_secret),
        is_ready=lambda port: ports.is_answered(ports.LOOPBACK, port),
        make_ready=make_ready,
        start_seconds=60.0,
    )


def _prepare(settings: Settings, data: Path) -> User | None:
    """The folder. One on another disk that was there before is never made anew: its disk may not be mounted."""
    was = credentials.read_stack_env(settings.home).get(_FOLDER)
    if settings.backup_data and was == str(data) and not data.is_dir():
        raise StackError(
            f"the folder of backups is gone: {data}",
            untouched="what was in it, wherever that is now",
            todo=f"mount its disk, or set {_FOLDER} to another folder to begin anew there",
        )
    private_folder(data)
    return None


def lines(settings: Settings, kept: Credentials, port: int) -> dict[str, str]:
    """The lines of ``stack.env`` for the server."""
    elsewhere = {_FOLDER: str(settings.backup_data)} if settings.backup_data else {}
    return {
        "LAKEHOUSE_BACKUP_BUCKET": _bucket(settings),
        "LAKEHOUSE_BACKUP_S3_ENDPOINT": _endpoint(port),
        "LAKEHOUSE_BACKUP_S3_ACCESS_KEY_ID": kept.backups.writer_id,
        "LAKEHOUSE_BACKUP_S3_SECRET_ACCESS_KEY": kept.backups.writer,
        "LAKEHOUSE_BACKUP_PRUNER_S3_ACCESS_KEY_ID": kept.backups.pruner_id,
        "LAKEHOUSE_BACKUP_PRUNER_S3_SECRET_ACCESS_KEY": kept.backups.pruner,
        "LAKEHOUSE_BACKUP_READER_S3_ACCESS_KEY_ID": kept.backups.reader_id,
        "LAKEHOUSE_BACKUP_READER_S3_SECRET_ACCESS_KEY": kept.backups.reader,
        **elsewhere,
    }


def key_line(settings: Settings, kept: Credentials) -> dict[str, str]:
    """The key that sets are signed with; none for a machine that was given the public part only."""
    is_for_reading = settings.backup_public_key and not settings.backup_signing_key.get_secret_value()
    return {} if is_for_reading else {"LAKEHOUSE_BACKUP_SIGNING_KEY": kept.backups.signing_key}


def _bucket(settings: Settings) -> str:
    return settings.backup_bucket or BUCKET


def _endpoint(port: int) -> str:
    return f"http://{ports.LOOPBACK}:{port}"
