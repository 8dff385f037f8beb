"""Reading Parquet: every column as text. Parquet needs to seek, so other streams are spooled to a temporary file."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse.records.decompress import DamagedFile, pieces
from lakehouse.records.layout import Compression, Layout
from lakehouse.records.rows import Extra, Origin, Rejection, batch, rejected_batch, unique_names

_SPOOL_BYTES = 16 * 1024 * 1024


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
                if stream.seek(0, io.SEEK_END) == 0:
                    return
                stream.seek(0)
                yield from self._read(_Watched(stream))
        except DamagedFile as damage:
            yield self._failed(str(damage))

    def _read(self, stream: _Watched) -> Iterator[pa.RecordBatch]:
        try:
            with pq.ParquetFile(stream) as file:
                names = unique_names(file.schema_arrow.names)
                if problem := self._problem(file.schema_arrow.names):
                    raise DamagedFile(problem)
                for found in file.iter_batches(batch_size=self._size):
                    yield self._batch(names, found)
        except (pa.ArrowException, OSError, ValueError, EOFError, NotImplementedError) as error:
            if stream.failure is not None:
                raise stream.failure from None
            raise DamagedFile(f"it is damaged or no Parquet ({str(error).strip().splitlines()[0]})") from None

    def _problem(self, found: list[str]) -> str:
        repeated = sorted({name for name in self._layout.columns if found.count(name) > 1})
        if repeated:
            return f"it has the column {', '.join(repeated)} more than once"
        return "" if set(found) & set(self._layout.columns) else "it has none of the contract's columns"

    def _failed(self, reason: str) -> pa.RecordBatch:
        rejection = Rejection(None, f"the file cannot be read on, {reason}")
        return rejected_batch(self._layout, self._records + 1, None, rejection)

    def _batch(self, names: list[str], found: pa.RecordBatch) -> pa.RecordBatch:
        size, declared = found.num_rows, set(self._layout.columns)
        cells = {name: _as_text(column) for name, column in zip(names, found.columns, strict=True)}
        rejections = self._not_text(cells)
        for name, column in cells.items():
            if rejections:
                keep = pa.array([None if at in rejections else True for at in range(size)], pa.bool_())
                column = pc.if_else(keep, column, None)
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
            for at in _invalid_positions(column):
                row = {key: _shown(values[at].as_py()) for key, values in cells.items()}
                reason = f"record {self._records + 1 + at}: the value of {name} is not UTF-8"
                rejections.setdefault(at, Rejection(json.dumps(row, ensure_ascii=False), reason))
        return rejections


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


def _as_text(column: pa.Array) -> pa.Array:
    """A column as text, still as bytes where nobody has checked yet that they are UTF-8."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_text(column.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return column.cast(pa.binary())
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    if pa.types.is_timestamp(kind):
        return _timestamps(column)
    if pa.types.is_decimal(kind):
        return pa.array([None if value is None else format(value, "f") for value in column.to_pylist()], pa.string())
    if pa.types.is_nested(kind):
        return pa.array([None if value is None else _json(value) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def _timestamps(column: pa.Array) -> pa.Array:
    """ISO 8601; those with a zone are instants and are given in UTC, with a Z."""
    zone = column.type.tz
    plain = column.cast(pa.timestamp(column.type.unit, "UTC")).cast(pa.timestamp(column.type.unit)) if zone else column
    text = pc.replace_substring(plain.cast(pa.string()), " ", "T")
    return pc.binary_join_element_wise(text, "Z", "") if zone else text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_shown)


def _shown(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return None if value is None else str(value)


def _invalid_positions(column: pa.Array) -> list[int]:
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


def _extra(columns: dict[str, pa.Array], size: int, rejections: dict[int, Rejection]) -> list[Extra | None]:
    rows = list(zip(*(column.to_pylist() for column in columns.values()), strict=True))
    return [None if at in rejections else list(zip(columns, rows[at], strict=True)) for at in range(size)]
