"""``lakehouse prepare``: roles, databases, buckets and the place of backups, on servers of others, such as containers.

It is what ``up`` does to servers of its own, by the same code. Every step may be repeated; nothing is ever removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from lakehouse.core.errors import SettingsError, StackError
from lakehouse.core.settings import Settings, read_settings
from lakehouse.stack import backup_access, buckets, external, roles
from lakehouse.stack.backup_access import Place
from lakehouse.stack.credentials import BackupSecrets
from lakehouse.stack.model import StackStatus
from lakehouse.stack.roles import Passwords

_NONE = SecretStr("")
_IDENTITIES = ("", "pruner_", "reader_")


class RolePasswords(BaseSettings):
    """``LAKEHOUSE_SUPERUSER_PASSWORD`` and so on: known to this step, and to no job."""

    model_config = SettingsConfigDict(env_prefix="LAKEHOUSE_", extra="ignore", frozen=True)

    superuser_password: SecretStr = _NONE
    catalog_password: SecretStr = _NONE
    reader_password: SecretStr = _NONE
    backup_password: SecretStr = _NONE
    restorer_password: SecretStr = _NONE
    source_owner_password: SecretStr = _NONE
    ingest_password: SecretStr = _NONE
    airflow_password: SecretStr = _NONE

    def passwords(self) -> Passwords:
        """All of them; raises :class:`SettingsError` naming those that are not given."""
        given = {name.removesuffix("_password"): secret.get_secret_value() for name, secret in self}
        if missing := [f"LAKEHOUSE_{name.upper()}_PASSWORD" for name, value in given.items() if not value]:
            raise SettingsError(
                f"passwords of roles are not given: {', '.join(missing)}",
                where="environment or LAKEHOUSE_SECRETS",
                untouched="all servers",
                todo="give each a password, or unset LAKEHOUSE_SUPERUSER_PASSWORD to have PostgreSQL checked only",
            )
        return Passwords(**given)


class BackupRoot(BaseSettings):
    """``LAKEHOUSE_BACKUP_ROOT_…``: the root of a MinIO for backups, known to this step, and to no job."""

    model_config = SettingsConfigDict(env_prefix="LAKEHOUSE_", extra="ignore", frozen=True)

    backup_root_access_key_id: SecretStr = _NONE
    backup_root_secret_access_key: SecretStr = _NONE


@dataclass(frozen=True)
class Prepared:
    """What is there now. ``roles`` and ``databases`` are empty where PostgreSQL was checked only; ``backups`` is where
    backups go, '' if nowhere.
    """

    postgres: str
    roles: tuple[str, ...]
    databases: tuple[str, ...]
    s3: str
    buckets: tuple[str, ...]
    backups: str


def prepare(settings: Settings) -> Prepared:
    """Make the servers ready, then use them as a job would.

    Raises :class:`SettingsError` when a password is missing, :class:`StackError` when a server cannot be made ready.
    """
    given = read_settings(RolePasswords)
    made = given.passwords() if given.superuser_password.get_secret_value() else None
    if made:
        _provision(settings, made)
    buckets.create(settings)
    found = external.postgres_status(settings), external.s3_status(settings)
    external.require_usable(StackStatus(str(settings.home), found))
    backups = _prepare_backups(settings)
    return Prepared(
        postgres=found[0].address,
        roles=tuple(roles.passwords_of(settings, made)) if made else (),
        databases=tuple(roles.owners_of(settings)) if made else (),
        s3=found[1].address,
        buckets=buckets.buckets_of(settings),
        backups=backups,
    )


def _prepare_backups(settings: Settings) -> str:
    """The bucket of backups and its identities where the root is known, else a look at whether it can be used."""
    if not settings.backup_bucket:
        return ""
    root = read_settings(BackupRoot)
    if root.backup_root_secret_access_key.get_secret_value():
        backup_access.make(_place(settings, root))
    where = settings.backup_s3_endpoint or settings.s3_endpoint or f"AWS ({settings.s3_region})"
    if problem := backup_access.problem(settings):
        raise StackError(
            f"backups cannot be written: {problem}",
            where=f"s3://{settings.backup_bucket} at {where}",
            untouched="what is there",
            todo="start it, create the bucket, or correct LAKEHOUSE_BACKUP_*; LAKEHOUSE_BACKUP_BUCKET= for none",
        )
    return f"s3://{settings.backup_bucket} at {where}"


def _place(settings: Settings, root: BackupRoot) -> Place:
    """Raises :class:`SettingsError` where an identity has no credentials, or MinIO's address is not given."""
    needed = (
        "backup_s3_endpoint",
        *(f"backup_{who}s3_{what}" for who in _IDENTITIES for what in ("access_key_id", "secret_access_key")),
    )
    given = {name: _plain(getattr(settings, name)) for name in needed}
    if missing := [f"LAKEHOUSE_{name.upper()}" for name, value in given.items() if not value]:
        raise SettingsError(
            f"the identities of backups are not all given: {', '.join(missing)}",
            where="environment or LAKEHOUSE_SECRETS",
            untouched="the server of backups",
            todo="give each its own, or unset LAKEHOUSE_BACKUP_ROOT_SECRET_ACCESS_KEY to have it checked only",
        )
    secrets = BackupSecrets(
        root.backup_root_access_key_id.get_secret_value(),
        root.backup_root_secret_access_key.get_secret_value(),
        writer=given["backup_s3_secret_access_key"],
        pruner=given["backup_pruner_s3_secret_access_key"],
        reader=given["backup_reader_s3_secret_access_key"],
        writer_id=given["backup_s3_access_key_id"],
        pruner_id=given["backup_pruner_s3_access_key_id"],
        reader_id=given["backup_reader_s3_access_key_id"],
    )
    region = settings.backup_s3_region or settings.s3_region
    return Place(given["backup_s3_endpoint"], region, settings.backup_bucket, settings.backup_lock_days, secrets)


def _plain(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _provision(settings: Settings, passwords: Passwords) -> None:
    import psycopg

    try:
        roles.provision(settings, settings.postgres_port, passwords, settings.postgres_host)
    except psycopg.Error as error:
        raise StackError(
            f"PostgreSQL cannot be made ready: {_first_line(error)}",
            where=f"{settings.postgres_host}:{settings.postgres_port}",
            untouched="what is there already; every step may be repeated",
            todo="correct what the message names, and do it again",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
