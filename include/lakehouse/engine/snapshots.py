"""Which full snapshots are held, because they would close more keys than the contract allows.

A snapshot is measured against the *preceding live snapshot*: of the snapshots with an earlier effective time, the
latest that the table has, or takes in the same run. So pending snapshots are judged in the order of their effective
time, whatever the order of arrival: one that is taken is what the next is measured against, and one that is held is
passed over. Of several pending batches of one unit the newest is judged first, and an older one counts only where all
newer ones are held. The first snapshot in effective time has nothing to close, and is never held.

What a table consumed stays, and is not judged again: a snapshot that arrives late, between two others, is measured
against the one before it, and the one after it stays as it is. What somebody released is taken unjudged.

Presence is judged on all rows with a readable key. Keys are compared as typed columns, which is the same as comparing
durable keys, and saves a hash for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.model import Table
from lakehouse.core import names
from lakehouse.core.names import quote

if TYPE_CHECKING:
    from lakehouse.engine.silver import Silver

WINDOW = 62
"""Snapshots that one job compares: each is a bit of a long, which leaves out the sign."""
_BITS = "_bits"
_PAIR = "_pair"
_CLASSIFIED = ("sensitive", "pii")


@dataclass(frozen=True)
class Closing:
    """What taking ``batch`` would do to the keys of ``before``, the snapshot that precedes it."""

    before: int
    batch: int
    keys: int
    closed: int

    @property
    def share(self) -> float:
        """Closed keys among those that stood; 0 where none stood."""
        return self.closed / self.keys if self.keys else 0.0


Measure = Callable[[int, int], Closing]


def held_snapshots(
    silver: Silver,
    candidates: frozenset[int],
    live: frozenset[int],
    units: Mapping[int, date],
    released: frozenset[int],
) -> Mapping[int, str]:
    """The snapshots among ``candidates`` that are held, each with the reason in words.

    ``live`` are batches that the table has and keeps unless a candidate of the same unit supersedes them; they are not
    judged, and neither are those in ``released``. ``units`` has the unit of every batch. One Spark job for every 62
    snapshots that are compared, and one more for the sample keys where any of these is held.
    """
    judged = candidates - live - released
    order = relevant(by_unit(candidates | live, units), judged)
    if not order or silver.table.max_close_share >= 1:
        return {}
    presence = _Presence(silver, [batch for unit in order for batch in unit])
    held = judge(order, judged, presence.closing, silver.table.max_close_share)
    samples = presence.samples(held)
    return {each.batch: _reason(each, units, silver.table, samples.get(each, "")) for each in held}


def by_unit(batches: frozenset[int], units: Mapping[int, date]) -> list[list[int]]:
    """Batches in the order of their units, the newest of each unit first."""
    ordered = sorted(sorted(batches, reverse=True), key=lambda batch: units[batch])
    return [list(group) for _, group in groupby(ordered, key=lambda batch: units[batch])]


def relevant(order: Sequence[Sequence[int]], judged: frozenset[int]) -> list[list[int]]:
    """The units from which one is judged, and those that stand right before such a unit."""
    has = [not judged.isdisjoint(unit) for unit in order]
    follows = [*has[1:], False]
    return [list(unit) for unit, mine, next_one in zip(order, has, follows, strict=True) if mine or next_one]


def judge(order: Sequence[Sequence[int]], judged: frozenset[int], measure: Measure, share: float) -> list[Closing]:
    """Walk through the units in order, and say what is held. ``order`` is that of :func:`by_unit`."""
    held: list[Closing] = []
    before: int | None = None
    for unit in order:
        for batch in unit:
            closing = measure(before, batch) if before is not None and batch in judged else None
            if closing is None or closing.share <= share:
                before = batch
                break
            held.append(closing)
    return held


class _Presence:
    """Which keys are in which snapshots, read for a window of snapshots at a time.

    A window is counted by pattern, the set of its snapshots that have a key: one job, and a row for each pattern.
    """

    def __init__(self, silver: Silver, batches: Sequence[int]) -> None:
        self._silver, self._batches = silver, batches
        self._bits: dict[int, int] = {}
        self._patterns = pa.table({_BITS: pa.array([], pa.int64()), "count": pa.array([], pa.int64())})

    def closing(self, before: int, batch: int) -> Closing:
        """Compare two snapshots; reads the next window when one of them is not in the present one."""
        if before not in self._bits or batch not in self._bits:
            place = self._batches.index(batch)
            self._read([before, *self._batches[place : place + WINDOW - 1]])
        had, has = self._has(before), self._has(batch)
        return Closing(before, batch, self._sum(had), self._sum(pc.and_(had, pc.invert(has))))

    def _read(self, window: Sequence[int]) -> None:
        self._bits = {batch: bit for bit, batch in enumerate(window)}
        keys = _by_key(self._silver, window, list(self._silver.table.key))
        self._patterns = keys.groupBy(_BITS).count().toArrow()

    def _has(self, batch: int) -> pa.Array:
        bit = pa.scalar(1 << self._bits[batch], pa.int64())
        return pc.not_equal(pc.bit_wise_and(self._patterns[_BITS], bit), pa.scalar(0, pa.int64()))

    def _sum(self, mask: pa.Array) -> int:
        return int(pc.sum(self._patterns["count"].filter(mask)).as_py() or 0)

    def samples(self, held: Sequence[Closing]) -> dict[Closing, str]:
        """Some of the keys that each would close, fit to be shown."""
        found: dict[Closing, str] = {}
        for part in _parts(held):
            found |= _samples(self._silver, part)
        return found


def _parts(held: Sequence[Closing]) -> Iterator[list[Closing]]:
    """Pairs in groups that have at most a window's snapshots."""
    part: list[Closing] = []
    for each in held:
        if len({b for pair in [*part, each] for b in (pair.before, pair.batch)}) > WINDOW:
            yield part
            part = []
        part.append(each)
    if part:
        yield part


def _by_key(silver: Silver, window: Sequence[int], columns: Sequence[str]) -> DataFrame:
    """A row for each key that is in one of the snapshots, and the bits of those that have it."""
    cases = " ".join(f"WHEN {batch} THEN {bit}" for bit, batch in enumerate(window))
    present = " AND ".join(f"{quote(name)} IS NOT NULL" for name in silver.table.key)
    rows = silver.typed(frozenset(window)).where(present)
    bit = F.expr(f"shiftleft(1L, CASE {names.BATCH} {cases} END)")
    return rows.groupBy(*[F.col(quote(name)) for name in columns]).agg(F.bit_or(bit).alias(_BITS))


def _samples(silver: Silver, held: Sequence[Closing]) -> dict[Closing, str]:
    """The least, the greatest and one other key that each would close: one job that keeps three keys of each."""
    window = list(dict.fromkeys(batch for pair in held for batch in (pair.before, pair.batch)))
    shown = [names.KEY] if is_masked(silver.table) else list(silver.table.key)
    mask = {batch: 1 << bit for bit, batch in enumerate(window)}
    tests = [
        f"CASE WHEN {_BITS} & {mask[pair.before]}L <> 0 AND {_BITS} & {mask[pair.batch]}L = 0 THEN {place} END"
        for place, pair in enumerate(held)
    ]
    pairs = _by_key(silver, window, shown).select(*shown, F.explode(F.expr(f"array({', '.join(tests)})")).alias(_PAIR))
    key = F.struct(*[F.col(quote(name)).cast("string").alias(f"k{i}") for i, name in enumerate(shown)])
    picked = [F.min(key), F.max(key), F.min_by(key, F.xxhash64(key))]
    rows = pairs.where(f"{_PAIR} IS NOT NULL").groupBy(_PAIR).agg(F.array_distinct(F.array(*picked)).alias("keys"))
    return {held[row[_PAIR]]: ", ".join(_shown(shown, each) for each in row["keys"]) for row in rows.collect()}


def _shown(columns: Sequence[str], key: Sequence[str]) -> str:
    if columns == [names.KEY]:
        return key[0]
    return " ".join(f"{name}={value!r}" for name, value in zip(columns, key, strict=True))


def is_masked(table: Table) -> bool:
    """Whether a key must not be shown as it is."""
    return any(table.columns[name].classification in _CLASSIFIED for name in table.key)


def _reason(closing: Closing, units: Mapping[int, date], table: Table, samples: str) -> str:
    such = "durable keys such as" if is_masked(table) else "such as"
    return (
        f"it would close {closing.closed:,} of the {closing.keys:,} keys of batch {closing.before} "
        f"({units[closing.before]}), {such} {samples}: {closing.share:.1%}, and the contract allows "
        f"{table.max_close_share:.1%}"
    )
