"""What attempts that were killed leave behind: found from metadata and listings, and removed. No JVM.

Nothing here is ever read as data: a branch, a fork or a staged object counts only once somebody publishes it. The owner
of a branch or a fork lives as long as somebody holds the table's lock; an object that was staged for landing has no
owner that can be asked, so it is left alone until it is old.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import psutil

from lakehouse.core.errors import ConcurrentCommit, LakehouseError, TableBusy
from lakehouse.core.names import TableName
from lakehouse.core.process import runs
from lakehouse.core.settings import Settings
from lakehouse.engine.lock import LOCKS_OF, connected, lock_number, table_locks
from lakehouse.engine.orphans import ORPHAN_DAYS, find_orphans, places, sharing
from lakehouse.engine.pointer import (
    FORK_PREFIX,
    UPKEEP_PREFIX,
    forget,
    fork_name,
    is_copy,
    is_fork,
    read_document,
    swap,
    write_document,
)
from lakehouse.ledger.log import OBJECTS, read_log
from lakehouse.ledger.retention_lock import removing_files
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import BRANCH_PREFIX, catalog_tables, load_table, open_catalog

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from pyiceberg.table.refs import SnapshotRef

STAGED_HOURS = 24
"""A landing ends within this time; what it staged and did not log is nobody's then."""
FORK_DAYS = 7
"""How long a prepared rebuild waits for somebody to confirm it."""

Kind = Literal["branch", "fork", "staged", "lock", "files"]
State = Literal["dead", "kept", "alive"]


@dataclass(frozen=True)
class Leftover:
    """Something that no table and no log refers to. ``dead``: may be removed; ``kept``: on purpose, until ``why``."""

    kind: Kind
    where: str
    name: str
    state: State
    why: str


@dataclass(frozen=True)
class Removal:
    """What became of a leftover. ``left`` says why it is still there; '' when it is gone."""

    leftover: Leftover
    left: str = ""


@dataclass(frozen=True)
class Leftovers:
    """Finds and removes what is left behind in one lake, as of a time."""

    settings: Settings
    now: datetime
    staged_hours: float = STAGED_HOURS
    files: bool = False
    """Whether to look for files that no table refers to, too: all manifests are read for it."""
    host: str = socket.gethostname()

    @cached_property
    def catalog(self) -> Catalog:
        return open_catalog(self.settings)

    @cached_property
    def store(self) -> ObjectStore:
        return ObjectStore.open(self.settings)

    def find(self) -> list[Leftover]:
        """Everything that is left behind, and what looks like it and is somebody's."""
        holders = self._holders()
        files = self._files() if self.files else ()
        return [*self._locks(), *self._branches(holders), *self._forks(holders), *self._staged(), *files]

    def remove(self, found: Sequence[Leftover], *, kept: bool = False) -> list[Removal]:
        """Remove what is dead, and branches and forks that are kept, too, if asked. Each is looked at again before.

        A staged object has no lock that would tell whether its landing lives, so only its age counts.
        """
        acts: Mapping[Kind, Callable[[Leftover], str]] = {
            "branch": self._drop_branch,
            "fork": self._drop_fork,
            "staged": self._delete_staged,
            "lock": self._end_session,
            "files": self._delete_files,
        }
        asked = ("branch", "fork") if kept else ()
        wanted = [each for each in found if each.state == "dead" or (each.state == "kept" and each.kind in asked)]
        removals = []
        for leftover in wanted:
            try:
                removals.append(Removal(leftover, acts[leftover.kind](leftover)))
            except TableBusy as error:
                removals.append(Removal(leftover, f"it has an owner now: {error.where}"))
            except LakehouseError as error:
                removals.append(Removal(leftover, error.what))
        return removals

    def _holders(self) -> dict[int, str]:
        """Who holds which lock."""
        with connected(self.settings) as connection:
            return {int(number): str(name) for number, _, name in connection.execute(LOCKS_OF).fetchall()}

    def _locks(self) -> Iterator[Leftover]:
        """Locks whose process is gone, as far as it ran on this machine: a connection can outlive its process."""
        with connected(self.settings) as connection:
            held = connection.execute(LOCKS_OF).fetchall()
        for pid, name in sorted({(int(pid), str(name)) for _, pid, name in held}):
            host, _, process = name.rpartition(" ")[2].rpartition(":")
            if host == self.host and process.isdigit() and int(process) != os.getpid():
                if _has_ended(int(process)):
                    yield Leftover("lock", name, str(pid), "dead", f"process {process} of this machine has ended")

    def _branches(self, holders: Mapping[int, str]) -> Iterator[Leftover]:
        for name in catalog_tables(self.catalog):
            table = None if is_copy(name) else load_table(self.catalog, name)
            for branch, ref in sorted(table.metadata.refs.items()) if table else ():
                if table and branch.startswith(BRANCH_PREFIX):
                    state, why = self._branch_state(table, ref, holders.get(lock_number(name), ""))
                    yield Leftover("branch", str(name), branch, state, why)

    def _branch_state(self, table: Table, ref: SnapshotRef, holder: str) -> tuple[State, str]:
        if holder:
            return "alive", f"its owner may be {holder}, which holds the table's lock"
        snapshot = table.snapshot_by_id(ref.snapshot_id)
        if ref.max_ref_age_ms is None or snapshot is None:
            return "dead", "nobody holds the table's lock"
        until = _moment(snapshot.timestamp_ms) + timedelta(milliseconds=ref.max_ref_age_ms)
        if until <= self.now:
            return "dead", f"a gate refused it, and it was kept until {until:%Y-%m-%d %H:%M} UTC"
        return "kept", f"a gate refused it; to be looked at until {until:%Y-%m-%d %H:%M} UTC"

    def _forks(self, holders: Mapping[int, str]) -> Iterator[Leftover]:
        tables = catalog_tables(self.catalog)
        owners = {fork_name(name, prefix): name for name in tables for prefix in (FORK_PREFIX, UPKEEP_PREFIX)}
        for name in tables:
            table = load_table(self.catalog, name) if is_fork(name) else None
            if table is None:
                continue
            owner = owners.get(name)
            holder = next(filter(None, (holders.get(lock_number(each)) for each in (name, owner) if each)), "")
            until = _moment(table.metadata.last_updated_ms) + timedelta(days=FORK_DAYS)
            is_upkeep = name.name.startswith(UPKEEP_PREFIX)
            where = f"{'upkeep' if is_upkeep else 'rebuild'} of {owner or 'a table that is gone'}"
            if holder:
                yield Leftover("fork", str(name), where, "alive", f"its owner may be {holder}")
            elif is_upkeep:
                yield Leftover("fork", str(name), where, "dead", "whoever worked on it has ended")
            elif until > self.now:
                why = f"a rebuild that may still be confirmed; until {until:%Y-%m-%d %H:%M} UTC"
                yield Leftover("fork", str(name), where, "kept", why)
            else:
                yield Leftover("fork", str(name), where, "dead", f"nobody confirmed it in {FORK_DAYS} days")

    def _staged(self) -> Iterator[Leftover]:
        """Objects that no entry of their source's landing log names."""
        named: dict[str, set[str]] = {}
        for found in self.store.list_after(OBJECTS):
            source = found.key.split("/")[1]
            if source not in named:
                named[source] = {file.key for batch in read_log(self.store, source) for file in batch.files}
            if found.key not in named[source]:
                state, why = self._staged_state(found.modified_at)
                yield Leftover("staged", f"s3://{self.store.bucket}", found.key, state, why)

    def _staged_state(self, modified_at: datetime | None) -> tuple[State, str]:
        if modified_at is None or modified_at + timedelta(hours=self.staged_hours) > self.now:
            return "kept", f"a landing may still log it; until it is {self.staged_hours:g} hours old"
        return "dead", f"staged at {modified_at:%Y-%m-%d %H:%M} UTC, and no log names it"

    def _files(self) -> Iterator[Leftover]:
        found_places = places(self.catalog)
        for location in found_places:
            names = sharing(found_places, location)
            if found := find_orphans(self.catalog, self.store, location, names, self.now):
                what = f"{len(found.files)} files, {found.size_bytes:,} bytes"
                why = f"no table refers to them, and they are older than {ORPHAN_DAYS} days"
                yield Leftover("files", location, what, "dead", why)

    def _delete_files(self, leftover: Leftover) -> str:
        """Look again under the locks of all tables that lie there."""
        names = sharing(places(self.catalog), leftover.where)
        with removing_files(self.settings), table_locks(self.settings, names, wait_seconds=0):
            if found := find_orphans(self.catalog, self.store, leftover.where, names, self.now):
                found.delete()
        return ""

    def _drop_branch(self, leftover: Leftover) -> str:
        name = TableName.parse(leftover.where)
        with table_locks(self.settings, [name], wait_seconds=0):
            table = load_table(self.catalog, name)
            if table is None or leftover.name not in table.metadata.refs:
                return ""
            document = read_document(self.catalog, table.metadata_location)
            document["refs"] = {ref: value for ref, value in document["refs"].items() if ref != leftover.name}
            document["last-updated-ms"] = max(int(self.now.timestamp() * 1000), document["last-updated-ms"] + 1)
            at = table.metadata_location
            swap(self.catalog, [write_document(self.catalog, name, at, at, document)], _moved)
        return ""

    def _drop_fork(self, leftover: Leftover) -> str:
        """Forget the fork as it was found: files are the table's, so nothing is deleted."""
        name = TableName.parse(leftover.where)
        with table_locks(self.settings, [name], wait_seconds=0):
            table = load_table(self.catalog, name)
            if table is not None and not forget(self.catalog, name, table.metadata_location):
                raise _moved(name)
        return ""

    def _delete_staged(self, leftover: Leftover) -> str:
        """Look again, right before: a landing that finds its bytes staged makes them young, and then logs them."""
        found = self.store.head(leftover.name)
        if found is None:
            return ""
        source = leftover.name.split("/")[1]
        if self._staged_state(found.modified_at)[0] != "dead":
            return "a landing found it meanwhile"
        if any(file.key == leftover.name for batch in read_log(self.store, source) for file in batch.files):
            return "it was logged meanwhile"
        self.store.delete(leftover.name)
        return ""

    def _end_session(self, leftover: Leftover) -> str:
        with connected(self.settings) as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND application_name = %s",
                (int(leftover.name), leftover.where),
            ).fetchone()
        return "" if ended is None or ended[0] else "PostgreSQL did not end the session"


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _moved(name: TableName) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"{name} changed while it was cleaned", untouched=f"{name}", todo="run `lakehouse doctor --fix` again"
    )


def _has_ended(pid: int) -> bool:
    try:
        return not runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True
