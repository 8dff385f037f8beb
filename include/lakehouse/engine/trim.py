"""Trimming bronze: old batches go, and what later folds need of them stays as the baseline of each dimension.

First the condensed observations of every dimension are published; nothing reads them yet. Then, under the locks of
the dimensions and bronze together, each dimension's stamp names its baseline, and bronze loses the batches. Wherever
this is broken off, every table can still be folded: a baseline that is named counts, whether or not bronze still has
what lies before it, and the next trim goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.derive import hours, snapshot_time
from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.errors import ConcurrentCommit, SettingsError
from lakehouse.core.names import TableName
from lakehouse.engine.baseline import baseline_spec, baseline_table, condense, observed, require_in_bronze, stored
from lakehouse.engine.commits import say_twice
from lakehouse.engine.publish import Lake, Target, publish
from lakehouse.engine.silver import Silver
from lakehouse.engine.spark_errors import readable
from lakehouse.engine.tables import TableSpec, bronze_spec, in_batches, qualified, silver_spec
from lakehouse.engine.typed import EFFECTIVE, STATUS
from lakehouse.ledger.decisions import decision_log
from lakehouse.ledger.live import LiveSet
from lakehouse.ledger.pending import Ledger, Position, read_ledger
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Baseline, Consumed, Head, Stamp, read_head


@dataclass(frozen=True)
class Trim:
    """What a trim takes from bronze: batches, each with the set that it stays in, and its rows.

    ``before`` is the horizon. ``kept`` are older batches that stay, each with the reason. ``frozen`` are the batches
    that nothing changes any more: those that go, and the last snapshot before the horizon, which stays. ``end`` and
    ``heads`` say what it was planned from.
    """

    contract: Contract
    before: datetime
    end: Position
    heads: Mapping[str, int | None]
    batches: Mapping[int, tuple[str, int]]
    frozen: Mapping[int, tuple[str, int]]
    kept: Mapping[int, str]

    @property
    def rows(self) -> int:
        """Rows that leave bronze."""
        return sum(rows for _, rows in self.batches.values())


def horizon(contract: Contract, before: date | None, now: datetime) -> datetime:
    """The start of the first day that is kept, in the source's zone. Raises :class:`SettingsError` where none is said.

    Without a day it follows from the contract: the longest ``late_horizon`` of its dimensions.
    """
    facts = [name for name, table in contract.tables.items() if table.kind == "fact"]
    if facts:
        raise SettingsError(
            f"{contract.name} cannot be trimmed: {', '.join(facts)} could not be made anew without its rows in bronze",
            untouched="bronze and all tables",
            todo="trim sources that make dimensions only",
        )
    if before is None:
        said = [table.late_horizon for table in contract.tables.values()]
        if None in said:
            raise SettingsError(
                f"{contract.name} does not say how long observations are kept",
                untouched="bronze and all tables",
                todo="say late_horizon in every dimension of the contract, or give --before",
            )
        before = (now - timedelta(hours=max(hours(each) for each in said if each))).date()
    if before > now.date():
        raise SettingsError(f"--before {before} lies in the future", todo="name a day up to today")
    return snapshot_time(contract, before).astimezone(UTC)


@dataclass(frozen=True)
class _Source:
    """A source's dimensions as they stand, with both logs."""

    lake: Lake
    contract: Contract
    heads: Mapping[str, Head]
    ledger: Ledger

    @classmethod
    def read(cls, lake: Lake, contract: Contract) -> _Source:
        heads = {name: read_head(lake.catalog, contract.silver_table(name)) for name in contract.tables}
        return cls(lake, contract, heads, read_ledger(ObjectStore.open(lake.settings), contract.name))

    @cached_property
    def dimensions(self) -> list[Silver]:
        end = self.ledger.end.through
        return [Silver(self.lake, self.contract, name, end).at(head) for name, head in self.heads.items()]

    def require_consumed(self) -> None:
        """Raise :class:`SettingsError` unless all has been taken that landed and was decided, by today's contract."""
        end = self.ledger.end
        bronze = read_head(self.lake.catalog, self.contract.bronze_table)
        if bronze.consumed(self.contract.name).through != end.through:
            raise _not_taken(self.contract.bronze_table)
        for silver in self.dimensions:
            done, stamp = self.heads[silver.name].consumed(self.contract.name), self.heads[silver.name].stamp
            is_same = stamp is not None and stamp.fingerprint == silver.fingerprint
            if not is_same or (done.through, done.decisions) != (end.through, end.decisions):
                raise _not_taken(silver.target)

    @property
    def snapshots(self) -> dict[str, int | None]:
        """Where main of each dimension is."""
        return {name: head.snapshot_id for name, head in self.heads.items()}

    def require_whole(self) -> None:
        """Raise where a dimension needs batches that a former trim took from bronze, and has no baseline for them."""
        for silver in self.dimensions:
            require_in_bronze(silver, self.live(silver))

    def sets(self, silver: Silver) -> LiveSet:
        """What counts for a table now."""
        return self.ledger.live(self.ledger.end, str(silver.target), self.heads[silver.name].held, silver.frozen)

    def live(self, silver: Silver) -> frozenset[int]:
        return self.sets(silver).live

    def units(self, silver: Silver) -> dict[int, date]:
        return {batch: self.ledger.batches[batch - 1].unit for batch in self.live(silver)}


def _not_taken(table: TableName) -> SettingsError:
    return SettingsError(
        f"{table} has not taken everything that landed and was decided",
        untouched="bronze and all tables",
        todo="run `lakehouse run` first; what is pending cannot be trimmed",
    )


@readable()
def plan_trim(lake: Lake, contract: Contract, before: datetime) -> Trim:
    """Find the batches of bronze that can go: consumed, and all that they say lies before the horizon.

    Raises :class:`SettingsError` where something is pending, or held from before the horizon, or the horizon is older
    than a baseline.
    """
    source = _Source.read(lake, contract)
    source.require_consumed()
    source.require_whole()
    _require_decided(source, before)
    for silver in source.dimensions:
        if silver.baseline and before < silver.baseline.at:
            raise SettingsError(
                f"{silver.target} starts from {silver.baseline.effective} already, which is later than {before}",
                todo="give a later day with --before",
            )
    counted = lake.table(contract.bronze_table).groupBy(names.BATCH).count().collect()
    rows = {row[names.BATCH]: row["count"] for row in counted}
    old = [
        batch.number
        for batch in source.ledger.batches
        if snapshot_time(contract, batch.unit) < before and not _is_gone(source, batch.number, rows)
    ]
    kept = _kept(source, frozenset(old), before)
    last = _last_snapshot(source, frozenset(old) - kept.keys())
    sets = source.sets(source.dimensions[0])
    frozen = {batch: (_state(sets, batch), rows.get(batch, 0)) for batch in old if batch not in kept}
    kept |= {batch: "it is the last snapshot before the horizon: the next one is measured against it" for batch in last}
    going = {batch: each for batch, each in frozen.items() if batch not in last}
    return Trim(contract, before, source.ledger.end, source.snapshots, going, frozen, kept)


def _require_decided(source: _Source, before: datetime) -> None:
    """Raise :class:`SettingsError` where a held batch says something of the time before the horizon."""
    held: set[int] = set()
    for silver in source.dimensions:
        suspects = source.sets(silver).held
        held |= {b for b in suspects if snapshot_time(source.contract, source.ledger.batches[b - 1].unit) < before}
        held |= _rows_before(silver, suspects, before).keys()
    if held:
        shown = ", ".join(f"{source.contract.name}#{batch}" for batch in sorted(held))
        raise SettingsError(
            f"{shown} is held, and says something of the time before {before:%Y-%m-%d %H:%M} UTC",
            untouched="bronze and all tables",
            todo="release or discard it first, and run `lakehouse run`: after the trim it could no longer be taken",
        )


def _rows_before(silver: Silver, batches: frozenset[int], before: datetime) -> dict[int, int]:
    """How many good rows of some batches take effect before the horizon; only batches that have some."""
    if not batches:
        return {}
    rows = silver.typed(batches).where(f"{STATUS} = 'good'").where(F.col(EFFECTIVE) < F.lit(before))
    return {row[names.BATCH]: row["count"] for row in rows.groupBy(names.BATCH).count().collect()}


def _is_gone(source: _Source, batch: int, rows: Mapping[int, int]) -> bool:
    """Whether a former trim took it; one that broke off left its rows, and is completed."""
    return all(batch in silver.frozen for silver in source.dimensions) and batch not in rows


def _state(sets: LiveSet, batch: int) -> str:
    found = [name for name in ("live", "superseded", "held", "discarded") if batch in getattr(sets, name)]
    return found[0] if found else ""


def _kept(source: _Source, old: frozenset[int], before: datetime) -> dict[int, str]:
    """Old batches that have to stay, and why."""
    kept: dict[int, str] = {}
    for silver in source.dimensions:
        # A batch that no longer counts goes whatever it says: nothing brings it back once the trim is done.
        counts = old & source.live(silver)
        latest = silver.typed(counts).where(f"{STATUS} = 'good'").groupBy(names.BATCH).agg(F.max(EFFECTIVE).alias("at"))
        crossing = latest.where(F.col("at") >= F.lit(before)).collect() if counts else []
        kept |= {row[names.BATCH]: "it says something of the time after the horizon" for row in crossing}
    first = source.sets(source.dimensions[0])
    for batch in old:
        if any(_state(source.sets(silver), batch) != _state(first, batch) for silver in source.dimensions):
            kept[batch] = "it counts for some tables of the source only"
    return kept


def _last_snapshot(source: _Source, old: frozenset[int]) -> frozenset[int]:
    """The live snapshot next to the horizon, if any."""
    live = old & source.live(source.dimensions[0])
    if source.contract.source.kind != "snapshot" or not live:
        return frozenset()
    return frozenset({max(live, key=lambda batch: source.ledger.batches[batch - 1].unit)})


@readable()
def run_trim(lake: Lake, trim: Trim) -> None:
    """Record the baselines, and take the batches from bronze.

    Raises :class:`ConcurrentCommit` where something landed, was decided or published since the trim was planned.
    """
    source = _Source.read(lake, trim.contract)
    if (source.ledger.end, source.snapshots) != (trim.end, trim.heads):
        raise _moved(trim.contract.name)
    published = publish(lake, _Condensing(source, trim))
    snapshots = {each.table: each.snapshot_id for each in published}
    for table, snapshot_id in snapshots.items():
        tag = f"baseline-{trim.before:%Y-%m-%d}-{snapshot_id}"  # what a stamp names must not expire
        say_twice(
            lake.spark, f"ALTER TABLE {qualified(table)} CREATE TAG IF NOT EXISTS `{tag}` AS OF VERSION {snapshot_id}"
        )
    partly = {silver.name: _partly(source, silver, trim) for silver in source.dimensions}
    publish(lake, _Trimming(source, trim, snapshots, partly))


def _moved(what: str) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"{what} went on while it was being trimmed",
        untouched="bronze and all tables; no baseline is used",
        todo="trim again",
    )


def _partly(source: _Source, silver: Silver, trim: Trim) -> dict[int, int]:
    """Live batches that stay in bronze although rows of theirs go into the baseline, each with how many."""
    staying = source.live(silver) - trim.frozen.keys() - silver.frozen.keys()
    if source.contract.source.kind == "snapshot":
        staying &= trim.kept.keys()
    return _rows_before(silver, staying, trim.before)


@dataclass(frozen=True)
class _Condensing:
    """Publish the condensed observations of every dimension."""

    source: _Source
    trim: Trim
    attempt: str = ""

    def specs(self) -> Sequence[TableSpec]:
        return [baseline_spec(self.trim.contract, silver.name) for silver in self.source.dimensions]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _Condensing:
        return replace(self, attempt=attempt)

    def stamps(self) -> Mapping[TableName, Stamp]:
        done = {self.trim.contract.name: Consumed(self.trim.end.through, self.trim.end.decisions)}
        return {
            baseline_table(silver.name): Stamp(self.attempt, silver.fingerprint, done)
            for silver in self.source.dimensions
        }

    def write(self, targets: Mapping[TableName, Target]) -> None:
        for silver in self.source.dimensions:
            target = targets[baseline_table(silver.name)]
            rows = self._condensed(silver)
            target.delete("true")
            target.append(rows)

    def _condensed(self, silver: Silver) -> DataFrame:
        """Materialised: a former baseline, which it may be made of, is in the table that it replaces."""
        rows = observed(silver, silver.typed(self.source.live(silver)), self.source.units(silver))
        old = condense(rows.where(F.col(EFFECTIVE) < F.lit(self.trim.before)), silver.table)
        return stored(old, silver.table).localCheckpoint()

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """Nothing reads it before a stamp names it."""


@dataclass(frozen=True)
class _Trimming:
    """Name the baselines in the dimensions' stamps, then delete the batches from bronze."""

    source: _Source
    trim: Trim
    snapshots: Mapping[TableName, int]
    partly: Mapping[str, Mapping[int, int]]
    attempt: str = ""
    heads: Mapping[TableName, Head] | None = None

    def specs(self) -> Sequence[TableSpec]:
        dimensions = [silver_spec(self.trim.contract, silver.name) for silver in self.source.dimensions]
        return [*dimensions, bronze_spec(self.trim.contract)]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _Trimming:
        for silver in self.source.dimensions:
            if heads[silver.target].snapshot_id != self.source.heads[silver.name].snapshot_id:
                raise _moved(str(silver.target))
        store = ObjectStore.open(self.source.lake.settings)
        decided = self.trim.end.decisions
        if decision_log(store, self.trim.contract.name).last_number(decided) != decided:
            raise _moved(self.trim.contract.name)
        return replace(self, attempt=attempt, heads=heads)

    def stamps(self) -> Mapping[TableName, Stamp]:
        """The dimensions first, in the order in which they are published: bronze loses nothing before they are."""
        found = {silver.target: self._stamp(silver.target, self._baseline(silver)) for silver in self.source.dimensions}
        bronze = self.trim.contract.bronze_table
        stamp = self._stamp(bronze, None)
        lost = tuple(sorted({*stamp.trimmed, *self.trim.batches}))
        return {**found, bronze: replace(stamp, trimmed=lost)}

    def _stamp(self, table: TableName, baseline: Baseline | None) -> Stamp:
        stamp = (self.heads or {})[table].stamp
        if stamp is None:
            raise ConcurrentCommit(f"{table} has no stamp", todo="run `lakehouse run`, and trim again")
        return replace(stamp, attempt=self.attempt, baseline=baseline)

    def _baseline(self, silver: Silver) -> Baseline:
        was = silver.baseline
        fresh = {batch: each for batch, each in self.trim.frozen.items() if batch not in silver.frozen}
        counts = Counter(dict(was.counts) if was else {})
        counts.update(self._counts(silver, frozenset(b for b, (state, _) in fresh.items() if state == "live")))
        return Baseline(
            self.trim.before.isoformat(),
            self.snapshots[baseline_table(silver.name)],
            self.trim.end.through,
            silver.fingerprint,
            {**(was.trimmed if was else {}), **fresh},
            dict(counts),
            {**(was.partly if was else {}), **self.partly[silver.name]},
            self._passed(silver),
            was.horizons if was else (),
        )

    def _passed(self, silver: Silver) -> tuple[int, ...]:
        """Superseded batches that stay: where a discard brings one back, the baseline has nothing of it."""
        gone = self.trim.frozen.keys() | silver.frozen.keys()
        return tuple(sorted(self.source.sets(silver).superseded - gone))

    def _counts(self, silver: Silver, batches: frozenset[int]) -> dict[str, int]:
        found = silver.typed(batches).groupBy(STATUS).count().collect() if batches else []
        return {row[STATUS]: row["count"] for row in found}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        for silver in self.source.dimensions:
            targets[silver.target].append_nothing()
        bronze = targets[self.trim.contract.bronze_table]
        bronze.delete(in_batches(frozenset(self.trim.batches)))
        bronze.append_nothing()

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """Bronze was counted by batch when the trim was planned."""
