"""The pure parts of the check of the lake: structure, memory, how far logs must go, and what to do."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyroaring import BitMap
from typer.testing import CliRunner

from lakehouse.backup.iceberg import Kind
from lakehouse.backup.vault import Stored
from lakehouse.cli.fsck import _lines
from lakehouse.cli.main import app
from lakehouse.core.errors import IntegrityError
from lakehouse.ledger.watermark import STAMP_PROPERTY, Consumed, Stamp
from lakehouse.recovery.claims import Claim, claims_of
from lakehouse.recovery.known import GoodCopy
from lakehouse.recovery.logs import Ends
from lakehouse.recovery.memory import Seen, dump, load
from lakehouse.recovery.report import Hurt, LakeDamage
from lakehouse.recovery.structure import structure_problem

URI = "s3://w/t/data/a"
AT = datetime(2026, 3, 4, tzinfo=UTC)


def parquet(numbers: list[int], texts: list[str]) -> bytes:
    fields = [
        pa.field("n", pa.int64(), metadata={"PARQUET:field_id": "1"}),
        pa.field("text", pa.string(), metadata={"PARQUET:field_id": "2"}),
    ]
    out = io.BytesIO()
    table = pa.table([numbers, texts], schema=pa.schema(fields))
    pq.write_table(table, out, write_page_checksum=True, compression="none")
    return out.getvalue()


def said(**more: Any) -> list[Claim]:
    """What a manifest says of the file with 1 to 3."""
    eight = lambda n: n.to_bytes(8, "little", signed=True)  # noqa: E731
    says = {
        "record_count": 3,
        "file_format": "PARQUET",
        "lower_bounds": [{"key": 1, "value": eight(1)}, {"key": 2, "value": b"aa"}],
        "upper_bounds": [{"key": 1, "value": eight(3)}, {"key": 2, "value": b"cd"}],
    }
    return [Claim(URI, "data", says={**says, **more})]


GOOD = ([1, 2, 3], ["aaa", "bbb", "ccc"])


def test_a_data_file_is_what_its_manifest_says(tmp_path: Path) -> None:
    assert structure_problem("data", URI, parquet(*GOOD), said()) == ""
    place = tmp_path / "large"
    place.write_bytes(parquet(*GOOD))
    assert structure_problem("data", URI, place, said()) == ""


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (parquet([1, 2], ["aaa", "ccc"]), "it has 2 rows, its manifest says 3"),
        (parquet([0, 2, 3], GOOD[1]), "its column n has other bounds"),
        (parquet([1, 2, 9], GOOD[1]), "its column n has other bounds"),
        (parquet(GOOD[0], ["abc", "bbb", "ccc"]), "its column text has other bounds"),
        (parquet(GOOD[0], ["aaa", "bbb", "zzz"]), "its column text has other bounds"),
        (parquet(*GOOD)[:-9], "it cannot be read"),
        (parquet(*GOOD).replace(b"bbb", b"bcb"), "it cannot be read"),
        (b"", "it cannot be read"),
    ],
)
def test_another_data_file_is_noticed(body: bytes, problem: str) -> None:
    assert structure_problem("data", URI, body, said()).startswith(problem)


def test_bounds_that_are_rounded_up_fit() -> None:
    """A text's upper bound may be cut short, and its last letter counted up."""
    long = "c" * 40
    claims = said(upper_bounds=[{"key": 2, "value": b"c" * 15 + b"d"}])
    assert structure_problem("data", URI, parquet(GOOD[0], ["aaa", "bbb", long]), claims) == ""


def vector(positions: list[int], about: str = "s3://w/t/data/b") -> bytes:
    """A Puffin file with one deletion vector."""
    bitmap = struct.pack("<qi", 1, 0) + BitMap(positions).serialize()
    inner = b"\xd1\xd39d" + bitmap
    blob = struct.pack(">I", len(inner)) + inner + struct.pack(">I", zlib.crc32(inner))
    footer = {
        "blobs": [
            {
                "type": "deletion-vector-v1",
                "fields": [2147483645],
                "snapshot-id": -1,
                "sequence-number": -1,
                "offset": 4,
                "length": len(blob),
                "properties": {"referenced-data-file": about, "cardinality": str(len(positions))},
            }
        ]
    }
    text = json.dumps(footer).encode()
    return b"PFA1" + blob + b"PFA1" + text + struct.pack("<iI", len(text), 0) + b"PFA1"


def of_vector(body: bytes, count: int = 3, about: str = "s3://w/t/data/b") -> list[Claim]:
    length = body.rindex(b"PFA1", 0, -4) - 4
    says = {"content_offset": 4, "content_size_in_bytes": length, "record_count": count, "referenced_data_file": about}
    return [Claim(URI, "deletion_vector", says=says)]


def test_a_deletion_vector_has_a_checksum_and_a_cardinality() -> None:
    body = vector([1, 5, 9])
    assert structure_problem("deletion_vector", URI, body, of_vector(body)) == ""
    assert "deletes 3 rows" in structure_problem("deletion_vector", URI, body, of_vector(body, 4))
    assert "is about" in structure_problem("deletion_vector", URI, body, of_vector(body, 3, "s3://w/t/data/c"))
    assert "no vector where" in structure_problem(
        "deletion_vector",
        URI,
        body,
        [Claim(URI, "deletion_vector", says={"content_offset": 9, "content_size_in_bytes": 1})],
    )
    for place in range(4, body.rindex(b"PFA1", 0, -4)):
        flipped = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        assert structure_problem("deletion_vector", URI, flipped, of_vector(body)), place


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ('"deletion-vector-v1"', '"deletion-vector-v0"', "no vector where its manifest says"),
        ('"snapshot-id": -1', '"snapshot-id": -3', "no vector where its manifest says"),
        ('"sequence-number": -1', '"sequence-number": -9', "no vector where its manifest says"),
        ('"cardinality": "3"', '"cardinality": "7"', "its own footer says 7"),
    ],
)
def test_the_footer_of_a_vector_says_what_the_format_asks_for(right: str, wrong: str, problem: str) -> None:
    body = vector([1, 5, 9])
    assert right.encode() in body
    assert problem in structure_problem(
        "deletion_vector", URI, body.replace(right.encode(), wrong.encode()), of_vector(body)
    )


def test_a_metadata_file_is_that_of_its_place() -> None:
    uri = "s3://w/t/metadata/2.metadata.json"
    document = {"location": "s3://w/t", "format-version": 2, "metadata-log": [], "snapshots": []}
    look = lambda changed: structure_problem("metadata", uri, json.dumps({**document, **changed}).encode(), [])  # noqa: E731
    assert look({}) == ""
    assert "of a table" in look({"location": "s3://w/other"})
    assert "former" in look({"metadata-log": [{"metadata-file": uri}]})
    assert look({"location": "s3://x", "properties": {"write.metadata.path": "s3://w/t/metadata"}}) == ""
    assert structure_problem("metadata", uri, b"[]", []).startswith("it cannot be read")


@pytest.mark.parametrize("kind", ["metadata", "manifest_list", "manifest", "log"])
@pytest.mark.parametrize("body", [b"", b"[]", b"\x00\x01", b"Obj\x01", b'"text"'])
def test_a_document_that_is_none_is_told(kind: Kind, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        claims_of(kind, "s3://l/log/a.b/000000000001.json", body)


def test_what_a_check_remembers_comes_back() -> None:
    files = [Seen("s3://w/é", 3, "ab", '"tag"', AT.isoformat()), Seen("s3://w/b", 0, "cd", "", AT.isoformat())]
    body = dump(files, AT)
    key = f"fsck/x-{hashlib.sha256(body).hexdigest()[:16]}.jsonl.gz"
    assert list(load(key, body)) == files
    with pytest.raises(IntegrityError, match="not the one that was written"):
        load(key, body[:-1])


def test_stamps_say_how_far_logs_go() -> None:
    ends = Ends()
    ends.take({STAMP_PROPERTY: Stamp("x", inputs={"shop.orders": Consumed(7, 2)}).to_json()})
    ends.take({STAMP_PROPERTY: Stamp("y", inputs={"shop.orders": Consumed(5, 3)}).to_json()})
    ends.take({STAMP_PROPERTY: "no stamp"})
    ends.take_key("log/shop.sales/000000000004.json")
    ends.take_key("segments/log/shop.sales/x")
    assert ends.last == {("log", "shop.orders"): 7, ("decisions", "shop.orders"): 3, ("log", "shop.sales"): 4}


def test_damage_says_what_it_hurts_and_how_to_repair_it() -> None:
    copy = GoodCopy("backup set x", Stored("objects/warehouse/a", 3, "ab"), is_backup=True)
    hurts = (Hurt("silver.a", 1, AT.isoformat(), is_current=True), Hurt("silver.b", 2))
    damage = LakeDamage(URI, "data", "it is missing", hurts=hurts, copy=copy)
    assert damage.repair == "lakehouse repair silver.a silver.b"
    text = "\n".join(_lines(damage))
    assert "snapshot 1 of 2026-03-04 00:00:00, the current one" in text and "`lakehouse repair silver.a" in text
    landed = replace(damage, kind="landed", hurts=(Hurt("shop.orders"),))
    assert landed.repair == "lakehouse repair"
    lost = replace(damage, copy=None, todo="this can be done", hidden="below")
    assert lost.repair == "" and "this can be done" in "\n".join(_lines(lost))


@pytest.mark.parametrize("arguments", [["--share", "8/7"], ["--share", "x"], ["--share", "1/7", "--all"], ["nowhere"]])
def test_what_cannot_be_meant_is_refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["fsck", *arguments])
    assert getattr(done.exception, "exit_code", None) == 2
