"""Reading CSV: whole blocks at once where they are clean, record by record where they are not."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from lakehouse.records.blocks import Blocks
from lakehouse.records.csv_lines import CsvReader, CsvRecord, Lines
from lakehouse.records.layout import MAX_NAME_BYTES, MAX_RECORD_BYTES, Layout
from lakehouse.records.magic import hint
from lakehouse.records.rows import Origin, Rejection, batch, rejected_batch, text_array, unique_names


class Header:
    """The file's columns: where the declared ones are, which are extra and which are missing.

    An empty name becomes ``column 9`` and a repeated one ``name (column 9)``, so that no value is lost; a declared
    column that stands there twice is ambiguous, and the file is refused.
    """

    def __init__(self, layout: Layout, found: Sequence[str]) -> None:
        declared = set(layout.columns)
        self.width = len(found)
        named = list(enumerate(unique_names(found)))
        self.positions = {name: at for at, name in named if name in declared}
        self.extra = [(name, at) for at, name in named if name not in declared]
        self.missing = [name for name in layout.columns if name not in self.positions]
        self.repeated = sorted(name for name, count in Counter(found).items() if count > 1 and name in declared)

    def problem(self) -> str:
        """Why the file cannot be read with this header; empty when it can."""
        if self.repeated:
            return f"the header names {', '.join(self.repeated)} more than once"
        # The name of an extra column is kept with every value of it: a long one would multiply the file.
        if any(len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES for name, _ in self.extra):
            return f"the header has a name of more than {MAX_NAME_BYTES} bytes"
        return "" if self.positions else f"the header has none of the contract's columns; {self._instead()}"

    def _instead(self) -> str:
        """What may have happened to the names."""
        found = {name.strip().casefold() for name, _ in self.extra}
        alike = [name for name in self.missing if name.casefold() in found]
        return f"{alike[0]} is there with other case or spaces" if alike else "is it missing?"


class CsvFile:
    """Reads one CSV file."""

    def __init__(self, layout: Layout, blocks: Blocks, rows_per_batch: int) -> None:
        self._layout = layout
        self._encoding = "utf-8" if layout.encoding == "utf-16" else layout.encoding  # recoded on the way in
        self._blocks = blocks
        self._size = rows_per_batch
        self._dialect: dict[str, Any] = {
            "delimiter": layout.csv.delimiter,
            "quotechar": layout.csv.quote,
            "strict": True,
        }
        self._lines = Lines(blocks, self._encoding)
        self._reader = CsvReader(self._lines, self._encoding, self._dialect)
        self._nulls = pa.array(layout.csv.null_values, pa.string())
        self._records = 0
        # The module's limit is one for the process, and a smaller one would reject what this reader allows.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The file's records, then one rejected row if something is wrong with the file as a whole."""
        first = self._reader.read()
        if first is not None:
            header = Header(self._layout, first.fields or [])
            if problem := self._unreadable(first) or header.problem():
                yield self._refused(first.line, problem)
                return
            self._lines.start()
            yield from self._body(header)
        if self._blocks.damage is not None:
            yield self._damaged()

    def _unreadable(self, first: CsvRecord) -> str:
        if first.rejection is None:
            return ""
        return "the header cannot be read: " + first.rejection.reason.partition(": ")[2]

    def _refused(self, line: int, problem: str) -> pa.RecordBatch:
        data = b"".join(self._lines.taken)
        reason = f"the whole file is refused, {problem}{hint(data)}; put it right and land it again"
        return rejected_batch(self._layout, 1, line, Rejection.of(data, self._encoding, line, reason))

    def _damaged(self) -> pa.RecordBatch:
        line, reason = self._lines.start(), f"the file cannot be read on, {self._blocks.damage}"
        rejection = Rejection.of(self._blocks.rest, self._encoding, line, reason)
        return rejected_batch(self._layout, self._records + 1, line, rejection)

    def _body(self, header: Header) -> Iterator[pa.RecordBatch]:
        self._lines.regroup()
        while True:
            if self._lines.is_between_blocks:
                block = self._blocks.take()
                if block is None:
                    return
                rows = self._clean_rows(block, header.width)
                if rows is not None:
                    yield from self._clean_batches(header, rows)
                    continue
                self._lines.wait(block)
            yield from self._mixed_batches(header)

    def _clean_rows(self, block: bytes, width: int) -> list[list[str]] | None:
        """The rows of a block in which every line is one good record or blank (an empty row), else None."""
        if len(block) > MAX_RECORD_BYTES or b"\0" in block:
            return None
        try:
            reader = csv.reader(io.StringIO(block.decode(self._encoding), newline=""), **self._dialect)
            rows = list(reader)
        except (UnicodeDecodeError, csv.Error):
            return None
        return rows if reader.line_num == len(rows) and {width, 0}.issuperset(map(len, rows)) else None

    def _clean_batches(self, header: Header, rows: list[list[str]]) -> Iterator[pa.RecordBatch]:
        first = self._lines.start()
        lines: Sequence[int] = range(first, first + len(rows))
        self._lines.skip(len(rows))
        if not all(rows):
            lines = [line for line, row in zip(lines, rows, strict=True) if row]
            rows = [row for row in rows if row]
        for start in range(0, len(rows), self._size):
            end = start + self._size
            yield self._batch(header, rows[start:end], lines[start:end], {})

    def _mixed_batches(self, header: Header) -> Iterator[pa.RecordBatch]:
        """Records one by one, until a block ends between two of them."""
        while found := list(islice(self._until_block_ends(header.width), self._size)):
            blank: list[str | None] = [None] * header.width
            rows = [blank if record.fields is None else record.fields for record in found]
            rejections = {at: record.rejection for at, record in enumerate(found) if record.rejection is not None}
            yield self._batch(header, rows, [record.line for record in found], rejections)

    def _until_block_ends(self, width: int) -> Iterator[CsvRecord]:
        while not self._lines.is_between_blocks and (record := self._reader.read(width)) is not None:
            yield record

    def _batch(
        self,
        header: Header,
        rows: Sequence[Sequence[str | None]],
        lines: Sequence[int],
        rejections: dict[int, Rejection],
    ) -> pa.RecordBatch:
        cells = list(zip(*rows, strict=True))
        columns = {name: text_array(cells[at], self._nulls) for name, at in header.positions.items()}
        origin = Origin(range(self._records + 1, self._records + 1 + len(rows)), lines)
        self._records += len(rows)
        return batch(
            self._layout,
            columns,
            origin,
            extra=self._extra(header, cells, rejections),
            missing=[None if at in rejections else header.missing for at in range(len(rows))]
            if header.missing
            else None,
            rejections=rejections,
        )

    def _extra(
        self, header: Header, cells: Sequence[Sequence[str | None]], rejections: dict[int, Rejection]
    ) -> list[list[tuple[str, str | None]] | None] | None:
        if not header.extra:
            return None
        names = [name for name, _ in header.extra]
        columns = [text_array(cells[at], self._nulls).to_pylist() for _, at in header.extra]
        rows = zip(*columns, strict=True)
        return [None if at in rejections else list(zip(names, row, strict=True)) for at, row in enumerate(rows)]
