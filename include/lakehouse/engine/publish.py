"""The one way into every table: lock, ledger, branch, gate, fast-forward, read-back.

No job can bypass it: a job only says what it wants to do, given the heads that were read under the lock.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, Protocol

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from lakehouse.core.clock import Clock, SystemClock
from lakehouse.core.errors import ConcurrentCommit, GateFailed, IntegrityError, TransientError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.engine.commits import clear_branch, say_twice
from lakehouse.engine.evolve import evolve_table
from lakehouse.engine.lock import HeldLocks, table_locks
from lakehouse.engine.spark_errors import readable
from lakehouse.engine.tables import TableSpec, create_table, qualified
from lakehouse.engine.watch import while_s3_answers
from lakehouse.ledger.watermark import (
    ATTEMPT_PROPERTY,
    BRANCH_PREFIX,
    NO_HEAD,
    STAMP_PROPERTY,
    Head,
    Stamp,
    ancestors,
    head_of,
    load_table,
    open_catalog,
    read_head,
    summary_of,
)
from lakehouse.quality.record import Recorder

REFUSED_DAYS = 7
"""How long a branch that a gate refused is kept, unless the table is published again before."""
_SESSION_PREFIX = "spark.sql.iceberg.snapshot-property."


@dataclass
class Lake:
    """What every job works with: the session, the settings, the clock and the catalog's metadata.

    ``recorder`` keeps what rules say, where a run wants to know it.
    """

    spark: SparkSession
    settings: Settings
    clock: Clock = SystemClock()  # noqa: RUF009 - stateless
    recorder: Recorder | None = None

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
        failpoint("publish.appended", self.table)

    def append_nothing(self) -> None:
        """Commit the stamp alone."""
        self.append(self.lake.table(self.table).limit(0))

    def delete(self, condition: str) -> None:
        """Delete rows from the branch. Not stamped: an append follows in the same attempt."""
        self.lake.spark.sql(f"DELETE FROM {self.name} WHERE {condition}")  # noqa: S608 - built from checked names
        failpoint("publish.deleted", self.table)

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


@readable()
def publish(lake: Lake, job: Job) -> tuple[Published, ...]:
    """Run a job through the whole protocol. Returns what was published; empty when nothing was pending.

    Raises :class:`TableBusy`, :class:`ConcurrentCommit` (retryable), :class:`GateFailed` (``main`` untouched, branch
    kept) and :class:`IntegrityError` (a commit that was acknowledged is not in ``main`` and cannot be put back, or the
    table's stamps are gone).
    """
    attempt = uuid.uuid4().hex[:16]
    specs = {spec.name: spec for spec in job.specs()}
    with table_locks(lake.settings, list(specs)) as locks, readable(", ".join(map(str, specs))):
        return while_s3_answers(lake.settings, lambda: _attempt(lake, job, attempt, specs, locks))


def _attempt(
    lake: Lake, job: Job, attempt: str, specs: Mapping[TableName, TableSpec], locks: HeldLocks
) -> tuple[Published, ...]:
    failpoint("publish.locked", *specs)
    heads = {name: _ensure_table(lake, spec) for name, spec in specs.items()}
    _require_stamps(heads)
    work = job.plan(attempt, heads)
    if work is None:
        return ()
    locks.check()  # who was given up must not clear the branches of who came next
    stamps = work.stamps()
    branch = BRANCH_PREFIX + attempt
    targets = {name: Target(lake, name, branch, attempt, stamp, heads[name]) for name, stamp in stamps.items()}
    for target in targets.values():
        _start_branch(target)
    failpoint("publish.branched", *targets)
    try:
        work.write(targets)
        failpoint("publish.written", *targets)
        work.gate(targets)
    except GateFailed:
        _keep(targets.values())
        raise
    failpoint("publish.gated", *targets)
    return tuple(_finish(target, locks) for target in targets.values())


def _require_stamps(heads: Mapping[TableName, Head]) -> None:
    """Every table of ours has a stamp from its first snapshot on. Without one it would look as if nothing was taken."""
    for name, head in heads.items():
        if head.snapshot_id is not None and head.stamp is None:
            raise IntegrityError(
                f"what {name} has consumed is not known: no snapshot in the history of its main has a stamp",
                where=f"snapshot {head.snapshot_id}",
                untouched=f"{name}; taken for new, it would get every batch a second time",
                todo="a tool expired the stamped snapshots: roll the table back to one that is left, or bring it "
                "back from a backup; dropped, it is made anew by the next run, from bronze or the landing bucket",
            )


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
        failpoint("publish.created", spec.name)
        table = _first_snapshot(lake, spec.name)
    return head_of(table)


def _first_snapshot(lake: Lake, name: TableName) -> Any:
    """Give a table the empty snapshot that a branch can start from; the table as it is then. Needs the lock.

    It is the one commit of ours that ``main`` gets other than by a fast-forward. Where its reply is lost, the second
    try moves ``main`` back to it, over what a tool that knows no lock committed meanwhile: that is put back.
    """
    created = f"created-{uuid.uuid4().hex[:16]}"
    Target(lake, name, "main", created, Stamp(created), NO_HEAD).append_nothing()
    table = load_table(lake.catalog, name)
    lost = _undone(table) if table else None
    if lost is None:
        return table
    branch = BRANCH_PREFIX + created
    say_twice(
        lake.spark, f"ALTER TABLE {qualified(name)} CREATE BRANCH IF NOT EXISTS `{branch}` AS OF VERSION {lost:d}"
    )
    restoring = Target(lake, name, branch, created, Stamp(created), head_of(table))
    _fast_forward(restoring)
    table = load_table(lake.catalog, name)
    if table is None or lost not in [snapshot.snapshot_id for snapshot in ancestors(table)]:
        raise _gone(restoring)
    return table


def _undone(table: Any) -> int | None:
    """The last head of ``main`` that was committed on top of its present one, and is not in ``main`` now."""
    head = table.current_snapshot().snapshot_id
    heads = dict.fromkeys(entry.snapshot_id for entry in reversed(table.metadata.snapshot_log))
    later = [i for i in heads if i != head and head in [s.snapshot_id for s in ancestors(table, i)]]
    return later[0] if later else None


def _evolve(lake: Lake, spec: TableSpec) -> bool:
    """Bring the table's metadata to what its spec says; whether anything was to do. Needs the lock."""
    table = load_table(lake.catalog, spec.name)
    return table is not None and evolve_table(lake.spark, table, spec, lake.clock.now())


def _start_branch(target: Target) -> None:
    spark, name = target.lake.spark, qualified(target.table)
    table = load_table(target.lake.catalog, target.table)
    stale = [ref for ref in table.metadata.refs if ref.startswith(BRANCH_PREFIX)] if table else []
    for ref in stale:  # their owner is gone: we hold the lock
        clear_branch(spark, table, target.table, ref)
    say_twice(
        spark,
        f"ALTER TABLE {name} CREATE BRANCH IF NOT EXISTS `{target.branch}` AS OF VERSION {target.base.snapshot_id}",
    )


def _keep(targets: Iterable[Target]) -> None:
    """Say on the branches that a gate refused them, so that they are kept for somebody to look at."""
    for target in targets:
        table = load_table(target.lake.catalog, target.table)
        ref = table.metadata.refs.get(target.branch) if table else None
        if ref:
            say_twice(
                target.lake.spark,
                f"ALTER TABLE {qualified(target.table)} REPLACE BRANCH `{target.branch}` "
                f"AS OF VERSION {ref.snapshot_id} RETAIN {REFUSED_DAYS} DAYS",
            )


def _finish(target: Target, locks: HeldLocks) -> Published:
    locks.check()
    if head_of(load_table(target.lake.catalog, target.table)).snapshot_id != target.base.snapshot_id:
        raise _moved(target)
    failpoint("publish.before_fast_forward", target.table)
    refused = _fast_forward(target)
    failpoint("publish.after_fast_forward", target.table)
    published = _confirmed(target, refused)
    failpoint("publish.read_back", target.table)
    say_twice(target.lake.spark, f"ALTER TABLE {qualified(target.table)} DROP BRANCH IF EXISTS `{target.branch}`")
    failpoint("publish.done", target.table)
    return published


def _fast_forward(target: Target) -> Exception | None:
    """Move ``main`` to the branch. Returns what was answered instead of yes; only ``main`` tells if it happened."""
    table = f"{target.table.namespace}.{target.table.name}"
    try:
        target.lake.spark.sql(
            f"CALL {CATALOG}.system.fast_forward(table => '{table}', branch => 'main', to => '{target.branch}')"
        )
    except (PySparkException, Py4JJavaError) as error:
        return error
    return None


def _confirmed(target: Target, refused: Exception | None) -> Published:
    """What the attempt added to ``main``, by what ``main`` says now, whatever was answered to the fast-forward.

    A refusal may be the end of a lost reply: the commit is there all the same. And after a yes, the attempt may be gone
    again: a tool that appends without our lock and lost the reply to an earlier commit moves ``main`` back to that one
    when it tries again. Then ``main`` is an ancestor of the branch, and can be fast-forwarded once more: this restores
    all that was on top of it, and loses nothing, since a fast-forward moves over no commit of anyone.
    """
    published = _read_back(target)
    if published is None and refused is None:
        _fast_forward(target)
        published = _read_back(target)
    if published is not None:
        return published
    if refused is None:
        raise _gone(target)
    if read_head(target.lake.catalog, target.table).snapshot_id != target.base.snapshot_id:
        raise _moved(target) from None
    raise refused


def _moved(target: Target) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"main of {target.table} moved while attempt {target.attempt} was written",
        where=f"base snapshot {target.base.snapshot_id}",
        untouched=f"{target.table}: nothing of this attempt was published",
        todo="run again; it starts from the new head",
    )


def _read_back(target: Target) -> Published | None:
    """What the attempt added, if the catalog has it in ``main``'s ancestry, on top of what was there before."""
    try:
        table = load_table(target.lake.catalog, target.table)
    except TransientError as error:
        raise _unknown(target, error) from None
    since = list(takewhile(lambda s: s.snapshot_id != target.base.snapshot_id, ancestors(table) if table else ()))
    stamped = [i for i, s in enumerate(since) if _is_stamped(s, target.attempt)]
    is_based = bool(since) and since[-1].parent_snapshot_id == target.base.snapshot_id
    if len(stamped) > 1:
        raise _gone(target)
    # What others committed on top of the attempt since is theirs.
    return _published(target, since[stamped[0] :]) if stamped and is_based else None


def _unknown(target: Target, error: TransientError) -> TransientError:
    return TransientError(
        f"whether attempt {target.attempt} of {target.table} was published is not known: {error.what}",
        where=error.where,
        untouched=f"{target.table} has all of the attempt or nothing of it",
        todo=f"{error.todo}; the next run looks, and goes on from what it finds",
    )


def _is_stamped(snapshot: Any, attempt: str) -> bool:
    summary = summary_of(snapshot)
    return STAMP_PROPERTY in summary and summary.get(ATTEMPT_PROPERTY) == attempt


def _gone(target: Target) -> IntegrityError:
    table = load_table(target.lake.catalog, target.table)
    heads = [snapshot.snapshot_id for snapshot in ancestors(table)] if table else []
    written = table.snapshot_by_name(target.branch) if table else None
    lost = ancestors(table, written.snapshot_id) if table and written else ()
    missing = [str(snapshot.snapshot_id) for snapshot in lost if snapshot.snapshot_id not in heads]
    return IntegrityError(
        f"a commit to {target.table} was acknowledged and is not in main once",
        where=f"attempt {target.attempt}: not in main are snapshots {', '.join(missing) or 'none'}; "
        f"main was {target.base.snapshot_id} before and is {heads[0] if heads else 'nothing'} now",
        untouched=f"branch {target.branch} has all that was written; what it consumed is pending again",
        todo="find what else writes to the table without its lock (the summary of main's snapshot says who made it) "
        "and stop it, then run again: what is missing is made anew. Expire no snapshots before",
    )


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
