"""A fork: a second catalog entry that starts from a table's metadata file, and on which even its columns may change.

Branches share one schema, so what replaces a column cannot be prepared on one. A fork has the table's snapshots,
schemas and field ids, and writes its own metadata files from there on; nobody reads it. It enters the table by one
update of the catalog's row, which Iceberg's own commits are too: the pointer moves from the metadata file that the
fork started from to one that is the fork's. Readers see columns and rows change at once, or not at all. The same
update, with a metadata file that says again what stood before, takes it back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from lakehouse.core.actor import user_name
from lakehouse.core.errors import ConcurrentCommit, IntegrityError, LakehouseError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.names import TableName
from lakehouse.engine.alter import former_name
from lakehouse.engine.dropped import register
from lakehouse.engine.pointer import FORK_PREFIX, Document, fork_name, read_document, swap, write_document
from lakehouse.engine.pointer import forget as take_out
from lakehouse.engine.publish import Lake
from lakehouse.engine.tables import METRICS_PROPERTY
from lakehouse.ledger.watermark import load_table

REBUILD_PROPERTY = "lakehouse.rebuild"
_GUARD = "gc.enabled"  # expiring snapshots of a fork would delete the table's own files
_LAYOUT = ("current-schema-id", "default-spec-id", "default-sort-order-id")


@dataclass(frozen=True)
class Fork:
    """A table, the fork that was made of it, and the metadata file and snapshot that it started from.

    ``computed`` is the fork's own metadata file once it has what is to be shown; '' before.
    """

    table: TableName
    name: TableName
    base: str
    base_snapshot: int
    computed: str = ""


def make_fork(lake: Lake, table: TableName, prefix: str = FORK_PREFIX) -> Fork:
    """Fork a table that stands; what was prepared before for the same purpose is dropped."""
    fork = fork_name(table, prefix)
    drop_fork(lake, fork)
    loaded = load_table(lake.catalog, table)
    head = loaded.current_snapshot() if loaded else None
    if loaded is None or head is None:
        raise LakehouseError(f"there is no table {table} to work on", todo="`lakehouse run` makes it")
    document = read_document(lake.catalog, loaded.metadata_location)
    guarded = {**document, "properties": {**document.get("properties", {}), _GUARD: "false"}}
    written = write_document(lake.catalog, fork, "", loaded.metadata_location, guarded)
    register(lake.catalog, fork, written.becomes)
    return Fork(table, fork, loaded.metadata_location, head.snapshot_id)


def seal(lake: Lake, fork: Fork) -> Fork:
    """The fork as it was computed: only that may enter its table."""
    loaded = load_table(lake.catalog, fork.name)
    if loaded is None:
        raise _replaced(fork)
    return replace(fork, computed=loaded.metadata_location)


def forget(lake: Lake, fork: Fork) -> None:
    """Drop a fork, unless another preparation took its place: that one is still to be decided about."""
    loaded = load_table(lake.catalog, fork.name)
    if loaded is not None and fork.computed in ("", loaded.metadata_location):
        drop_fork(lake, fork.name)


def drop_fork(lake: Lake, fork: TableName) -> None:
    """Forget a fork. Files are shared with the table, so nothing is purged; orphans go with maintenance."""
    while (found := load_table(lake.catalog, fork)) is not None:
        if take_out(lake.catalog, fork, found.metadata_location):
            return


def enter(lake: Lake, forks: Sequence[Fork], attempt: str, now: datetime) -> None:
    """Make tables what their forks are: all at once. Needs the locks of the tables.

    Raises :class:`ConcurrentCommit` where a table changed since it was forked, or a fork is not what was computed;
    nothing is published then.
    """
    swaps = []
    for fork in forks:
        loaded = load_table(lake.catalog, fork.name)
        if loaded is None or loaded.metadata_location != fork.computed:
            raise _replaced(fork)
        base = read_document(lake.catalog, fork.base)
        snapshot = loaded.current_snapshot()
        after = snapshot.snapshot_id if snapshot else 0
        note = _note(base, fork.base_snapshot, after, attempt, now) | {"by": user_name(lake.settings)}
        document = read_document(lake.catalog, loaded.metadata_location)
        entered, source = _entered(document, base, note), loaded.metadata_location
        swaps.append(write_document(lake.catalog, fork.table, fork.base, source, entered))
    failpoint("rebuild.before_swap", *(fork.table for fork in forks))
    swap(lake.catalog, swaps, _moved)
    failpoint("rebuild.after_swap", *(fork.table for fork in forks))


def _entered(document: Document, base: Document, note: Document) -> Document:
    said = json.dumps(note, separators=(",", ":"))
    return {**document, "properties": unguarded(document, base) | {REBUILD_PROPERTY: said}}


def unguarded(document: Document, base: Document) -> dict[str, str]:
    """A fork's properties without what protects the table's files from it."""
    properties = {key: value for key, value in document["properties"].items() if key != _GUARD}
    return properties | {key: value for key, value in base["properties"].items() if key == _GUARD}


def _note(base: Document, before: int, after: int, attempt: str, now: datetime) -> Document:
    """All that it takes to go back."""
    layout = {key: base[key] for key in _LAYOUT}
    metrics = {key: value for key, value in base["properties"].items() if key.startswith(METRICS_PROPERTY)}
    value = {"attempt": attempt, "at": now.isoformat(), "before": before, "after": after, "layout": layout}
    return {**value, "metrics": metrics}


def rebuild_note(lake: Lake, table: TableName) -> Mapping[str, Any] | None:
    """What the last rebuild of a table left behind to be taken back; None where there was none, or it was."""
    loaded = load_table(lake.catalog, table)
    text = loaded.properties.get(REBUILD_PROPERTY) if loaded else None
    return json.loads(text) if text else None


def take_back(lake: Lake, tables: Sequence[TableName], now: datetime) -> None:
    """Make tables what they were before their last rebuild: all at once. Needs the locks of the tables."""
    swaps = []
    for table in tables:
        loaded, note = load_table(lake.catalog, table), rebuild_note(lake, table)
        if loaded is None or note is None or loaded.snapshot_by_id(note["before"]) is None:
            raise IntegrityError(
                f"what {table} was before its rebuild is no longer there",
                untouched=f"{table}",
                todo="bring it back from a backup, or correct the contract and rebuild again",
            )
        document = read_document(lake.catalog, loaded.metadata_location)
        at = loaded.metadata_location
        swaps.append(write_document(lake.catalog, table, at, at, _taken_back(document, note, now)))
    swap(lake.catalog, swaps, _moved)


def _taken_back(document: Document, note: Mapping[str, Any], now: datetime) -> Document:
    millis = max(int(now.timestamp() * 1000), document["last-updated-ms"] + 1)
    properties = {
        key: value
        for key, value in document["properties"].items()
        if key != REBUILD_PROPERTY and not key.startswith(METRICS_PROPERTY)
    }
    main = {**document["refs"]["main"], "snapshot-id": note["before"]}
    return {
        **document,
        **note["layout"],
        **_former_schema(document, note["layout"]["current-schema-id"]),
        "current-snapshot-id": note["before"],
        "refs": {**document["refs"], "main": main},
        "last-updated-ms": millis,
        "snapshot-log": [*document["snapshot-log"], {"timestamp-ms": millis, "snapshot-id": note["before"]}],
        "properties": properties | note["metrics"],
    }


def _former_schema(document: Document, number: int) -> Document:
    """The former schema, with the columns that partition specs of the rebuild refer to: no spec may lose its column."""
    schemas = {schema["schema-id"]: schema for schema in document["schemas"]}
    former = schemas[number]
    needed = {field["source-id"] for spec in document["partition-specs"] for field in spec["fields"]}
    needed -= {field["id"] for field in former["fields"]}
    if not needed:
        return {}
    known = {field["id"]: field for schema in schemas.values() for field in schema["fields"]}
    kept = [{**known[number], "name": former_name(number), "required": False} for number in sorted(needed)]
    added = {**former, "schema-id": max(schemas) + 1, "fields": [*former["fields"], *kept]}
    return {"schemas": [*document["schemas"], added], "current-schema-id": added["schema-id"]}


def _replaced(fork: Fork) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"the rebuild of {fork.table} is no longer what was computed: another rebuild of the table took its place",
        untouched=f"{fork.table}; nothing of the rebuild was published",
        todo="decide about the other one, or run `lakehouse rebuild` again",
    )


def _moved(table: TableName) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"{table} changed since its rebuild was computed",
        untouched=f"{table}; nothing of the rebuild was published",
        todo="run `lakehouse rebuild` again; it starts from the table as it is now",
    )
