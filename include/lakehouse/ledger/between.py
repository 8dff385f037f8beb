"""What two snapshots of a table say beside their rows: the batches that they were made of, and the properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lakehouse.core.errors import IntegrityError
from lakehouse.ledger.pending import Ledger, read_ledger
from lakehouse.ledger.points import Point
from lakehouse.ledger.reading import Subject
from lakehouse.ledger.rollback import live_at
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Head, head_of, reaching

if TYPE_CHECKING:
    from pyiceberg.table import Table


@dataclass(frozen=True)
class BatchChange:
    """The batches of a source whose rows a table had at two times: how far it had consumed, what came, what went."""

    source: str
    was_through: int
    through: int
    came: tuple[int, ...]
    went: tuple[int, ...]


@dataclass(frozen=True)
class Between:
    """``properties`` are those that differ, each with both values; None where those of then are no longer known."""

    batches: tuple[BatchChange, ...]
    properties: Mapping[str, tuple[str | None, str | None]] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "batches": [asdict(each) for each in self.batches],
            "properties": {name: {"before": old, "after": new} for name, (old, new) in self.properties.items()}
            if self.properties is not None
            else None,
        }


def between(store: ObjectStore, subject: Subject, start: Point, end: Point | None) -> Between:
    """What changed beside the rows of a silver table; up to now, where no end is given."""
    table = subject.table
    now = head_of(table, end.snapshot.snapshot_id) if end else head_of(table)
    then = head_of(table, start.snapshot.snapshot_id)
    sources = {source for head in (then, now) if head.stamp for source in head.stamp.inputs}
    batches = [batch_change(read_ledger(store, each), str(subject.name), then, now) for each in sorted(sources)]
    before = properties_at(table, start)
    after = properties_at(table, end) if end else dict(table.properties)
    return Between(tuple(batches), None if before is None or after is None else changed(before, after))


def batch_change(ledger: Ledger, table: str, then: Head, now: Head) -> BatchChange:
    """The batches that count in one head and not in the other, by the logs. Pure."""
    had, has = live_at(ledger, table, then).live, live_at(ledger, table, now).live
    through = [head.consumed(ledger.source).through for head in (then, now)]
    return BatchChange(ledger.source, through[0], through[1], tuple(sorted(has - had)), tuple(sorted(had - has)))


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """The properties whose values differ."""
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def properties_at(table: Table, point: Point) -> dict[str, str] | None:
    """The table's properties when a snapshot was published; None where the metadata file of then is gone.

    Files are found by the time that stands in them, in about seven reads: the log's own times differ between writers.
    """
    files = [*(entry.metadata_file for entry in table.metadata.metadata_log), table.metadata_location]
    at = round(point.at.timestamp() * 1000)
    low, high, found = 0, len(files) - 1, None
    while low <= high:
        middle = (low + high) // 2
        metadata = _metadata(table, files[middle])
        if metadata is None:
            return None
        if metadata.last_updated_ms <= at:
            low, found = middle + 1, metadata
        else:
            high = middle - 1
    return dict(found.properties) if found else None


def _metadata(table: Table, location: str) -> Any:
    from pyiceberg.serializers import FromInputFile

    if location == table.metadata_location:
        return table.metadata
    try:
        with reaching("read table metadata"):
            return FromInputFile.table_metadata(table.io.new_input(location))
    except IntegrityError:  # the log may name files that somebody cleared away
        return None
