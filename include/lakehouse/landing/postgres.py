"""Landing a PostgreSQL change table: exactly the rows that became visible since the last batch.

A batch's cursor is the text of the server's own snapshot (``pg_current_snapshot``) under which its rows were read. The
next read takes the rows whose transaction was not visible in that snapshot, so a transaction that was open then and
commits late is neither skipped nor read twice, however long it runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import psycopg
import zstandard
from psycopg import errors, sql

from lakehouse.contracts.model import Contract, PostgresSource
from lakehouse.core.errors import SourceError
from lakehouse.core.settings import Settings

_SNAPSHOT = re.compile(r"\d+:\d+:[\d,]*\Z")
_SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lock_timeout": "60s",
    "search_path": "pg_catalog",
}
_COMPRESSION_LEVEL = 3

Connection = psycopg.Connection[tuple[object, ...]]


class SourceAway(SourceError):
    """The source cannot be reached now; trying again can help."""

    is_retryable = True


@dataclass(frozen=True)
class Extract:
    """What one read took: the snapshot it was read under, and the compressed lines that were written."""

    cursor: str
    records: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Column:
    """A column of the source table, with its type's name."""

    name: str
    type: str


@contextmanager
def connection(contract: Contract, settings: Settings) -> Iterator[Connection]:
    """A read-only transaction with one snapshot, and fixed text forms for every type.

    Raises :class:`SourceError`. No message holds any part of the connection string: a misplaced @ may show a password.
    """
    spec = _spec(contract)
    variable = f"LAKEHOUSE_CONNECTIONS__{spec.connection.upper()}"
    secret = settings.connections.get(spec.connection)
    if secret is None:
        raise SourceError(
            f"{contract.name} is read from the connection {spec.connection!r}, which is not set",
            todo=f"set {variable}=postgresql://user:password@host:port/database",
        )
    try:
        opened = psycopg.connect(
            secret.get_secret_value(), client_encoding="utf8", connect_timeout=10, application_name="lakehouse-land"
        )
    except psycopg.Error as error:
        raise _connect_error(error, contract, variable) from None
    with opened:
        opened.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        opened.read_only = True
        with _read_errors(contract):
            for name, value in _SESSION.items():
                opened.execute("SELECT set_config(%s, %s, true)", (name, value))
            yield opened


def extract(opened: Connection, contract: Contract, previous: str | None, out: BinaryIO) -> Extract:
    """Write the rows that became visible since ``previous`` (None: all) as JSON lines, compressed with zstd.

    Every value is text as PostgreSQL prints it, null stays null. Memory stays constant.
    """
    spec = _spec(contract)
    columns = _columns(opened, contract)
    cursor = _current_snapshot(opened, contract, previous)
    _check_transactions(opened, contract)
    taken = [column for column in columns if column.name != spec.transaction_column]
    hashed = _HashingWriter(out)
    records = 0
    with (
        opened.cursor().copy(_query(spec, taken, previous)) as copy,
        zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL).stream_writer(
            cast(BinaryIO, hashed), closefd=False
        ) as lines,
    ):
        names = [column.name for column in taken]
        for row in copy.rows():
            line = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, separators=(",", ":"))
            lines.write(line.encode() + b"\n")
            records += 1
    return Extract(cursor, records, hashed.size_bytes, hashed.digest.hexdigest())


def _spec(contract: Contract) -> PostgresSource:
    if contract.source.postgres is None:
        raise SourceError(f"the contract of {contract.name} does not say which PostgreSQL table to read")
    return contract.source.postgres


def _schema_and_name(spec: PostgresSource) -> tuple[str, str]:
    schema, _, name = spec.table.partition(".")
    return schema, name


def _table(spec: PostgresSource) -> sql.Identifier:
    return sql.Identifier(*_schema_and_name(spec))


def _query(spec: PostgresSource, columns: Sequence[Column], previous: str | None) -> sql.Composed:
    """One COPY. The comparison with the snapshot's xmin lets an index on the transaction column be used."""
    transaction = sql.Identifier(spec.transaction_column)
    condition: sql.Composable = sql.SQL("true")
    if previous is not None:
        condition = sql.SQL(
            "NOT pg_visible_in_snapshot({column}, {previous}::pg_snapshot)"
            " AND {column} >= pg_snapshot_xmin({previous}::pg_snapshot)"
        ).format(column=transaction, previous=sql.Literal(previous))
    return sql.SQL("COPY (SELECT {columns} FROM {table} WHERE {condition} ORDER BY {order}) TO STDOUT").format(
        columns=sql.SQL(", ").join(_as_text(column) for column in columns),
        table=_table(spec),
        condition=condition,
        order=sql.Identifier(spec.order_by),
    )


def _as_text(column: Column) -> sql.Composable:
    """The column; moments as ISO 8601 with T and full offset, which the type's own output abbreviates."""
    name = sql.Identifier(column.name)
    if column.type == "timestamp with time zone":
        return sql.SQL("to_json({name}) #>> '{{}}'").format(name=name)
    return name


def _columns(opened: Connection, contract: Contract) -> list[Column]:
    spec = _spec(contract)
    found = opened.execute(
        "SELECT a.attname::text, format_type(a.atttypid, NULL) FROM pg_attribute a"
        " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        _schema_and_name(spec),
    ).fetchall()
    columns = [Column(str(name), str(type_)) for name, type_ in found]
    if not columns:
        raise SourceError(
            f"there is no table {spec.table}",
            where=f"{contract.name}, connection {spec.connection}",
            todo="check source.postgres in the contract; `lakehouse sample` makes the sample table",
        )
    types = {column.name: column.type for column in columns}
    if types.get(spec.transaction_column) != "xid8":
        raise SourceError(
            f"{spec.table} needs a column {spec.transaction_column} of type xid8, it has"
            f" {types.get(spec.transaction_column, 'none of that name')}",
            where=contract.name,
            todo=f"ALTER TABLE {spec.table} ADD COLUMN {spec.transaction_column} xid8 NOT NULL"
            " DEFAULT pg_current_xact_id()",
        )
    return columns


def _current_snapshot(opened: Connection, contract: Contract, previous: str | None) -> str:
    """The snapshot of this transaction. Refuses servers on which it says nothing about the previous one."""
    if previous is not None and not _SNAPSHOT.match(previous):
        raise SourceError(f"the last batch of {contract.name} ends at {previous!r}, which is no snapshot")
    row = opened.execute(
        "SELECT pg_current_snapshot()::text, pg_is_in_recovery(),"
        " coalesce(pg_snapshot_xmax(%(p)s::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot()), false)",
        {"p": previous},
    ).fetchone()
    current, is_replica, went_back = cast(tuple[str, bool, bool], row)
    if is_replica:
        raise SourceError(
            f"{contract.name} is read from a replica, whose snapshots leave out running transactions",
            todo="connect to the primary server",
        )
    if went_back:
        raise SourceError(
            f"the server's transactions are behind those that {contract.name} was last read under",
            where=f"read through {previous}, the server is at {current}",
            untouched="the landing log",
            todo="the server was restored or replaced: compare its table with bronze before landing goes on",
        )
    return current


def _check_transactions(opened: Connection, contract: Contract) -> None:
    """Rows without a transaction id, or with one from another server, would be skipped or read for ever."""
    spec = _spec(contract)
    query = sql.SQL(
        "SELECT EXISTS (SELECT FROM {table} WHERE {column} IS NULL), EXISTS"
        " (SELECT FROM {table} WHERE {column} >= pg_snapshot_xmax(pg_current_snapshot()))"
    ).format(table=_table(spec), column=sql.Identifier(spec.transaction_column))
    has_null, has_future = cast(tuple[bool, bool], opened.execute(query).fetchone())
    if has_null or has_future:
        raise SourceError(
            f"rows of {spec.table} have {'no' if has_null else 'a future'} {spec.transaction_column}",
            where=f"{contract.name}, connection {spec.connection}",
            untouched="the landing log",
            todo=f"set {spec.transaction_column} of those rows to pg_current_xact_id(): rows loaded from a dump keep"
            " the ids of another server",
        )


def _connect_error(error: psycopg.Error, contract: Contract, variable: str) -> SourceError:
    text = str(error)
    known = {
        "password authentication failed": "user or password was refused",
        "does not exist": "the database or the user does not exist",
        "no pg_hba.conf entry": "the server does not admit this user from here",
        "permission denied for database": "the user may not connect to the database",
    }
    reason = next((reason for phrase, reason in known.items() if phrase in text), "")
    if reason or isinstance(error, psycopg.ProgrammingError):
        return SourceError(
            f"{contract.name} cannot be read: {reason or 'the connection string cannot be understood'}",
            where=variable,
            todo=f"check {variable}; it reads postgresql://user:password@host:port/database",
        )
    return SourceAway(
        f"{contract.name} cannot be read: its server does not answer",
        where=variable,
        todo=f"check that the server runs and that {variable} names its host and port",
    )


@contextmanager
def _read_errors(contract: Contract) -> Iterator[None]:
    spec = _spec(contract)
    where = f"{contract.name}, table {spec.table}, connection {spec.connection}"
    try:
        yield
    except errors.InsufficientPrivilege as error:
        raise SourceError(
            f"not allowed: {error.diag.message_primary}",
            where=where,
            todo=f"as its owner: GRANT USAGE ON SCHEMA {_schema_and_name(spec)[0]} TO …; GRANT SELECT ON {spec.table}"
            " TO …",
        ) from None
    except (errors.UndefinedColumn, errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise SourceError(
            f"the table is not as the contract says: {error.diag.message_primary}",
            where=where,
            todo="check source.postgres in the contract: table, transaction_column, order_by",
        ) from None
    except UnicodeDecodeError:
        raise SourceError("the table holds text that is not UTF-8", where=where) from None
    except psycopg.Error as error:
        raise SourceAway(
            f"reading failed: {error.diag.message_primary or type(error).__name__}",
            where=where,
            untouched="the landing log",
            todo="land again",
        ) from None


class _HashingWriter:
    """A binary file that hashes and counts what is written to it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self.digest, self.size_bytes = out, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size_bytes += len(data)
        return self._out.write(data)
