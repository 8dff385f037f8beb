"""Servers that are not ours: told apart by the settings, and checked by using them."""

from __future__ import annotations

import os

from lakehouse.core.errors import StackError
from lakehouse.core.settings import Settings
from lakehouse.stack import buckets, postgres
from lakehouse.stack.credentials import read_stack_env
from lakehouse.stack.model import ServerStatus, StackStatus


def is_s3_external(settings: Settings) -> bool:
    """Whether the settings, or the real environment, name an S3 server that is not ours.

    ``stack.env`` sets the endpoint too, so the environment counts only where it says something else.
    """
    given = os.environ.get("LAKEHOUSE_S3_ENDPOINT", "").rstrip("/")
    ours = read_stack_env(settings.home).get("LAKEHOUSE_S3_ENDPOINT", "")
    return settings.s3_server == "external" or (given != "" and given != ours)


def is_postgres_external(settings: Settings) -> bool:
    """Whether the settings name a PostgreSQL that is not ours."""
    return not settings.is_postgres_ours


def s3_status(settings: Settings) -> ServerStatus:
    """An external S3 server, as the lakehouse's credentials find it."""
    problem = buckets.problem(settings)
    address = settings.s3_endpoint or f"AWS ({settings.s3_region})"
    return ServerStatus("s3", "external", "unreachable" if problem else "up", address, 0, problem)


def postgres_status(settings: Settings) -> ServerStatus:
    """An external PostgreSQL, as the catalog's role finds it."""
    problem = postgres_problem(settings, settings.catalog_user, settings.catalog_password.get_secret_value())
    address = f"{settings.postgres_host}:{settings.postgres_port}"
    return ServerStatus("postgresql", "external", "unreachable" if problem else "up", address, 0, problem)


def postgres_problem(settings: Settings, user: str, password: str) -> str:
    """Why ``user`` cannot use the catalog's database, in one line; empty when it can."""
    import psycopg

    if not settings.postgres_port:
        return "its port is not set (LAKEHOUSE_POSTGRES_PORT)"
    try:
        postgres.connect(
            settings.postgres_port, settings.catalog_database, user, password, settings.postgres_host
        ).close()
    except psycopg.OperationalError as error:
        return str(error).strip().splitlines()[-1]
    return ""


def require_usable(status: StackStatus) -> None:
    """Raise :class:`StackError` naming every external server that cannot be used."""
    wrong = [server for server in status.servers if server.kind == "external" and server.state != "up"]
    if wrong:
        raise StackError(
            "; ".join(f"the external {server.name} cannot be used: {server.detail}" for server in wrong),
            where=", ".join(server.address for server in wrong),
            untouched="servers that are not ours are never started, stopped or changed",
            todo="start it, create what is missing, or correct LAKEHOUSE_S3_*, LAKEHOUSE_POSTGRES_*, _CATALOG_*",
        )
