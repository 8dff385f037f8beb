"""What a lake says at a moment, read without Spark: every table, every snapshot that can be read, every name of one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lakehouse.core.settings import Settings
from lakehouse.ledger.watermark import catalog_tables, load_table, open_catalog


@dataclass(frozen=True)
class TableState:
    """A table: the snapshot it is at, the content of each snapshot, and what its branches and tags name."""

    head: int | None
    contents: Mapping[int, str]
    refs: Mapping[str, int]

    @property
    def content(self) -> str:
        """What the table says now; '' where it never had a row."""
        return self.contents[self.head] if self.head is not None else ""


Moment = Mapping[str, TableState]
"""Every table of the catalog, whatever its namespace."""


def moment(settings: Settings, *, snapshots: bool = True) -> Moment:
    """What every table says now, and with ``snapshots`` what each of its snapshots says."""
    catalog = open_catalog(settings)
    found = {}
    for name in catalog_tables(catalog):
        table = load_table(catalog, name)
        assert table is not None
        metadata = table.metadata
        head = metadata.current_snapshot_id
        wanted = [each.snapshot_id for each in metadata.snapshots] if snapshots else [head] if head else []
        refs = {ref: each.snapshot_id for ref, each in metadata.refs.items()}
        found[str(name)] = TableState(head, {each: content(table, each) for each in wanted}, refs)
    return found


def content(table: Any, snapshot_id: int) -> str:
    """The rows of a snapshot, whatever their order, without the columns of the system: when and how a row came."""
    rows = table.scan(snapshot_id=snapshot_id).to_arrow()
    columns = sorted(name for name in rows.column_names if not name.startswith("_"))
    lines = sorted(repr(tuple(row[column] for column in columns)) for row in rows.select(columns).to_pylist())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def heads(state: Moment, namespaces: Iterable[str] = ("silver", "gold", "bronze")) -> dict[str, str]:
    """What the tables of these namespaces say."""
    wanted = tuple(f"{namespace}." for namespace in namespaces)
    return {name: each.content for name, each in state.items() if name.startswith(wanted)}


def require_same(now: Moment, then: Moment) -> None:
    """Tables are where they were, and all that could be read then can be read now."""
    require_readable(now, then)
    assert {name: now[name].head for name in then} == {name: each.head for name, each in then.items()}


def require_readable(now: Moment, then: Moment) -> None:
    """Every snapshot of then can be read now, and says what it said; its names are there."""
    assert set(then) <= set(now)
    for name, before in then.items():
        for snapshot_id, said in before.contents.items():
            assert now[name].contents.get(snapshot_id) == said, f"{name} at snapshot {snapshot_id}"
        tags = {ref: snapshot_id for ref, snapshot_id in before.refs.items() if ref != "main"}
        assert tags.items() <= now[name].refs.items(), name
