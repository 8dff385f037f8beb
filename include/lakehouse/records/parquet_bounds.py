"""How much memory a Parquet file may take: a few kilobytes of it can stand for gigabytes of text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse.records.decompress import bomb, most_bytes
from lakehouse.records.parquet_text import is_texts

Sizes = npt.NDArray[np.int64]
BATCH_BYTES = 16 * 1024 * 1024


def refuse_bomb(chunk: pq.ColumnChunkMetaData) -> None:
    """A page is decompressed as a whole, so a chunk that expands too far must not be opened."""
    packed = max(0, chunk.total_compressed_size)
    if chunk.total_uncompressed_size > most_bytes(packed):
        raise bomb(packed)


def row_bytes(found: pa.RecordBatch) -> Sizes:
    """How many bytes of text each row stands for."""
    total = np.zeros(found.num_rows, dtype=np.int64)
    for column in found.columns:
        total += _value_bytes(column)
    return total


def _value_bytes(column: pa.Array) -> Sizes:
    """The bytes of text that each value stands for: those of its entry in the dictionary, its children's, its own."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _entry_bytes(column)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _between(column.offsets, _value_bytes(column.values))
    if pa.types.is_map(kind):
        return _between(column.offsets, _value_bytes(column.keys) + _value_bytes(column.items))
    if pa.types.is_struct(kind):
        return sum((_value_bytes(child) for child in column.flatten()), np.zeros(len(column), dtype=np.int64))
    if is_texts(kind):
        lengths: Sizes = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return lengths
    return np.full(len(column), column.nbytes // max(1, len(column)), dtype=np.int64)


def _entry_bytes(column: pa.DictionaryArray) -> Sizes:
    lengths = np.append(_value_bytes(column.dictionary), 0)
    nowhere = len(column.dictionary)
    found: Sizes = lengths[column.indices.fill_null(nowhere).to_numpy(zero_copy_only=False)]
    return found


def _between(offsets: pa.Array, sizes: Sizes) -> Sizes:
    """The sums of the children's sizes from each offset to the next."""
    ends, at = np.append(0, np.cumsum(sizes)), offsets.to_numpy(zero_copy_only=False)
    found: Sizes = ends[at[1:]] - ends[at[:-1]]
    return found


def cuts(sizes: Sizes) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about ``BATCH_BYTES`` each, or of a single row that is longer."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        done = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, done + BATCH_BYTES, side="right")))
        yield start, end
        start = end
