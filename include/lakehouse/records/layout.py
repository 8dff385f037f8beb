"""The shape of what the reader returns: every source column as text, then the record's own columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from lakehouse.contracts.model import CsvOptions, Source
from lakehouse.core import names

Format = Literal["csv", "jsonl", "parquet"]
Compression = Literal["gzip", "zstd"] | None

MAX_RECORD_BYTES = 1024 * 1024
"""A longer record is rejected, and only this much of its text is kept in ``_raw``."""

MAX_NAME_BYTES = 255
"""A longer column name in a CSV header refuses the file."""


@dataclass(frozen=True)
class Layout:
    """How a source's files are written, and which columns its contract declares, in the contract's order."""

    format: Format
    columns: tuple[str, ...]
    csv: CsvOptions = field(default_factory=CsvOptions)

    @classmethod
    def of(cls, source: Source) -> Layout:
        """The layout that a contract's source describes."""
        return cls(source.format, tuple(source.columns), source.csv)

    @property
    def encoding(self) -> str:
        """The encoding of text files; JSON is UTF-8 by definition."""
        return self.csv.encoding if self.format == "csv" else "utf-8"


def schema(layout: Layout) -> pa.Schema:
    """The declared columns as strings, then the reader's own: ``_extra`` to ``_line``."""
    own = [
        pa.field(names.EXTRA, pa.map_(pa.string(), pa.string())),
        pa.field(names.MISSING, pa.list_(pa.string())),
        pa.field(names.RAW, pa.string()),
        pa.field(names.REJECTED, pa.string()),
        pa.field(names.RECORD, pa.int64()),
        pa.field(names.LINE, pa.int64()),
    ]
    return pa.schema([pa.field(column, pa.string()) for column in layout.columns] + own)
