"""Who may do what in PostgreSQL. Roles are apart from the first day; every step may be repeated.

====================  ========================================================================
role                  rights
====================  ========================================================================
``catalog_user``      owns the catalog's database (transform jobs)
``reader_user``       reads the catalog, in read-only transactions (consoles, the UI)
``lakehouse_backup``  reads the catalog; copies the whole server over the replication protocol
``lakehouse_restorer`` may connect to the catalog
``crm_owner``         owns the sample source database
``lakehouse_ingest``  reads the sample source
``lakehouse_airflow`` owns Airflow's database, and may connect to no other
====================  ========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse.core.settings import Settings
from lakehouse.stack.ports import LOOPBACK
from lakehouse.stack.postgres import SUPERUSER, connect

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composable

SOURCES_DATABASE = "sources"
SOURCES_SCHEMA = "crm"
SOURCES_OWNER = "crm_owner"
INGEST = "lakehouse_ingest"
BACKUP = "lakehouse_backup"
RESTORER = "lakehouse_restorer"
AIRFLOW = "lakehouse_airflow"
AIRFLOW_DATABASE = "lakehouse_airflow"


@dataclass(frozen=True)
class Passwords:
    """The roles' passwords; never shown."""

    superuser: str = field(repr=False)
    catalog: str = field(repr=False)
    reader: str = field(repr=False)
    backup: str = field(repr=False)
    restorer: str = field(repr=False)
    source_owner: str = field(repr=False)
    ingest: str = field(repr=False)
    airflow: str = field(repr=False)


def passwords_of(settings: Settings, passwords: Passwords) -> dict[str, str]:
    """The roles that sign in, by name, with their passwords; the superuser is not one of them."""
    return {
        settings.catalog_user: passwords.catalog,
        settings.reader_user: passwords.reader,
        BACKUP: passwords.backup,
        RESTORER: passwords.restorer,
        SOURCES_OWNER: passwords.source_owner,
        INGEST: passwords.ingest,
        AIRFLOW: passwords.airflow,
    }


def owners_of(settings: Settings) -> dict[str, str]:
    """The databases, by name, with the role that owns each."""
    return {
        settings.catalog_database: settings.catalog_user,
        SOURCES_DATABASE: SOURCES_OWNER,
        AIRFLOW_DATABASE: AIRFLOW,
    }


def provision(settings: Settings, port: int, passwords: Passwords, host: str = LOOPBACK) -> None:
    """Make roles, databases and rights as they should be, whatever is there already."""
    with connect(port, "postgres", SUPERUSER, passwords.superuser, host) as server:
        for role, password in passwords_of(settings, passwords).items():
            _role(server, role, password)
        _run(server, "alter role {backup} replication", backup=BACKUP)
        for database, owner in owners_of(settings).items():
            _database(server, database, owner)
        _run(server, "revoke all on database postgres from public")
        _run(server, "alter role {reader} set default_transaction_read_only = on", reader=settings.reader_user)
        _let_connect(server, settings.catalog_database, settings.reader_user, BACKUP, RESTORER)
        _let_connect(server, SOURCES_DATABASE, INGEST)
    with connect(port, settings.catalog_database, SUPERUSER, passwords.superuser, host) as catalog:
        for role in (settings.reader_user, BACKUP):
            _let_read(catalog, "public", settings.catalog_user, role)
    with connect(port, SOURCES_DATABASE, SUPERUSER, passwords.superuser, host) as sources:
        _run(
            sources,
            "create schema if not exists {schema} authorization {owner}",
            schema=SOURCES_SCHEMA,
            owner=SOURCES_OWNER,
        )
        _let_read(sources, SOURCES_SCHEMA, SOURCES_OWNER, INGEST)


def _run(connection: psycopg.Connection, statement: str, **names: str) -> None:
    from psycopg import sql

    quoted: dict[str, Composable] = {key: sql.Identifier(name) for key, name in names.items()}
    connection.execute(sql.SQL(statement).format(**quoted))


def _role(connection: psycopg.Connection, role: str, password: str) -> None:
    """Create or correct a role."""
    exists = connection.execute("select 1 from pg_roles where rolname = %s", (role,)).fetchone()
    if not exists:
        _run(connection, "create role {role} login", role=role)
    set_password(connection, role, password)


def set_password(connection: psycopg.Connection, role: str, password: str) -> None:
    """Let a role sign in. Only the SCRAM verifier travels, so that no log can hold the password."""
    from psycopg import sql

    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    statement = "alter role {} login password {}"
    connection.execute(sql.SQL(statement).format(sql.Identifier(role), sql.Literal(verifier)))


def _database(connection: psycopg.Connection, database: str, owner: str) -> None:
    exists = connection.execute("select 1 from pg_database where datname = %s", (database,)).fetchone()
    if not exists:
        _run(connection, "create database {database} owner {owner} template template0", database=database, owner=owner)
    _run(connection, "alter database {database} owner to {owner}", database=database, owner=owner)
    _run(connection, "revoke all on database {database} from public", database=database)


def _let_connect(connection: psycopg.Connection, database: str, *roles: str) -> None:
    for role in roles:
        _run(connection, "grant connect on database {database} to {role}", database=database, role=role)


def _let_read(connection: psycopg.Connection, schema: str, owner: str, role: str) -> None:
    """Let ``role`` read every table of the schema, and those that ``owner`` is yet to make."""
    names = {"schema": schema, "owner": owner, "role": role}
    _run(connection, "grant usage on schema {schema} to {role}", schema=schema, role=role)
    _run(connection, "grant select on all tables in schema {schema} to {role}", schema=schema, role=role)
    _run(
        connection,
        "alter default privileges for role {owner} in schema {schema} grant select on tables to {role}",
        **names,
    )
