"""Going back and forth in a table's snapshots: tags, and rollbacks of ``main``. No JVM.

Each is one commit of ours to the table's metadata (:mod:`lakehouse.engine.pointer`), under the table's lock. A rollback
first writes down which batches it undoes. A process that dies between the two has lost nothing: the next run takes
these batches out of the table, which gives the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lakehouse.core.errors import ConcurrentCommit, SettingsError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine.lock import table_locks
from lakehouse.engine.pointer import Document, read_document, swap, write_document
from lakehouse.ledger.decisions import append_decision
from lakehouse.ledger.points import existing_table
from lakehouse.ledger.rollback import Rollback, plan_rollback
from lakehouse.ledger.store import ObjectStore

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

UNDO_DAYS = 30
"""How long a rollback can be undone: the head that it left is kept by a tag."""


@dataclass(frozen=True)
class Tagging:
    """What is to become of a table's tags: each new one with its snapshot, and how long it is kept (None: for good)."""

    make: Mapping[str, int] = field(default_factory=dict)
    drop: Sequence[str] = ()
    keep: timedelta | None = None

    @property
    def is_empty(self) -> bool:
        return not self.make and not self.drop


def tag_table(
    settings: Settings,
    catalog: Catalog,
    name: TableName,
    choose: Callable[[Table], Tagging],
    now: datetime,
    *,
    wait_seconds: float = 60,
) -> Tagging:
    """Change a table's tags as chosen from its metadata under the lock. Returns what was done."""
    with table_locks(settings, [name], wait_seconds=wait_seconds) as locks:
        table = existing_table(catalog, name)
        chosen = choose(table)
        if not chosen.is_empty:
            at = table.metadata_location
            document = tagged(read_document(catalog, at), chosen, now)
            locks.check()
            swap(catalog, [write_document(catalog, name, at, at, document)], _moved)
    return chosen


def tagged(document: Document, change: Tagging, now: datetime) -> Document:
    """A metadata file with other tags."""
    refs = {name: ref for name, ref in document["refs"].items() if name not in change.drop}
    made = {name: _tag(document, snapshot_id, change.keep, now) for name, snapshot_id in change.make.items()}
    return {**document, "refs": refs | made, "last-updated-ms": _millis(document, now)}


def _tag(document: Document, snapshot_id: int, keep: timedelta | None, now: datetime) -> dict[str, Any]:
    """A tag as metadata has it. Iceberg counts its age from the snapshot's commit, and we from now."""
    tag: dict[str, Any] = {"snapshot-id": snapshot_id, "type": "tag"}
    if keep is None:
        return tag
    committed = next(each["timestamp-ms"] for each in document["snapshots"] if each["snapshot-id"] == snapshot_id)
    return {**tag, "max-ref-age-ms": int((now + keep).timestamp() * 1000) - committed}


def _millis(document: Document, now: datetime) -> int:
    return max(int(now.timestamp() * 1000), int(document["last-updated-ms"]) + 1)


def roll_back(
    settings: Settings, catalog: Catalog, store: ObjectStore, plan: Rollback, reason: str, by: str, now: datetime
) -> dict[TableName, str]:
    """Do what was planned. Returns for each table the tag that keeps the head it had.

    Raises :class:`ConcurrentCommit` where the table or the logs changed since; nothing is decided or moved then.
    """
    with table_locks(settings, [move.table for move in plan.moves]) as locks:
        fresh = plan_rollback(catalog, store, plan.table, plan.asked)
        if fresh.token != plan.token:
            raise _changed(plan)
        swaps, tags = [], {}
        for move in fresh.moves:
            if move.was != move.becomes:
                at = move.metadata_location
                tags[move.table] = undo_tag(move.was, now)
                document = rolled_back(read_document(catalog, at), move.becomes, tags[move.table], now)
                swaps.append(write_document(catalog, move.table, at, at, document))
        locks.check()
        for draft in plan.decisions(reason, by, now):
            append_decision(store, draft)
        failpoint("rollback.before_swap", plan.table)
        swap(catalog, swaps, _moved)
        failpoint("rollback.after_swap", plan.table)
    return tags


def undo_tag(snapshot_id: int, now: datetime) -> str:
    """The name of the tag that keeps the head which a rollback left."""
    return f"before-rollback-{now:%Y%m%dT%H%M%S}-{snapshot_id}"


def rolled_back(document: Document, snapshot_id: int, tag: str, now: datetime) -> Document:
    """A metadata file whose ``main`` is at another snapshot, and that keeps the one it was at by a tag."""
    millis = _millis(document, now)
    main = document["refs"]["main"]
    kept = tagged(document, Tagging({tag: main["snapshot-id"]}, keep=timedelta(days=UNDO_DAYS)), now)
    return {
        **kept,
        "refs": {**kept["refs"], "main": {**main, "snapshot-id": snapshot_id}},
        "current-snapshot-id": snapshot_id,
        "snapshot-log": [*document["snapshot-log"], {"timestamp-ms": millis, "snapshot-id": snapshot_id}],
        "last-updated-ms": millis,
    }


def _changed(plan: Rollback) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"{plan.table}, its quarantine or its source's logs changed since the rollback was planned",
        untouched=f"{plan.table}; nothing was decided",
        todo="look again with --dry-run, and say what it says then",
    )


def _moved(name: TableName) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"a tool that takes no lock changed {name} meanwhile",
        untouched=f"main of {name}",
        todo="say it again; what a rollback undoes may be held already, which `lakehouse held` tells",
    )


def require_tag_name(table: Table, name: str) -> None:
    """Raise :class:`SettingsError` where a ref of that name is in the way."""
    found = table.metadata.refs.get(name)
    if found is not None:
        raise SettingsError(
            f"{'.'.join(table.name())} has a {found.snapshot_ref_type.value} {name!r} already",
            where=f"snapshot {found.snapshot_id}",
            todo="choose another name, or drop it first with --drop",
        )
