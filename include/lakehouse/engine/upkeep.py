"""Upkeep of tables by need: what each of them needs, found from metadata, and the steps that only take away. No JVM.

The steps that write files are in :mod:`lakehouse.engine.compact`. Nothing is remembered between runs: what a table
needs is seen in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from lakehouse.contracts.derive import hours
from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.marts import declared_marts, mart_names
from lakehouse.contracts.model import Upkeep
from lakehouse.core import names
from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import ConcurrentCommit, SettingsError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine.lock import table_locks
from lakehouse.engine.orphans import Orphans, find_orphans, is_guarded, sharing
from lakehouse.engine.pointer import (
    FORK_PREFIX,
    UPKEEP_PREFIX,
    forget,
    fork_name,
    is_copy,
    is_fork,
    pointers,
    read_document,
    swap,
    write_document,
)
from lakehouse.ledger.compaction import Compaction, manifests_pay, plan_compaction, scan_cost
from lakehouse.ledger.expiry import Expiry, plan_expiry, without
from lakehouse.ledger.layout import Manifests
from lakehouse.ledger.retention_lock import removing_files
from lakehouse.ledger.store import CONNECTIONS, ObjectInfo, ObjectStore
from lakehouse.ledger.watermark import STAMP_PROPERTY, Stamp, ancestors, catalog_tables, head_of, load_table, summary_of

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

MOST_DELETED = 10_000
"""Files that one run deletes at most, unless it is told otherwise: a mistake is noticed before much is gone."""
WAIT_SECONDS = 5
"""How long upkeep waits for a table's lock before it gives way."""
STATISTICS_PROPERTY = "lakehouse.statistics"
_STALE_SHARE = 0.5


@dataclass(frozen=True)
class Care:
    """How a table is kept: its policy, whether compaction sorts, and the columns whose distinct values are counted."""

    policy: Upkeep = Upkeep()
    is_sorted: bool = False
    counted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What a table needs, as its metadata says. ``files`` and ``bytes`` of ``expiry`` and ``orphans`` are deleted.

    ``skipped`` says why nothing is done, where something stands in the way. ``has_fork``: a run works on it, or died.
    """

    table: TableName
    cost: float = 1
    compaction: Compaction | None = None
    manifests: int | None = None
    expiry: Expiry | None = None
    expired: Sequence[ObjectInfo] = ()
    orphans: Orphans | None = None
    statistics: tuple[str, ...] = ()
    skipped: str = ""
    has_fork: bool = False

    @property
    def writes(self) -> bool:
        """Whether it takes Spark."""
        return bool(self.compaction or self.manifests or self.statistics)

    @property
    def is_nothing(self) -> bool:
        return not (self.writes or self.expiry or self.orphans or self.skipped or self.has_fork)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "table": str(self.table),
            "scan_cost": round(self.cost, 3),
            "compaction": self.compaction and vars(self.compaction),
            "manifests": self.manifests,
            "expiry": self.expiry
            and {
                "snapshots": list(self.expiry.going),
                "tags": list(self.expiry.tags),
                "files": len(self.expired),
                "bytes": sum(file.size_bytes for file in self.expired),
            },
            "orphans": self.orphans and {"files": len(self.orphans.files), "bytes": self.orphans.size_bytes},
            "statistics": list(self.statistics),
            "skipped": self.skipped,
            "has_fork": self.has_fork,
        }


@dataclass
class Budget:
    """How many files a run may still delete."""

    files: int = MOST_DELETED


@dataclass(frozen=True)
class Removed:
    """What a step took away, and how many files it had to leave for the next run."""

    snapshots: int = 0
    files: int = 0
    bytes: int = 0
    left: int = 0


@dataclass
class House:
    """One lake as upkeep sees it, at a time. Manifests are read once."""

    settings: Settings
    catalog: Catalog
    now: datetime
    looks_for_orphans: bool = True
    _manifests: Manifests | None = field(default=None, repr=False)
    _folders: dict[TableName, tuple[str, str]] = field(default_factory=dict, repr=False)

    @cached_property
    def store(self) -> ObjectStore:
        return ObjectStore.open(self.settings, self.settings.warehouse_bucket)

    @cached_property
    def cares(self) -> Mapping[TableName, Care]:
        """The care of all tables that contracts and marts declare."""
        found: dict[TableName, Care] = {}
        for contract in load_contracts(self.settings.contracts).values():
            found[contract.bronze_table] = Care(contract.upkeep)
            for name, table in contract.tables.items():
                policy = table.upkeep or contract.upkeep
                keys = (names.KEY, *(reference.column for reference in table.references))
                found[contract.silver_table(name)] = Care(policy, bool(table.sort), keys)
                found[TableName("quarantine", name)] = Care(policy)
        marts = {mart.table: Care(is_sorted=bool(mart.sort)) for mart in declared_marts(self.settings.dbt)}
        return found | marts

    def care(self, name: TableName) -> Care:
        return self.cares.get(name, Care())

    @cached_property
    def consumers(self) -> Mapping[str, Mapping[str, str]]:
        """For each table the attempts that marts were made of, each with the marts in words."""
        declared = frozenset(mart_names(self.settings.dbt))
        found: dict[str, dict[str, str]] = {}
        for mart in catalog_tables(self.catalog):
            stamp = None if mart.namespace == "gold" and mart not in declared else self._stamp(mart)
            for table, attempt in (stamp.upstream if stamp else {}).items():
                found.setdefault(table, {})[attempt] = f"{mart} was made of it"
        return found

    def _stamp(self, name: TableName) -> Stamp | None:
        return None if is_copy(name) else head_of(load_table(self.catalog, name)).stamp

    def tables(self, asked: Sequence[str]) -> list[TableName]:
        """Those that are named, or all. Raises :class:`SettingsError` for one that is not there.

        Forks are somebody's work, and what a restore keeps is to stay as it is.
        """
        there = [name for name in catalog_tables(self.catalog) if not is_copy(name)]
        wanted = [TableName.parse(each) for each in asked]
        if unknown := [str(name) for name in wanted if name not in there]:
            raise SettingsError(f"there is no table {', '.join(unknown)}", todo="`lakehouse tables` lists them")
        return wanted or there

    def manifests(self, table: Table) -> Manifests:
        if self._manifests is None:
            self._manifests = Manifests(table.io)
        return self._manifests

    @property
    def manifests_read(self) -> int:
        """How many manifests it took to see all that was asked so far."""
        return self._manifests.read if self._manifests else 0

    def needs(self, name: TableName) -> Needs:
        """What a table needs now."""
        table = load_table(self.catalog, name)
        if table is None or table.current_snapshot() is None:
            return Needs(name, skipped="" if table is None else "there is nothing in it yet")
        if load_table(self.catalog, fork_name(name, FORK_PREFIX)) is not None:
            return Needs(name, skipped="a rebuild of it waits to be confirmed")
        expiry = self.expiry(name, table)
        return replace(
            self.to_write(name),
            expiry=expiry,
            expired=self.doomed(table, expiry) if expiry else [],
            orphans=self.orphans(table),
            has_fork=load_table(self.catalog, fork_name(name, UPKEEP_PREFIX)) is not None,
        )

    def to_write(self, name: TableName) -> Needs:
        """Of what a table needs, that which takes Spark."""
        table = load_table(self.catalog, name)
        if table is None:
            return Needs(name)
        care, layout = self.care(name), self.manifests(table).layout(table, table.current_snapshot())
        return Needs(
            name,
            scan_cost(layout),
            plan_compaction(layout, care.policy),
            len(layout.manifest_bytes) if manifests_pay(layout) else None,
            statistics=self.statistics(table, care),
        )

    def expiry(self, name: TableName, table: Table) -> Expiry | None:
        """The snapshots that go, where it pays. Of a table whose files nobody may delete, none."""
        if is_guarded(table):
            return None
        document = read_document(self.catalog, table.metadata_location)
        found = plan_expiry(document, self.care(name).policy, self.pins(name, table), self.now)
        return found if found.pays else None

    def pins(self, name: TableName, table: Table) -> dict[int, str]:
        """The snapshots that marts were made of. The newest of an attempt will do: upkeep changes no row."""
        wanted, found = dict(self.consumers.get(str(name), {})), {}
        for snapshot in ancestors(table):
            text = summary_of(snapshot).get(STAMP_PROPERTY)
            if text and (reason := wanted.pop(Stamp.from_json(text).attempt, None)):
                found[snapshot.snapshot_id] = reason
        return found

    def doomed(self, table: Table, expiry: Expiry) -> list[ObjectInfo]:
        """The files that only the snapshots that go refer to, of all tables that lie there."""
        going = frozenset(expiry.going)
        files = self._named_only_by(table, going)
        statistics = (*table.metadata.statistics, *table.metadata.partition_statistics)
        files |= {each.statistics_path: each.file_size_in_bytes for each in statistics if each.snapshot_id in going}
        if files:
            for other in self.others(table):
                for named in self.named(other):
                    files.pop(named, None)
        place = f"{table.location().rstrip('/')}/"
        return [ObjectInfo(path, size, "") for path, size in files.items() if path.startswith(place)]

    def _named_only_by(self, table: Table, going: frozenset[int]) -> dict[str, int]:
        """The files, with their sizes, that these of a table's snapshots name and no other does."""
        manifests, snapshots = self.manifests(table), table.metadata.snapshots
        kept = {m.manifest_path: m for each in snapshots if each.snapshot_id not in going for m in manifests.of(each)}
        files: dict[str, int] = {}
        for snapshot in (each for each in snapshots if each.snapshot_id in going):
            files[snapshot.manifest_list] = 0
            for manifest in manifests.of(snapshot):
                if manifest.manifest_path not in kept:
                    files[manifest.manifest_path] = manifest.manifest_length
                    files |= {each.path: each.size_bytes for each in manifests.entries(manifest)}
        for manifest in kept.values() if files else ():
            for entry in manifests.entries(manifest):
                if entry.is_live:
                    files.pop(entry.path, None)
        return files

    def others(self, table: Table) -> list[Table]:
        """The other tables that lie there, kept ones and forks among them."""
        mine = TableName(*table.name())
        found = (load_table(self.catalog, name) for name in self.neighbours(table) if name != mine)
        return [other for other in found if other is not None]

    def orphans(self, table: Table) -> Orphans | None:
        """Old files that nothing refers to, at the place of a table."""
        if not self.looks_for_orphans:
            return None
        shared = self.neighbours(table)
        keep = timedelta(hours=hours(self.care(TableName(*table.name())).policy.keep_snapshots))
        return find_orphans(self.catalog, self.store, table.location(), shared, self.now, self.named, keep)

    def named(self, table: Table) -> Iterator[str]:
        """As :func:`references`, with manifests that were read already."""
        metadata, manifests = table.metadata, self.manifests(table)
        yield table.metadata_location
        yield from (entry.metadata_file for entry in metadata.metadata_log)
        yield from (each.statistics_path for each in (*metadata.statistics, *metadata.partition_statistics))
        yield from (snapshot.manifest_list for snapshot in metadata.snapshots)
        found = {each.manifest_path: each for snapshot in metadata.snapshots for each in manifests.of(snapshot)}
        yield from found
        yield from (entry.path for each in found.values() for entry in manifests.entries(each))

    def neighbours(self, table: Table) -> list[TableName]:
        """All tables that lie where this one does, as the catalog is now: itself, its forks, what a restore keeps."""
        known, self._folders = self._folders, {}
        for name, at in pointers(self.catalog).items():
            folder = at.rpartition("/")[0]
            was = known.get(name)
            if was is None or was[0] != folder:
                loaded = load_table(self.catalog, name)
                was = (folder, loaded.location().rstrip("/")) if loaded else None
            if was is not None:
                self._folders[name] = was
        found: dict[str, list[TableName]] = {}
        for name, (_, location) in self._folders.items():
            found.setdefault(location, []).append(name)
        return sorted({TableName(*table.name()), *sharing(found, table.location())})

    def statistics(self, table: Table, care: Care) -> tuple[str, ...]:
        """The columns to count, where the contract asks for it and half of the rows are others than were counted."""
        head = table.current_snapshot()
        known = {each.snapshot_id for each in table.metadata.statistics}
        columns = tuple(each for each in care.counted if each in table.schema().column_names)
        if not care.policy.statistics or not columns or head is None or head.snapshot_id in known:
            return ()
        then = int(table.properties.get(STATISTICS_PROPERTY, -1))
        rows = int(summary_of(head).get("total-records", 0))
        is_stale = then < 0 or _rows_ever(table) - then >= _STALE_SHARE * max(rows, 1)
        return columns if is_stale else ()

    def expire(self, name: TableName, budget: Budget) -> Removed:
        """Let old snapshots go, and delete what only they refer to. Raises :class:`TableBusy` where others are at it.

        The snapshots go first, in one commit under the lock; a run that dies after it leaves files that nothing refers
        to, for the orphans' step of a later one.
        """
        with removing_files(self.settings):
            table = load_table(self.catalog, name)
            expiry = self.expiry(name, table) if table is not None else None
            if table is None or expiry is None:
                return Removed()
            self.doomed(table, expiry)  # read here, so that little is left to do under the lock
            with table_locks(self.settings, self.neighbours(table), wait_seconds=WAIT_SECONDS) as locks:
                table = load_table(self.catalog, name)
                expiry = self.expiry(name, table) if table is not None else None
                if table is None or expiry is None or any(map(is_fork, self.neighbours(table))):
                    return Removed()
                within, doomed = self._within(table, expiry, budget)
                left = len(self.doomed(table, expiry)) - len(doomed)
                if not within.going and not within.tags:
                    return Removed(left=left)
                at = table.metadata_location
                failpoint("maintain.before_expiry", name)
                document = without(read_document(self.catalog, at), within, SystemClock().now())
                locks.check()
                swap(self.catalog, [write_document(self.catalog, name, at, at, document)], _moved)
            failpoint("maintain.expired", name)
            self._delete(urlparse(file.key).path.lstrip("/") for file in doomed)
            failpoint("maintain.deleted", name)
        budget.files -= len(doomed)
        return Removed(len(within.going), len(doomed), sum(file.size_bytes for file in doomed), left)

    def forget_fork(self, name: TableName) -> None:
        """Drop the fork of a run that died; its files go with the orphans. One that is worked on is left."""
        fork = fork_name(name, UPKEEP_PREFIX)
        if load_table(self.catalog, fork) is None:
            return
        with table_locks(self.settings, [fork], wait_seconds=0):
            if (found := load_table(self.catalog, fork)) is not None:
                forget(self.catalog, fork, found.metadata_location)

    def _within(self, table: Table, expiry: Expiry, budget: Budget) -> tuple[Expiry, list[ObjectInfo]]:
        """As many of the oldest snapshots as leave no more files than may be deleted."""
        count, doomed = len(expiry.going), self.doomed(table, expiry)
        within = expiry
        while count and len(doomed) > budget.files:
            count //= 2
            within = expiry.only(count)
            doomed = self.doomed(table, within)
        return within, doomed

    def remove_orphans(self, name: TableName, budget: Budget) -> Removed:
        """Delete old files that nothing refers to, the oldest first. Raises :class:`TableBusy` as :meth:`expire`."""
        with removing_files(self.settings):
            table = load_table(self.catalog, name)
            if table is None or self.orphans(table) is None:
                return Removed()
            with table_locks(self.settings, self.neighbours(table), wait_seconds=WAIT_SECONDS):
                found = self.orphans(table)
            files = sorted(found.files, key=lambda file: (str(file.modified_at), file.key)) if found else []
            going = files[: max(0, budget.files)]
            failpoint("maintain.before_orphans", name)
            self._delete(file.key for file in going)
        budget.files -= len(going)
        return Removed(0, len(going), sum(file.size_bytes for file in going), len(files) - len(going))

    def _delete(self, keys: Iterator[str]) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self.store.delete, keys))


def _rows_ever(table: Table) -> int:
    """Rows that were ever added, as row lineage numbers them."""
    return int(getattr(table.metadata, "next_row_id", None) or 0)


def _moved(name: TableName) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"{name} changed while its snapshots were expired",
        untouched=f"{name}; no snapshot and no file went",
        todo="run `lakehouse maintain` again",
    )
