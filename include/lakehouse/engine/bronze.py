"""Bronze: landed files become append-only text rows, with the identity of every record.

Python workers read the files (:mod:`lakehouse.records`), because Spark's own text readers know neither the number of
a record nor the raw text of one that is broken. Files are packed into tasks by size, in the order of their units, so
that a task writes few partitions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import BinaryIO, cast

import pyarrow as pa
from pyspark.sql import DataFrame

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.errors import GateFailed, IntegrityError, LakehouseError
from lakehouse.core.names import TableName, quote
from lakehouse.core.settings import Settings
from lakehouse.engine.publish import Lake, Target
from lakehouse.engine.spark_errors import marked
from lakehouse.engine.tables import TableSpec, bronze_spec
from lakehouse.ledger.log import Batch
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Consumed, Head, Stamp
from lakehouse.records.layout import Compression, Layout, schema
from lakehouse.records.reader import read_records

TASK_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class FileTask:
    """One landed file, with what its rows have to say of themselves."""

    batch: int
    unit: date
    landed_at: datetime
    name: str
    key: str
    size_bytes: int
    sha256: str
    compression: Compression


def file_tasks(batches: Sequence[Batch]) -> list[FileTask]:
    """The files of some batches, in the order of their units."""
    tasks = [
        FileTask(b.number, b.unit, b.landed_at, f.name, f.key, f.size_bytes, f.sha256, f.compression)
        for b in batches
        for f in b.files
    ]
    return sorted(tasks, key=lambda task: (task.unit, task.batch, task.name))


def pack(tasks: Sequence[FileTask], slots: int) -> list[list[FileTask]]:
    """Cut the files into contiguous groups of about equal bytes: at least ``slots`` groups where there are files."""
    total = sum(task.size_bytes for task in tasks)
    share = max(1, min(TASK_BYTES, total // max(1, slots)))
    groups: list[list[FileTask]] = []
    room = 0
    for task in tasks:
        if room <= 0:
            groups.append([])
            room = share
        groups[-1].append(task)
        room -= max(1, task.size_bytes)
    return groups


def read_files(lake: Lake, contract: Contract, batches: Sequence[Batch]) -> DataFrame:
    """The records of landed batches as the bronze table has them."""
    layout = Layout.of(contract.source)
    groups = pack(file_tasks(batches), slots=4)
    settings = lake.settings

    def read_group(rows: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in rows:
            for group in batch.column(0).to_pylist():
                try:
                    yield from _read(settings, layout, groups[group])
                except LakehouseError as error:
                    raise marked(error) from None

    spec = bronze_spec(contract)
    ddl = ", ".join(f"{quote(name)} {column.spark_type}" for name, column in spec.columns.items())
    return lake.spark.range(0, len(groups), 1, max(1, len(groups))).mapInArrow(read_group, ddl)


def _read(settings: Settings, layout: Layout, tasks: Sequence[FileTask]) -> Iterator[pa.RecordBatch]:
    store = ObjectStore.open(settings)
    for task in tasks:
        found = store.head(task.key)
        if found is None:
            raise _damaged(task, "is missing")
        with store.reading(task.key, found.etag) as stream:
            hashed = _Hashed(stream)
            for records in read_records(cast(BinaryIO, hashed), layout, task.compression):
                yield with_provenance(records, layout, task)
            if hashed.sha256() != task.sha256:
                raise _damaged(task, "is not what was landed: its SHA-256 differs")


class _Hashed:
    """A stream that remembers the SHA-256 of all that was read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        return data

    def sha256(self) -> str:
        """The hash of the whole stream: a reader that stopped early is read to the end."""
        while self.read(1 << 20):
            pass
        return self._digest.hexdigest()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _damaged(task: FileTask, what: str) -> IntegrityError:
    return IntegrityError(
        f"a landed file {what}",
        where=f"{task.name} of batch {task.batch}, object {task.key}",
        untouched="bronze; nothing of this attempt was published",
        todo="bring the object back from a backup, or discard the batch and land the file again",
    )


def with_provenance(records: pa.RecordBatch, layout: Layout, task: FileTask) -> pa.RecordBatch:
    """The records as bronze has them: with batch, unit, file and landing time."""
    rows = records.num_rows
    landed = pa.scalar(task.landed_at, pa.timestamp("us", tz="UTC"))
    constant = {
        names.BATCH: pa.repeat(pa.scalar(task.batch, pa.int64()), rows),
        names.UNIT: pa.repeat(pa.scalar(task.unit, pa.date32()), rows),
        names.FILE: pa.repeat(pa.scalar(task.name, pa.string()), rows),
        names.LANDED_AT: pa.repeat(landed, rows),
    }
    columns = {name: records.column(name) for name in schema(layout).names} | constant
    order = [*layout.columns, names.EXTRA, names.MISSING, names.RAW, names.REJECTED]
    order += [names.BATCH, names.UNIT, names.FILE, names.RECORD, names.LINE, names.LANDED_AT]
    return pa.RecordBatch.from_arrays([columns[name] for name in order], names=order)


@dataclass(frozen=True)
class BronzeWork:
    """Append some batches. Bronze judges nothing, so it takes every batch, and there is nothing to gate but counts."""

    lake: Lake
    contract: Contract
    attempt: str
    batches: tuple[Batch, ...]
    trimmed: tuple[int, ...] = ()

    def stamps(self) -> Mapping[TableName, Stamp]:
        through = Consumed(through=self.batches[-1].number)
        return {
            self.contract.bronze_table: Stamp(self.attempt, "", {self.contract.name: through}, trimmed=self.trimmed)
        }

    def write(self, targets: Mapping[TableName, Target]) -> None:
        targets[self.contract.bronze_table].append(read_files(self.lake, self.contract, self.batches))

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """Compare what was written with what the landing log says, where it says how many records there are."""
        if any(batch.records is None for batch in self.batches):
            return
        target = targets[self.contract.bronze_table]
        said = sum(batch.records or 0 for batch in self.batches)
        numbers = ", ".join(str(batch.number) for batch in self.batches)
        written = self.lake.spark.table(target.name).where(f"{names.BATCH} IN ({numbers})").count()
        if written != said:
            raise GateFailed(
                f"{target.table} got {written} records of batches that have {said}",
                where=f"batches {numbers}, branch {target.branch}",
                untouched="main of the table; nothing was consumed",
                todo="look at the branch; the landed files and their log entries are as they were",
            )


@dataclass(frozen=True)
class BronzeJob:
    """Take the landed batches that bronze does not have, at most ``limit`` of them."""

    lake: Lake
    contract: Contract
    log: Sequence[Batch]
    limit: int | None = None

    def specs(self) -> Sequence[TableSpec]:
        return [bronze_spec(self.contract)]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> BronzeWork | None:
        head = heads[self.contract.bronze_table]
        done = head.consumed(self.contract.name).through
        batches = tuple(batch for batch in self.log if batch.number > done)[: self.limit]
        trimmed = head.stamp.trimmed if head.stamp else ()
        return BronzeWork(self.lake, self.contract, attempt, batches, trimmed) if batches else None
