"""From rows of text to record batches of a layout's schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.records.layout import MAX_RECORD_BYTES, Layout, schema

Extra = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Rejection:
    """A record that could not be read: its text as it came, bounded, and the reason in plain words."""

    raw: str | None
    reason: str

    @classmethod
    def of(cls, data: bytes, encoding: str, line: int, reason: str) -> Rejection:
        """Reject ``data``, which starts at ``line``; bytes that are no text show up as backslash escapes."""
        end = b"\r\n" if data.endswith(b"\r\n") else data[-1:] if data[-1:] in (b"\n", b"\r") else b""
        data = data[: len(data) - len(end)]
        note = f"; only the first {MAX_RECORD_BYTES} bytes are kept" if len(data) > MAX_RECORD_BYTES else ""
        raw = data[:MAX_RECORD_BYTES].decode(encoding, "backslashreplace")
        return cls(raw, f"line {line}: {reason}{note}")


@dataclass(frozen=True)
class Origin:
    """Where each row of a batch comes from: its ordinal among the file's records and the line it starts on."""

    records: Sequence[int]
    lines: Sequence[int] | None


def batch(
    layout: Layout,
    columns: dict[str, pa.Array],
    origin: Origin,
    *,
    extra: Sequence[Extra | None] | None = None,
    missing: Sequence[list[str] | None] | None = None,
    rejections: dict[int, Rejection] | None = None,
) -> pa.RecordBatch:
    """One record batch. ``columns`` holds those that were found; ``rejections`` goes by position in the batch."""
    target, size = schema(layout), len(origin.records)
    rejected = [(rejections or {}).get(position) for position in range(size)] if rejections else None
    arrays = [columns[name] if name in columns else pa.nulls(size, pa.string()) for name in layout.columns]
    own: list[Sequence[object] | None] = [
        extra,
        missing,
        [one and one.raw for one in rejected] if rejected else None,
        [one and one.reason for one in rejected] if rejected else None,
        origin.records,
        origin.lines,
    ]
    for field, values in zip(list(target)[len(layout.columns) :], own, strict=True):
        arrays.append(pa.nulls(size, field.type) if values is None else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def rejected_batch(layout: Layout, record: int, line: int | None, rejection: Rejection) -> pa.RecordBatch:
    """One rejected row on its own, as for a failure of the whole file."""
    return batch(layout, {}, Origin([record], None if line is None else [line]), rejections={0: rejection})


def text_array(values: Sequence[str | None], nulls: pa.Array) -> pa.Array:
    """A column of text, where the texts in ``nulls`` become null."""
    array = pa.array(values, pa.string())
    if not len(nulls):
        return array
    is_null = pc.equal(array, nulls[0]) if len(nulls) == 1 else pc.is_in(array, value_set=nulls)
    return pc.if_else(is_null, None, array) if is_null.true_count else array


def unique_names(found: Sequence[str]) -> list[str]:
    """Header names made unique and non-empty by their position, so that no column is lost."""
    names: dict[str, None] = {}
    original = set(found)
    for position, name in enumerate(found, 1):
        unique = name or f"column {position}"
        while unique in names or (unique != name and unique in original):
            unique = f"{unique} (column {position})"
        names[unique] = None
    return list(names)
