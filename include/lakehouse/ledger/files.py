"""Which files make a snapshot, which differ between two, and some rows of them by position. No JVM.

Files that both snapshots have with the same deletion vector hold the same rows, and are never opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse.core.errors import IntegrityError
from lakehouse.ledger.compare import Indices
from lakehouse.ledger.watermark import reaching

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table.snapshots import Snapshot

_FORMAT = 3
_ENTRY = ("content", "file_path", "record_count", "referenced_data_file", "content_offset")
_DELETED = 2
_POSITIONS, _EQUALITY = 1, 2
_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Vector:
    """Where a deletion vector stands: a Puffin file, and the offset in it."""

    path: str
    offset: int


@dataclass(frozen=True)
class Contents:
    """The data files of a snapshot with their numbers of rows, and the deletion vectors of those that have one."""

    rows: Mapping[str, int]
    vectors: Mapping[str, Vector]


@dataclass(frozen=True)
class Piece:
    """Some rows of a data file, by their positions in it, ascending."""

    path: str
    positions: Indices


@dataclass(frozen=True)
class Delta:
    """The rows that may differ between two snapshots, and how many files they have in common."""

    old: tuple[Piece, ...]
    new: tuple[Piece, ...]
    shared: int


@dataclass(frozen=True)
class ColumnSource:
    """A column to read: by its field id, whatever its name in the file, as an Arrow type; null where it is not."""

    field_id: int
    type: Any


@dataclass
class Files:
    """A table's files, each manifest and deletion vector read once. ``opened`` are the data files that were read."""

    io: FileIO
    opened: set[str] = field(default_factory=set)
    _contents: dict[int, Contents] = field(default_factory=dict)
    _entries: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    _deleted: dict[Vector, Indices] = field(default_factory=dict)
    _found: dict[tuple[str, str], Indices] = field(default_factory=dict)

    def contents(self, snapshot: Snapshot) -> Contents:
        """The files of a snapshot, from its manifests."""
        if snapshot.snapshot_id not in self._contents:
            with reaching("read the table's manifests"):
                self._contents[snapshot.snapshot_id] = self._list(snapshot)
        return self._contents[snapshot.snapshot_id]

    def delta(self, old: Snapshot | None, new: Snapshot) -> Delta:
        """The rows that only one of two snapshots has, by position; those of rewritten files stand on both sides."""
        before = self.contents(old) if old is not None else Contents({}, {})
        after = self.contents(new)
        shared = before.rows.keys() & after.rows.keys()
        moved = [path for path in sorted(shared) if before.vectors.get(path) != after.vectors.get(path)]
        return Delta(
            tuple(self._whole(before, before.rows.keys() - shared)) + tuple(self._undeleted(before, after, moved)),
            tuple(self._whole(after, after.rows.keys() - shared)) + tuple(self._undeleted(after, before, moved)),
            len(shared) - len(moved),
        )

    def live(self, contents: Contents, path: str) -> Indices:
        """The positions of a file's rows that are not deleted."""
        every = np.arange(contents.rows[path], dtype=np.int64)
        vector = contents.vectors.get(path)
        return every if vector is None else np.delete(every, self._positions(vector, path))

    def read(self, piece: Piece, columns: Mapping[str, ColumnSource]) -> pa.Table:
        """Columns of a piece's rows. Decodes only the row groups that have some, a batch of rows at a time."""
        self.opened.add(piece.path)
        schema = pa.schema([(name, column.type) for name, column in columns.items()])
        with reaching("read a data file"), self.io.new_input(piece.path).open() as stream:
            batches = list(_batches(pq.ParquetFile(stream), piece.positions, columns))
        return pa.Table.from_batches(batches, schema)

    def of_key(self, delta: Delta, key_id: int, key: str) -> Delta:
        """Of a difference, the rows whose key (the column with this field id) is the one that is wanted."""
        old, new = (tuple(self._kept(pieces, key_id, key)) for pieces in (delta.old, delta.new))
        return Delta(old, new, delta.shared)

    def _kept(self, pieces: Iterable[Piece], key_id: int, key: str) -> Iterator[Piece]:
        for piece in pieces:
            if (piece.path, key) not in self._found:
                self._found[piece.path, key] = self._find(piece.path, key_id, key)
            kept = np.intersect1d(piece.positions, self._found[piece.path, key], assume_unique=True)
            if len(kept):
                yield Piece(piece.path, kept)

    def _find(self, path: str, field_id: int, wanted: str) -> Indices:
        """The positions of the rows whose column has this text, the deleted ones included."""
        self.opened.add(path)
        found: list[int] = []
        with reaching("read a data file"), self.io.new_input(path).open() as stream:
            file = pq.ParquetFile(stream)
            start = 0
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if _may_hold(file, group, field_id, wanted):
                    values = _column(file, group, field_id)
                    found += [start + i for i in pc.indices_nonzero(pc.equal(values, wanted)).to_pylist()]
                start += rows
        return np.array(found, dtype=np.int64)

    def _list(self, snapshot: Snapshot) -> Contents:
        rows: dict[str, int] = {}
        vectors: dict[str, Vector] = {}
        for manifest in snapshot.manifests(self.io):
            for content, path, count, referenced, offset in self._manifest(manifest):
                if content == _POSITIONS and referenced is not None and offset is not None:
                    vectors[referenced] = Vector(path, offset)
                elif content in (_POSITIONS, _EQUALITY):
                    raise IntegrityError(
                        "a delete file is no deletion vector: this table was not written by the lakehouse",
                        where=path,
                        untouched="everything; nothing was written",
                        todo="read the table with `lakehouse sql`",
                    )
                else:
                    rows[path] = count
        return Contents(rows, vectors)

    def _manifest(self, manifest: ManifestFile) -> list[tuple[Any, ...]]:
        if manifest.manifest_path not in self._entries:
            self._entries[manifest.manifest_path] = list(_read_manifest(self.io, manifest.manifest_path))
        return self._entries[manifest.manifest_path]

    def _whole(self, contents: Contents, paths: Any) -> Iterator[Piece]:
        for path in sorted(paths):
            yield Piece(path, self.live(contents, path))

    def _undeleted(self, side: Contents, other: Contents, paths: Sequence[str]) -> Iterator[Piece]:
        """The rows of common files that live on this side and are deleted on the other."""
        for path in paths:
            gone = np.setdiff1d(self._of(other, path), self._of(side, path), assume_unique=True)
            if len(gone):
                yield Piece(path, np.sort(gone))

    def _of(self, contents: Contents, path: str) -> Indices:
        vector = contents.vectors.get(path)
        return np.array([], dtype=np.int64) if vector is None else self._positions(vector, path)

    def _positions(self, vector: Vector, path: str) -> Indices:
        """The positions that a deletion vector deletes from a data file."""
        if vector not in self._deleted:
            from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
            from pyiceberg.table.puffin import PuffinFile

            with reaching("read a deletion vector"), self.io.new_input(vector.path).open() as stream:
                found = deletion_vectors_from_puffin_file(PuffinFile(stream.read()))
            mine = next(each for each in found if each.referenced_data_file == path)
            self._deleted[vector] = np.asarray(mine.to_vector()).astype(np.int64)
        return self._deleted[vector]


def _read_manifest(io: FileIO, path: str) -> Iterator[tuple[Any, ...]]:
    """Content, path, rows, referenced data file and offset of each live entry: PyIceberg leaves out the last two."""
    from pyiceberg.avro.file import AvroFile
    from pyiceberg.manifest import DATA_FILE_TYPE, MANIFEST_ENTRY_SCHEMAS
    from pyiceberg.typedef import Record

    names = [field.name for field in DATA_FILE_TYPE[_FORMAT].fields]
    wanted = [names.index(name) for name in _ENTRY]
    schema = MANIFEST_ENTRY_SCHEMAS[_FORMAT]
    status = [field.name for field in schema.fields].index("status")
    data_file = [field.name for field in schema.fields].index("data_file")
    with AvroFile[Record](io.new_input(path), schema, {-1: _record, 2: _record}) as entries:
        for entry in entries:
            if entry[status] != _DELETED:
                yield tuple(entry[data_file][position] for position in wanted)


def _record(*values: Any) -> Any:
    from pyiceberg.typedef import Record

    return Record(*values)


def _batches(file: pq.ParquetFile, positions: Indices, columns: Mapping[str, ColumnSource]) -> Iterator[pa.RecordBatch]:
    in_file = _names_by_id(file)
    present = {name: in_file[c.field_id] for name, c in columns.items() if c.field_id in in_file}
    groups, first = _groups_with(file, positions)
    for group, start in zip(groups, first, strict=True):
        at = start
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(dict.fromkeys(present.values()))):
            low, high = np.searchsorted(positions, [at, at + len(batch)])
            taken = positions[low:high] - at
            at += len(batch)
            if len(taken):
                yield _projected(batch, taken, columns, present)


def _projected(
    batch: pa.RecordBatch, taken: Indices, columns: Mapping[str, ColumnSource], present: Mapping[str, str]
) -> pa.RecordBatch:
    """The wanted rows, each column as its type; columns that were added later are null."""
    arrays = []
    for name, column in columns.items():
        if name in present:
            arrays.append(batch.column(present[name]).take(pa.array(taken)).cast(column.type))
        else:
            arrays.append(pa.nulls(len(taken), column.type))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _groups_with(file: pq.ParquetFile, positions: Indices) -> tuple[list[int], list[int]]:
    """The row groups that hold some of the positions, and the position at which each starts."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    cuts = np.searchsorted(positions, starts)
    groups = [group for group in range(len(sizes)) if cuts[group] < cuts[group + 1]]
    return groups, [int(starts[group]) for group in groups]


def _names_by_id(file: pq.ParquetFile) -> dict[int, str]:
    found = {}
    for column in file.schema_arrow:
        if column.metadata and (text := column.metadata.get(b"PARQUET:field_id")):
            found[int(text)] = column.name
    return found


def _column(file: pq.ParquetFile, group: int, field_id: int) -> pa.ChunkedArray:
    name = _names_by_id(file)[field_id]
    return file.read_row_group(group, columns=[name]).column(name)


def _may_hold(file: pq.ParquetFile, group: int, field_id: int, wanted: str) -> bool:
    """Whether a row group's bounds leave room for a text."""
    name = _names_by_id(file).get(field_id)
    if name is None:
        return False
    bounds = file.metadata.row_group(group).column(file.schema_arrow.get_field_index(name)).statistics
    if bounds is None or not bounds.has_min_max:
        return True
    return bool(bounds.min <= wanted <= bounds.max)
