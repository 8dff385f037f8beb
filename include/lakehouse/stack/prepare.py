"""``lakehouse prepare``: roles, databases and buckets on servers that something else starts, such as containers.

It is what ``up`` does to servers of its own, by the same code. Every step may be repeated; nothing is ever removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from lakehouse.core.errors import SettingsError, StackError
from lakehouse.core.settings import Settings, read_settings
from lakehouse.stack import buckets, external, roles
from lakehouse.stack.model import StackStatus
from lakehouse.stack.roles import Passwords

_NONE = SecretStr("")


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


@dataclass(frozen=True)
class Prepared:
    """What is there now. ``roles`` and ``databases`` are empty where PostgreSQL was checked only."""

    postgres: str
    roles: tuple[str, ...]
    databases: tuple[str, ...]
    s3: str
    buckets: tuple[str, ...]


def prepare(settings: Settings) -> Prepared:
    """Make both servers ready, then use them as a job would.

    Raises :class:`SettingsError` when a password is missing, :class:`StackError` when a server cannot be made ready.
    """
    given = read_settings(RolePasswords)
    made = given.passwords() if given.superuser_password.get_secret_value() else None
    if made:
        _provision(settings, made)
    buckets.create(settings)
    found = external.postgres_status(settings), external.s3_status(settings)
    external.require_usable(StackStatus(str(settings.home), found))
    return Prepared(
        postgres=found[0].address,
        roles=tuple(roles.passwords_of(settings, made)) if made else (),
        databases=tuple(roles.owners_of(settings)) if made else (),
        s3=found[1].address,
        buckets=buckets.buckets_of(settings),
    )


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
