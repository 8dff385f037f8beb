"""Known time: which snapshot a table's ``main`` was at, by time, by snapshot id, or by the name of a tag or branch.

A time means what ``main`` said then, by the log of its heads: steps of a publication that never were a head don't
count. Spark's ``TIMESTAMP AS OF`` goes by the same log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lakehouse.core.clock import moment
from lakehouse.core.errors import SettingsError
from lakehouse.core.names import TableName
from lakehouse.ledger.watermark import STAMP_PROPERTY, Stamp, load_table, summary_of

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_DIGITS = 8
_ID = re.compile(r"[0-9]{1,19}\Z")


@dataclass(frozen=True)
class Point:
    """A snapshot, when it became ``main``'s head (or was committed, where it never did), and how it was asked for."""

    snapshot: Snapshot
    at: datetime
    asked: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"snapshot_id": self.snapshot.snapshot_id, "at": self.at.isoformat(), "asked": self.asked}


def existing_table(catalog: Catalog, name: TableName) -> Table:
    """The table's metadata. Raises :class:`SettingsError` where there is none, or nothing in it."""
    table = load_table(catalog, name)
    if table is None or table.current_snapshot() is None:
        raise SettingsError(f"there is no table {name} yet", todo="run `lakehouse run` after something has landed")
    return table


def publications(table: Table) -> list[Point]:
    """Every head that ``main`` had and that is still kept, oldest first. After a rollback a snapshot comes again."""
    heads = []
    for entry in table.metadata.snapshot_log:
        snapshot = table.snapshot_by_id(entry.snapshot_id)
        if snapshot is not None:
            heads.append(Point(snapshot, _time(entry.timestamp_ms), "main"))
    return heads


def rows_of(snapshot: Snapshot | None) -> int:
    """The number of rows of a snapshot, by its summary."""
    summary = summary_of(snapshot) if snapshot else {}
    return int(summary.get("total-records", 0)) - int(summary.get("total-position-deletes", 0))


def resolve(table: Table, name: TableName, asked: str | None = None) -> Point:
    """The snapshot that a person means: an id, a tag, a branch, or what ``main`` said at a time; by default, now.

    Raises :class:`SettingsError` where there is no such snapshot, and says whether it has expired.
    """
    heads = publications(table)
    if asked is None:
        return heads[-1]
    if asked in table.metadata.refs:
        return _by_id(table, heads, table.metadata.refs[asked].snapshot_id, asked)
    if _ID.match(asked):
        snapshot_id = int(asked)
        if table.snapshot_by_id(snapshot_id) is not None:
            return _by_id(table, heads, snapshot_id, asked)
        if len(asked) != _DAY_DIGITS:
            raise _unknown_id(table, name, snapshot_id)
    try:
        at = moment(asked)
    except SettingsError:
        raise _unknown_name(table, name, asked) from None
    return _as_of(heads, name, at, asked)


def known_until(table: Table, snapshot: Snapshot) -> datetime | None:
    """The greatest effective time that a dimension had consumed at a snapshot; None where it says none."""
    found: Snapshot | None = snapshot
    while found is not None:
        if text := summary_of(found).get(STAMP_PROPERTY):
            times = [each.max_effective for each in Stamp.from_json(text).inputs.values() if each.max_effective]
            return moment(max(times)) if times else None
        found = table.snapshot_by_id(found.parent_snapshot_id) if found.parent_snapshot_id is not None else None
    return None


def _by_id(table: Table, heads: list[Point], snapshot_id: int, asked: str) -> Point:
    snapshot = table.snapshot_by_id(snapshot_id)
    if snapshot is None:
        raise SettingsError(f"{asked} names the snapshot {snapshot_id}, which is not in the table's metadata")
    head = next((head for head in reversed(heads) if head.snapshot.snapshot_id == snapshot_id), None)
    return Point(snapshot, head.at if head else _time(snapshot.timestamp_ms), asked)


def _as_of(heads: list[Point], name: TableName, at: datetime, asked: str) -> Point:
    found = next((head for head in reversed(heads) if head.at <= at), None)
    if found is not None:
        return Point(found.snapshot, found.at, asked)
    first = heads[0]
    when = f"{first.at:%Y-%m-%d %H:%M:%S.%f}"
    if first.snapshot.parent_snapshot_id is not None:
        raise SettingsError(
            f"what {name} said at {at:%Y-%m-%d %H:%M:%S} UTC has expired",
            todo=f"ask for {when} UTC or later; older snapshots are in the backups, if there are any",
        )
    raise SettingsError(
        f"{name} had no snapshot yet at {at:%Y-%m-%d %H:%M:%S} UTC",
        where=f"its first is of {when} UTC; a table of this name that was dropped before is another table",
        todo="ask for a later time",
    )


def _unknown_id(table: Table, name: TableName, snapshot_id: int) -> SettingsError:
    kept = table.metadata.snapshots
    if any(snapshot.parent_snapshot_id == snapshot_id for snapshot in kept):
        return SettingsError(
            f"the snapshot {snapshot_id} of {name} has expired",
            todo="`lakehouse history --changes` and `lakehouse tables` work on what is kept; ask the backups for more",
        )
    return SettingsError(
        f"{name} has no snapshot {snapshot_id}",
        where=f"{len(kept)} snapshots are kept; this one has expired, or is of another table, or of one that was "
        "dropped before this one was made",
        todo=f"the table {name}.history lists them in `lakehouse sql`",
    )


def _unknown_name(table: Table, name: TableName, asked: str) -> SettingsError:
    refs = ", ".join(f"{ref} ({found.snapshot_ref_type.value})" for ref, found in sorted(table.metadata.refs.items()))
    return SettingsError(
        f"{asked!r} is no snapshot id, tag, branch or time of {name}",
        where=f"it has {refs}",
        todo="write a time as 2024-03-31 or 2024-03-31T14:05:00; UTC unless it says",
    )


def _time(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)
