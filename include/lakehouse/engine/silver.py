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
from lakehouse.contracts.semantics import fingerprint, semantics
from lakehouse.core import names
from lakehouse.core.errors import ContractError
from lakehouse.core.names import TableName, quote
from lakehouse.engine.apply import require_unique
from lakehouse.engine.arrivals import NotJudged
from lakehouse.engine.baseline import BEYOND, refuse_beyond, require_in_bronze
from lakehouse.engine.dimension import write_all, write_changes
from lakehouse.engine.facts import fact_rows
from lakehouse.engine.history import effective_text
from lakehouse.engine.known import as_known
from lakehouse.engine.publish import Lake, Published, Target, publish
from lakehouse.engine.report import TableReport
from lakehouse.engine.snapshots import held_snapshots
from lakehouse.engine.spark_errors import readable
from lakehouse.engine.tables import TableSpec, key_columns, literal, quarantine_spec, silver_spec
from lakehouse.engine.typed import EFFECTIVE, FAILED, SOURCE, STATUS, WARNED, typed_rows
from lakehouse.ledger.beyond import why_beyond
from lakehouse.ledger.generations import Generations
from lakehouse.ledger.outstanding import judges_anew
from lakehouse.ledger.pending import Pending, Position, pending, read_ledger
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Baseline, Consumed, Head, Stamp, load_table, read_head, summary_of

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


def in_batches(batches: frozenset[int] | set[int]) -> str:
    """SQL that selects the rows of some batches: ranges, so that three hundred batches stay one short condition."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(batches):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    tests = [f"{names.BATCH} BETWEEN {low} AND {high}" for low, high in ranges]
    return "(" + " OR ".join(tests) + ")" if tests else "false"


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
        position, limit = Position(done.through, done.decisions), max(0, self.bronze_through - done.through)
        if whole:
            ledger = read_ledger(store, self.contract.name)
            return ledger.pending(position, limit, str(self.target), head.held, self.frozen)
        return pending(store, self.contract.name, position, limit, str(self.target), head.held, self.frozen)

    def typed(self, batches: frozenset[int], condition: str = "true") -> DataFrame:
        """The typed rows of some batches, each with its status. ``condition`` is SQL over bronze."""
        stored = self.lake.table(self.contract.bronze_table).where(in_batches(batches))
        bronze = as_known(stored, self.contract.source.columns, self._generations).where(condition)
        rows = typed_rows(bronze, self.contract, self.name)
        return rows if self.baseline is None else refuse_beyond(rows, self.baseline)

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

    ``rows`` is the number of rows of each added batch; ``since`` the greatest effective time consumed before, as text.
    Snapshots in ``unjudged`` may still close too many keys; ``quarantined`` is the number of rows refused before.
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
    max_effective: str
    rows: Mapping[int, int]
    since: str = ""
    rebuild: bool = False
    unjudged: frozenset[int] = frozenset()
    quarantined: int = 0

    @cached_property
    def units(self) -> dict[int, date]:
        """The logical date of every batch in the log."""
        return {batch.number: batch.unit for batch in self.pending.log}

    @property
    def live_units(self) -> dict[int, date]:
        """The logical date of every live batch."""
        return {number: self.units[number] for number in self.live}

    def time_of(self, batch: int) -> datetime:
        """When the state that a snapshot shows took effect."""
        return snapshot_time(self.contract, self.units[batch])


def take(silver: Silver, head: Head, *, rebuild: bool = False, judge: bool = False) -> Intake | None:
    """Decide what a table has to take, and count its rows by status: one job over the new rows. None when nothing."""
    if not rebuild and head.stamp and head.stamp.fingerprint and head.stamp.fingerprint != silver.fingerprint:
        raise _semantics_changed(silver, head.stamp.fingerprint)
    anew = rebuild or judges_anew(head, silver.table)
    found = silver.pending(head, whole=anew)
    if found.is_empty and not anew:
        return None
    applied = found.before.live - set(head.consumed(silver.contract.name).holes)
    if rebuild:
        head = replace(head, stamp=None)
    done = applied if not rebuild else applied & silver.frozen.keys()
    waits = frozenset() if judge or rebuild else _judged_by_comparison(silver, head, found, done)
    counted, held, waits = _examine(silver, found, done, applied, waits)
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
        max_effective=max(since, counted.max_effective, _latest_snapshot(silver, found, live)),
        rows={batch: sum(statuses.values()) for batch, statuses in counted.statuses.items()},
        since=since,
        rebuild=rebuild,
        unjudged=waits & live,
        quarantined=head.stamp.counts.get("quarantined", 0) if head.stamp else 0,
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


def _examine(
    silver: Silver, found: Pending, done: frozenset[int], applied: frozenset[int], waits: frozenset[int]
) -> tuple[_Counted, Mapping[int, str], frozenset[int]]:
    """Count what is new, and find what a rule holds back, with the reasons.

    Where a batch is held, the one that it would have superseded counts, and is examined too. ``applied`` are the
    batches that the table had, ``done`` those that it keeps without being made anew; ``waits`` are judged later, unless
    rows of theirs go to quarantine, which comes first. Snapshots from before the horizon are held whatever was decided.
    """
    candidates, beyond = found.after.live - done, _beyond(silver, found)
    counted = _count(silver, candidates - beyond.keys())
    if silver.contract.source.kind != "snapshot":
        return counted, {}, waits
    waits = frozenset() if counted.of(waits)["quarantined"] else waits - beyond.keys()
    units = {batch.number: batch.unit for batch in found.log}
    kept = applied - found.after.held - found.after.discarded
    while True:
        held = dict(counted.unreadable(candidates - found.released))
        held |= {batch: why for batch, why in beyond.items() if batch in candidates}
        if silver.table.kind == "dimension":
            sound = candidates - held.keys() - waits
            held |= held_snapshots(silver, sound, kept - held.keys(), units, found.released)
        more = found.sets(frozenset(held)).live - candidates - done
        if not more:
            return counted, held, waits & candidates
        candidates |= more
        counted = counted.plus(_count(silver, more - beyond.keys()))


def _beyond(silver: Silver, found: Pending) -> Mapping[int, str]:
    """Snapshots that can never be taken, since they lie before the horizon, each with the reason; not to be read."""
    if silver.baseline is None:
        return {}
    reasons = {batch.number: why_beyond(silver.contract, silver.baseline, batch) for batch in found.log}
    return {number: why for number, why in reasons.items() if why}


def _total(silver: Silver, head: Head, counted: _Counted, live: frozenset[int], done: frozenset[int]) -> dict[str, int]:
    """Rows by status over all batches that are live in the table: what stood, plus what comes, less what goes.

    A table that is made anew keeps what is counted of the batches that were trimmed. Rows that went into the baseline
    count on where their batch stayed in bronze and was restated.
    """
    baseline = silver.baseline
    total = Counter(dict(head.stamp.counts if head.stamp else baseline.counts if baseline else {}))
    total.update(counted.of(live - done))
    total.subtract(_count(silver, done - live).of(done - live))
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


@dataclass(frozen=True)
class _Counted:
    """Rows of some batches by status: one job's answer, kept by batch so that a held one can be left out."""

    target: TableName
    statuses: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    warned: Mapping[str, int] = field(default_factory=dict)
    max_effective: str = ""
    keyless: Mapping[int, int] = field(default_factory=dict)
    beyond: int = 0

    def unreadable(self, batches: frozenset[int]) -> Mapping[int, str]:
        """Those of the batches in which a record or key cannot be read, each with the reason to hold it."""
        found = {}
        for batch in batches:
            rejected, without = self.statuses.get(batch, {}).get("rejected", 0), self.keyless.get(batch, 0)
            if rejected or without:
                found[batch] = (
                    f"{rejected:,} records cannot be read and {without:,} have no key: nobody can tell what is absent"
                )
        return found

    def plus(self, other: _Counted) -> _Counted:
        """Both together; they have no batch in common."""
        return _Counted(
            self.target,
            {**self.statuses, **other.statuses},
            Counter(self.warned) + Counter(other.warned),
            max(self.max_effective, other.max_effective),
            {**self.keyless, **other.keyless},
            self.beyond + other.beyond,
        )

    def of(self, batches: frozenset[int]) -> Counter[str]:
        """Rows by status over some of the batches."""
        total: Counter[str] = Counter()
        for batch in batches:
            total.update(self.statuses.get(batch, {}))
        return total

    def report(self, batches: frozenset[int]) -> TableReport:
        """What a run says of these batches."""
        counts = self.of(batches)
        return TableReport(
            self.target,
            batches=len(batches),
            received=counts.total(),
            good=counts["good"],
            quarantined=counts["quarantined"],
            rejected=counts["rejected"],
            without_key=counts["without_key"],
            warned={name: rows for name, rows in self.warned.items() if rows},
            beyond_horizon=self.beyond,
        )


def _count(silver: Silver, batches: frozenset[int]) -> _Counted:
    """Count the rows of some batches: one job, or none where there are no batches."""
    if not batches:
        return _Counted(silver.target)
    latest = F.max(EFFECTIVE).cast("string") if silver.table.kind == "dimension" else F.lit("")
    warnings = [rule.name for rule in silver.table.rules if rule.level == "warn"]
    warned = [F.count_if(F.array_contains(WARNED, name)).alias(f"w{i}") for i, name in enumerate(warnings)]
    # A row that is quarantined may lack its key as well; the hash that is the durable key is not made for this.
    missing = " OR ".join(f"{quote(name)} IS NULL" for name in silver.table.key)
    keyless = F.count_if(F.expr(f"{names.REJECTED} IS NULL AND ({missing})")).alias("keyless")
    beyond = F.count_if(F.array_contains(FAILED, BEYOND) if silver.baseline else F.lit(False)).alias("beyond")
    grouped = silver.typed(batches).groupBy(names.BATCH, STATUS)
    rows = grouped.agg(F.count(F.lit(1)).alias("n"), keyless, beyond, latest.alias("latest"), *warned).collect()
    statuses: dict[int, dict[str, int]] = {}
    without_key: Counter[int] = Counter()
    for row in rows:
        statuses.setdefault(row[names.BATCH], {})[row[STATUS]] = row["n"]
        without_key[row[names.BATCH]] += row["keyless"]
    total = {name: sum(row[f"w{i}"] for row in rows) for i, name in enumerate(warnings)}
    effective = max((row["latest"] for row in rows if row[STATUS] == "good" and row["latest"]), default="")
    return _Counted(silver.target, statuses, total, effective, without_key, sum(row["beyond"] for row in rows))


@readable()
def run_silver(silver: Silver, *, rebuild: bool = False) -> TableReport | None:
    """Take everything pending into one silver table. None when nothing was."""
    started = time.perf_counter()
    job = _taken(silver, rebuild)
    if job is None:
        return None
    report = job.intake.report
    _add_published(report, [each for each in job.published if each.table == job.silver.target])
    if job.last and job.last.is_new and silver.table.kind == "dimension":
        report.opened = report.rows_added
    report.horizon = job.silver.baseline.effective if job.silver.baseline else ""
    report.seconds = time.perf_counter() - started
    return report


def _taken(silver: Silver, rebuild: bool) -> _SilverJob | None:
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
        job = _SilverJob(silver, intake, head)
        try:
            job.published = publish(silver.lake, job)
        except NotJudged:
            judge = True
        except _HeadMoved:
            continue
        else:
            return job


class _HeadMoved(Exception):
    """Another run published the table after its intake was decided."""


def _add_published(report: TableReport, published: Sequence[Published]) -> None:
    for each in published:
        report.files += each.files_added
        report.bytes += each.bytes_added
        report.rows_added += each.records_added
        report.rows_removed += each.records_deleted


@dataclass
class _SilverJob:
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
        changes = self.intake.report.quarantined or self.intake.removed or self.intake.rebuild
        return [self.silver.placed(quarantine_spec(self.silver.contract, self.silver.name))] if changes else []

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _SilverWork:
        stamp, expected = heads[self.silver.target].stamp, self.head.stamp
        is_new = stamp is None or stamp.is_first
        if stamp != expected and not (is_new and (expected is None or expected.is_first)):
            raise _HeadMoved
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
        share = self.silver.table.max_close_share if held else None
        baseline = self.silver.baseline
        stamp = Stamp(self.attempt, self.silver.fingerprint, inputs, {}, self.intake.counts, held, share, baseline)
        refused = {spec.name: Stamp(self.attempt, self.silver.fingerprint) for spec in self.refused}
        return {**refused, self.silver.target: stamp}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        for spec in self.refused:
            self._write_refused(targets[spec.name], spec)
        target = targets[self.silver.target]
        if not self.intake.added and not self.intake.removed and not self.intake.rebuild:
            target.append_nothing()
        elif self.silver.table.kind == "fact":
            self._write_facts(target)
        else:
            self._write_versions(target)

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        table = self.silver.table
        if table.kind == "fact" and not table.occurrence and self.intake.added:
            require_unique(targets[self.silver.target], table, in_batches(self.intake.added))

    def _write_refused(self, target: Target, spec: TableSpec) -> None:
        """Rows that failed a rule, as they came, in place of those of the batches that are taken or taken away."""
        batches, frozen = self.intake.added | self.intake.removed, frozenset(self.silver.frozen)
        target.delete(f"NOT {in_batches(frozen)}" if self.intake.rebuild else in_batches(batches))
        rows = self.silver.typed(self.intake.added).where(f"{STATUS} = 'quarantined'")
        columns = {name: f"{SOURCE}.{quote(name)}" for name in self.silver.contract.source.columns}
        columns |= {names.RULES: FAILED, names.FINGERPRINT: f"'{self.silver.fingerprint}'"}
        target.append(rows.selectExpr(*[f"{columns.get(c, c)} AS {quote(c)}" for c in spec.columns]))

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
