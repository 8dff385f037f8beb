"""The one way into every table: lock, ledger, branch, gate, fast-forward, read-back.

No job can bypass it: a job only says what it wants to do, given the heads that were read under the lock.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from lakehouse.core.clock import Clock, SystemClock
from lakehouse.core.errors import ConcurrentCommit, IntegrityError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.engine.evolve import evolve_table
from lakehouse.engine.lock import HeldLocks, table_locks
from lakehouse.engine.tables import TableSpec, create_table, qualified
from lakehouse.ledger.watermark import (
    ATTEMPT_PROPERTY,
    NO_HEAD,
    STAMP_PROPERTY,
    Head,
    Stamp,
    ancestors,
    head_of,
    load_table,
    open_catalog,
    summary_of,
)

_SESSION_PREFIX = "spark.sql.iceberg.snapshot-property."


@dataclass
class Lake:
    """What every job works with: the session, the settings, the clock and the catalog's metadata."""

    spark: SparkSession
    settings: Settings
    clock: Clock = SystemClock()  # noqa: RUF009 - stateless

    @cached_property
    def catalog(self) -> Any:
        """PyIceberg's view of the catalog, for metadata only."""
        return open_catalog(self.settings)

    def table(self, name: TableName) -> DataFrame:
        """``main`` of a table."""
        return self.spark.table(qualified(name))


@dataclass(frozen=True)
class Target:
    """Where an attempt writes: one table's branch, with what each of its commits says of itself."""

    lake: Lake
    table: TableName
    branch: str
    attempt: str
    stamp: Stamp
    base: Head

    @property
    def name(self) -> str:
        """The branch as Spark SQL wants it."""
        return qualified(self.table, self.branch)

    def append(self, rows: DataFrame) -> None:
        """Append rows and stamp the commit: the last write of an attempt, made even when there are no rows."""
        writer = rows.writeTo(self.name)
        for key, value in self._stamped().items():
            writer = writer.option(f"snapshot-property.{key}", value)
        writer.append()

    def append_nothing(self) -> None:
        """Commit the stamp alone."""
        self.append(self.lake.table(self.table).limit(0))

    def delete(self, condition: str) -> None:
        """Delete rows from the branch. Not stamped: an append follows in the same attempt."""
        self.lake.spark.sql(f"DELETE FROM {self.name} WHERE {condition}")  # noqa: S608 - built from checked names

    @contextmanager
    def stamped_session(self) -> Iterator[None]:
        """Stamp every commit that the session makes inside, for SQL that takes no options."""
        conf = self.lake.spark.conf
        for key, value in self._stamped().items():
            conf.set(_SESSION_PREFIX + key, value)
        try:
            yield
        finally:
            for key in self._stamped():
                conf.unset(_SESSION_PREFIX + key)

    def _stamped(self) -> dict[str, str]:
        return {STAMP_PROPERTY: self.stamp.to_json(), ATTEMPT_PROPERTY: self.attempt}


class Work(Protocol):
    """What a job wants to do to its tables, decided from their heads under the lock."""

    def stamps(self) -> Mapping[TableName, Stamp]:
        """What each table will have consumed."""
        ...

    def write(self, targets: Mapping[TableName, Target]) -> None:
        """Write to the branches; the last commit of each is stamped."""
        ...

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """Look at the branches; raise :class:`GateFailed` to publish nothing."""
        ...


class Job(Protocol):
    """A job plans anew whenever it gets the lock."""

    def specs(self) -> Sequence[TableSpec]:
        """The tables that it publishes together."""
        ...

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> Work | None:
        """What to do, or None when nothing is pending."""
        ...


@dataclass(frozen=True)
class Published:
    """What one attempt added to a table's ``main``."""

    table: TableName
    attempt: str
    snapshot_id: int
    files_added: int
    bytes_added: int
    records_added: int
    records_deleted: int


def publish(lake: Lake, job: Job) -> tuple[Published, ...]:
    """Run a job through the whole protocol. Returns what was published; empty when nothing was pending.

    Raises :class:`TableBusy`, :class:`ConcurrentCommit` (retryable), :class:`GateFailed` (``main`` untouched, branch
    kept) and :class:`IntegrityError` (a commit that was acknowledged is not in ``main``).
    """
    attempt = uuid.uuid4().hex[:16]
    specs = {spec.name: spec for spec in job.specs()}
    with table_locks(lake.settings, list(specs)) as locks:
        failpoint("publish.locked")
        heads = {name: _ensure_table(lake, spec) for name, spec in specs.items()}
        work = job.plan(attempt, heads)
        if work is None:
            return ()
        stamps = work.stamps()
        branch = f"attempt_{attempt}"
        targets = {name: Target(lake, name, branch, attempt, stamp, heads[name]) for name, stamp in stamps.items()}
        for target in targets.values():
            _start_branch(target)
        failpoint("publish.branched")
        work.write(targets)
        failpoint("publish.written")
        work.gate(targets)
        failpoint("publish.gated")
        return tuple(_finish(target, locks) for target in targets.values())


def create_missing(lake: Lake, specs: Sequence[TableSpec]) -> None:
    """Create the tables that are not there yet, empty, under their locks: a first snapshot must never come second."""
    missing = [spec for spec in specs if load_table(lake.catalog, spec.name) is None]
    if missing:
        with table_locks(lake.settings, [spec.name for spec in missing]):
            for spec in missing:
                _ensure_table(lake, spec)


def _ensure_table(lake: Lake, spec: TableSpec) -> Head:
    """The table's head; the table is created with a first, empty snapshot where it is missing. Needs the lock."""
    table = load_table(lake.catalog, spec.name)
    if table is None:
        create_table(lake.spark, spec)
        _evolve(lake, spec)
    elif _evolve(lake, spec):
        table = load_table(lake.catalog, spec.name)
    if table is None or table.current_snapshot() is None:
        # A branch needs a snapshot to start from.
        created = f"created-{uuid.uuid4().hex[:16]}"
        first = Target(lake, spec.name, "main", created, Stamp(created), NO_HEAD)
        first.append_nothing()
        table = load_table(lake.catalog, spec.name)
    return head_of(table)


def _evolve(lake: Lake, spec: TableSpec) -> bool:
    """Bring the table's metadata to what its spec says; whether anything was to do. Needs the lock."""
    table = load_table(lake.catalog, spec.name)
    return table is not None and evolve_table(lake.spark, table, spec, lake.clock.now())


def _start_branch(target: Target) -> None:
    spark, name = target.lake.spark, qualified(target.table)
    table = load_table(target.lake.catalog, target.table)
    stale = [ref for ref in table.metadata.refs if ref.startswith("attempt_")] if table else []
    for ref in stale:  # their owner is gone: we hold the lock
        spark.sql(f"ALTER TABLE {name} DROP BRANCH IF EXISTS `{ref}`")
    spark.sql(f"ALTER TABLE {name} CREATE BRANCH `{target.branch}` AS OF VERSION {target.base.snapshot_id}")


def _finish(target: Target, locks: HeldLocks) -> Published:
    locks.check()
    if head_of(load_table(target.lake.catalog, target.table)).snapshot_id != target.base.snapshot_id:
        raise _moved(target)
    failpoint("publish.before_fast_forward")
    _fast_forward(target)
    failpoint("publish.after_fast_forward")
    published = _read_back(target)
    target.lake.spark.sql(f"ALTER TABLE {qualified(target.table)} DROP BRANCH IF EXISTS `{target.branch}`")
    failpoint("publish.done")
    return published


def _fast_forward(target: Target) -> None:
    table = f"{target.table.namespace}.{target.table.name}"
    try:
        target.lake.spark.sql(
            f"CALL {CATALOG}.system.fast_forward(table => '{table}', branch => 'main', to => '{target.branch}')"
        )
    except (PySparkException, Py4JJavaError) as error:
        if "not an ancestor" in str(error):
            raise _moved(target) from None
        raise


def _moved(target: Target) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"main of {target.table} moved while attempt {target.attempt} was written",
        where=f"base snapshot {target.base.snapshot_id}",
        untouched=f"{target.table}: nothing of this attempt was published",
        todo="run again; it starts from the new head",
    )


def _read_back(target: Target) -> Published:
    """Ask the catalog anew whether this attempt is in ``main``'s ancestry once, and what was there before still is."""
    table = load_table(target.lake.catalog, target.table)
    chain = list(ancestors(table)) if table else []
    until_base = []
    for snapshot in chain:
        if snapshot.snapshot_id == target.base.snapshot_id:
            break
        until_base.append(snapshot)
    stamped = [s for s in until_base if summary_of(s).get(ATTEMPT_PROPERTY) == target.attempt]
    has_stamp = [s for s in stamped if STAMP_PROPERTY in summary_of(s)]
    if len(until_base) == len(chain) or len(has_stamp) != 1:
        raise IntegrityError(
            f"a commit to {target.table} was acknowledged and is not in main",
            where=f"attempt {target.attempt}, previous head {target.base.snapshot_id}, "
            f"main now {chain[0].snapshot_id if chain else 'nothing'}",
            untouched="the attempt's branch still has what was written",
            todo="stop all writers of the table; compare the branch with main before anything is expired",
        )
    return _published(target, until_base)


def _published(target: Target, snapshots: Sequence[Any]) -> Published:
    def total(key: str) -> int:
        return sum(int(summary_of(snapshot).get(key, 0)) for snapshot in snapshots)

    return Published(
        target.table,
        target.attempt,
        snapshots[0].snapshot_id,
        total("added-data-files"),
        total("added-files-size"),
        total("added-records"),
        total("deleted-records") + total("added-position-deletes") - total("removed-position-deletes"),
    )
