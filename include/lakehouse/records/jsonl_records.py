"""Reading JSON lines: one object a line; numbers keep the text that they have in the file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import pyarrow as pa

from lakehouse.records.blocks import Blocks
from lakehouse.records.csv_lines import text_problem
from lakehouse.records.layout import MAX_RECORD_BYTES, Layout
from lakehouse.records.magic import hint
from lakehouse.records.rows import Extra, Origin, Rejection, batch, rejected_batch

_MAX_DEPTH = 64
_SHOWN_KEYS = 5
_SHOWN_BYTES = 80
_TOO_DEEP = f"nested deeper than {_MAX_DEPTH} levels"


class _Number(str):
    """A number, as its text in the file: a decimal must not pass through a double."""

    __slots__ = ()


class _Refused(ValueError):
    """The line is JSON that the reader does not take; the text says why."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        repeated = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        shown = ", ".join(repr(name[:_SHOWN_BYTES]) for name in repeated[:_SHOWN_KEYS])
        others = f" and {len(repeated) - _SHOWN_KEYS} others" if len(repeated) > _SHOWN_KEYS else ""
        raise _Refused(f"the key {shown}{others} stands there more than once")
    return found


_DECODER = json.JSONDecoder(
    parse_float=_Number, parse_int=_Number, parse_constant=_refuse_constant, object_pairs_hook=_object
)


def json_text(value: Any, depth: int = 1) -> str:
    """A decoded value as compact JSON, numbers as they stood in the file."""
    if depth > _MAX_DEPTH:
        raise _Refused(_TOO_DEEP)
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(key)}:{json_text(item, depth + 1)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(json_text(item, depth + 1) for item in value) + "]"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text(value: Any) -> str | None:
    """What bronze keeps of a value: strings and numbers as they are, the rest as JSON."""
    if value is None:
        return None
    return str(value) if isinstance(value, str) else json_text(value)


@dataclass(frozen=True)
class _Record:
    line: int
    values: list[str | None]
    extra: Extra | None = None
    missing: list[str] | None = None
    rejection: Rejection | None = None


class JsonlFile:
    """Reads one file of JSON lines."""

    def __init__(self, layout: Layout, blocks: Blocks, rows_per_batch: int) -> None:
        self._layout = layout
        self._declared = frozenset(layout.columns)
        self._blank: list[str | None] = [None] * len(layout.columns)
        self._blocks = blocks
        self._size = rows_per_batch
        self._line = 0
        self._records = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The file's records, then one rejected row if the file is damaged."""
        while (block := self._blocks.take()) is not None:
            records = self._of_block(block)
            while found := list(islice(records, self._size)):  # never more than a block: lines may be long
                yield self._batch(found)
        if self._blocks.damage is not None:
            line, reason = self._line + 1, f"the file cannot be read on, {self._blocks.damage}"
            rejection = Rejection.of(self._blocks.rest, "utf-8", line, reason)
            yield rejected_batch(self._layout, self._records + 1, line, rejection)

    def _of_block(self, block: bytes) -> Iterator[_Record]:
        for data in self._blocks.split(block):
            self._line += 1
            if not data.isspace():
                yield self._record(data)

    def _record(self, data: bytes) -> _Record:
        try:
            return self._parsed(data)
        except _Refused as error:
            reason = str(error)
        except RecursionError:
            reason = _TOO_DEEP
        except json.JSONDecodeError as error:
            reason = f"it is not JSON ({error.msg} at position {error.pos + 1})"
        reason += hint(data) if self._line == 1 and not data.startswith(b"{") else ""
        return _Record(self._line, self._blank, rejection=Rejection.of(data, "utf-8", self._line, reason))

    def _parsed(self, data: bytes) -> _Record:
        if len(data) > MAX_RECORD_BYTES:
            raise _Refused(f"the line is longer than {MAX_RECORD_BYTES} bytes")
        if problem := text_problem(data, "utf-8"):
            raise _Refused(problem)
        found = _DECODER.decode(data.decode())
        if not isinstance(found, dict):
            raise _Refused("it is JSON, but not an object")
        values = {name: _text(value) for name, value in found.items()}
        if b"\\u" in data:
            _refuse_half_characters(values)
        extra = [(name, value) for name, value in values.items() if name not in self._declared]
        missing = [name for name in self._layout.columns if name not in values]
        return _Record(self._line, [values.get(name) for name in self._layout.columns], extra or None, missing or None)

    def _batch(self, found: list[_Record]) -> pa.RecordBatch:
        cells = zip(*(record.values for record in found), strict=True)
        columns = {
            name: pa.array(column, pa.string()) for name, column in zip(self._layout.columns, cells, strict=True)
        }
        origin = Origin(range(self._records + 1, self._records + 1 + len(found)), [record.line for record in found])
        self._records += len(found)
        return batch(
            self._layout,
            columns,
            origin,
            extra=[record.extra for record in found],
            missing=[record.missing for record in found],
            rejections={at: record.rejection for at, record in enumerate(found) if record.rejection is not None},
        )


def _refuse_half_characters(values: dict[str, str | None]) -> None:
    """An escape such as ``\\ud800`` alone is half a character, which no text encoding can hold."""
    for name, value in values.items():
        try:
            (name + (value or "")).encode()
        except UnicodeEncodeError:
            raise _Refused("a \\u escape stands for half a character") from None
