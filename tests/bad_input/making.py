"""Bytes of good and bad files, made by code: the same on every machine."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

SEED = 20_240_301
COLUMNS = ("id", "amount", "ratio", "quantity", "happened_at", "day", "note")
HEADER = ",".join(COLUMNS)
GOOD: dict[str, Any] = {
    "amount": "1.50",
    "ratio": "0.5",
    "quantity": "1",
    "happened_at": "2024-03-01 10:00:00",
    "day": "2024-03-01",
    "note": "fine",
}
Data = Callable[[], bytes]


def values(name: object, **changes: Any) -> dict[str, Any]:
    """The values of a good row, but for the changes."""
    return {"id": f"r{name}", **GOOD, **changes}


def row(name: object, **changes: str) -> str:
    """A line of CSV, without its end."""
    return ",".join(values(name, **changes).values())


def csv_of(*lines: str, header: str = HEADER, end: str = "\n") -> bytes:
    """A CSV file."""
    return "".join(f"{line}{end}" for line in (header, *lines)).encode()


def good_csv(rows: int = 2) -> bytes:
    """A CSV file without a fault."""
    return csv_of(*(row(at) for at in range(1, rows + 1)))


def event(name: object, **changes: Any) -> str:
    """A line of JSON, without its end."""
    return json.dumps(values(name, **changes), ensure_ascii=False)


def jsonl_of(*lines: str) -> bytes:
    """A file of JSON lines."""
    return "".join(f"{line}\n" for line in lines).encode()


def good_jsonl(rows: int = 2) -> bytes:
    """A file of JSON lines without a fault."""
    return jsonl_of(*(event(at) for at in range(1, rows + 1)))


TYPED: dict[str, list[Any]] = {
    "id": ["r1", "r2"],
    "amount": [Decimal("1.50")] * 2,
    "ratio": [0.5] * 2,
    "quantity": [1, 2],
    "happened_at": [datetime(2024, 3, 1, 10)] * 2,
    "day": [date(2024, 3, 1)] * 2,
    "note": ["fine"] * 2,
}


def table_of(**changes: Any) -> pa.Table:
    """A table of two good rows, but for the columns given: an array, or None for one that is not there."""
    columns = {**TYPED, **changes}
    return pa.table({name: column for name, column in columns.items() if column is not None})


def parquet_of(table: pa.Table, **options: Any) -> bytes:
    """A Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def good_parquet() -> bytes:
    """A Parquet file without a fault."""
    return parquet_of(table_of())


def gz(data: bytes) -> bytes:
    """The same bytes on every run: gzip's header holds no time."""
    return gzip.compress(data, 6, mtime=0)


def zst(data: bytes) -> bytes:
    """A frame with a checksum, as the command line tool writes it."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def flipped(data: bytes, at: int) -> bytes:
    """One byte turned round."""
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def noise(rows: int) -> bytes:
    """A CSV file that does not compress well, so that its middle is in its middle."""
    chance = random.Random(SEED)  # noqa: S311 - a seed, not a secret
    return csv_of(*(row(at, note=f"{chance.getrandbits(256):064x}") for at in range(1, rows + 1)))


def long_line(megabytes: int, before: str, after: str, pack: Callable[[bytes], bytes]) -> bytes:
    """A compressed file with a field of so many megabytes. It has many parts, each packed once."""
    return pack(before.encode()) + pack(b"x" * 1_000_000) * megabytes + pack(after.encode())
