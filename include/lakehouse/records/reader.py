"""Reading a landed file: from bytes to record batches, without an engine.

It runs in Spark's Python workers and in tests alike. A record or file that cannot be read never raises: it becomes a
row with ``_raw`` and ``_rejected``. Only an ``OSError`` of the stream itself passes through.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from lakehouse.records.blocks import Blocks
from lakehouse.records.csv_records import CsvFile
from lakehouse.records.decompress import pieces, utf8_from_utf16
from lakehouse.records.jsonl_records import JsonlFile
from lakehouse.records.layout import Compression, Format, Layout, schema

__all__ = ["Compression", "Format", "Layout", "read_records", "schema"]


def read_records(
    stream: BinaryIO, layout: Layout, compression: Compression = None, *, rows_per_batch: int = 20_000
) -> Iterator[pa.RecordBatch]:
    """The file's records in batches of ``schema(layout)``, each of at most ``rows_per_batch`` rows.

    ``_record`` is the record's ordinal in the file and ``_line`` the physical line that it starts on, both from 1.
    An empty file has no records. Memory is bounded by the batch, whatever the size of the file.
    """
    data = pieces(stream, compression)
    if layout.format == "parquet":
        from lakehouse.records.parquet_records import ParquetRecords  # slow to import, and rarely needed

        yield from ParquetRecords(layout, stream, compression, rows_per_batch).batches()
    elif layout.format == "jsonl":
        yield from JsonlFile(layout, Blocks(data, cr_ends_lines=False), rows_per_batch).batches()
    else:
        data = utf8_from_utf16(data) if layout.encoding == "utf-16" else data
        yield from CsvFile(layout, Blocks(data, cr_ends_lines=True), rows_per_batch).batches()
