"""What differs between two sets of rows, by their identity: pure, in Arrow, a few columns at a time.

Equal means what it means in the canonical encoding: null equals null and nothing else, NaN equals NaN, -0.0 equals 0.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.core import names
from lakehouse.core.errors import IntegrityError

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

OPENED, CLOSED, OVERWRITTEN = "opened", "closed", "overwritten"
INSERTED, REMOVED, REWRITTEN = "inserted", "removed", "rewritten"
ADDED, CHANGED, PAST = "added", "changed", "past"
LATE = (INSERTED, REMOVED, REWRITTEN)
_NONE = -1
_CELLS = 4_000_000
"""Values of one side that are compared at once: what bounds the memory, with a few hundred bytes for each row."""


class Rows(Protocol):
    """One side: a small index of all rows at hand, and the rest of their columns on request."""

    @property
    def index(self) -> pa.Table:
        """The layout's index columns, one row each."""
        ...

    def read(self, columns: Sequence[str], rows: Indices) -> pa.Table:
        """Some columns of some rows, in the order of ``rows``."""
        ...


@dataclass(frozen=True)
class Layout:
    """What the columns of a table mean for its comparison.

    ``opening`` are the attributes whose change opens a version (all columns of a fact), ``overwritten`` those of types
    0, 1 and 3, which stand on every version of a key.
    """

    is_dimension: bool
    opening: tuple[str, ...]
    overwritten: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The column that tells rows apart."""
        return names.VERSION_KEY if self.is_dimension else names.KEY

    @property
    def index(self) -> tuple[str, ...]:
        """The columns that are read for every row at hand."""
        if not self.is_dimension:
            return (names.KEY,)
        return (names.VERSION_KEY, names.KEY, names.EFFECTIVE_FROM, names.EFFECTIVE_TO, names.IS_CURRENT)


@dataclass(frozen=True)
class Differences:
    """The rows that differ, and what that means for their keys.

    ``rows`` has the durable key, what happened to the row, and its number on each side, -1 where it is not there.
    ``keys`` are durable keys by what happened to them, each in one kind only; ``late`` are those among them with a
    version that was inserted, removed or rewritten in the past. ``unchanged`` rows were written anew as they were.
    """

    rows: pa.Table
    keys: Mapping[str, pa.Array]
    late: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    unchanged: int = 0

    def count(self, what: str) -> int:
        """How many rows this happened to."""
        return int(pc.sum(pc.equal(self.rows["what"], what)).as_py() or 0)


@dataclass(frozen=True)
class _Matching:
    """Numbers of rows: pairs of both sides (in the new side's order), and those of one side only."""

    old: Indices
    new: Indices
    only_old: Indices
    only_new: Indices


def differs(old: pa.ChunkedArray, new: pa.ChunkedArray) -> Mask:
    """Where two columns of one type differ."""
    same = pc.fill_null(pc.equal(old, new), False)
    same = pc.or_(same, pc.and_(pc.is_null(old), pc.is_null(new)))
    if pa.types.is_floating(old.type):
        both_nan = pc.and_(pc.fill_null(pc.is_nan(old), False), pc.fill_null(pc.is_nan(new), False))
        same = pc.or_(same, both_nan)
    return ~_mask(same)


def compare(old: Rows, new: Rows, layout: Layout, known_until: datetime | None = None) -> Differences:
    """Compare two sides; both hold the rows that may differ, and may hold more.

    ``known_until`` is the greatest effective time that the old side had consumed: what begins or ends later came in
    order, and everything else is late. Without it, nothing that begins or ends anew is late.
    """
    matching = _match(old.index[layout.identity], new.index[layout.identity], layout.identity)
    opening = _different(old, new, matching, layout.opening)
    overwritten = _different(old, new, matching, layout.overwritten)
    if not layout.is_dimension:
        return _facts(old, new, matching, opening | overwritten)
    ended = differs(old.index[names.EFFECTIVE_TO].take(matching.old), new.index[names.EFFECTIVE_TO].take(matching.new))
    in_order = ended & _ends_in_order(old, new, matching, known_until)
    what = np.full(len(matching.old), "", dtype=object)
    what[overwritten] = OVERWRITTEN
    what[in_order] = CLOSED
    what[opening | (ended & ~in_order)] = REWRITTEN
    is_later = _later(new.index[names.EFFECTIVE_FROM].take(matching.only_new), known_until)
    added = np.where(is_later, OPENED, INSERTED).astype(object)
    rows = _rows(old, new, matching, what, added, REMOVED)
    return _with_keys(old, new, layout, rows, int(np.count_nonzero(what == "")))


def _facts(old: Rows, new: Rows, matching: _Matching, changed: Mask) -> Differences:
    what = np.where(changed, CHANGED, "").astype(object)
    added = np.full(len(matching.only_new), ADDED, dtype=object)
    rows = _rows(old, new, matching, what, added, REMOVED)
    keys = {kind: rows.filter(pc.equal(rows["what"], kind))[names.KEY] for kind in (ADDED, REMOVED, CHANGED)}
    return Differences(rows, keys, unchanged=int(np.count_nonzero(what == "")))


def _match(old: pa.ChunkedArray, new: pa.ChunkedArray, column: str) -> _Matching:
    for side in (old, new):
        if pc.count_distinct(side).as_py() != len(side):
            raise IntegrityError(
                f"{column} is not unique in the table: rows cannot be told apart",
                untouched="everything; nothing was written",
                todo="look at rows that stand twice, and make the table anew with `lakehouse rebuild`",
            )
    found = pc.index_in(new, value_set=old.combine_chunks())
    partner = np.asarray(pc.fill_null(found, _NONE)).astype(np.int64)
    paired = partner != _NONE
    is_alone = np.ones(len(old), dtype=np.bool_)
    is_alone[partner[paired]] = False
    return _Matching(partner[paired], np.flatnonzero(paired), np.flatnonzero(is_alone), np.flatnonzero(~paired))


def _different(old: Rows, new: Rows, matching: _Matching, columns: Sequence[str]) -> Mask:
    """Which pairs differ in any of the columns. Reads as many columns at once as the budget allows."""
    found = np.zeros(len(matching.old), dtype=np.bool_)
    if not len(matching.old):
        return found
    at_once = max(1, _CELLS // len(matching.old))
    for start in range(0, len(columns), at_once):
        group = columns[start : start + at_once]
        left, right = old.read(group, matching.old), new.read(group, matching.new)
        for column in group:
            found |= differs(left[column], right[column])
    return found


def _ends_in_order(old: Rows, new: Rows, matching: _Matching, known_until: datetime | None) -> Mask:
    was_open = _mask(pc.is_null(old.index[names.EFFECTIVE_TO].take(matching.old)))
    return was_open & _later(new.index[names.EFFECTIVE_TO].take(matching.new), known_until)


def _later(times: pa.ChunkedArray, known_until: datetime | None) -> Mask:
    if known_until is None:
        return _mask(pc.is_valid(times))
    return _mask(pc.fill_null(pc.greater(times, pa.scalar(known_until, times.type)), False))


def _rows(old: Rows, new: Rows, matching: _Matching, what: Any, added: Any, removed: str) -> pa.Table:
    """The rows that differ: of the pairs those that something happened to, then those of one side."""
    touched = what != ""
    keys = [
        new.index[names.KEY].take(matching.new[touched]),
        new.index[names.KEY].take(matching.only_new),
        old.index[names.KEY].take(matching.only_old),
    ]
    gone = np.full(len(matching.only_old), removed, dtype=object)
    none_old, none_new = np.full(len(matching.only_new), _NONE), np.full(len(matching.only_old), _NONE)
    return pa.table(
        {
            names.KEY: pa.chunked_array([chunk for key in keys for chunk in key.chunks], pa.string()),
            "what": pa.array(np.concatenate([what[touched], added, gone]), pa.string()),
            "old": np.concatenate([matching.old[touched], none_old, matching.only_old]).astype(np.int64),
            "new": np.concatenate([matching.new[touched], matching.only_new, none_new]).astype(np.int64),
        }
    )


def _with_keys(old: Rows, new: Rows, layout: Layout, rows: pa.Table, unchanged: int) -> Differences:
    """What happened to keys. The open version of a key is among the rows that differ wherever it is another now."""
    was, now = _open(old, rows["old"]), _open(new, rows["new"])
    matching = _match(old.index[names.KEY].take(was), new.index[names.KEY].take(now), names.KEY)
    pairs = _Matching(was[matching.old], now[matching.new], was[matching.only_old], now[matching.only_new])
    columns = (*layout.opening, *layout.overwritten)
    began = rows.filter(pc.equal(rows["what"], OPENED))["new"]
    changed = _different(old, new, pairs, columns) | np.isin(pairs.new, np.asarray(began))
    keys = {
        OPENED: new.index[names.KEY].take(pairs.only_new),
        CLOSED: old.index[names.KEY].take(pairs.only_old),
        CHANGED: new.index[names.KEY].take(pairs.new[changed]),
    }
    current = pa.chunked_array([chunk for found in keys.values() for chunk in found.chunks], pa.string())
    every = rows[names.KEY].unique()
    keys[PAST] = every.filter(pc.invert(pc.is_in(every, value_set=current.combine_chunks())))
    late = rows.filter(pc.is_in(rows["what"], value_set=pa.array(LATE)))[names.KEY].unique()
    return Differences(rows, keys, late, unchanged)


def _open(side: Rows, numbers: pa.ChunkedArray) -> Indices:
    """Of these rows, the numbers of those that are open versions."""
    there: Indices = np.asarray(numbers)
    there = there[there != _NONE]
    return there[_mask(side.index[names.IS_CURRENT].take(there))]


def _mask(values: pa.ChunkedArray) -> Mask:
    return np.asarray(values).astype(np.bool_)
