"""What changed in a table between two snapshots: by key, with old and new values side by side. No JVM.

Only files that differ are opened: first their keys and intervals, then the attributes of rows that stand on both
sides, a few columns at a time, then whole rows of the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.core import names
from lakehouse.core.errors import SettingsError
from lakehouse.core.names import TableName
from lakehouse.ledger.columns import Columns, SchemaChange, masked, match_columns, schema_of
from lakehouse.ledger.compare import Differences, Indices, compare, differs
from lakehouse.ledger.files import ColumnSource, Files, Piece
from lakehouse.ledger.points import Point, known_until
from lakehouse.ledger.reading import Subject

Values = Mapping[str, Any]


@dataclass(frozen=True)
class RowChange:
    """What happened to a version of a dimension or a row of a fact; ``columns`` are those whose values differ.

    Versions: opened and closed in order; overwritten in columns of types 0, 1 and 3; inserted, removed and rewritten
    in the past. Rows of facts: added, removed, changed.
    """

    what: str
    old: Values | None
    new: Values | None
    columns: tuple[str, ...]


@dataclass(frozen=True)
class ValueChange:
    """A column of a fact's row, or of a key's open version, at both times."""

    column: str
    old: Any
    new: Any


@dataclass(frozen=True)
class KeyChange:
    """What happened to a key: opened, closed, changed (the open version), or only its past; and to its rows.

    ``values`` are those that changed, side by side. Keys of facts were added, removed or changed.
    """

    key: str
    natural: Values
    what: str
    is_late: bool
    values: tuple[ValueChange, ...]
    rows: tuple[RowChange, ...]


@dataclass(frozen=True)
class Diff:
    """The differences of two snapshots: counts of keys and rows by what happened, and samples.

    ``start`` is None where what came before is not kept. ``late_keys`` have a past that was rewritten; ``unchanged``
    rows were written anew as they were. ``files_shared`` were the same on both sides, and not opened.
    """

    table: TableName
    kind: str
    start: Point | None
    end: Point
    schema: SchemaChange
    keys: Mapping[str, int]
    rows: Mapping[str, int]
    late_keys: int
    unchanged: int
    samples: tuple[KeyChange, ...]
    files_opened: int
    files_shared: int

    @property
    def is_empty(self) -> bool:
        """Whether no row and no column differs."""
        return not any(self.rows.values()) and not self.schema

    def more(self, what: str) -> int:
        """How many keys to which this happened are not among the samples."""
        return self.keys[what] - sum(1 for sample in self.samples if sample.what == what)

    def to_json(self) -> dict[str, Any]:
        """Plain values, but for those of the table's own columns."""
        return {
            "table": str(self.table),
            "kind": self.kind,
            "from": self.start.to_json() if self.start else None,
            "to": self.end.to_json(),
            "schema": self.schema.to_json(),
            "keys": dict(self.keys),
            "late_keys": self.late_keys,
            "rows": dict(self.rows),
            "unchanged_rows": self.unchanged,
            "samples": [asdict(sample) for sample in self.samples],
            "more": {what: self.more(what) for what in self.keys},
            "files": {"opened": self.files_opened, "shared": self.files_shared},
        }


@dataclass
class FileRows:
    """One side of a comparison: rows of data files, read when they are asked for."""

    files: Files
    pieces: tuple[Piece, ...]
    columns: Mapping[str, ColumnSource]
    index_columns: tuple[str, ...]

    @cached_property
    def index(self) -> pa.Table:
        """The index columns of all rows."""
        return self._all(self.pieces, self.index_columns)

    def read(self, columns: Sequence[str], rows: Indices) -> pa.Table:
        """Some columns of some rows, in the order of ``rows``."""
        order = np.argsort(rows, kind="stable")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return self._all(self._pieces_with(rows[order]), columns).take(pa.array(back))

    def _pieces_with(self, rows: Indices) -> Iterable[Piece]:
        start = 0
        for piece in self.pieces:
            low, high = np.searchsorted(rows, [start, start + len(piece.positions)])
            if low < high:
                yield Piece(piece.path, piece.positions[rows[low:high] - start])
            start += len(piece.positions)

    def _all(self, pieces: Iterable[Piece], columns: Sequence[str]) -> pa.Table:
        wanted = {name: self.columns[name] for name in columns}
        none = pa.schema([(name, column.type) for name, column in wanted.items()]).empty_table()
        return pa.concat_tables([none, *(self.files.read(piece, wanted) for piece in pieces)])


def diff(
    subject: Subject,
    start: Point | None,
    end: Point,
    *,
    limit: int = 10,
    key: str | None = None,
    show_classified: bool = False,
    files: Files | None = None,
) -> Diff:
    """Compare two snapshots, or one durable key at both. At most ``limit`` samples of each kind of change.

    Raises :class:`SettingsError` where the first is later than the second.
    """
    if start is not None and start.at > end.at:
        raise SettingsError(
            f"--from is later than --to: {start.at:%Y-%m-%d %H:%M:%S.%f} and {end.at:%Y-%m-%d %H:%M:%S.%f} UTC",
            todo="swap them",
        )
    table = subject.table
    files = files or Files(table.io)
    was_opened = len(files.opened)
    after = schema_of(table, end.snapshot)
    columns = match_columns(table, subject.spec, schema_of(table, start.snapshot) if start else after, after)
    delta = files.delta(start.snapshot if start else None, end.snapshot)
    if key is not None:
        delta = files.of_key(delta, columns.new[names.KEY].field_id, key)
    old = FileRows(files, delta.old, columns.old, columns.layout.index)
    new = FileRows(files, delta.new, columns.new, columns.layout.index)
    found = compare(old, new, columns.layout, known_until(table, start.snapshot) if start else None)
    samples = _Samples(old, new, columns, found, show_classified).take(limit)
    return Diff(
        subject.name,
        subject.spec.kind,
        start,
        end,
        columns.change,
        {what: len(keys) for what, keys in found.keys.items()},
        {each["values"]: each["counts"] for each in pc.value_counts(found.rows["what"]).to_pylist()},
        len(found.late),
        found.unchanged,
        samples,
        len(files.opened) - was_opened,
        delta.shared,
    )


@dataclass(frozen=True)
class _Pair:
    """A row that differs, as it is on each side, nothing masked."""

    what: str
    old: Values | None
    new: Values | None


@dataclass(frozen=True)
class _Samples:
    """Turns rows that differ into values to look at, the classified ones masked."""

    old: FileRows
    new: FileRows
    columns: Columns
    found: Differences
    show_classified: bool

    def take(self, limit: int) -> tuple[KeyChange, ...]:
        """The first keys of each kind, in the order of their durable keys."""
        kinds = {
            key: what for what, keys in self.found.keys.items() for key in keys.take(_smallest(keys, limit)).to_pylist()
        }
        wanted = pa.array(list(kinds), pa.string())
        rows = self.found.rows.filter(pc.is_in(self.found.rows[names.KEY], wanted))
        late = set(self.found.late.filter(pc.is_in(self.found.late, wanted)).to_pylist())
        by_key: dict[str, list[_Pair]] = {key: [] for key in kinds}
        for key, pair in self._pairs(rows):
            by_key[key].append(pair)
        return tuple(
            self._change(key, what, key in late, sorted(by_key[key], key=_when)) for key, what in kinds.items()
        )

    def _pairs(self, rows: pa.Table) -> Iterable[tuple[str, _Pair]]:
        before, after = self._values(self.old, rows["old"]), self._values(self.new, rows["new"])
        for key, what, old, new in zip(*(rows[c].to_pylist() for c in rows.column_names), strict=True):
            yield key, _Pair(what, before.get(old), after.get(new))

    def _change(self, key: str, what: str, is_late: bool, pairs: Sequence[_Pair]) -> KeyChange:
        some = next(side for pair in pairs for side in (pair.new, pair.old) if side is not None)
        natural = {name: some[name] for name in self.columns.spec.key}
        rows = tuple(
            RowChange(pair.what, self._shown(pair.old), self._shown(pair.new), self._changed(pair.old, pair.new))
            for pair in pairs
        )
        was, now = (self._current(sides) for sides in ([p.old for p in pairs], [p.new for p in pairs]))
        old, new = self._shown(was) or {}, self._shown(now) or {}
        values = tuple(ValueChange(name, old[name], new[name]) for name in self._changed(was, now))
        return KeyChange(key, self._shown(natural) or {}, what, is_late, values, rows)

    def _current(self, sides: Iterable[Values | None]) -> Values | None:
        is_fact = self.columns.spec.kind == "fact"
        return next((side for side in sides if side is not None and (is_fact or side[names.IS_CURRENT])), None)

    def _values(self, side: FileRows, numbers: pa.ChunkedArray) -> dict[int, Values]:
        """Whole rows by their number."""
        there = np.asarray(numbers)
        there = there[there >= 0]
        shown = [name for name in side.columns if not name.startswith("_")]
        return dict(zip(there.tolist(), side.read(shown, there).to_pylist(), strict=True))

    def _changed(self, was: Values | None, now: Values | None) -> tuple[str, ...]:
        if was is None or now is None:
            return ()
        types = {name: self.columns.new[name].type for name in self.columns.common}
        return tuple(
            name
            for name, kind in types.items()
            if differs(pa.chunked_array([[was[name]]], kind), pa.chunked_array([[now[name]]], kind))[0]
        )

    def _shown(self, values: Values | None) -> Values | None:
        return values if values is None or self.show_classified else masked(self.columns.spec, values)


def _smallest(keys: Any, limit: int) -> pa.Array:
    """The numbers of the smallest values, in their order."""
    return pc.sort_indices(keys)[:limit]


def _when(pair: _Pair) -> Any:
    """Versions in the order of their beginning; what is gone before what came."""
    values = pair.old or pair.new or {}
    return str(values.get(names.EFFECTIVE_FROM, "")), pair.old is None
