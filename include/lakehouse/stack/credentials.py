"""Generated credentials: made once, kept across ``down`` and ``up``, in files that only their owner can read.

``stack.admin.env`` holds every secret of the local servers. ``stack.env`` holds what jobs need, as ``LAKEHOUSE_*``
lines, and is derived from it and from the servers' ports. The root credentials of the server of backups stand in the
first only: no job knows them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

from lakehouse.core.settings import Settings
from lakehouse.stack.files import read_env, write_env
from lakehouse.stack.ports import LOOPBACK
from lakehouse.stack.roles import INGEST, SOURCES_DATABASE, SOURCES_OWNER, Passwords

_ADMIN_NAMES = (
    "POSTGRES_SUPERUSER_PASSWORD",
    "CATALOG_PASSWORD",
    "READER_PASSWORD",
    "BACKUP_PASSWORD",
    "RESTORER_PASSWORD",
    "SOURCE_OWNER_PASSWORD",
    "INGEST_PASSWORD",
    "AIRFLOW_PASSWORD",
    "AIRFLOW_SECRET",
    "S3_ACCESS_KEY_ID",
    "S3_SECRET_ACCESS_KEY",
    "CONNECT_TOKEN",
    "CONNECT_READER_TOKEN",
    "BACKUP_ROOT_ACCESS_KEY_ID",
    "BACKUP_ROOT_SECRET_ACCESS_KEY",
    "BACKUP_WRITER_SECRET_ACCESS_KEY",
    "BACKUP_PRUNER_SECRET_ACCESS_KEY",
    "BACKUP_READER_SECRET_ACCESS_KEY",
)
_SIGNING_KEY = "BACKUP_SIGNING_KEY"
_SECRET_BYTES = 24


@dataclass(frozen=True)
class BackupSecrets:
    """Of the server of backups: its root, the three identities that work with it, and the key that signs sets."""

    root_key_id: str = ""
    root_secret: str = field(repr=False, default="")
    writer: str = field(repr=False, default="")
    pruner: str = field(repr=False, default="")
    reader: str = field(repr=False, default="")
    signing_key: str = field(repr=False, default="")
    writer_id: str = "backup-writer"
    pruner_id: str = "backup-pruner"
    reader_id: str = "backup-reader"


@dataclass(frozen=True)
class Credentials:
    """Every secret of the local servers; never shown."""

    passwords: Passwords
    s3_access_key_id: str
    s3_secret_access_key: str = field(repr=False)
    connect_token: str = field(repr=False)
    connect_reader_token: str = field(repr=False)
    airflow_secret: str = field(repr=False, default="")
    backups: BackupSecrets = field(repr=False, default=BackupSecrets())  # noqa: RUF009 - a frozen value

    def derived(self, purpose: str) -> str:
        """A secret for one purpose of Airflow: 32 bytes as 43 letters and digits, ``-`` and ``_``."""
        made = hmac.new(self.airflow_secret.encode(), purpose.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(made).decode().rstrip("=")

    def fingerprint(self, *facts: object) -> str:
        """A short digest of secrets and facts, to tell whether a running server was set up with just these."""
        text = repr((vars(self.passwords), self.s3_access_key_id, self.s3_secret_access_key, facts))
        return hmac.new(self.passwords.superuser.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


def env_path(home: Path) -> Path:
    """The file that settings are read from."""
    return home / "stack.env"


def admin_path(home: Path) -> Path:
    """The file of the superuser's and the other roles' secrets."""
    return home / "stack.admin.env"


def load_or_create(settings: Settings) -> Credentials:
    """The kept secrets, made now where there are none. Secrets that are set in the environment win."""
    kept = read_env(admin_path(settings.home))
    full = {name: kept.get(name) or secrets.token_urlsafe(_SECRET_BYTES) for name in _ADMIN_NAMES}
    full = {name: value.lstrip("-_") if name not in kept else value for name, value in full.items()}
    # An Ed25519 key is any 32 bytes; this is how `lakehouse backup key` writes them.
    full[_SIGNING_KEY] = kept.get(_SIGNING_KEY) or secrets.token_urlsafe(32)
    if full != kept:
        write_env(admin_path(settings.home), full, "Secrets of the local servers. Kept: without them, no way in.")
    return _with_settings(full, settings)


def _with_settings(kept: dict[str, str], settings: Settings) -> Credentials:
    passwords = Passwords(
        superuser=kept["POSTGRES_SUPERUSER_PASSWORD"],
        catalog=settings.catalog_password.get_secret_value() or kept["CATALOG_PASSWORD"],
        reader=settings.reader_password.get_secret_value() or kept["READER_PASSWORD"],
        backup=kept["BACKUP_PASSWORD"],
        restorer=kept["RESTORER_PASSWORD"],
        source_owner=kept["SOURCE_OWNER_PASSWORD"],
        ingest=kept["INGEST_PASSWORD"],
        airflow=kept["AIRFLOW_PASSWORD"],
    )
    return Credentials(
        passwords,
        settings.s3_access_key_id or kept["S3_ACCESS_KEY_ID"],
        settings.s3_secret_access_key.get_secret_value() or kept["S3_SECRET_ACCESS_KEY"],
        settings.connect_token.get_secret_value() or kept["CONNECT_TOKEN"],
        settings.connect_reader_token.get_secret_value() or kept["CONNECT_READER_TOKEN"],
        kept["AIRFLOW_SECRET"],
        BackupSecrets(
            kept["BACKUP_ROOT_ACCESS_KEY_ID"],
            kept["BACKUP_ROOT_SECRET_ACCESS_KEY"],
            kept["BACKUP_WRITER_SECRET_ACCESS_KEY"],
            kept["BACKUP_PRUNER_SECRET_ACCESS_KEY"],
            kept["BACKUP_READER_SECRET_ACCESS_KEY"],
            settings.backup_signing_key.get_secret_value() or kept[_SIGNING_KEY],
        ),
    )


def s3_lines(credentials: Credentials, port: int) -> dict[str, str]:
    """The lines of ``stack.env`` for a local S3 server."""
    return {
        "LAKEHOUSE_S3_ENDPOINT": f"http://{LOOPBACK}:{port}",
        "LAKEHOUSE_S3_ACCESS_KEY_ID": credentials.s3_access_key_id,
        "LAKEHOUSE_S3_SECRET_ACCESS_KEY": credentials.s3_secret_access_key,
    }


def postgres_lines(settings: Settings, credentials: Credentials, port: int) -> dict[str, str]:
    """The lines of ``stack.env`` for a local PostgreSQL."""
    passwords = credentials.passwords
    source = f"{LOOPBACK}:{port}/{SOURCES_DATABASE}"
    return {
        "LAKEHOUSE_POSTGRES_HOST": LOOPBACK,
        "LAKEHOUSE_POSTGRES_PORT": str(port),
        "LAKEHOUSE_CATALOG_USER": settings.catalog_user,
        "LAKEHOUSE_CATALOG_PASSWORD": passwords.catalog,
        "LAKEHOUSE_READER_USER": settings.reader_user,
        "LAKEHOUSE_READER_PASSWORD": passwords.reader,
        "LAKEHOUSE_CONNECTIONS__CRM": f"postgresql://{INGEST}:{passwords.ingest}@{source}",
        "LAKEHOUSE_CONNECTIONS__CRM_OWNER": f"postgresql://{SOURCES_OWNER}:{passwords.source_owner}@{source}",
    }


def connect_lines(credentials: Credentials, port: int, *, read_only: bool) -> dict[str, str]:
    """The lines of ``stack.env`` for a local Spark Connect server."""
    token = credentials.connect_reader_token if read_only else credentials.connect_token
    name = _connect_name(read_only)
    return {f"{name}_PORT": str(port), f"{name}_TOKEN": token}


def _connect_name(read_only: bool) -> str:
    return "LAKEHOUSE_CONNECT_READER" if read_only else "LAKEHOUSE_CONNECT"


def read_stack_env(home: Path) -> dict[str, str]:
    """The lines of ``stack.env``; empty before the first ``up``."""
    return read_env(env_path(home))


def write_stack_env(home: Path, lines: dict[str, str]) -> None:
    """Write ``stack.env`` unless it says the same already."""
    if read_stack_env(home) != lines:
        write_env(env_path(home), lines, "Written by `lakehouse up`; the environment wins over it.")


def remembered_backup_port(home: Path) -> int:
    """The port that the server of backups had last, 0 when there was none."""
    return urlparse(read_stack_env(home).get("LAKEHOUSE_BACKUP_S3_ENDPOINT", "")).port or 0


def remembered_s3_port(home: Path) -> int:
    """The port that the S3 server had last, 0 when there was none."""
    return urlparse(read_stack_env(home).get("LAKEHOUSE_S3_ENDPOINT", "")).port or 0


def remembered_postgres_port(home: Path) -> int:
    """The port that PostgreSQL had last, 0 when there was none."""
    return int(read_stack_env(home).get("LAKEHOUSE_POSTGRES_PORT") or 0)


def remembered_connect_port(home: Path, *, read_only: bool) -> int:
    """The port that a Spark Connect server had last, 0 when there was none."""
    return int(read_stack_env(home).get(f"{_connect_name(read_only)}_PORT") or 0)
