"""Files that stand for far more than they are: memory and disk stay bounded, measured in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.bad_input.making import HEADER, csv_of, event, gz, long_line, parquet_of, row, table_of, zst
from tests.bad_input.model import Source

from lakehouse.core.settings import PROJECT_ROOT

MOST_BYTES = 800_000_000
LARGEST_BATCH = 64_000_000
BOMB = "it is a decompression bomb: "
TOO_LONG = "longer than 1048576 bytes"
MEGABYTE = "x" * 1_000_000


def _repeated(rows: int) -> pa.DictionaryArray:
    """A megabyte of text in so many rows."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([MEGABYTE]))


def _notes(notes: pa.Array) -> bytes:
    table = pa.table({"id": pa.array(["x"]).take(pa.array(np.zeros(len(notes), dtype=np.int64))), "note": notes})
    return parquet_of(table, compression="zstd", dictionary_pagesize_limit=2_000_000)


def _lists() -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(range(5_001), pa.int32()), _repeated(5_000))


def _distinct() -> bytes:
    """Texts of a megabyte, each another, that compress to nothing."""
    notes = [f"{at}{MEGABYTE}" for at in range(300)]
    return parquet_of(pa.table({"note": notes}), compression="zstd", use_dictionary=False)


FILES: dict[str, tuple[Source, str, Callable[[], bytes], str]] = {
    "CSV, a field of 100 MB": ("lines", ".gz", lambda: long_line(100, f"{HEADER}\nr1,", "\n", gz), TOO_LONG),
    "CSV, 2 GB in one line of gzip": ("lines", ".gz", lambda: long_line(2_000, f"{HEADER}\n", "\n", gz), BOMB),
    "CSV, 2 GB in one line of zstd": ("lines", ".zst", lambda: long_line(2_000, f"{HEADER}\n", "\n", zst), BOMB),
    "CSV, 2 GB of short rows": (
        "lines",
        ".zst",
        lambda: zst(csv_of()) + zst(f"{row(1, note=MEGABYTE[:5_000])}\n".encode() * 200) * 2_000,
        BOMB,
    ),
    "CSV, a long column name in each of many rows": (
        "lines",
        "",
        lambda: csv_of(*[row(1) + ",1"] * 50_000, header=f"{HEADER},{MEGABYTE}"),
        "a name of more than 255 bytes",
    ),
    "JSON lines, 20,000 lines of 1 MB": (
        "events",
        ".zst",
        lambda: zst(f"{event(1, note=MEGABYTE)}\n".encode()) * 20_000,
        BOMB,
    ),
    "Parquet, a field of 100 MB": (
        "rows",
        "",
        lambda: parquet_of(table_of(note=["x" * 100_000_000, "y"]), compression="none", use_dictionary=False),
        TOO_LONG,
    ),
    "Parquet, 1 MB of text in a million rows": ("rows", "", lambda: _notes(_repeated(1_000_000)), BOMB),
    "Parquet, 1 MB of text in 5,000 lists": ("rows", "", lambda: _notes(_lists()), BOMB),
    "Parquet, 300 pages of 1 MB in 20 kB": ("rows", "", _distinct, BOMB),
    "Parquet in gzip, 2 GB of zeros": ("rows", ".gz", lambda: gz(bytes(1_000_000)) * 2_000, BOMB),
}


@pytest.mark.parametrize("what", FILES)
def test_memory_and_disk_are_bounded(what: str, tmp_path: Path) -> None:
    source, packed, data, reason = FILES[what]
    path = tmp_path / "file"
    path.write_bytes(data())
    done = subprocess.run(
        [sys.executable, "-m", "tests.bad_input.reading_child", source, packed, str(path)],
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert reason in found["reason"]
    assert found["peak_bytes"] < MOST_BYTES and found["largest"] < LARGEST_BATCH, found
    assert list(tmp_path.iterdir()) == [path]
