"""A file whose hash nobody knows yet is read to its end, and must be what those that name it say. '' is a good answer.

It finds what is cut, torn, or in another's place. A flipped bit it finds where the format has a checksum: pages of
Parquet with one, deletion vectors, zstd frames, and snappy blocks of Avro.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.backup.iceberg import Kind, puffin_footer
from lakehouse.core.errors import IntegrityError, LakehouseError
from lakehouse.recovery.claims import Claim, read_list, read_manifest

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_STATES = {"existing": 0, "added": 1, "deleted": 2}
_VECTOR = "deletion-vector-v1"
_BLOB_MAGIC = b"\xd1\xd39d"
_LEAST_BLOB = 20
_BOUNDED = ("NONE", "INT", "DATE", "TIMESTAMP", "STRING")
_INTEGERS = ("INT32", "INT64")
_BATCH_ROWS = 65_536

Content = bytes | Path
"""A file's bytes, or where they are."""


def structure_problem(kind: Kind, uri: str, content: Content, claims: Sequence[Claim]) -> str:
    """What is wrong with a file of this kind, by itself and by what is said of it."""
    try:
        return _LOOKS[kind](uri, content, claims)
    except LakehouseError as error:
        return f"it cannot be read: {error.what}"
    except Exception as error:  # what parsers say of damaged bytes has no common class
        return f"it cannot be read: {type(error).__name__}: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _whole(content: Content) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


def _metadata(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    document = json.loads(_whole(content))
    location, version = document["location"], document["format-version"]
    own_place = (document.get("properties") or {}).get("write.metadata.path", location)
    if not uri.startswith(f"{own_place.rstrip('/')}/"):
        return f"it is of a table (format {version}) at {location}, not of the one that it lies at"
    if any(each["metadata-file"] == uri for each in document.get("metadata-log") or []):
        return "it names itself as a former one: it was exchanged with a newer one"
    return ""


def _list(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    header = read_list(_whole(content)).meta.get("snapshot-id", b"").decode()
    wanted = {str(claim.says["snapshot-id"]) for claim in claims if "snapshot-id" in claim.says}
    return f"it is of snapshot {header}, not of {_any(wanted)}" if header and wanted and header not in wanted else ""


def _manifest(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    file = read_manifest(_whole(content))
    counts = {name: [each for each in file.records if each["status"] == n] for name, n in _STATES.items()}
    by = {each.get("snapshot_id") for each in counts["added"]} - {None}
    for said in (claim.says for claim in claims):
        for name, entries in counts.items():
            if problem := _counted(name, entries, said):
                return problem
        spec = file.meta.get("partition-spec-id", b"").decode()
        if spec and said.get("partition_spec_id") not in (None, int(spec)):
            return f"it is of partition spec {spec}, not of {said['partition_spec_id']}"
        if by and said.get("added_snapshot_id") not in (None, *by):
            return f"its files were added by snapshot {_any(map(str, by))}, not by {said['added_snapshot_id']}"
    return ""


def _counted(state: str, entries: list[dict[str, Any]], said: Mapping[str, Any]) -> str:
    files = said.get(f"{state}_files_count", said.get(f"{state}_data_files_count"))
    if isinstance(files, int) and files != len(entries):
        return f"it has {len(entries)} {state} files, its list says {files}"
    rows, found = said.get(f"{state}_rows_count"), sum(each["data_file"]["record_count"] for each in entries)
    return f"it has {found} {state} rows, its list says {rows}" if isinstance(rows, int) and rows != found else ""


def _parquet(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if any(claim.says.get("file_format", "PARQUET").upper() != "PARQUET" for claim in claims):
        return ""  # the lakehouse writes no others
    source = content if isinstance(content, Path) else pa.BufferReader(content)
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        for claim in claims:
            if problem := _against_manifest(file, claim.says):
                return problem
        rows = sum(batch.num_rows for batch in file.iter_batches(_BATCH_ROWS))
        if rows != file.metadata.num_rows:
            return f"it has {rows} rows, its footer says {file.metadata.num_rows}"
    return ""


def _against_manifest(file: pq.ParquetFile, said: Mapping[str, Any]) -> str:
    rows = said.get("record_count")
    if rows is not None and rows != file.metadata.num_rows:
        return f"it has {file.metadata.num_rows} rows, its manifest says {rows}"
    columns = _columns(file)
    for name, is_low in (("lower_bounds", True), ("upper_bounds", False)):
        for bound in said.get(name) or []:
            column = columns.get(bound["key"])
            if column is not None and not _fits(file, column, bound["value"], is_low=is_low):
                return f"its column {file.metadata.schema.column(column).path} has other bounds than its manifest says"
    return ""


def _columns(file: pq.ParquetFile) -> dict[int, int]:
    """The columns whose bounds can be compared, by field id: plain ones at the top."""
    schema = file.metadata.schema
    places = {schema.column(n).path: n for n in range(len(schema)) if schema.column(n).logical_type.type in _BOUNDED}
    found = {}
    for field in file.schema_arrow:
        text = (field.metadata or {}).get(b"PARQUET:field_id")
        if text and field.name in places:
            found[int(text)] = places[field.name]
    return found


def _fits(file: pq.ParquetFile, column: int, bound: bytes, *, is_low: bool) -> bool:
    """Whether a column's own statistics agree with a bound; True where there is nothing to compare."""
    groups = [file.metadata.row_group(n).column(column) for n in range(file.metadata.num_row_groups)]
    known = [each.statistics for each in groups if each.statistics is not None and each.statistics.has_min_max]
    if not known or len(known) != len(groups):
        return True
    raw = [each.min_raw if is_low else each.max_raw for each in known]
    if groups[0].physical_type in _INTEGERS:
        found = min(raw) if is_low else max(raw)
        return bool(int.from_bytes(bound, "little", signed=True) == found)
    if groups[0].physical_type != "BYTE_ARRAY":
        return True
    texts = [each if isinstance(each, bytes) else str(each).encode() for each in raw]
    # Bounds of texts may be cut short: the lower one is a beginning, the upper one is then rounded up.
    return min(texts).startswith(bound) if is_low else max(texts) <= bound or max(texts).startswith(bound)


def _vector(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    data = _whole(content)
    blobs = {(blob["offset"], blob["length"]): blob for blob in puffin_footer(data)[0]["blobs"]}
    for place, blob in blobs.items():
        if blob["type"] == _VECTOR and (problem := _blob_problem(data, *place)):
            return problem
    cardinality = _cardinalities(data)
    for said in (claim.says for claim in claims):
        place = (said.get("content_offset"), said.get("content_size_in_bytes"))
        if None in place:
            continue
        blob = blobs.get(place, {})
        # Both numbers are those of whatever names the vector, which the format writes as -1.
        if [blob.get(name) for name in ("type", "snapshot-id", "sequence-number")] != [_VECTOR, -1, -1]:
            return "it has no vector where its manifest says"
        about, counted = blob["properties"]["referenced-data-file"], blob["properties"]["cardinality"]
        if said.get("referenced_data_file") not in (None, about):
            return f"its vector is about {about}, not about {said['referenced_data_file']}"
        if int(counted) != cardinality[about]:
            return f"its vector deletes {cardinality[about]} rows, its own footer says {counted}"
        if said.get("record_count") not in (None, cardinality[about]):
            return f"its vector deletes {cardinality[about]} rows, its manifest says {said['record_count']}"
    return ""


def _blob_problem(data: bytes, offset: int, length: int) -> str:
    """A vector's blob: its length, the magic number, the vector, and a CRC-32 of the last two."""
    blob = data[offset : offset + length]
    if len(blob) < _LEAST_BLOB or struct.unpack(">I", blob[:4])[0] != length - 8 or blob[4:8] != _BLOB_MAGIC:
        return "a vector in it is torn"
    is_same = zlib.crc32(blob[4:-4]) == struct.unpack(">I", blob[-4:])[0]
    return "" if is_same else "the checksum of a vector in it is wrong"


def _cardinalities(data: bytes) -> dict[str, int]:
    from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
    from pyiceberg.table.puffin import PuffinFile

    found = deletion_vectors_from_puffin_file(PuffinFile(data))
    return {each.referenced_data_file: len(each.to_vector()) for each in found}


def _statistics(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    data = _whole(content)
    if data[:4] == b"PAR1":
        return _parquet(uri, data, ())
    footer, start = puffin_footer(data)
    for blob in footer["blobs"]:
        if blob["offset"] + blob["length"] > start:
            return "a blob in it ends where it cannot"
        _decompressed(data[blob["offset"] : blob["offset"] + blob["length"]], blob.get("compression-codec"))
    names = [_named(blob) for blob in footer["blobs"]]
    for said in (claim.says for claim in claims if "blob-metadata" in claim.says):
        if [_named(blob) for blob in said["blob-metadata"]] != names:
            return "it has other statistics than its metadata says"
    return ""


def _named(blob: Mapping[str, Any]) -> tuple[Any, ...]:
    return blob["type"], blob["snapshot-id"], blob["sequence-number"], tuple(blob["fields"])


def _decompressed(blob: bytes, codec: str | None) -> bytes:
    if codec != "zstd":
        return blob
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(blob)


def _log(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    """An entry of a journal: it must be the one of its number."""
    for said in (claim.says for claim in claims):
        said["journal"].decode(said["number"], _whole(content))
    return ""


def _segment(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    """A copy of entries, which is read in their place. Until they are whole themselves, nobody can judge it."""
    for said in (claim.says for claim in claims):
        try:
            entries = said["journal"].single(said["number"])
        except IntegrityError:
            continue
        if said["journal"].decode_segment(said["number"], _whole(content)) != entries:
            return "it says something else than the entries that it is a copy of"
    return ""


def _bytes(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    """Landed bytes are what they are: their log says their hash."""
    return ""


def _view(uri: str, content: Content, claims: Sequence[Claim]) -> str:
    document = json.loads(_whole(content))
    return "" if "view-uuid" in document else "it is no metadata of a view"


def _any(names: Any) -> str:
    return " or ".join(sorted(names))


Look = Callable[[str, Content, Sequence[Claim]], str]
_LOOKS: dict[Kind, Look] = {
    "metadata": _metadata,
    "former_metadata": _metadata,
    "view": _view,
    "manifest_list": _list,
    "manifest": _manifest,
    "data": _parquet,
    "position_deletes": _parquet,
    "equality_deletes": _parquet,
    "deletion_vector": _vector,
    "statistics": _statistics,
    "log": _log,
    "segment": _segment,
    "landed": _bytes,
}
