"""Iceberg's own files, rewritten: only paths and sizes change, whatever the format version. No server."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.backup.avro_edit import read_records, write_records
from lakehouse.backup.iceberg import (
    references,
    rewrite_deletes,
    rewrite_manifest,
    rewrite_metadata,
)
from lakehouse.backup.places import Places
from lakehouse.core.errors import IntegrityError

PLACES = Places("warehouse", "landing", "vault")
DATA = "s3://warehouse/warehouse/t/data/a b,é.parquet"
VECTOR = "s3://warehouse/warehouse/t/data/v.puffin"
GONE = "s3://warehouse/warehouse/t/data/gone.parquet"
MOVED = "s3://vault/objects/warehouse/warehouse/t/data/a b,é.parquet"


def moved(uri: str) -> tuple[str, int | None]:
    return ("s3://vault/query/v.puffin", 77) if uri == VECTOR else (PLACES.moved(uri), None)


def manifest(folder: Path, version: Any, codec: str, entries: list[dict[str, Any]]) -> bytes:
    """A manifest of any format version, with a partition of two columns."""
    from pyiceberg.avro.file import AvroOutputFile
    from pyiceberg.io.pyarrow import PyArrowFileIO
    from pyiceberg.manifest import (
        MANIFEST_ENTRY_SCHEMAS,
        DataFile,
        data_file_with_partition,
        manifest_entry_schema_with_data_file,
    )
    from pyiceberg.typedef import Record
    from pyiceberg.types import DateType, DecimalType, NestedField, StructType

    partition = StructType(
        NestedField(1000, "day", DateType(), required=False),
        NestedField(1001, "amount", DecimalType(9, 2), required=False),
    )
    data_file = data_file_with_partition(partition, version)
    schema = manifest_entry_schema_with_data_file(version, data_file)
    assert len(schema.fields) == len(MANIFEST_ENTRY_SCHEMAS[version].fields)
    path = str(folder / f"{version}-{codec}.avro")
    output = PyArrowFileIO().new_output(path)
    meta = {"format-version": str(version), "write.avro.compression-codec": codec, "avro.codec": codec}
    with AvroOutputFile[Any](output, schema, "manifest_entry", metadata=meta) as file:
        for entry in entries:
            values = {**entry, "partition": Record(None, None)}
            status = values.pop("status")
            record = DataFile(*[values.get(field.name) for field in data_file.fields])
            fields = {"status": status, "snapshot_id": 5, "data_file": record}
            file.write_block([Record(*[fields.get(field.name) for field in schema.fields])])
    return Path(path).read_bytes()


ENTRY = {
    "status": 1, "content": 0, "file_path": DATA, "file_format": "parquet", "record_count": 3,
    "file_size_in_bytes": 900, "column_sizes": {1: 5, 2: -7}, "lower_bounds": {1: b"\x00"}, "split_offsets": [4, 400],
    "first_row_id": 12345678901,
}  # fmt: skip
VECTOR_ENTRY = {
    **ENTRY, "content": 1, "file_path": VECTOR, "file_format": "puffin", "referenced_data_file": DATA,
    "content_offset": 4, "content_size_in_bytes": 40,
    "lower_bounds": {2147483546: DATA.encode(), 2147483545: b"\x01" * 8},
    "upper_bounds": {2147483546: b"s3://else/where", 2147483545: b"\x01" * 8},
}  # fmt: skip


@pytest.mark.parametrize("codec", ["null", "deflate", "zstandard"])
@pytest.mark.parametrize("version", [2, 3])
def test_a_manifest_keeps_everything_but_paths(version: int, codec: str, tmp_path: Path) -> None:
    data = manifest(tmp_path, version, codec, [ENTRY, {**ENTRY, "status": 2, "file_path": GONE}])
    assert [(each.uri, each.kind, each.size_bytes) for each in references("manifest", data)] == [(DATA, "data", 900)]
    rewritten = rewrite_manifest(data, PLACES, moved)
    before, after = (read_records(each, {"data_file": {"file_path": True}}) for each in (data, rewritten))
    assert [each["data_file"].pop("file_path") for each in after.records] == [MOVED, PLACES.moved(GONE)]
    assert [each["data_file"].pop("file_path") for each in before.records] == [DATA, GONE]
    assert before.records == after.records and before.meta == after.meta
    assert rewrite_manifest(data, PLACES, moved) == rewritten


def test_a_manifest_of_vectors_has_their_new_sizes_and_no_bounds_of_elsewhere(tmp_path: Path) -> None:
    data = manifest(tmp_path, 3, "deflate", [VECTOR_ENTRY])
    assert [each.kind for each in references("manifest", data)] == ["deletion_vector"]
    wanted = {name: True for name in ("file_path", "referenced_data_file", "file_size_in_bytes")}
    wanted |= {"lower_bounds": True, "upper_bounds": True, "content_offset": True}
    [record] = read_records(rewrite_manifest(data, PLACES, moved), {"data_file": wanted}).records
    found = record["data_file"]
    assert (found["file_path"], found["file_size_in_bytes"]) == ("s3://vault/query/v.puffin", 77)
    assert (found["referenced_data_file"], found["content_offset"]) == (MOVED, 4)
    assert [each["value"] for each in found["lower_bounds"] if each["key"] == 2147483546] == [MOVED.encode()]
    assert [each["key"] for each in found["upper_bounds"]] == [2147483545]


def test_pyiceberg_reads_what_was_rewritten(tmp_path: Path) -> None:
    from pyiceberg.avro.file import AvroFile
    from pyiceberg.io.pyarrow import PyArrowFileIO

    path = tmp_path / "rewritten.avro"
    path.write_bytes(rewrite_manifest(manifest(tmp_path, 3, "deflate", [ENTRY]), PLACES, moved))
    with AvroFile[Any](PyArrowFileIO().new_input(str(path))) as file:
        [record] = list(file)
    assert MOVED in repr(record) and "12345678901" in repr(record)


def test_whole_values_come_back_as_they_were(tmp_path: Path) -> None:
    data = manifest(tmp_path, 3, "null", [ENTRY, VECTOR_ENTRY])
    for wanted in ({}, {"status": True}, {"data_file": True}, {"data_file": {"split_offsets": True}}):
        file = read_records(data, wanted)
        assert read_records(write_records(file, wanted), {}).records == read_records(data, {}).records


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "text"])
def test_a_damaged_manifest_is_no_avro_file(how: str, tmp_path: Path) -> None:
    data = manifest(tmp_path, 2, "deflate", [ENTRY])
    place = len(data) - 40
    bad = {"cut": data[:-20], "flipped": data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]}
    with pytest.raises(ValueError, match="Avro|block"):
        references("manifest", bad.get(how, b"" if how == "empty" else b"hello"))


def puffin(path: str) -> bytes:
    footer = {"blobs": [{"type": "deletion-vector-v1", "offset": 4, "properties": {"referenced-data-file": path}}]}
    text = json.dumps(footer).encode()
    return b"PFA1" + b"\x00payload\xff" + b"PFA1" + text + struct.pack("<iI", len(text), 0) + b"PFA1"


def test_a_puffin_file_keeps_its_payload_where_it_is() -> None:
    data = puffin(DATA)
    rewritten = rewrite_deletes("deletion_vector", data, PLACES.moved)
    assert rewritten[:13] == data[:13] and rewritten[-4:] == b"PFA1"
    [size] = struct.unpack("<i", rewritten[-12:-8])
    footer = json.loads(rewritten[-12 - size : -12])
    assert footer["blobs"][0]["properties"] == {"referenced-data-file": MOVED}
    for bad in (data[:-5], b"PFA1", data[:-8] + b"\x01\x00\x00\x00PFA1"):
        with pytest.raises(ValueError, match="Puffin|compressed"):
            rewrite_deletes("deletion_vector", bad, PLACES.moved)


def test_position_deletes_keep_their_rows_and_field_ids() -> None:
    names = pa.schema(
        [
            pa.field("file_path", pa.string(), False, {"PARQUET:field_id": "2147483546"}),
            pa.field("pos", pa.int64(), False, {"PARQUET:field_id": "2147483545"}),
        ]
    )
    out = io.BytesIO()
    pq.write_table(pa.table([[DATA, DATA, GONE], [1, 5, 0]], schema=names), out)
    rewritten = rewrite_deletes("position_deletes", out.getvalue(), PLACES.moved)
    assert rewritten == rewrite_deletes("position_deletes", out.getvalue(), PLACES.moved)
    table = pq.read_table(io.BytesIO(rewritten))
    assert table.to_pydict() == {"file_path": [MOVED, MOVED, PLACES.moved(GONE)], "pos": [1, 5, 0]}
    assert table.schema.field("file_path").metadata[b"PARQUET:field_id"] == b"2147483546"
    with pytest.raises(ValueError, match="no Parquet"):
        rewrite_deletes("position_deletes", b"text", PLACES.moved)


def test_a_metadata_file_leads_into_the_vault_and_removes_nothing() -> None:
    document = {
        "location": "s3://warehouse/warehouse/t",
        "snapshots": [{"snapshot-id": 1, "manifest-list": "s3://warehouse/m.avro"}],
        "statistics": [{"statistics-path": "s3://warehouse/s.stats", "file-size-in-bytes": 3}],
        "metadata-log": [{"metadata-file": "s3://warehouse/0.json"}],
        "properties": {"write.data.path": "s3://warehouse/d", "owner": "é"},
        "next-row-id": 2**60,
        "unknown": {"kept": [1.5]},
    }
    data = json.dumps(document).encode()
    assert {each.kind: each.is_needed for each in references("metadata", data)} == {
        "manifest_list": True, "statistics": True, "former_metadata": False
    }  # fmt: skip
    found = json.loads(rewrite_metadata(data, PLACES, lambda uri: f"new {uri}"))
    assert found["location"] == "s3://vault/objects/warehouse/warehouse/t" and found["metadata-log"] == []
    assert found["snapshots"][0]["manifest-list"] == "new s3://warehouse/m.avro"
    assert found["statistics"][0]["statistics-path"] == "s3://vault/objects/warehouse/s.stats"
    assert found["properties"] == {
        "write.data.path": "s3://vault/objects/warehouse/d", "owner": "é", "gc.enabled": "false"
    }  # fmt: skip
    assert found["next-row-id"] == 2**60 and found["unknown"] == {"kept": [1.5]}


@pytest.mark.parametrize(
    "uri", ["s3://other/x", "s3a://warehouse/x", "/tmp/x", "s3://warehouse/../x", "s3://warehouse//x", "hdfs://a/b"]
)
def test_what_lies_elsewhere_is_refused(uri: str) -> None:
    with pytest.raises(IntegrityError, match="lead out of the lake"):
        PLACES.copy_key(uri)
