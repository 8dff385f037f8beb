"""The lock of a table: a PostgreSQL advisory lock in the catalog database, held by one connection.

It keeps order among writers. The fence against a writer that only seems dead is the fast-forward from the recorded
base (:mod:`lakehouse.engine.publish`).

A server that is gone, or does not answer, ends the writer: nobody may go on as if it held a lock that it cannot see.
The other way round, a server that no longer hears of a holder frees its lock within a minute.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import tenacity

from lakehouse.core.errors import TableBusy, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.ledger.connection import connect

LOCKS_OF = (
    "SELECT (l.classid::bigint << 32) | l.objid::bigint, a.pid, a.application_name FROM pg_locks l "
    "JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
"""The number, the backend and the holder of each lock that is held."""


def lock_number(table: TableName) -> int:
    """The advisory lock's number: 64 bits of a hash of the table's name."""
    return int.from_bytes(hashlib.sha256(f"lakehouse:{table}".encode()).digest()[:8], "big", signed=True)


@dataclass(frozen=True)
class HeldLocks:
    """Locks that this process holds for as long as its connection lives."""

    connection: psycopg.Connection
    tables: tuple[TableName, ...]
    timeout_seconds: float

    def check(self) -> None:
        """Raise :class:`TransientError` unless the server says, in time, that this connection has all the locks."""
        with _answering(self.connection, self.tables, self.timeout_seconds):
            row = self.connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()"
            ).fetchone()
        if row is None or row[0] < len(set(self.tables)):
            raise _lost(self.tables, "the server has released it")


@contextmanager
def _answering(connection: psycopg.Connection, tables: Sequence[TableName], seconds: float) -> Iterator[None]:
    """Raise :class:`TransientError` where the server is gone, or does not answer in time."""
    timer = threading.Timer(seconds, _hang_up, [connection.fileno()])
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        raise _lost(tables, str(error)) from None
    finally:
        timer.cancel()


def _hang_up(descriptor: int) -> None:
    """End a connection under whoever waits for an answer on it: psycopg itself would wait for ever."""
    with socket.socket(fileno=os.dup(descriptor)) as same:
        same.shutdown(socket.SHUT_RDWR)


def _lost(tables: Sequence[TableName], why: str) -> TransientError:
    return TransientError(
        "the connection that holds the lock was lost",
        where=f"{', '.join(map(str, tables))}: {' '.join(why.split())}",
        untouched="main; the attempt's branch is cleaned up by the next run",
        todo="run again; what was pending is still pending",
    )


@contextmanager
def table_locks(settings: Settings, tables: Sequence[TableName], *, wait_seconds: float = 60) -> Iterator[HeldLocks]:
    """Hold the locks of some tables, taken in one order so that two runs cannot wait for each other."""
    ordered = tuple(sorted(tables))
    connection = connect(settings, "lock")
    try:
        for table in ordered:
            with _answering(connection, [table], wait_seconds + settings.catalog_timeout_seconds):
                _acquire(connection, table, wait_seconds)
        yield HeldLocks(connection, ordered, settings.catalog_timeout_seconds)
    finally:
        connection.close()


@contextmanager
def connected(settings: Settings) -> Iterator[psycopg.Connection]:
    """A connection that looks at locks and holds none."""
    connection = connect(settings, "lock")
    try:
        yield connection
    finally:
        connection.close()


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
