"""The reader: every record is a row or a rejection, whatever the bytes."""

from __future__ import annotations

import csv
import gzip
import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.contracts.model import CsvOptions
from lakehouse.records import blocks, csv_lines, csv_records, jsonl_records, layout, reader, rows
from lakehouse.records.reader import Layout, read_records, schema

REAL = Path(__file__).resolve().parents[3] / "shared/data/online-retail/by-day"
ABC = Layout("csv", ("a", "b", "c"))
JSON = Layout("jsonl", ("a", "b", "c"))


class Trickle(io.RawIOBase):
    """A stream that cannot seek and gives a few bytes at a time, as a network may."""

    def __init__(self, data: bytes, size: int) -> None:
        self._inner, self._size = io.BytesIO(data), size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(self._size)


def read(data: bytes, kind: Layout = ABC, compression: Any = None, **options: Any) -> list[dict[str, Any]]:
    batches = list(read_records(io.BytesIO(data), kind, compression, **options))
    assert all(batch.schema == schema(kind) for batch in batches)
    for batch in batches:
        batch.validate(full=True)
    return [row for batch in batches for row in batch.to_pylist()]


def values(found: list[dict[str, Any]], kind: Layout = ABC) -> list[tuple[str | None, ...]]:
    return [tuple(row[name] for name in kind.columns) for row in found]


def good(found: list[dict[str, Any]], kind: Layout = ABC) -> list[tuple[str | None, ...]]:
    return values([row for row in found if row["_rejected"] is None], kind)


def rejected(found: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    return [(row["_line"], row["_raw"], row["_rejected"]) for row in found if row["_rejected"] is not None]


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Records of at most 200 bytes and blocks of 60, so that every boundary is met in small files."""
    for module in (layout, blocks, csv_lines, csv_records, jsonl_records, rows):
        if hasattr(module, "MAX_RECORD_BYTES"):
            monkeypatch.setattr(module, "MAX_RECORD_BYTES", 200)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 60)
    yield 200


# --- CSV that is as it should be


def test_rows_keep_text_and_identity() -> None:
    found = read(b'a,b,c\n1,x,2.50\n,"y,""z""\n2",\n')
    assert values(found) == [("1", "x", "2.50"), (None, 'y,"z"\n2', None)]
    assert [(row["_record"], row["_line"]) for row in found] == [(1, 2), (2, 3)]
    assert all(row[own] is None for row in found for own in ("_extra", "_missing", "_raw", "_rejected"))


def test_blank_lines_are_no_records_but_count_as_lines() -> None:
    found = read(b"\n\na,b,c\n\n1,2,3\n\n\n4,5,6\n\n")
    assert [(row["a"], row["_record"], row["_line"]) for row in found] == [("1", 1, 5), ("4", 2, 8)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends(end: bytes, last: bool) -> None:
    found = read(end.join([b"a,b,c", b"1,2,3", b"4,5,6"]) + (end if last else b""))
    assert values(found) == [("1", "2", "3"), ("4", "5", "6")]
    assert [row["_line"] for row in found] == [2, 3]


def test_columns_in_another_order_missing_and_extra() -> None:
    found = read(b"c,x,a\n3,9,1\n3,,1\n")
    assert values(found) == [("1", None, "3")] * 2
    assert [row["_missing"] for row in found] == [["b"], ["b"]]
    assert [row["_extra"] for row in found] == [[("x", "9")], [("x", None)]]


def test_header_names_are_exact_and_odd_ones_lose_nothing() -> None:
    found = read(b"a,B,b,c,,n,n\n1,2,3,4,5,6,7\n")
    assert values(found) == [("1", "3", "4")]
    assert found[0]["_extra"] == [("B", "2"), ("column 5", "5"), ("n", "6"), ("n (column 7)", "7")]


def test_null_values_are_the_contracts() -> None:
    kind = Layout("csv", ("a", "b"), CsvOptions(null_values=("", "NULL")))
    assert values(read(b"a,b\nNULL,null\n,x\n", kind), kind) == [(None, "null"), (None, "x")]
    none = Layout("csv", ("a", "b"), CsvOptions(null_values=()))
    assert values(read(b"a,b\nNULL,\n", none), none) == [("NULL", "")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "latin-1"])
def test_encodings(encoding: str) -> None:
    text = "a,b,c\nä,£,ÿ\n"
    data = b"\xff\xfe" + text.encode("utf-16-le") if encoding == "utf-16-le-mark" else text.encode(encoding)
    name: Any = {"utf-8-sig": "utf-8", "utf-16-le-mark": "utf-16"}.get(encoding, encoding)
    assert values(read(data, Layout("csv", ("a", "b", "c"), CsvOptions(encoding=name)))) == [("ä", "£", "ÿ")]


def test_ten_thousand_columns() -> None:
    names = [f"c{at}" for at in range(10_000)]
    data = ",".join(names) + "\n" + ",".join(map(str, range(10_000))) + "\n"
    wide = Layout("csv", tuple(names))
    assert values(read(data.encode(), wide), wide) == [tuple(map(str, range(10_000)))]
    assert len(read(data.encode(), Layout("csv", ("c7",)))[0]["_extra"]) == 9_999


def test_batches_are_bounded() -> None:
    data = b"a,b,c\n" + b"1,2,3\n" * 1_000 + b"bad\n" + b"1,2,3\n" * 500
    batches = list(read_records(io.BytesIO(data), ABC, rows_per_batch=100))
    assert max(batch.num_rows for batch in batches) == 100
    records = [record for batch in batches for record in batch.column("_record").to_pylist()]
    assert records == list(range(1, 1_502))


# --- CSV that is not


@pytest.mark.parametrize(
    ("data", "kept", "refused"),
    [
        (b"1,2,3\n4,5\n6,7,8\n", 2, [(3, "4,5", "line 3: 2 fields where the header has 3")]),
        (b"1,2,3,4\r\n6,7,8\r\n", 1, [(2, "1,2,3,4", "line 2: 4 fields where the header has 3")]),
        (b'1,"2"x,3\n4,5,6\n', 1, [(2, '1,"2"x,3', "line 2: text follows a closing quote")]),
        (b'1,2,3\n4,"5,6\n7,8,9\n0,0,0', 3, [(3, '4,"5,6', "line 3: a quote is opened and never closed")]),
        (b'4,"5,6\n7,8,9\n1,"x",3\n', 2, [(2, '4,"5,6', "line 2: text follows a closing quote")]),
        (b"1,\xff,3\n4,5,6\n", 1, [(2, "1,\\xff,3", "line 2: byte 0xff at position 3 is not UTF-8")]),
        (b'1,"\n\xc3",3\n4,5,6\n', 1, [(2, '1,"\n\\xc3",3', "line 2: byte 0xc3 at position 5 is not UTF-8")]),
        (b"1,\0,3\n4,5,6\n", 1, [(2, "1,\0,3", "line 2: it contains NUL bytes")]),
    ],
)
def test_bad_records_are_kept_apart(data: bytes, kept: int, refused: list[tuple[int, str, str]]) -> None:
    found = read(b"a,b,c\n" + data)
    assert rejected(found) == refused
    assert len(good(found)) == kept
    assert [row["_record"] for row in found] == list(range(1, len(found) + 1))
    assert all(row[name] is None for row in found if row["_rejected"] for name in ("a", "b", "c", "_extra", "_missing"))


@pytest.mark.parametrize(
    ("data", "raw", "reason"),
    [
        (b"a,a,b\n1,2,3\n", "a,a,b", "the header names a more than once"),
        (b"1,2,3\n4,5,6\n", "1,2,3", "the header has none of the contract's columns"),
        (b'a,"b,c\n1,2,3\n', 'a,"b,c', "a quote is opened and never closed"),
        (b"a,\xe9,c\n1,2,3\n", "a,\\xe9,c", "byte 0xe9 at position 3 is not UTF-8"),
        ("a,b,c\n".encode("utf-16"), "\\xff\\xfea\0,\0b\0,\0c\0", "it looks like UTF-16"),
    ],
)
def test_a_header_that_cannot_be_used_refuses_the_file(data: bytes, raw: str, reason: str) -> None:
    found = read(data)
    assert len(found) == 1 and found[0]["_raw"] == raw
    assert reason in found[0]["_rejected"] and "the whole file is refused" in found[0]["_rejected"]
    assert (found[0]["_record"], found[0]["_line"]) == (1, 1)


def test_files_without_records() -> None:
    assert read(b"") == read(b"a,b,c\n") == read(b"\n\n") == read(b"", JSON) == []
    assert read(b"", Layout("parquet", ("a",))) == []


def test_long_records_are_cut(small_limits: int) -> None:
    long = b"9" * 1_000
    found = read(b"a,b,c\n1,2,3\n" + long + b"\n4,5,6\r" + long + b"\r\n" + b'7,"' + b"x\n" * 300 + b'",8\n1,1,1\n')
    assert good(found) == [("1", "2", "3"), ("4", "5", "6"), ("1", "1", "1")]
    refused = rejected(found)
    assert [line for line, _, _ in refused[:3]] == [3, 5, 6]
    assert refused[0][1] == "9" * small_limits and "only the first 200 bytes are kept" in refused[0][2]
    assert refused[2][1] == '7,"x' and "longer than 200 bytes" in refused[2][2]
    assert found[-1]["_line"] == 307


@pytest.mark.parametrize(("compression", "bound"), [("gzip", 16_000_000), ("zstd", 80_000_000)])
def test_a_long_line_is_not_held_in_memory(compression: Any, bound: int) -> None:
    """200 MB in one line, in a small compressed file."""
    pack = zstandard.compress if compression == "zstd" else gzip.compress
    data = pack(b"a,b,c\n1,2,3\n" + b"x" * 200_000_000 + b"\n4,5,6\n", 1)
    tracemalloc.start()
    found = read(data, ABC, compression)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert good(found) == [("1", "2", "3"), ("4", "5", "6")] and found[1]["_line"] == 3
    assert peak < bound


def test_quotes_cannot_make_reading_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line leaves a quote open, so each could be read together with all that follow it."""
    counted = 0
    original = csv_lines.Lines.__next__

    def count(self: csv_lines.Lines) -> str:
        nonlocal counted
        counted += 1
        return original(self)

    monkeypatch.setattr(csv_lines.Lines, "__next__", count)
    lines = 60_000
    found = read(b"a,b,c\n" + b'xxxxxxxxxxxxxxxxxxxx","y\n' * lines)
    assert len(found) == lines and all(row["_rejected"] for row in found)
    assert counted < 20 * lines


# --- compression


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed(compression: str) -> None:
    text = b"a,b,c\n" + b"".join(b"%d,x,y\n" % at for at in range(50_000))
    pack = gzip.compress if compression == "gzip" else zstandard.compress
    two_parts = pack(text[:100_001]) + pack(text[100_001:])
    assert len(good(read(two_parts, ABC, compression))) == 50_000
    found = [r for b in read_records(Trickle(two_parts, 777), ABC, compression) for r in b.to_pylist()]  # type: ignore
    assert found == read(text)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("harm", ["cut", "flip", "garbage", "other", "empty"])
def test_damaged_compression_gives_what_could_be_read(compression: str, harm: str) -> None:
    text = b"a,b,c\n" + b"".join(b"%d,%d,%d\n" % (at, at * 7919 % 10_007, at * 31) for at in range(50_000))
    packed = (
        gzip.compress(text) if compression == "gzip" else zstandard.ZstdCompressor(write_checksum=True).compress(text)
    )
    middle = len(packed) // 2
    damaged = {
        "cut": packed[:-middle],
        "flip": packed[:middle] + bytes([packed[middle] ^ 0xFF]) + packed[middle + 1 :],
        "garbage": packed + b"garbage",
        "other": b"PK\x03\x04 something else",
        "empty": b"",
    }[harm]
    found = read(damaged, ABC, compression)
    assert found[-1]["_rejected"] is not None and f"the {compression} data" in found[-1]["_rejected"]
    assert [row["_record"] for row in found] == list(range(1, len(found) + 1))
    if harm == "garbage":
        assert good(found) == good(read(text))
    if harm == "cut":
        assert 1_000 < len(good(found)) < 50_000 and good(found) == good(read(text))[: len(good(found))]


def test_a_truncated_last_byte_of_gzip_loses_no_row() -> None:
    text = b"a,b,c\n1,2,3\n4,5,6\n"
    found = read(gzip.compress(text)[:-1], ABC, "gzip")
    assert good(found) == [("1", "2", "3"), ("4", "5", "6")] and len(rejected(found)) == 1


def test_a_flipped_checksum_of_gzip_is_seen() -> None:
    packed = bytearray(gzip.compress(b"a,b,c\n1,2,3\n"))
    packed[-6] ^= 1
    found = read(bytes(packed), ABC, "gzip")
    assert good(found) == [("1", "2", "3")] and "incorrect data check" in found[-1]["_rejected"]


def test_odd_utf16_is_damage() -> None:
    kind = Layout("csv", ("a", "b"), CsvOptions(encoding="utf-16"))
    found = read("a,b\n1,2\n".encode("utf-16") + b"x", kind)
    assert good(found, kind) == [("1", "2")] and "middle of a character" in found[-1]["_rejected"]


class Failing(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        raise ConnectionResetError("gone")


@pytest.mark.parametrize("kind", [ABC, JSON, Layout("parquet", ("a",))])
def test_the_streams_own_failure_is_raised(kind: Layout) -> None:
    with pytest.raises(ConnectionResetError):
        list(read_records(Failing(), kind))  # type: ignore[arg-type]


# --- JSON lines


def test_json_values_become_text() -> None:
    found = read(
        b'{"a": "t\\u00e9", "b": 1.10, "c": null}\n\n'
        b'{"a": true, "b": 12345678901234567890.123456789012345678901, "c": {"x": [1.0, "1", false, null]}}\n'
        b'{"c": -0, "d": "n\\u0041w", "e": 1E5}\n',
        JSON,
    )
    assert values(found, JSON) == [
        ("té", "1.10", None),
        ("true", "12345678901234567890.123456789012345678901", '{"x":[1.0,"1",false,null]}'),
        (None, None, "-0"),
    ]
    assert [row["_missing"] for row in found] == [None, None, ["a", "b"]]
    assert [row["_extra"] for row in found] == [None, None, [("d", "nAw"), ("e", "1E5")]]
    assert [(row["_record"], row["_line"]) for row in found] == [(1, 1), (2, 3), (3, 4)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "it is not JSON"),
        (b"[1]", "not an object"),
        (b"3", "not an object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands there more than once"),
        (b'{"a": {"x": 1, "x": 2}}', "the key 'x' stands there more than once"),
        (b'{"a": "\xff"}', "byte 0xff at position 8 is not UTF-8"),
        (b'{"a": "\0"}', "NUL"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper than 64 levels"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "nested deeper than 64 levels"),
        (b'{"a": 1} {"a": 2}', "it is not JSON"),
    ],
)
def test_bad_json_lines(line: bytes, reason: str) -> None:
    found = read(b'{"a":1}\r\n' + line + b'\n{"a":2}', JSON)
    assert [row["a"] for row in found] == ["1", None, "2"]
    assert reason in found[1]["_rejected"] and found[1]["_rejected"].startswith("line 2: ")
    assert found[1]["_raw"] == line.decode("utf-8", "backslashreplace")


def test_long_json_lines(small_limits: int) -> None:
    found = read(b'{"a":1}\n{"a":"' + b"x" * 500 + b'"}\n{"a":2}\n', JSON)
    assert [row["a"] for row in found] == ["1", None, "2"]
    assert len(found[1]["_raw"]) == small_limits and found[2]["_line"] == 3


def test_damaged_json_keeps_the_torn_line() -> None:
    text = b'{"a":1}\n{"a":2}\n{"a":3333}\n'
    torn = gzip.compress(text[:20]) + gzip.compress(text[20:])[:12]
    found = read(torn, JSON, "gzip")
    assert [row["a"] for row in found] == ["1", "2", None]
    assert found[2]["_raw"].startswith('{"a"') and "end too early" in found[2]["_rejected"]


# --- Parquet


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_parquet_becomes_text() -> None:
    from datetime import UTC, date, datetime
    from decimal import Decimal

    table = pa.table(
        {
            "s": ["x", None],
            "i": [1, None],
            "d": pa.array([Decimal("0.00000001"), None], pa.decimal128(20, 8)),
            "t": pa.array([datetime(2024, 3, 31, 1, 30, tzinfo=UTC), None], pa.timestamp("us", "Europe/London")),
            "n": pa.array([datetime(2024, 3, 31, 1, 30), None], pa.timestamp("ms")),
            "y": pa.array([date(2024, 2, 29), None]),
            "b": [True, None],
            "l": [[1, None], None],
            "m": [{"k": "ü"}, None],
            "e": ["extra", None],
            "g": pa.array(["cat", None]).dictionary_encode(),
        }
    )
    kind = Layout("parquet", ("s", "i", "d", "t", "n", "y", "b", "l", "m", "g", "absent"))
    found = read(parquet(table), kind)
    assert values(found, kind)[0] == (
        *("x", "1", "0.00000001", "2024-03-31T01:30:00.000000Z", "2024-03-31T01:30:00.000", "2024-02-29", "true"),
        *("[1,null]", '{"k":"ü"}', "cat", None),
    )
    assert set(values(found, kind)[1]) == {None}
    assert found[0]["_extra"] == [("e", "extra")] and found[0]["_missing"] == ["absent"]
    assert [(row["_record"], row["_line"]) for row in found] == [(1, None), (2, None)]
    data = gzip.compress(parquet(table))
    assert [r for b in read_records(Trickle(data, 100), kind, "gzip") for r in b.to_pylist()] == found  # type: ignore


def test_parquet_without_seek_is_spooled() -> None:
    class NoSeek(Trickle):
        def seekable(self) -> bool:
            return False

    kind = Layout("parquet", ("a",))
    stream: Any = NoSeek(parquet(pa.table({"a": ["1"]})), 50)
    assert [r["a"] for b in read_records(stream, kind) for r in b.to_pylist()] == ["1"]


def test_parquet_with_bytes_that_are_no_text() -> None:
    kind = Layout("parquet", ("a", "b"))
    found = read(parquet(pa.table({"a": [b"ok", b"\xff", b"ok"], "b": ["1", "2", "3"]})), kind)
    assert values(found, kind) == [("ok", "1"), (None, None), ("ok", "3")]
    assert found[1]["_raw"] == '{"a": "\\\\xff", "b": "2"}' and "record 2: the value of a" in found[1]["_rejected"]


@pytest.mark.parametrize("harm", ["text", "cut", "flip", "none of the columns", "twice"])
def test_bad_parquet_is_one_rejected_row(harm: str) -> None:
    kind = Layout("parquet", ("a", "b"))
    whole = parquet(pa.table({"a": [str(at * 7919) for at in range(5_000)]}))
    data = {
        "text": b"a,b\n1,2\n",
        "cut": whole[: len(whole) // 2],
        "flip": whole[:40] + bytes(byte ^ 0xFF for byte in whole[40:60]) + whole[60:],
        "none of the columns": parquet(pa.table({"x": [1]})),
        "twice": parquet(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])),
    }[harm]
    found = read(data, kind)
    assert found[-1]["_rejected"].startswith("the file cannot be read on, it ")
    assert len(rejected(found)) == 1


# --- properties

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
FIELD = st.one_of(TEXT, st.text('",\n\r a', max_size=6))


@settings(deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=30), st.booleans(), st.integers(1, 50))
def test_what_a_csv_writer_wrote_is_read(written: list[tuple[str, str, str]], quotes_all: bool, size: int) -> None:
    sink = io.StringIO(newline="")
    # With "\n" as its line end, the writer of Python 3.11 leaves a lone CR unquoted.
    how: dict[str, Any] = {"quoting": csv.QUOTE_ALL, "lineterminator": "\n"} if quotes_all else {}
    writer = csv.writer(sink, **how)
    writer.writerow(ABC.columns)
    lines = []
    for row in written:
        lines.append(len(sink.getvalue().encode().splitlines()) + 1)
        writer.writerow(row)
    found = read(sink.getvalue().encode(), ABC, rows_per_batch=size)
    assert values(found) == [tuple(field or None for field in row) for row in written]
    assert [row["_record"] for row in found] == list(range(1, len(written) + 1))
    assert [row["_line"] for row in found] == lines


BITS = st.lists(
    st.sampled_from([b"a", b",", b'"', b"\n", b"\r", b"\r\n", b"\xff", b"\0", b"1,2,3\n", b"\xc3\xa9"]), max_size=60
)


@settings(deadline=None, max_examples=300)
@given(BITS)
def test_no_line_of_any_bytes_is_lost(bits: list[bytes]) -> None:
    """Rows and rejections, put together, hold every line that is not blank; none is there twice."""
    body = b"".join(bits)
    found = read(b"a,b,c\n" + body)
    lines = body.splitlines()
    starts = [row["_line"] - 2 for row in found]
    assert starts == sorted(set(starts)) and [row["_record"] for row in found] == list(range(1, len(found) + 1))
    covered: set[int] = set()
    for row, start, end in zip(found, starts, [*starts, len(lines)][1:], strict=True):
        if row["_rejected"] is None:
            covered |= set(range(start, end))
            continue
        raw = row["_raw"]
        taken = len(raw.encode("utf-8", "replace").splitlines())
        covered |= set(range(start, start + taken))
        shown = b"\n".join(lines[start : start + taken]).decode("utf-8", "backslashreplace")
        assert "\n".join(raw.replace("\r\n", "\n").replace("\r", "\n").split("\n")) == shown
    assert {at for at, line in enumerate(lines) if line} <= covered


@settings(deadline=None, max_examples=200)
@given(BITS, st.integers(1, 40))
def test_the_cutting_into_blocks_changes_nothing(bits: list[bytes], size: int) -> None:
    data = b"a,b,c\n" + b"".join(bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", size)
        assert read(data) == _record_by_record(data)


def _record_by_record(data: bytes) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records.CsvFile, "_clean_rows", lambda *_: None)
        return read(data)


JSON_VALUE = st.recursive(
    st.one_of(TEXT, st.none(), st.booleans(), st.integers(-(10**25), 10**25)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), JSON_VALUE), max_size=10))
def test_json_round_trip(objects: list[dict[str, Any]]) -> None:
    import json

    found = read("".join(json.dumps(each) + "\n" for each in objects).encode(), JSON)
    assert len(found) == len(objects)
    for row, each in zip(found, objects, strict=True):
        assert (row["_missing"] or []) == [name for name in JSON.columns if name not in each]
        for name, text in [*((n, row[n]) for n in each if n != "d"), *(row["_extra"] or [])]:
            value = each[name]
            assert text == value if isinstance(value, str | None) else json.loads(text) == value


@pytest.mark.real_data
def test_the_real_files() -> None:
    if not REAL.is_dir():
        pytest.skip(f"the Online Retail files are not at {REAL}")
    from lakehouse.contracts.model import Contract

    contract = _sales_contract(Contract)
    count = 0
    for path in sorted(REAL.glob("*.csv")):
        with path.open("rb") as stream:
            for batch in read_records(stream, Layout.of(contract.source)):
                assert batch.column("_rejected").null_count == batch.num_rows
                count += batch.num_rows
    assert count == 541_909


def _sales_contract(model: Any) -> Any:
    import yaml

    path = Path(reader.__file__).resolve().parents[2] / "contracts/retail/sales.yaml"
    return model.model_validate(yaml.safe_load(path.read_text()))
