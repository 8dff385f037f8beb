"""A PostgreSQL that nobody else reaches: on a socket in a private folder, without a port and without passwords.

It recovers a data folder beside the one in use. It archives nothing: what it writes is kept for the server that takes
its place.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse.backup import unpack_wal
from lakehouse.core.errors import IntegrityError, StackError
from lakehouse.stack import postgres, processes
from lakehouse.stack.processes import User

if TYPE_CHECKING:
    import psycopg

_PORT = 5432  # of the socket's name only
AT_ONCE = "immediate"
"""The earliest place at which a base backup can be opened."""
_IS_FATAL = re.compile(r"(FATAL|PANIC):  (?!the database system is)")
_POLL_SECONDS = 0.2
_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class Target:
    """Where a recovery ends on a timeline: after the commit at a place in the log, or '' for the log's end."""

    timeline: int
    lsn: str = ""


def connect(socket: Path, database: str) -> psycopg.Connection:
    """A connection as the superuser."""
    import psycopg

    return psycopg.connect(
        host=str(socket), port=_PORT, dbname=database, user=postgres.SUPERUSER, autocommit=True, connect_timeout=10
    )


@contextmanager
def recovered(data: Path, wal: Path, target: Target, user: User | None, log: Path) -> Iterator[Path]:
    """Recover a data folder, and let it be looked at through the socket in the folder that is returned.

    Raises :class:`IntegrityError` where the log cannot be followed to its target.
    """
    socket = Path(tempfile.mkdtemp(prefix="lakehouse-pg-"))
    try:
        access = socket / "pg_hba.conf"
        access.write_text("local all all trust\n")
        for path in (socket, access):
            _give(path, user)
        (data / "recovery.signal").touch(0o600)
        _give(data / "recovery.signal", user)
        options = _options(socket, access, wal, target)
        process = processes.start(postgres.command(data, _PORT, options), postgres.environment(), log, user)
        record = processes.record_of(process, str(data), 0, "recovery")
        try:
            if not processes.wait_until_ready(process, lambda: _is_there(socket), _SECONDS):
                raise _failed(log)
            yield socket
        finally:
            processes.stop(record, postgres.STOP)
    finally:
        shutil.rmtree(socket)


def _options(socket: Path, access: Path, wal: Path, target: Target) -> Mapping[str, str]:
    words = [sys.executable, "-I", "-S", "-B", unpack_wal.__file__, str(wal)]
    unpack = " ".join(shlex.quote(word) for word in words).replace("%", "%%")
    end = {AT_ONCE: {"recovery_target": AT_ONCE}, "": {}}.get(target.lsn, {"recovery_target_lsn": target.lsn})
    return {
        "listen_addresses": "",
        "unix_socket_directories": str(socket),
        "hba_file": str(access),
        "hot_standby": "off",
        "archive_mode": "on",
        "archive_command": "",
        "restore_command": f'{unpack} "%f" "%p"',
        "recovery_target_timeline": str(target.timeline),
        "recovery_target_action": "promote",
        "log_min_messages": "log",
        **end,
    }


def _give(path: Path, user: User | None) -> None:
    if user:
        os.chown(path, user.uid, user.gid)


def _is_there(socket: Path) -> bool:
    import psycopg

    try:
        connect(socket, "postgres").close()
    except psycopg.OperationalError:
        time.sleep(_POLL_SECONDS)
        return False
    return True


def _failed(log: Path) -> Exception:
    told = processes.last_lines(log, 200)
    fatal = [line for line in told.splitlines() if _IS_FATAL.search(line)]
    if not fatal:
        return StackError("the recovery did not end in time", where=str(log), untouched="the databases in use")
    return IntegrityError(
        f"PostgreSQL cannot recover from this backup: {fatal[-1].partition(': ')[2] or fatal[-1]}",
        where=str(log),
        untouched="the databases in use",
        todo="run `lakehouse backup verify`, and choose another moment with --at, or another base with --base",
    )
