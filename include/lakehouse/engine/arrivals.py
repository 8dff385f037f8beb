"""What arrives at a dimension in one pass: keys that go on in order, and keys that are late.

Late are the keys with an observation that is not later than everything consumed before, those whose observations were
taken away or replaced, and those for which the table's versions do not tell what was observed. The answer may name a
key too many, never one too few: a late key is folded again from all that was observed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.model import Table
from lakehouse.core import names
from lakehouse.engine.apply import located
from lakehouse.engine.compare import Compared, compare, differing_as_of
from lakehouse.engine.history import (
    DELETED,
    TIED,
    absences,
    effective_text,
    good_rows,
    moments,
    observation_columns,
    presence,
    unsettled,
)
from lakehouse.engine.publish import Target
from lakehouse.engine.typed import EFFECTIVE, STATUS, is_deleted

if TYPE_CHECKING:
    from lakehouse.engine.silver import Intake, Silver

# Sets of keys up to this size go to every task, so that the table itself is not shuffled.
_BROADCAST = 500_000
_SIDE = "_is_removed"
_GOOD = "_is_good"
_BEFORE = datetime(1, 1, 2, tzinfo=UTC)


class NotJudged(Exception):
    """A snapshot may close more keys than the contract allows: it has to be judged before it is taken."""


@dataclass(frozen=True)
class Arrivals:
    """What a pass has to do; all is materialised.

    ``moments`` are those of keys that arrived in order, late ones among them. ``late`` holds durable keys, None where
    there are none. ``present`` are the located rows of all these keys that may have to change.
    """

    moments: DataFrame
    late: DataFrame | None
    present: DataFrame
    late_keys: int
    ties: int


def arrivals(target: Target, silver: Silver, intake: Intake) -> Arrivals:
    """Find what a pass has to do, reading the new rows and, once, the table."""
    if silver.contract.source.kind == "snapshot":
        return _Snapshots(target, silver, intake).arrivals()
    return _Rows(target, silver, intake).arrivals()


@dataclass(frozen=True)
class _Arriving:
    target: Target
    silver: Silver
    intake: Intake

    @property
    def table(self) -> Table:
        return self.silver.table

    def rows_of(self, keys: DataFrame) -> DataFrame:
        """The table's rows of some keys."""
        few = F.broadcast(keys) if keys.count() <= _BROADCAST else keys
        return located(self.target).join(few, names.KEY, "left_semi").localCheckpoint()

    def rejudged(self) -> list[DataFrame]:
        """Keys of rows that were good and no longer are, or the other way round."""
        found = self.intake.rejudged
        return [] if found is None or found.keys is None else [found.keys]

    def one_sided(self, removed: frozenset[int], added: frozenset[int]) -> DataFrame:
        """Rows that only the removed or only the added batches have: a corrected file repeats most of its rows."""
        rows = self.silver.typed(removed | added).where(f"{names.KEY} IS NOT NULL")
        rows = rows.withColumn(DELETED, F.expr(is_deleted(self.table)))
        is_removed = F.col(names.BATCH).isin(sorted(removed)).alias(_SIDE)
        columns = observation_columns(self.table)
        sided = rows.select(*columns, (F.col(STATUS) == "good").alias(_GOOD), is_removed)
        grouped = sided.groupBy(*columns, _GOOD).agg(F.min(_SIDE).alias(_SIDE), F.max(_SIDE).alias("_max"))
        return grouped.where(f"{_SIDE} = _max").drop("_max")


class _Rows(_Arriving):
    """Feeds and slices: each good row is one observation."""

    def arrivals(self) -> Arrivals:
        arrived, gone = self._observed()
        found = moments(arrived, self.table).localCheckpoint()
        late = [*self.rejudged(), *([gone] if gone is not None else [])]
        present = self.rows_of(_union([found.select(names.KEY), *late]).distinct().localCheckpoint())
        if self.intake.since:
            late.append(found.where(F.col(EFFECTIVE) <= F.lit(self.intake.since).cast("timestamp")))
        if self.silver.baseline:  # rows of a batch that counts again: the baseline has what they said
            late.append(found.where(F.col(EFFECTIVE) < F.lit(self.silver.baseline.at)))
        late += _unsettled_keys(found, present, self.table)
        return _arrivals(found, late, present)

    def _observed(self) -> tuple[DataFrame, DataFrame | None]:
        """New observations, and the keys of those that are gone."""
        added, removed = self.intake.added, self.intake.removed
        if not removed:
            return good_rows(self.silver.typed(added), self.table), None
        rows = self.one_sided(removed, added).where(_GOOD).localCheckpoint()
        return rows.where(f"NOT {_SIDE}"), rows.where(_SIDE).select(names.KEY)


class _Snapshots(_Arriving):
    """Full snapshots: a key's absence is an observation, and a row that says what stands says nothing new."""

    def arrivals(self) -> Arrivals:
        late = [*self.rejudged(), *self._replaced(), *self._withdrawn(), *self._inserted()]
        fresh = self._fresh()
        if len(fresh) == 1:
            compared = compare(self.target, self.silver, fresh[0], self.intake.counted.of([fresh[0][0]]).total())
            if compared is not None and self._is_sound(compared):
                return self._from_comparison(compared, late)
        if self.intake.unjudged:
            raise NotJudged
        found = moments(self._observed(fresh), self.table).localCheckpoint()
        keys = _union([found, *late]).distinct().localCheckpoint()
        present = self.rows_of(keys)
        return _arrivals(found, [*late, *_unsettled_keys(found, present, self.table)], present)

    def _is_sound(self, compared: Compared) -> bool:
        """Whether the snapshot is judged, or closes so few of the open keys that no judgement could hold it.

        The snapshot before it had the open keys, and at most those of all quarantined rows besides.
        """
        most = compared.absent + self.intake.quarantined
        return not self.intake.unjudged or most <= self.table.max_close_share * compared.opened

    def _from_comparison(self, compared: Compared, late: list[DataFrame]) -> Arrivals:
        """Of the keys that differ the open row is known; what else is needed takes one more look at the table."""
        found = moments(compared.observations, self.table).localCheckpoint()
        late_keys = _keys([*late, *compared.late])
        present = compared.rows
        wanted = [keys.select(names.KEY, F.lit(name == "late").alias("_all")) for name, keys in
                  (("late", late_keys), ("earlier", compared.earlier)) if keys is not None]  # fmt: skip
        if wanted:
            known = present.select(F.col(names.VERSION_KEY))
            keys = _union(wanted, names.KEY, "_all").groupBy(names.KEY).agg(F.max("_all").alias("_all"))
            rows = located(self.target).join(F.broadcast(keys.localCheckpoint()), names.KEY)
            others = rows.where(f"_all OR NOT {names.IS_CURRENT}").drop("_all")
            others = others.join(F.broadcast(known), names.VERSION_KEY, "left_anti")
            present = present.unionByName(others.select(*present.columns)).localCheckpoint()
        late = [] if late_keys is None else [late_keys]
        return _arrivals(found, [*late, *_unsettled_keys(found, present, self.table)], present)

    def _fresh(self) -> list[tuple[int, datetime]]:
        """The added snapshots later than everything consumed, in order."""
        times = {batch: self.intake.time_of(batch) for batch in self.intake.added - self._units_replaced()[1]}
        return sorted(((b, at) for b, at in times.items() if not self._is_late(at)), key=lambda each: each[1])

    def _is_late(self, at: datetime) -> bool:
        return effective_text(at) <= self.intake.since

    def _units_replaced(self) -> tuple[frozenset[int], frozenset[int]]:
        """Snapshots that another of the same unit takes the place of, and those others."""
        units = self.intake.units
        both = {units[b] for b in self.intake.removed} & {units[b] for b in self.intake.added}
        removed = frozenset(batch for batch in self.intake.removed if units[batch] in both)
        return removed, frozenset(batch for batch in self.intake.added if units[batch] in both)

    def _replaced(self) -> list[DataFrame]:
        removed, added = self._units_replaced()
        return [self.one_sided(removed, added).select(names.KEY)] if removed else []

    def _withdrawn(self) -> list[DataFrame]:
        """Keys of snapshots that no other took the place of, and of those before them, whose end they were."""
        removed = self.intake.removed - self._units_replaced()[0]
        if not removed:
            return []
        before = {neighbour for batch in removed for neighbour in self._before(batch)}
        rows = self.silver.typed(removed | frozenset(before)).where(f"{names.KEY} IS NOT NULL")
        return [rows.select(names.KEY)]

    def _before(self, batch: int) -> list[int]:
        """The snapshots before one in effective time: among those that were live, and among those that are."""
        units = self.intake.units
        found = []
        for live in (self.intake.live, (self.intake.live - self.intake.added) | self.intake.removed):
            earlier = sorted((other for other in live if units[other] < units[batch]), key=units.__getitem__)
            found += earlier[-1:]
        return found

    def _inserted(self) -> list[DataFrame]:
        """Keys that differ between a late snapshot and the table as of its time."""
        added = self.intake.added - self._units_replaced()[1]
        times = {batch: self.intake.time_of(batch) for batch in added}
        late = {batch: at for batch, at in times.items() if self._is_late(at)}
        return [differing_as_of(self.target, self.silver, late)] if late else []

    def _observed(self, fresh: Sequence[tuple[int, datetime]]) -> DataFrame:
        """The observations that several snapshots make after what the table shows: its open keys were there before."""
        rows = self.silver.typed(frozenset(batch for batch, _ in fresh))
        stood = located(self.target).where(names.IS_CURRENT).select(names.KEY, F.lit(0).cast("long").alias(names.BATCH))
        ended = absences(presence(rows).unionByName(stood), [(0, _BEFORE), *fresh])
        return good_rows(rows, self.table).unionByName(ended, allowMissingColumns=True)


def _arrivals(found: DataFrame, late: Sequence[DataFrame], present: DataFrame) -> Arrivals:
    keys = _keys(late)
    return Arrivals(found, keys, present, keys.count() if keys is not None else 0, found.where(TIED).count())


def _keys(parts: Sequence[DataFrame]) -> DataFrame | None:
    """The distinct keys of some parts, materialised; None for none."""
    if not parts:
        return None
    keys = _union(parts).distinct().localCheckpoint()
    return None if keys.isEmpty() else keys


def _union(parts: Sequence[DataFrame], *columns: str) -> DataFrame:
    wanted = columns or (names.KEY,)
    return reduce(DataFrame.unionByName, [part.select(*wanted) for part in parts])


def _unsettled_keys(found: DataFrame, present: DataFrame, table: Table) -> list[DataFrame]:
    """Keys whose type 0 attribute is null in the table, and not in what arrived."""
    columns = unsettled(table)
    if not columns:
        return []
    arrived = found.select(names.KEY, *[F.col(name)[name].isNotNull().alias(name) for name in columns])
    open_now = present.select(names.KEY, *[F.col(name).isNull().alias(f"_null_{name}") for name in columns])
    first_seen = reduce(Column.__or__, [F.col(name) & F.col(f"_null_{name}") for name in columns])
    return [open_now.join(arrived, names.KEY).where(first_seen).select(names.KEY)]
