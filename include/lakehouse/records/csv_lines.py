"""CSV records one by one, for where a block cannot be read as a whole: every record ends as a row or a rejection."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lakehouse.records.blocks import Blocks, CutLine
from lakehouse.records.layout import MAX_RECORD_BYTES
from lakehouse.records.rows import Rejection

_REREAD_BYTES = 8 * MAX_RECORD_BYTES
_REASONS = {
    "unexpected end of data": "a quote is opened and never closed",
    "expected after": "text follows a closing quote",
    "field larger": f"a field is longer than {MAX_RECORD_BYTES} characters",
}


class RecordTooLong(Exception):
    """The record that is being read is longer than a record may be."""


class Lines:
    """Physical lines for ``csv.reader``; those of the record being read can be given back."""

    def __init__(self, blocks: Blocks, encoding: str) -> None:
        self._blocks = blocks
        self._encoding = encoding
        self._waiting: deque[bytes] = deque()
        self.taken: list[bytes] = []
        self._size = 0
        self._line = 1
        self._reread = self._horizon = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        is_alone = self._line < self._horizon and self._reread > _REREAD_BYTES
        if (is_alone and self.taken) or not self.has_more():
            raise StopIteration
        line = self._waiting.popleft()
        self.taken.append(line)
        self._size += len(line)
        if self._size > MAX_RECORD_BYTES:
            raise RecordTooLong
        return line.decode(self._encoding, "surrogateescape")

    def start(self) -> int:
        """Begin a record; the lines of the last one are done with. Returns the line that it starts on."""
        self._line += len(self.taken)
        self.taken, self._size = [], 0
        return self._line

    def skip(self, count: int) -> None:
        """Count lines that were read elsewhere."""
        self._line += count

    def has_more(self) -> bool:
        """Whether another line is there; takes a block when the last one is used up."""
        if not self._waiting and (block := self._blocks.take()) is not None:
            self._waiting.extend(self._blocks.split(block))
        return bool(self._waiting)

    @property
    def is_between_blocks(self) -> bool:
        """Whether every line of the blocks taken so far was used."""
        return not self._waiting

    def keep_first(self) -> bytes:
        """Give back all lines of this record but its first.

        Lines can be read many times that way. Beyond a budget, the lines up to the last one read are taken one by
        one, so that no file, however odd its quotes, needs more than a fixed multiple of its size.
        """
        first, others = self.taken[0], self.taken[1:]
        if self._line >= self._horizon:
            self._reread = 0
        self._reread += sum(map(len, others))
        self._horizon = max(self._horizon, self._line + len(self.taken))
        self._waiting.extendleft(reversed(others))
        self.taken = [first]
        return first

    def wait(self, block: bytes) -> None:
        """Take the lines of a block one by one."""
        self._waiting.extend(self._blocks.split(block))

    def regroup(self) -> None:
        """Make the waiting lines a block again, so that it can be read as a whole."""
        if not any(isinstance(line, CutLine) for line in self._waiting):
            self._blocks.give_back(b"".join(self._waiting))
            self._waiting.clear()


@dataclass(frozen=True)
class CsvRecord:
    """A record and the physical line that it starts on: its fields, or why it has none."""

    line: int
    fields: list[str] | None
    rejection: Rejection | None = None


class CsvReader:
    """Reads records from lines. A record that spans several lines and is wrong loses its first line only: a quote
    that was opened by mistake must not swallow the lines after it."""

    def __init__(self, lines: Lines, encoding: str, dialect: dict[str, Any]) -> None:
        self._lines = lines
        self._encoding = encoding
        self._reader = csv.reader(lines, **dialect)

    def read(self, width: int | None = None) -> CsvRecord | None:
        """The next record, of ``width`` fields when given; None at the end. Blank lines are no records."""
        while True:
            line = self._lines.start()
            if not self._lines.has_more():
                return None
            try:
                fields = next(self._reader)
            except RecordTooLong:
                return self._reject(line, self._reason_of_length())
            except csv.Error as error:
                return self._reject(line, _in_plain_words(str(error)))
            if fields:
                return self._checked(line, fields, width)

    def _checked(self, line: int, fields: list[str], width: int | None) -> CsvRecord:
        if width is not None and len(fields) != width:
            return self._reject(line, f"{len(fields)} fields where the header has {width}")
        data = b"".join(self._lines.taken)
        if problem := text_problem(data, self._encoding):
            return CsvRecord(line, None, Rejection.of(data, self._encoding, line, problem))
        return CsvRecord(line, fields)

    def _reason_of_length(self) -> str:
        what = "the line" if len(self._lines.taken) == 1 else "a quote is opened and not closed; the record"
        return f"{what} is longer than {MAX_RECORD_BYTES} bytes"

    def _reject(self, line: int, reason: str) -> CsvRecord:
        return CsvRecord(line, None, Rejection.of(self._lines.keep_first(), self._encoding, line, reason))


def text_problem(data: bytes, encoding: str) -> str:
    """Why ``data`` are no text; empty when they are."""
    if b"\0" in data:
        return "it contains NUL bytes"
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        return f"byte 0x{data[error.start]:02x} at position {error.start + 1} is not {encoding.upper()}"
    return ""


def _in_plain_words(message: str) -> str:
    return next((words for part, words in _REASONS.items() if part in message), f"it is not CSV ({message})")
