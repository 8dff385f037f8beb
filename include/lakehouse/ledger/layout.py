"""How the rows of a snapshot lie in files: sizes, partitions, deleted rows, manifests. Read from metadata, no JVM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakehouse.ledger.watermark import reaching

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

_FORMAT = 3
_ENTRY = ("content", "file_path", "partition", "record_count", "file_size_in_bytes", "referenced_data_file")
_DELETED = 2
TARGET_PROPERTY = "write.target-file-size-bytes"
_TARGET_BYTES = 512 * 1024 * 1024

Partition = tuple[int, tuple[Any, ...]]
"""The number of a partition spec, and the values by it."""


@dataclass(frozen=True)
class Entry:
    """A file that a manifest names. ``covers``: the data file whose rows it deletes, where it is a deletion vector."""

    path: str
    is_live: bool
    is_delete: bool
    partition: Partition
    rows: int
    size_bytes: int
    covers: str | None = None


@dataclass(frozen=True)
class DataFile:
    """A data file of a snapshot. ``deleted``: rows of it that a deletion vector takes away."""

    path: str
    partition: Partition
    size_bytes: int
    rows: int
    deleted: int = 0

    @property
    def live_bytes(self) -> float:
        """The bytes of the rows that are not deleted."""
        return self.size_bytes * self.live_rows / self.rows if self.rows else 0.0

    @property
    def live_rows(self) -> int:
        return self.rows - self.deleted

    @property
    def deleted_share(self) -> float:
        """The share of rows that are deleted."""
        return self.deleted / self.rows if self.rows else 1.0


@dataclass(frozen=True)
class Layout:
    """The data files of a snapshot, the sizes of its manifests, and how large a file is to be."""

    files: tuple[DataFile, ...]
    manifest_bytes: tuple[int, ...]
    target_bytes: int

    @property
    def live_rows(self) -> int:
        """Rows that a reader sees."""
        return sum(file.live_rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all data files."""
        return sum(file.size_bytes for file in self.files)


@dataclass
class Manifests:
    """Reads manifests, each once: they never change."""

    io: FileIO
    _entries: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    _lists: dict[str, tuple[ManifestFile, ...]] = field(default_factory=dict)

    @property
    def read(self) -> int:
        """How many manifests were read."""
        return len(self._entries)

    def of(self, snapshot: Snapshot) -> tuple[ManifestFile, ...]:
        """The manifests of a snapshot."""
        if snapshot.manifest_list not in self._lists:
            with reaching("read a table's manifest list"):
                self._lists[snapshot.manifest_list] = tuple(snapshot.manifests(self.io))
        return self._lists[snapshot.manifest_list]

    def entries(self, manifest: ManifestFile) -> tuple[Entry, ...]:
        """The files that a manifest names, those that it says are gone among them."""
        if manifest.manifest_path not in self._entries:
            with reaching("read a table's manifests"):
                found = tuple(_read(self.io, manifest.manifest_path, manifest.partition_spec_id))
            self._entries[manifest.manifest_path] = found
        return self._entries[manifest.manifest_path]

    def layout(self, table: Table, snapshot: Snapshot | None) -> Layout:
        """How the rows of a snapshot lie in files; nothing where there is none."""
        manifests = self.of(snapshot) if snapshot else ()
        live = [e for manifest in manifests if _has_live(manifest) for e in self.entries(manifest) if e.is_live]
        deleted: dict[str, int] = {}
        for entry in live:
            if entry.is_delete and entry.covers is not None:
                deleted[entry.covers] = deleted.get(entry.covers, 0) + entry.rows
        files = tuple(
            DataFile(entry.path, entry.partition, entry.size_bytes, entry.rows, deleted.get(entry.path, 0))
            for entry in live
            if not entry.is_delete
        )
        target = int(table.properties.get(TARGET_PROPERTY, _TARGET_BYTES))
        return Layout(files, tuple(manifest.manifest_length for manifest in manifests), target)


def _has_live(manifest: ManifestFile) -> bool:
    """Whether anything of it is there: after a compaction one manifest only says what is gone."""
    return manifest.added_files_count != 0 or manifest.existing_files_count != 0


def _read(io: FileIO, path: str, spec: int) -> Iterator[Entry]:
    """PyIceberg's own reader leaves out which data file a deletion vector covers."""
    from pyiceberg.avro.file import AvroFile
    from pyiceberg.manifest import DATA_FILE_TYPE, MANIFEST_ENTRY_SCHEMAS
    from pyiceberg.typedef import Record

    schema = MANIFEST_ENTRY_SCHEMAS[_FORMAT]
    names = [each.name for each in DATA_FILE_TYPE[_FORMAT].fields]
    wanted = [names.index(name) for name in _ENTRY]
    at = [each.name for each in schema.fields]
    status, data_file = at.index("status"), at.index("data_file")
    with AvroFile[Record](io.new_input(path), schema, {-1: _record, 2: _record}) as entries:
        for entry in entries:
            content, file, partition, rows, size, covers = (entry[data_file][place] for place in wanted)
            values = tuple(partition[place] for place in range(len(partition))) if partition is not None else ()
            yield Entry(file, entry[status] != _DELETED, content != 0, (spec, values), rows, size, covers)


def _record(*values: Any) -> Any:
    from pyiceberg.typedef import Record

    return Record(*values)
