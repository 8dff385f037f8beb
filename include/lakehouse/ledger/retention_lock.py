"""Files that somebody reads must stay: a backup keeps them, expiry and the removal of orphans take them away.

One advisory lock of the catalog's database, called ``backup``: shared by those that read, exclusive for those that
remove. Nobody waits for it: a backup may take hours, and what was to be removed is removed another time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

from lakehouse.core.errors import TableBusy
from lakehouse.core.settings import Settings
from lakehouse.ledger.connection import connect

_SHARED: LiteralString = "SELECT pg_try_advisory_lock_shared(%s)"
_EXCLUSIVE: LiteralString = "SELECT pg_try_advisory_lock(%s)"


def lock_number(name: str) -> int:
    """The advisory lock's number: 64 bits of a hash of its name."""
    return int.from_bytes(hashlib.sha256(f"lakehouse:{name}".encode()).digest()[:8], "big", signed=True)


@contextmanager
def keeping_files(settings: Settings) -> Iterator[None]:
    """While this is held, nobody removes files of tables. Raises :class:`TableBusy` where somebody just does."""
    with _held(settings, "backup", _SHARED, "old files are being removed"):
        yield


@contextmanager
def removing_files(settings: Settings) -> Iterator[None]:
    """While this is held, no backup reads. Raises :class:`TableBusy` where one does."""
    with _held(settings, "backup", _EXCLUSIVE, "a backup is being made of these files"):
        yield


@contextmanager
def writing_backups(settings: Settings) -> Iterator[None]:
    """While this is held, nobody else makes or prunes backups. Raises :class:`TableBusy` where somebody does."""
    with _held(settings, "backup writer", _EXCLUSIVE, "backups are being made or pruned"):
        yield


@contextmanager
def restoring(settings: Settings) -> Iterator[None]:
    """While this is held, nobody else restores. Raises :class:`TableBusy` where somebody does."""
    with _held(settings, "restore", _EXCLUSIVE, "something is being restored"):
        yield


@contextmanager
def reading_backups(settings: Settings) -> Iterator[None]:
    """While this is held, no set is pruned. Raises :class:`TableBusy` where that is being done."""
    with _held(settings, "backup pruner", _SHARED, "backups are being pruned"):
        yield


@contextmanager
def pruning_backups(settings: Settings) -> Iterator[None]:
    """While this is held, nobody makes, prunes or restores backups. Raises :class:`TableBusy` where somebody does."""
    with writing_backups(settings), _held(settings, "backup pruner", _EXCLUSIVE, "backups are being restored"):
        yield


@contextmanager
def drilling(settings: Settings) -> Iterator[None]:
    """While this is held, no set is pruned, and nobody else drills: scratch places of others are of dead drills."""
    with reading_backups(settings), _held(settings, "drill", _EXCLUSIVE, "a drill is being made"):
        yield


@contextmanager
def _held(settings: Settings, name: str, statement: LiteralString, busy: str) -> Iterator[None]:
    with connect(settings, name.replace(" ", "-")) as connection:
        row = connection.execute(statement, (lock_number(name),)).fetchone()
        if row is None or not row[0]:
            raise TableBusy(f"{busy} by another process", untouched="everything", todo="run it again when that is done")
        yield
