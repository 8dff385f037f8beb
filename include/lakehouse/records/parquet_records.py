"""Reading Parquet: every column as text. Parquet needs to seek, so other streams are spooled to a temporary file."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse.records.decompress import DamagedFile, bomb, most_bytes, pieces
from lakehouse.records.layout import MAX_NAME_BYTES, MAX_RECORD_BYTES, Compression, Layout
from lakehouse.records.magic import hint
from lakehouse.records.parquet_bounds import BATCH_BYTES, Sizes, cuts, refuse_bomb, row_bytes
from lakehouse.records.parquet_text import as_text, invalid_positions, is_texts, shown
from lakehouse.records.rows import Extra, Origin, Rejection, batch, rejected_batch, unique_names

_SPOOL_BYTES = 16 * 1024 * 1024
_MAGIC_BYTES = 64


class _Watched(io.RawIOBase):
    """Passes reads on and remembers the stream's own failure: Arrow raises OSError for damaged data as well."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            self.failure = error
            raise


class ParquetRecords:
    """Reads one Parquet file. ``_line`` is null: there are no lines."""

    def __init__(self, layout: Layout, stream: BinaryIO, compression: Compression, rows_per_batch: int) -> None:
        self._layout = layout
        self._stream = stream
        self._compression = compression
        self._size = rows_per_batch
        self._records = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The file's rows, then one rejected row if the file is damaged, no Parquet or of another shape."""
        try:
            with _seekable(self._stream, self._compression) as stream:
                size_bytes = stream.seek(0, io.SEEK_END)
                stream.seek(0)
                if size_bytes:
                    yield from self._read(_Watched(stream), size_bytes)
        except DamagedFile as damage:
            yield self._failed(str(damage))

    def _read(self, stream: _Watched, size_bytes: int) -> Iterator[pa.RecordBatch]:
        start = stream.read(_MAGIC_BYTES)
        stream.seek(0)
        try:
            with pq.ParquetFile(stream) as file:
                if problem := self._problem(file.schema_arrow.names):
                    raise DamagedFile(problem)
                texts, rows, found = _texts(file.schema), self._rows_at_once(file), file.metadata
            # Texts stay in their dictionaries until it is known how long they are.
            with pq.ParquetFile(stream, metadata=found, read_dictionary=texts, page_checksum_verification=True) as file:
                names = unique_names(file.schema_arrow.names)
                yield from self._rows(names, file.iter_batches(batch_size=rows), size_bytes)
        except (pa.ArrowException, OSError, ValueError, EOFError, NotImplementedError, ArithmeticError) as error:
            if stream.failure is not None:
                raise stream.failure from None
            what = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DamagedFile(f"it is damaged or no Parquet ({what}){_otherwise(start)}") from None

    def _rows_at_once(self, file: pq.ParquetFile) -> int:
        """Rows that take about ``BATCH_BYTES``, as far as the footer tells. Refuses chunks that are bombs."""
        most = 1
        for at in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(at)
            for column in range(group.num_columns):
                refuse_bomb(group.column(column))
            most = max(most, group.total_byte_size // max(1, group.num_rows))
        return max(1, min(self._size, BATCH_BYTES // most))

    def _rows(self, names: list[str], batches: Iterator[pa.RecordBatch], size_bytes: int) -> Iterator[pa.RecordBatch]:
        """Batches of bounded size, however often a long text is repeated in them."""
        total = 0
        for whole in batches:
            sizes = row_bytes(whole)
            for start, end in cuts(sizes):
                total += int(sizes[start:end].sum())
                if total > most_bytes(size_bytes):
                    raise bomb(size_bytes)
                yield self._batch(names, whole.slice(start, end - start), sizes[start:end])

    def _problem(self, found: list[str]) -> str:
        repeated = sorted({name for name in self._layout.columns if found.count(name) > 1})
        if repeated:
            return f"it has the column {', '.join(repeated)} more than once"
        if any(len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES for name in found):
            return f"it has a column name of more than {MAX_NAME_BYTES} bytes"
        return "" if set(found) & set(self._layout.columns) else "it has none of the contract's columns"

    def _failed(self, reason: str) -> pa.RecordBatch:
        rejection = Rejection(None, f"the file cannot be read on, {reason}; put it right and land it again")
        return rejected_batch(self._layout, self._records + 1, None, rejection)

    def _batch(self, names: list[str], found: pa.RecordBatch, sizes: Sizes) -> pa.RecordBatch:
        size, declared = found.num_rows, set(self._layout.columns)
        cells = {name: as_text(column) for name, column in zip(names, found.columns, strict=True)}
        rejections = self._not_text(cells) | self._too_long(cells, sizes)
        for name, column in cells.items():
            if rejections:
                column = column.take(pa.array([None if at in rejections else at for at in range(size)], pa.int64()))
            cells[name] = column.cast(pa.string())
        extra = {name: column for name, column in cells.items() if name not in declared}
        missing = [name for name in self._layout.columns if name not in cells]
        origin = Origin(range(self._records + 1, self._records + 1 + size), None)
        self._records += size
        return batch(
            self._layout,
            {name: column for name, column in cells.items() if name in declared},
            origin,
            extra=_extra(extra, size, rejections) if extra else None,
            missing=[None if at in rejections else missing for at in range(size)] if missing else None,
            rejections=rejections,
        )

    def _not_text(self, cells: dict[str, pa.Array]) -> dict[int, Rejection]:
        """Rows with bytes that are not UTF-8; Parquet's readers do not check, and Spark would alter them."""
        rejections: dict[int, Rejection] = {}
        for name, column in cells.items():
            for at in invalid_positions(column):
                reason = f"record {self._records + 1 + at}: the value of {name} is not UTF-8"
                rejections.setdefault(at, Rejection(_raw(cells, at), reason))
        return rejections

    def _too_long(self, cells: dict[str, pa.Array], sizes: Sizes) -> dict[int, Rejection]:
        reason = "record {}: it is longer than {} bytes; only the first {} bytes are kept"
        return {
            at: Rejection(_raw(cells, at), reason.format(self._records + 1 + at, MAX_RECORD_BYTES, MAX_RECORD_BYTES))
            for at in (sizes > MAX_RECORD_BYTES).nonzero()[0].tolist()
        }


def _raw(cells: dict[str, pa.Array], at: int) -> str:
    """A row as JSON, cut to the length that a record may have."""
    row = {name: shown(_start(column.slice(at, 1))) for name, column in cells.items()}
    return json.dumps(row, ensure_ascii=False).encode()[:MAX_RECORD_BYTES].decode("utf-8", "ignore")


def _start(value: pa.Array) -> object:
    """The beginning of the one value of an array."""
    if not is_texts(value.type):
        return value[0].as_py()
    return pc.binary_slice(value.cast(pa.binary()), 0, MAX_RECORD_BYTES)[0].as_py()


def _texts(schema: pq.ParquetSchema) -> list[str]:
    """Columns, nested ones too, that Arrow can leave in their dictionaries."""
    columns = [schema.column(at) for at in range(len(schema))]
    kinds = ("NONE", "STRING", "ENUM", "JSON", "BSON")
    return [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.logical_type.type in kinds]


def _otherwise(start: bytes) -> str:
    return "" if start.startswith(b"PAR1") else hint(start)


@contextmanager
def _seekable(stream: BinaryIO, compression: Compression) -> Iterator[BinaryIO]:
    """The stream itself where it can seek, else a spooled copy of its decompressed bytes."""
    if compression is None and stream.seekable():
        yield stream
        return
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
        if compression is None:
            shutil.copyfileobj(stream, spool)
        else:
            for piece in pieces(stream, compression):
                spool.write(piece)
        spool.seek(0)
        yield spool  # type: ignore[misc]


def _extra(columns: dict[str, pa.Array], size: int, rejections: dict[int, Rejection]) -> list[Extra | None]:
    rows = list(zip(*(column.to_pylist() for column in columns.values()), strict=True))
    return [None if at in rejections else list(zip(columns, rows[at], strict=True)) for at in range(size)]
