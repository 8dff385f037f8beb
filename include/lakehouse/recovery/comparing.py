"""Whether a restored table is what was backed up: its rows, and every old state that could be asked for.

Read through PyIceberg, which knows nothing of how the table was restored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakehouse.backup.drills import TableDrilled
from lakehouse.backup.sets import BackedUp
from lakehouse.core.encoding import ContentFingerprint
from lakehouse.core.errors import LakehouseError
from lakehouse.core.types import DataType
from lakehouse.ledger.watermark import reaching

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

MOST_ROWS = 200_000
"""Tables up to this size are compared row by row; of larger ones every file was compared with its SHA-256."""
_MOST_PROBLEMS = 10
_STRING = DataType("string")
_KNOWN: Mapping[pa.DataType, DataType] = {
    pa.string(): _STRING,
    pa.large_string(): _STRING,
    pa.bool_(): DataType("boolean"),
    pa.int32(): DataType("int"),
    pa.int64(): DataType("long"),
    pa.float32(): DataType("double"),
    pa.float64(): DataType("double"),
    pa.date32(): DataType("date"),
    pa.timestamp("us", tz="UTC"): DataType("timestamp"),
}

LiveTable = Callable[[str], "Table | None"]
"""The table of the lake by its name; None where the lake has none."""


@dataclass(frozen=True)
class Content:
    """The rows of a table at a snapshot: how many, and a hash of them all, whatever their order."""

    rows: int
    fingerprint: str


def compare(backed_up: BackedUp, restored: Table, live: LiveTable, there: Mapping[str, int]) -> TableDrilled:
    """A restored table against what the set says of it, and against the live table at the same snapshot.

    ``there`` has the size of each file of the scratch place. What is wrong is in the result, not raised.
    """
    begun = time.monotonic()
    metadata = restored.metadata
    current = metadata.current_snapshot_id
    problems = [] if current == backed_up.snapshot_id else [f"it is at snapshot {current}, not {backed_up.snapshot_id}"]
    problems += _unreadable_states(restored, there)
    is_small = backed_up.rows is None or backed_up.rows <= MOST_ROWS
    found = None
    if is_small and not problems:
        try:
            found = _content(restored, current)
        except (LakehouseError, ValueError, OSError, NotImplementedError) as error:
            problems.append(f"its rows cannot be read: {error}")
    problems += _other_rows(found, backed_up)
    is_live_compared = False
    if found is not None and current is not None:
        is_live_compared, other = _live_content(live, backed_up.table, current)
        problems += [f"its rows are not those of the live table: {other}"] if other not in (None, found) else []
    return TableDrilled(
        table=backed_up.table,
        snapshot_id=current,
        rows=found.rows if found else backed_up.rows,
        files=backed_up.files,
        size_bytes=backed_up.size_bytes,
        snapshots=len(metadata.snapshots),
        tags=sum(ref.snapshot_ref_type == "tag" for ref in metadata.refs.values()),
        compared="rows" if found else "files",
        is_live_compared=is_live_compared,
        fingerprint=found.fingerprint if found else "",
        seconds=time.monotonic() - begun,
        problems=tuple(problems),
    )


def _unreadable_states(table: Table, there: Mapping[str, int]) -> list[str]:
    """What keeps an old snapshot or a tag from being read: a file of it that is not there, or cannot be read."""
    snapshots = {snapshot.snapshot_id: snapshot for snapshot in table.metadata.snapshots}
    problems = [
        f"{ref.snapshot_ref_type} {name} leads to snapshot {ref.snapshot_id}, which is gone"
        for name, ref in table.metadata.refs.items()
        if ref.snapshot_id not in snapshots
    ]
    seen: set[str] = set()
    for snapshot in snapshots.values():
        try:
            missing = [path for path, size in _files_of(table, snapshot, seen) if there.get(path) != size]
        except (LakehouseError, ValueError, OSError) as error:
            problems.append(f"snapshot {snapshot.snapshot_id} cannot be read: {error}")
        else:
            problems += [f"snapshot {snapshot.snapshot_id} needs {path}" for path in missing]
    return problems[:_MOST_PROBLEMS]


def _files_of(table: Table, snapshot: Snapshot, seen: set[str]) -> Iterator[tuple[str, int]]:
    """The files that a snapshot's rows are in, with their sizes; each manifest is read for the first that has it."""
    with reaching(f"read snapshot {snapshot.snapshot_id} of {'.'.join(table.name())}"):
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path not in seen:
                seen.add(manifest.manifest_path)
                for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                    yield entry.data_file.file_path, entry.data_file.file_size_in_bytes


def _other_rows(found: Content | None, backed_up: BackedUp) -> list[str]:
    if found is None or backed_up.rows is None or found.rows == backed_up.rows:
        return []
    return [f"it has {found.rows:,} rows, {backed_up.rows:,} were backed up"]


def _live_content(live: LiveTable, name: str, snapshot_id: int) -> tuple[bool, Content | None]:
    """Whether the lake still has this snapshot of the table, and its rows. A lake that is away compares nothing."""
    try:
        table = live(name)
        if table is None or table.snapshot_by_id(snapshot_id) is None:
            return False, None
        return True, _content(table, snapshot_id)
    except (LakehouseError, ValueError, OSError):
        return False, None


def _content(table: Table, snapshot_id: int | None) -> Content:
    """All rows of a snapshot; none where there is no snapshot."""
    if snapshot_id is None:
        return Content(0, ContentFingerprint({}).hexdigest())
    scan = table.scan(snapshot_id=snapshot_id)
    schema = scan.projection().as_arrow()
    counted = ContentFingerprint({name: _kind(schema.field(name).type) for name in schema.names})
    rows = 0
    with reaching(f"read {'.'.join(table.name())}"):
        for batch in scan.to_arrow_batch_reader():
            rows += batch.num_rows
            for row in _plain_rows(batch):
                counted.add(row)
    return Content(rows, counted.hexdigest())


def _kind(kind: pa.DataType) -> DataType:
    """The type by which a column's values are encoded: what contracts do not know is text."""
    if pa.types.is_decimal(kind):
        return DataType("decimal", kind.precision, kind.scale)
    return _KNOWN.get(kind, _STRING)


def _plain_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    columns = {name: _plain(batch.column(name)) for name in batch.schema.names}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _plain(column: pa.Array) -> list[Any]:
    """Values as they are encoded: those of types that contracts do not know as text."""
    if _kind(column.type) != _STRING or column.type in _KNOWN:
        return list(column.to_pylist())
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())  # as many units as it has: nanoseconds have no type in Python
    return [None if value is None else json.dumps(value, default=_text, sort_keys=True) for value in column.to_pylist()]


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
