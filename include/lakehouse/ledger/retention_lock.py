"""Files that somebody reads must stay: a backup keeps them, expiry and the removal of orphans take them away.

One advisory lock of the catalog's database, called ``backup``: shared by those that read, exclusive for those that
remove. Nobody waits for it: a backup may take hours, and what was to be removed is removed another time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from lakehouse.core.errors import TableBusy
from lakehouse.core.settings import Settings
from lakehouse.ledger.connection import connect


def lock_number(name: str) -> int:
    """The advisory lock's number: 64 bits of a hash of its name."""
    return int.from_bytes(hashlib.sha256(f"lakehouse:{name}".encode()).digest()[:8], "big", signed=True)


@contextmanager
def keeping_files(settings: Settings) -> Iterator[None]:
    """While this is held, nobody removes files of tables. Raises :class:`TableBusy` where somebody just does."""
    with _held(settings, "backup", "pg_try_advisory_lock_shared", "old files are being removed"):
        yield


@contextmanager
def removing_files(settings: Settings) -> Iterator[None]:
    """While this is held, no backup reads. Raises :class:`TableBusy` where one does."""
    with _held(settings, "backup", "pg_try_advisory_lock", "a backup is being made of these files"):
        yield


@contextmanager
def _held(settings: Settings, name: str, function: str, busy: str) -> Iterator[None]:
    with connect(settings, name.replace(" ", "-")) as connection:
        row = connection.execute(f"SELECT {function}(%s)", (lock_number(name),)).fetchone()  # noqa: S608 - fixed names
        if row is None or not row[0]:
            raise TableBusy(f"{busy} by another process", untouched="everything", todo="run it again when that is done")
        yield
