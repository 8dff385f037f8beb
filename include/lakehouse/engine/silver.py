"""Silver: take what is pending of a source, split it by the row rules, and publish it as facts or as history."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cached_property

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.derive import snapshot_time
from lakehouse.contracts.model import Contract, Table
from lakehouse.contracts.semantics import fingerprint, limits_of, semantics
from lakehouse.core import names
from lakehouse.core.errors import ConcurrentCommit, ContractError, GateFailed, SettingsError
from lakehouse.core.names import TableName, quote
from lakehouse.engine.apply import require_unique
from lakehouse.engine.arrivals import NotJudged
from lakehouse.engine.baseline import refuse_beyond, require_in_bronze
from lakehouse.engine.batch_rules import Verdict, judge
from lakehouse.engine.breakers import tripped
from lakehouse.engine.counted import Counted, count
from lakehouse.engine.dimension import write_all, write_changes
from lakehouse.engine.facts import fact_rows
from lakehouse.engine.gate import Gate
from lakehouse.engine.history import effective_text
from lakehouse.engine.known import as_known
from lakehouse.engine.publish import Lake, Published, Target, publish
from lakehouse.engine.refused import refusals
from lakehouse.engine.report import TableReport
from lakehouse.engine.snapshots import held_snapshots
from lakehouse.engine.spark_errors import readable
from lakehouse.engine.tables import TableSpec, in_batches, key_columns, literal, quarantine_spec, silver_spec
from lakehouse.engine.typed import FAILED, SOURCE, STATUS, typed_rows
from lakehouse.engine.verdicts import Rejudged
from lakehouse.ledger.beyond import why_beyond
from lakehouse.ledger.generations import Generations
from lakehouse.ledger.outstanding import judges_anew
from lakehouse.ledger.pending import Pending, Position, pending, read_ledger
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Baseline, Consumed, Head, Stamp, ancestors, load_table, read_head, summary_of

# Below this size all of bronze is read as quickly as a part of it is looked for.
_WORTH_A_LOOK = 64 * 1024 * 1024
# Iceberg compares longer lists with nothing when it chooses files and row groups.
_FEW_TEXTS = 200


def _is_one_of(column: str, texts: set[str | None]) -> str:
    """SQL over bronze that is true for some texts of a column."""
    known = ", ".join(literal(text) for text in sorted(text for text in texts if text is not None))
    tests = [f"{quote(column)} IN ({known})"] if known else []
    tests += [f"{quote(column)} IS NULL"] if None in texts else []
    return f"({' OR '.join(tests)})" if tests else "false"


@dataclass(frozen=True)
class Silver:
    """One silver table of one contract, with everything that its jobs need."""

    lake: Lake
    contract: Contract
    name: str
    bronze_through: int
    forks: Mapping[TableName, TableName] = field(default_factory=dict)
    """Where a rebuild writes instead of a table."""
    baseline: Baseline | None = None

    def at(self, head: Head) -> Silver:
        """The same, as of a head: with the baseline that its stamp names."""
        return replace(self, baseline=head.baseline)

    @property
    def frozen(self) -> Mapping[int, str]:
        """The batches that were trimmed from bronze, each with the set that it stays in."""
        return self.baseline.frozen if self.baseline else {}

    @property
    def table(self) -> Table:
        return self.contract.tables[self.name]

    @cached_property
    def target(self) -> TableName:
        return self.placed(silver_spec(self.contract, self.name)).name

    def placed(self, spec: TableSpec) -> TableSpec:
        """The spec of the table that is written to."""
        return replace(spec, name=self.forks.get(spec.name, spec.name))

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(semantics(self.contract, self.name))

    def pending(self, head: Head, *, whole: bool = False) -> Pending:
        """What this table has still to consume of what bronze has; with the logs even if nothing, when ``whole``."""
        done = head.consumed(self.contract.name)
        store = ObjectStore.open(self.lake.settings)
        asks = str(self.contract.silver_table(self.name))  # decisions may name it, and never a fork
        position, limit = Position(done.through, done.decisions), max(0, self.bronze_through - done.through)
        if whole:
            ledger = read_ledger(store, self.contract.name)
            return ledger.pending(position, limit, asks, head.held, self.frozen)
        return pending(store, self.contract.name, position, limit, asks, head.held, self.frozen)

    def typed(self, batches: frozenset[int], condition: str = "true") -> DataFrame:
        """The typed rows of some batches, each with its status. ``condition`` is SQL over bronze."""
        rows = typed_rows(self.bronze(batches).where(condition), self.contract, self.name)
        return rows if self.baseline is None else refuse_beyond(rows, self.baseline)

    def bronze(self, batches: frozenset[int]) -> DataFrame:
        """The rows of some batches as they came."""
        stored = self.lake.table(self.contract.bronze_table).where(in_batches(batches))
        return as_known(stored, self.contract.source.columns, self._generations)

    @cached_property
    def _generations(self) -> Generations:
        table = load_table(self.lake.catalog, self.contract.bronze_table)
        return Generations.read(table.properties) if table else Generations()

    def typed_of(self, batches: frozenset[int], keys: DataFrame) -> DataFrame:
        """The typed rows of some batches that may have one of these durable keys.

        In a large bronze table a look at the key's columns alone tells which texts stand for these keys. Bronze is
        sorted by them, so that a few texts are found in few row groups.
        """
        if self._bronze_bytes() < _WORTH_A_LOOK:
            return self.typed(batches)
        columns = key_columns(self.contract, self.name)
        texts = self.typed(batches).join(F.broadcast(keys), names.KEY, "left_semi")
        found = texts.select(*[F.col(f"{SOURCE}.{quote(c)}").alias(c) for c in columns]).distinct()
        rows = found.limit(_FEW_TEXTS + 1).collect()
        if len(rows) > _FEW_TEXTS:
            return self.typed(batches)
        return self.typed(batches, " AND ".join(_is_one_of(c, {row[c] for row in rows}) for c in columns) or "true")

    def _bronze_bytes(self) -> int:
        bronze = load_table(self.lake.catalog, self.contract.bronze_table)
        snapshot = bronze.current_snapshot() if bronze else None
        return int(summary_of(snapshot).get("total-files-size", 0)) if snapshot else 0


@dataclass(frozen=True)
class Intake:
    """What a table takes in one pass: the live batches before and after, and counts of the rows that are new to it.

    ``counts`` has the rows by status of all that will be live, ``counted`` those of the batches that were looked at;
    ``since`` is the greatest effective time consumed before, as text. Snapshots in ``unjudged`` may still close too
    many keys; ``quarantined`` is the number of rows refused before.
    """

    contract: Contract
    pending: Pending
    live: frozenset[int]
    added: frozenset[int]
    removed: frozenset[int]
    holes: frozenset[int]
    held: Mapping[int, str]
    report: TableReport
    counts: Mapping[str, int]
    counted: Counted
    max_effective: str
    since: str = ""
    rebuild: bool = False
    unjudged: frozenset[int] = frozenset()
    quarantined: int = 0
    verdicts: tuple[Verdict, ...] = ()
    rejudged: Rejudged | None = None
    """What a replay found of the rows that the table has taken already."""
    bronze: int | None = None
    """The head of bronze before any of its rows were read."""

    @cached_property
    def units(self) -> dict[int, date]:
        """The logical date of every batch in the log."""
        return {batch.number: batch.unit for batch in self.pending.log}

    @property
    def looked_at(self) -> frozenset[int]:
        """The batches that were counted: those that are taken, and those that are held."""
        return (self.added | self.held.keys()) & self.counted.batches

    @property
    def is_idle(self) -> bool:
        """Whether no row of the table can change."""
        late = self.rejudged and self.rejudged.keys
        return not self.added and not self.removed and not self.rebuild and late is None

    @property
    def live_units(self) -> dict[int, date]:
        """The logical date of every live batch."""
        return {number: self.units[number] for number in self.live}

    def time_of(self, batch: int) -> datetime:
        """When the state that a snapshot shows took effect."""
        return snapshot_time(self.contract, self.units[batch])


def take(
    silver: Silver, head: Head, *, rebuild: bool = False, judge: bool = False, replay: bool = False
) -> Intake | None:
    """Decide what a table has to take, and count its rows by status: one job over the new rows. None when nothing.

    For a ``replay`` what is held is judged anew, and ``max_effective`` is that of the new rows alone.
    """
    if (
        not rebuild
        and not replay
        and head.stamp
        and head.stamp.fingerprint
        and head.stamp.fingerprint != silver.fingerprint
    ):
        raise _semantics_changed(silver, head.stamp.fingerprint)
    bronze = read_head(silver.lake.catalog, silver.contract.bronze_table)
    has = bronze.consumed(silver.contract.name).through
    silver = replace(silver, bronze_through=min(has, silver.bronze_through))  # it may have been rolled back since
    if silver.bronze_through < head.consumed(silver.contract.name).through:
        if rebuild or replay:
            raise _bronze_behind(silver, head)
        return None  # bronze was rolled back: what it lost comes first, or a fold would miss it
    anew = rebuild or replay or judges_anew(head, silver.contract, silver.name)
    found = silver.pending(head, whole=anew)
    if found.is_empty and not anew:
        return None
    applied = found.before.live - set(head.consumed(silver.contract.name).holes)
    if rebuild:
        head = replace(head, stamp=None)
    done = applied if not rebuild else applied & silver.frozen.keys()
    waits = frozenset() if judge or rebuild else _judged_by_comparison(silver, head, found, done)
    seen = _examine(silver, found, done, applied, waits)
    counted, held, waits = seen.counted, seen.held, seen.waits
    sets = found.sets(frozenset(held))
    held = {batch: held[batch] for batch in sorted(held) if batch in sets.held}
    live = sets.live
    require_in_bronze(silver, live | done)
    since = head.consumed(silver.contract.name).max_effective
    return Intake(
        contract=silver.contract,
        pending=found,
        live=live,
        added=live - done,
        removed=done - live,
        holes=sets.holes,
        held=held,
        report=replace(counted.report(live - done), held=held),
        counts=_total(silver, head, counted, live, done),
        counted=counted,
        max_effective=max("" if replay else since, counted.max_effective, _latest_snapshot(silver, found, live)),
        since=since,
        rebuild=rebuild,
        unjudged=waits & live,
        quarantined=head.stamp.counts.get("quarantined", 0) if head.stamp else 0,
        verdicts=seen.verdicts,
        bronze=bronze.snapshot_id,
    )


def _bronze_behind(silver: Silver, head: Head) -> SettingsError:
    """A table made of a bronze that lacks batches would say that it has taken them."""
    contract, had = silver.contract, head.consumed(silver.contract.name).through
    table = contract.silver_table(silver.name)
    return SettingsError(
        f"{contract.bronze_table} was rolled back, and lacks batches that {table} has taken",
        where=f"bronze has {contract.name} through #{silver.bronze_through}, {table} through #{had}",
        untouched=f"{table} and its quarantine",
        todo="run `lakehouse run` first: bronze reads again what it lost",
    )


def _require_bronze(silver: Silver, bronze: int | None) -> None:
    """Raise :class:`ConcurrentCommit` where bronze went back while its rows were read; what came on top is fine."""
    table = load_table(silver.lake.catalog, silver.contract.bronze_table)
    if bronze is None or table and bronze in (each.snapshot_id for each in ancestors(table)):
        return
    raise ConcurrentCommit(
        f"{silver.contract.bronze_table} was rolled back while {silver.target} was made of it",
        where=f"snapshot {bronze} of bronze was read",
        untouched=f"{silver.target} and its quarantine; nothing was published",
        todo="run again: bronze reads again what it lost, and the table is made of that",
    )


def _judged_by_comparison(silver: Silver, head: Head, found: Pending, done: frozenset[int]) -> frozenset[int]:
    """The one snapshot that follows all others: its comparison with the table tells as well how many keys it closes."""
    new = found.after.live - done
    if silver.contract.source.kind != "snapshot" or not done or done - found.after.live or len(new) != 1:
        return frozenset()
    at = snapshot_time(silver.contract, found.batch(next(iter(new))).unit)
    return new if effective_text(at) > head.consumed(silver.contract.name).max_effective else frozenset()


def _latest_snapshot(silver: Silver, found: Pending, live: frozenset[int]) -> str:
    """The time of the latest live snapshot, which counts even if it has no rows."""
    if silver.contract.source.kind != "snapshot" or not live:
        return ""
    return effective_text(snapshot_time(silver.contract, max(found.batch(number).unit for number in live)))


@dataclass(frozen=True)
class _Examined:
    """What was found in batches that are new: counts, those that are held with the reasons, and what rules said."""

    counted: Counted
    held: Mapping[int, str]
    waits: frozenset[int]
    verdicts: tuple[Verdict, ...]


def _examine(
    silver: Silver, found: Pending, done: frozenset[int], applied: frozenset[int], waits: frozenset[int]
) -> _Examined:
    """Count what is new, and find what a rule holds back, with the reasons.

    Where a batch is held, the one that it would have superseded counts, and is examined too. ``applied`` are the
    batches that the table had, ``done`` those that it keeps without being made anew; ``waits`` are judged later, unless
    rows of theirs go to quarantine, which comes first. Snapshots from before the horizon are held whatever was decided.
    """
    candidates, beyond = found.after.live - done, _beyond(silver, found)
    counted = count(silver, candidates - beyond.keys())
    is_snapshot = silver.contract.source.kind == "snapshot"
    waits = frozenset() if counted.of(waits)["quarantined"] else waits - beyond.keys()
    log = {batch.number: batch for batch in found.log}
    units = {number: batch.unit for number, batch in log.items()}
    kept = applied - found.after.held - found.after.discarded
    verdicts = judge(silver, counted.arrived(candidates - beyond.keys() - kept), log)
    while True:
        judged = candidates - found.released - beyond.keys()
        held = {batch: why for batch, why in beyond.items() if batch in candidates}
        held |= tripped(silver, counted.arrived(judged - kept), kept - silver.frozen.keys(), units, verdicts)
        if is_snapshot:
            held |= counted.unreadable(judged)
        if is_snapshot and silver.table.kind == "dimension":
            sound = candidates - held.keys() - waits
            held |= held_snapshots(silver, sound, kept - held.keys(), units, found.released)
        more = found.sets(frozenset(held)).live - candidates - done
        if not more:
            return _Examined(counted, held, waits & candidates, verdicts)
        candidates |= more
        counted = counted.plus(count(silver, more - beyond.keys()))
        verdicts += judge(silver, counted.arrived(more - beyond.keys() - kept), log)


def _beyond(silver: Silver, found: Pending) -> Mapping[int, str]:
    """Snapshots that can never be taken, since they lie before the horizon, each with the reason; not to be read."""
    if silver.baseline is None:
        return {}
    reasons = {batch.number: why_beyond(silver.contract, silver.baseline, batch) for batch in found.log}
    return {number: why for number, why in reasons.items() if why}


def _total(silver: Silver, head: Head, counted: Counted, live: frozenset[int], done: frozenset[int]) -> dict[str, int]:
    """Rows by status over all batches that are live in the table: what stood, plus what comes, less what goes.

    A table that is made anew keeps what is counted of the batches that were trimmed. Rows that went into the baseline
    count on where their batch stayed in bronze and was restated.
    """
    baseline = silver.baseline
    total = Counter(dict(head.stamp.counts if head.stamp else baseline.counts if baseline else {}))
    total.update(counted.of(live - done))
    total.subtract(count(silver, done - live).of(done - live))
    if baseline:
        total["good"] += baseline.owed(live) - (baseline.owed(done) if head.stamp else 0)
    return {status: rows for status, rows in sorted(total.items()) if rows}


def _semantics_changed(silver: Silver, was: str) -> ContractError:
    return ContractError(
        f"the contract of {silver.target} now says something else than the table was made with",
        where=f"{silver.contract.name}: semantics {silver.fingerprint}, table {was}",
        untouched=f"{silver.target}, and what depends on it",
        todo=f"run `lakehouse rebuild {silver.target}` to make it anew from bronze, or take the change back",
    )


@readable()
def run_silver(silver: Silver, *, rebuild: bool = False) -> TableReport | None:
    """Take everything pending into one silver table. None when nothing was."""
    started = time.perf_counter()
    job = _taken(silver, rebuild)
    if job is None:
        return None
    report = job.intake.report
    add_published(report, [each for each in job.published if each.table == job.silver.target])
    if job.last and job.last.is_new and silver.table.kind == "dimension":
        report.opened = report.rows_added
    report.refusals = refusals(job.silver, job.intake) if report.quarantined else []
    report.horizon = job.silver.baseline.effective if job.silver.baseline else ""
    report.seconds = time.perf_counter() - started
    return report


def _taken(silver: Silver, rebuild: bool) -> SilverJob | None:
    """Take what is pending, and publish it. None when nothing was pending.

    What to take is decided anew when another run was there first, and when a snapshot turns out to close so many keys
    that it has to be judged.
    """
    judge = False
    while True:
        head = read_head(silver.lake.catalog, silver.target)
        silver = silver.at(head)
        intake = take(silver, head, rebuild=rebuild, judge=judge)
        if intake is None:
            return None
        job = SilverJob(silver, intake, head)
        try:
            job.published = publish(silver.lake, job)
        except NotJudged:
            judge = True
        except HeadMoved:
            continue
        except GateFailed:
            job.record(is_blocked=True)
            raise
        else:
            job.record()
            return job


class HeadMoved(Exception):
    """Another run published the table after its intake was decided."""


def add_published(report: TableReport, published: Sequence[Published]) -> None:
    """Add to a report what was published of its table."""
    for each in published:
        report.files += each.files_added
        report.bytes += each.bytes_added
        report.rows_added += each.records_added
        report.rows_removed += each.records_deleted
        report.snapshot_id = each.snapshot_id


@dataclass
class SilverJob:
    """Publish what was taken, if the table is still as it was then: the rows that are refused, and the table."""

    silver: Silver
    intake: Intake
    head: Head
    last: _SilverWork | None = None
    published: tuple[Published, ...] = ()

    def specs(self) -> Sequence[TableSpec]:
        table = self.silver.placed(silver_spec(self.silver.contract, self.silver.name))
        return [*self._refused(), table]

    def _refused(self) -> list[TableSpec]:
        """The quarantine, where it changes."""
        intake = self.intake
        changes = intake.report.quarantined or intake.removed or intake.rebuild or intake.rejudged
        return [self.silver.placed(quarantine_spec(self.silver.contract, self.silver.name))] if changes else []

    def record(self, *, is_blocked: bool = False) -> None:
        """Keep what every rule said of every batch, where a run wants to know it."""
        if self.silver.lake.recorder and self.last:
            gate = Gate(self.silver, self.intake, self.last.attempt)
            self.silver.lake.recorder.add(gate.rules(is_blocked=is_blocked), gate.batches(is_blocked=is_blocked))

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _SilverWork:
        stamp, expected = heads[self.silver.target].stamp, self.head.stamp
        is_new = stamp is None or stamp.is_first
        if stamp != expected and not (is_new and (expected is None or expected.is_first)):
            raise HeadMoved
        self.last = _SilverWork(self.silver, self.intake, attempt, tuple(self._refused()), first=is_new)
        return self.last


@dataclass(frozen=True)
class _SilverWork:
    silver: Silver
    intake: Intake
    attempt: str
    refused: tuple[TableSpec, ...]
    first: bool

    @property
    def report(self) -> TableReport:
        return self.intake.report

    @property
    def is_new(self) -> bool:
        """Whether every key is folded, and there is nothing to compare with."""
        return self.intake.rebuild or self.first

    def stamps(self) -> Mapping[TableName, Stamp]:
        """Quarantine first, in the order of publication: its rows count once the table has consumed their batches."""
        end = self.intake.pending.end
        consumed = Consumed(end.through, end.decisions, tuple(sorted(self.intake.holes)), self.intake.max_effective)
        inputs = {self.silver.contract.name: consumed}
        held = self.intake.held
        limits = limits_of(self.silver.contract, self.silver.name) if held else ""
        baseline = self.silver.baseline
        stamp = Stamp(self.attempt, self.silver.fingerprint, inputs, {}, self.intake.counts, held, limits, baseline)
        refused = {spec.name: Stamp(self.attempt, self.silver.fingerprint) for spec in self.refused}
        return {**refused, self.silver.target: stamp}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        for spec in self.refused:
            self._write_refused(targets[spec.name], spec)
        target = targets[self.silver.target]
        if self.intake.is_idle:
            target.append_nothing()
        elif self.silver.table.kind == "fact":
            self._write_facts(target)
        else:
            self._write_versions(target)

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        _require_bronze(self.silver, self.intake.bronze)
        table = self.silver.table
        if table.kind == "fact" and not table.occurrence and self.intake.added:
            require_unique(targets[self.silver.target], table, in_batches(self.intake.added))
        Gate(self.silver, self.intake, self.attempt).check(targets)

    def _write_refused(self, target: Target, spec: TableSpec) -> None:
        """Rows that failed a rule, as they came, in place of those of the batches that are taken or taken away."""
        batches, frozen = self.intake.added | self.intake.removed, frozenset(self.silver.frozen)
        again = self.intake.rejudged
        target.delete(f"NOT {in_batches(frozen)}" if self.intake.rebuild or again else in_batches(batches))
        rows = self.silver.typed(again.refused if again else self.intake.added).where(f"{STATUS} = 'quarantined'")
        columns = {name: f"{SOURCE}.{quote(name)}" for name in self.silver.contract.source.columns}
        columns |= {names.RULES: FAILED, names.FINGERPRINT: f"'{self.silver.fingerprint}'"}
        refused = rows.selectExpr(*[f"{columns.get(c, c)} AS {quote(c)}" for c in spec.columns])
        target.append(refused.unionByName(again.standing(target, spec, self.silver.fingerprint)) if again else refused)

    def _write_facts(self, target: Target) -> None:
        if self.intake.rebuild:
            target.delete("true")
        elif self.intake.removed:
            target.delete(in_batches(self.intake.removed))
        rows = fact_rows(self.silver.typed(self.intake.added), self.silver.table)
        target.append(rows.select(*silver_spec(self.silver.contract, self.silver.name).columns))

    def _write_versions(self, target: Target) -> None:
        if self.intake.rebuild:
            target.delete("true")
        write = write_all if self.is_new else write_changes
        self.report.written(write(target, self.silver, self.intake))
