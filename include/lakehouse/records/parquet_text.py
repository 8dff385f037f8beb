"""Values of Parquet columns as text, the way bronze keeps them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def as_text(column: pa.Array) -> pa.Array:
    """A column as text, still as bytes where nobody has checked yet that they are UTF-8."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_text(column.dictionary_decode())
    if is_texts(kind) or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return column.cast(pa.binary())
    if pa.types.is_timestamp(kind):
        return _timestamps(column)
    if pa.types.is_decimal(kind):
        return pa.array([None if value is None else format(value, "f") for value in column.to_pylist()], pa.string())
    if pa.types.is_nested(kind):
        return pa.array([_nested(column, at) for at in range(len(column))], pa.string())
    return column.cast(pa.string())


def is_texts(kind: pa.DataType) -> bool:
    """Whether the values are texts or bytes."""
    tests = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
    return any(test(kind) for test in (*tests, pa.types.is_fixed_size_binary))


def _nested(column: pa.Array, at: int) -> str | None:
    """JSON; where it holds what Python has no value for, such as a date in the year 300000, the text of Arrow."""
    try:
        value = column[at].as_py()
    except (OverflowError, ValueError):
        return " ".join(column.slice(at, 1).to_string().split())
    return None if value is None else _json(value)


def _timestamps(column: pa.Array) -> pa.Array:
    """ISO 8601; those with a zone are instants and are given in UTC, with a Z."""
    zone = column.type.tz
    plain = column.cast(pa.timestamp(column.type.unit, "UTC")).cast(pa.timestamp(column.type.unit)) if zone else column
    text = pc.replace_substring_regex(plain.cast(pa.string()), r"^(-?[0-9-]+) ", r"\1T")
    return pc.binary_join_element_wise(text, "Z", "") if zone else text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=shown)


def shown(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return None if value is None else str(value)


def invalid_positions(column: pa.Array) -> list[int]:
    if not pa.types.is_binary(column.type):
        return []
    try:
        column.cast(pa.string()).validate(full=True)
    except pa.ArrowInvalid:
        return [at for at, value in enumerate(column.to_pylist()) if value is not None and not _is_utf8(value)]
    return []


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
