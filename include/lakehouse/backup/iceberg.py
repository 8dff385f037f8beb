"""Iceberg's own files, read for what they refer to, and rewritten so that every path leads to where a copy is.

Read as documents and as raw records, not through a model: of format versions 1 to 3 nothing is lost that is not a path.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lakehouse.backup.avro_edit import AvroRecords, read_records, write_records
from lakehouse.backup.places import Moves

Kind = Literal[
    "metadata",
    "former_metadata",
    "view",
    "manifest_list",
    "manifest",
    "data",
    "position_deletes",
    "equality_deletes",
    "deletion_vector",
    "statistics",
    "log",
    "segment",
    "landed",
]
Document = dict[str, Any]
Move = Callable[[str], tuple[str, int | None]]
"""Where a path leads in the copy, and the size of what is there where that is not the original's."""

DELETED = 2
_PATH_FIELD = 2147483546  # the column of position deletes that has the path, which bounds of manifests name
_LIST = {"manifest_path": True, "manifest_length": True}
_DATA_FILE = {"content": True, "file_path": True, "file_format": True, "file_size_in_bytes": True, "record_count": True}
_ENTRY = {"status": True, "data_file": {**_DATA_FILE, "referenced_data_file": True}}
_BOUNDS = ("lower_bounds", "upper_bounds")
_ENTRY_WITH_BOUNDS = {
    "status": True,
    "data_file": {**_ENTRY["data_file"], **dict.fromkeys(_BOUNDS, True)},  # type: ignore[dict-item]
}
_PUFFIN = b"PFA1"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Reference:
    """A file that another one names. ``size_bytes`` is what that one says of it, None where it says nothing."""

    uri: str
    kind: Kind
    size_bytes: int | None = None
    snapshot_id: int | None = None
    is_needed: bool = True


def read_document(data: bytes) -> Document:
    """A metadata file of a table or a view. Iceberg compresses those of views, and others where it is told to."""
    try:
        document: Document = json.loads(gzip.decompress(data) if data.startswith(_GZIP) else data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from None
    return document


def write_document(document: Document, like: bytes = b"") -> bytes:
    """The same the other way round, compressed if that one is: the name of the file says so, and stays."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return gzip.compress(text, mtime=0) if like.startswith(_GZIP) else text


def metadata_references(document: Document) -> Iterator[Reference]:
    """What a table's metadata file names: of all snapshots, whether a branch leads to them or not."""
    for snapshot in document.get("snapshots") or []:
        if "manifest-list" not in snapshot:
            raise ValueError(f"snapshot {snapshot['snapshot-id']} has no manifest list: it is of an early format")
        yield Reference(snapshot["manifest-list"], "manifest_list", snapshot_id=snapshot["snapshot-id"])
    for name in ("statistics", "partition-statistics"):
        for each in document.get(name) or []:
            yield Reference(each["statistics-path"], "statistics", each.get("file-size-in-bytes"))
    for entry in document.get("metadata-log") or []:
        yield Reference(entry["metadata-file"], "former_metadata", is_needed=False)


def list_references(data: bytes) -> Iterator[Reference]:
    """The manifests that a manifest list names."""
    for record in read_records(data, _LIST).records:
        yield Reference(record["manifest_path"], "manifest", record["manifest_length"])


def manifest_references(data: bytes) -> Iterator[Reference]:
    """The data and delete files that live in a manifest; those that it says are gone need not exist."""
    for record in read_records(data, _ENTRY).records:
        if record["status"] != DELETED:
            file = record["data_file"]
            yield Reference(file["file_path"], file_kind(file), file["file_size_in_bytes"])


def file_kind(file: Document) -> Kind:
    """What an entry of a manifest is about."""
    content = file.get("content", 0)
    if content == 0:
        return "data"
    if content == 2:
        return "equality_deletes"
    return "deletion_vector" if file["file_format"].lower() == "puffin" else "position_deletes"


def references(kind: Kind, data: bytes) -> list[Reference]:
    """What a file of this kind names. Raises :class:`ValueError` where it cannot be read."""
    if kind == "metadata":
        return list(metadata_references(read_document(data)))
    if kind == "manifest_list":
        return list(list_references(data))
    if kind == "manifest":
        return list(manifest_references(data))
    return []


def rewrite_view(data: bytes, places: Moves) -> bytes:
    """A view's metadata file for its copy: it names no file but its own place."""
    document = read_document(data)
    document["location"] = places.moved(document["location"])
    return write_document(document, data)


def rewrite_metadata(data: bytes, places: Moves, lists: Callable[[str], str], *, is_guarded: bool = True) -> bytes:
    """A table's metadata file for its copy. With ``is_guarded``, whoever registers it must not remove files."""
    document = read_document(data)
    document["location"] = places.moved(document["location"])
    for snapshot in document.get("snapshots") or []:
        snapshot["manifest-list"] = lists(snapshot["manifest-list"])
    for name in ("statistics", "partition-statistics"):
        for each in document.get(name) or []:
            each["statistics-path"] = places.moved(each["statistics-path"])
    document["metadata-log"] = []
    properties = {
        name: (places.moved_text(value) or value) if name.startswith("write.") else value
        for name, value in (document.get("properties") or {}).items()
    }
    document["properties"] = properties | ({"gc.enabled": "false"} if is_guarded else {})
    return write_document(document, data)


def rewrite_list(data: bytes, move: Move) -> bytes:
    """A manifest list whose manifests are the rewritten ones."""
    file = read_records(data, _LIST)
    for record in file.records:
        record["manifest_path"], size = move(record["manifest_path"])
        record["manifest_length"] = record["manifest_length"] if size is None else size
    return write_records(file, _LIST)


def rewrite_manifest(data: bytes, places: Moves, move: Move) -> bytes:
    """A manifest whose files are the copies."""
    file = read_records(data, _ENTRY)
    if any(record["data_file"].get("content", 0) for record in file.records):
        return _rewrite_deletes(read_records(data, _ENTRY_WITH_BOUNDS), places, move)
    for record in file.records:
        _move_file(record["data_file"], move)
    return write_records(file, _ENTRY)


def _rewrite_deletes(file: AvroRecords, places: Moves, move: Move) -> bytes:
    for record in file.records:
        data_file = record["data_file"]
        _move_file(data_file, move)
        for bounds in _BOUNDS:
            if data_file.get(bounds):
                data_file[bounds] = list(_move_bounds(data_file[bounds], places))
    return write_records(file, _ENTRY_WITH_BOUNDS)


def _move_file(file: Document, move: Move) -> None:
    file["file_path"], size = move(file["file_path"])
    file["file_size_in_bytes"] = file["file_size_in_bytes"] if size is None else size
    if file.get("referenced_data_file"):
        file["referenced_data_file"], _ = move(file["referenced_data_file"])


def _move_bounds(bounds: list[Document], places: Moves) -> Iterator[Document]:
    """Bounds may be cut short. One that begins in no place of ours says nothing about the copies, and is left out."""
    for bound in bounds:
        if bound["key"] != _PATH_FIELD:
            yield bound
        elif text := places.moved_text(bound["value"].decode(errors="replace")):
            yield {**bound, "value": text.encode()}


def rewrite_deletes(kind: Kind, data: bytes, moved: Callable[[str], str]) -> bytes:
    """Position deletes or deletion vectors whose data files are the copies."""
    return _rewrite_puffin(data, moved) if kind == "deletion_vector" else _rewrite_positions(data, moved)


def _rewrite_positions(data: bytes, moved: Callable[[str], str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if data[:4] != b"PAR1":
        raise ValueError("its position deletes are no Parquet file")
    table = pq.read_table(io.BytesIO(data))
    place = table.schema.get_field_index("file_path")
    paths = table.column(place).combine_chunks().dictionary_encode()
    names = pa.array([moved(path) for path in paths.dictionary.to_pylist()], pa.string())
    field = table.schema.field(place).with_type(pa.string())
    table = table.set_column(place, field, pa.DictionaryArray.from_arrays(paths.indices, names).cast(pa.string()))
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _rewrite_puffin(data: bytes, moved: Callable[[str], str]) -> bytes:
    """Only the footer names files; what is before it keeps its place, and so its offsets."""
    footer, start = puffin_footer(data)
    for blob in footer["blobs"]:
        properties = blob.get("properties") or {}
        if path := properties.get("referenced-data-file"):
            properties["referenced-data-file"] = moved(path)
    text = json.dumps(footer, ensure_ascii=False, separators=(",", ":")).encode()
    return data[:start] + text + struct.pack("<iI", len(text), 0) + _PUFFIN


def puffin_footer(data: bytes) -> tuple[Document, int]:
    """The footer of a Puffin file and where it starts. Raises :class:`ValueError` where it is no whole one."""
    size, flags = struct.unpack("<iI", data[-12:-4]) if len(data) >= 16 else (0, 0)
    start = len(data) - 12 - size
    if data[:4] != _PUFFIN or data[-4:] != _PUFFIN or start < 8 or data[start - 4 : start] != _PUFFIN:
        raise ValueError("it is no whole Puffin file")
    if flags:
        raise ValueError("its footer is compressed, which is not known here")
    footer: Document = json.loads(data[start:-12])
    return footer, start
