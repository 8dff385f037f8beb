"""The lock of a table: a PostgreSQL advisory lock in the catalog database, held by one connection.

It keeps order among writers. The fence against a writer that only seems dead is the fast-forward from the recorded
base (:mod:`lakehouse.engine.publish`).
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import tenacity

from lakehouse.core.errors import TableBusy, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings


def lock_number(table: TableName) -> int:
    """The advisory lock's number: 64 bits of a hash of the table's name."""
    return int.from_bytes(hashlib.sha256(f"lakehouse:{table}".encode()).digest()[:8], "big", signed=True)


@dataclass(frozen=True)
class HeldLocks:
    """Locks that this process holds for as long as its connection lives."""

    connection: psycopg.Connection
    tables: tuple[TableName, ...]

    def check(self) -> None:
        """Raise :class:`TransientError` when the locks were lost with their connection."""
        try:
            self.connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise TransientError(
                "the connection that holds the lock was lost",
                where=f"{', '.join(map(str, self.tables))}: {error}".strip(),
                untouched="main; the attempt's branch is cleaned up by the next run",
                todo="run again; what was pending is still pending",
            ) from None


@contextmanager
def table_locks(settings: Settings, tables: Sequence[TableName], *, wait_seconds: float = 60) -> Iterator[HeldLocks]:
    """Hold the locks of some tables, taken in one order so that two runs cannot wait for each other."""
    ordered = tuple(sorted(tables))
    connection = _connect(settings)
    try:
        for table in ordered:
            _acquire(connection, table, wait_seconds)
        yield HeldLocks(connection, ordered)
    finally:
        connection.close()


def _connect(settings: Settings) -> psycopg.Connection:
    try:
        return psycopg.connect(
            host=settings.postgres_host,
            port=settings.postgres_port,
            dbname=settings.catalog_database,
            user=settings.catalog_user,
            password=settings.catalog_password.get_secret_value(),
            application_name=f"lakehouse-lock {socket.gethostname()}:{os.getpid()}",
            connect_timeout=10,
            keepalives_idle=30,
            autocommit=True,
        )
    except psycopg.OperationalError as error:
        raise TransientError(
            "the catalog database cannot be reached",
            where=f"{settings.postgres_host}:{settings.postgres_port}: {str(error).splitlines()[0]}",
            untouched="everything; nothing was written",
            todo="check `lakehouse status`; `lakehouse up` starts the local servers",
        ) from None


def _acquire(connection: psycopg.Connection, table: TableName, wait_seconds: float) -> None:
    number = lock_number(table)
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(wait_seconds),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
        retry=tenacity.retry_if_result(lambda got: not got),
    )
    try:
        retrying(lambda: connection.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone()[0])  # type: ignore[index]
    except tenacity.RetryError:
        raise TableBusy(
            f"another writer has held the lock of {table} for {wait_seconds:.0f} s",
            where=_holder(connection, number),
            untouched=f"{table}; nothing was written",
            todo="let it finish, or stop that process, and run again",
        ) from None


def _holder(connection: psycopg.Connection, number: int) -> str:
    row = connection.execute(
        "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' "
        "AND l.granted AND ((l.classid::bigint << 32) | l.objid::bigint) = %s",
        (number,),
    ).fetchone()
    return str(row[0]) if row else "unknown holder"
