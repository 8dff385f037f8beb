"""A table's metadata as of a moment, out of a later metadata file. Pure: JSON in, JSON out.

What was committed after that moment is left out, with the tags on it; what is older stays, so that former snapshots can
be read as before.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from lakehouse.ledger.watermark import ATTEMPT_PROPERTY

Document = Mapping[str, Any]
_QUIET = -1


class NotKnown(LookupError):
    """The metadata does not say any more, or does not say yet, where ``main`` was at a moment."""


def current_of(document: Document) -> int | None:
    """The snapshot that ``main`` is at; None for an empty table."""
    found = document.get("current-snapshot-id", _QUIET)
    return None if found in (None, _QUIET) else int(found)


def head_at(document: Document, millis: float) -> int | None:
    """Where ``main`` was at a moment; None if the table was empty. Raises :class:`NotKnown`."""
    heads = [entry for entry in document.get("snapshot-log") or [] if entry["timestamp-ms"] <= millis]
    if heads and heads[-1]["snapshot-id"] in _snapshots(document):
        return int(heads[-1]["snapshot-id"])
    is_empty = not document.get("snapshots")
    if is_empty and document["last-updated-ms"] <= millis:
        return None
    raise NotKnown


def was_published(document: Document, snapshot_id: int) -> bool:
    """Whether ``main`` was at a snapshot once, as far as the metadata tells."""
    heads = {entry["snapshot-id"] for entry in document.get("snapshot-log") or []}
    tagged = {ref["snapshot-id"] for ref in (document.get("refs") or {}).values() if ref["type"] == "tag"}
    known = heads | tagged | set(_ancestors(document, current_of(document)))
    return snapshot_id in known and snapshot_id in _snapshots(document)


def rows_of(document: Document, snapshot_id: int | None) -> int | None:
    """The rows of a snapshot by its summary; None where deletes by equality leave it open."""
    if snapshot_id is None:
        return 0
    summary = _snapshots(document)[snapshot_id].get("summary", {})
    if "total-records" not in summary or int(summary.get("total-equality-deletes", 0)):
        return None
    return int(summary["total-records"]) - int(summary.get("total-position-deletes", 0))


def companion_head(document: Document, snapshot_id: int | None, companion: Document) -> int | None:
    """Where a table was that is published by the same attempts, when this one was at a snapshot.

    The newest of its heads that has nothing of an attempt that this table does not have at the snapshot.
    """
    stays = set(_attempts(document, snapshot_id))
    heads = [entry["snapshot-id"] for entry in document.get("snapshot-log") or []]
    undone = {_attempt(_snapshots(document)[head]) for head in heads if head in _snapshots(document)} - stays - {""}
    there = _snapshots(companion)
    known = {entry["snapshot-id"] for entry in companion.get("snapshot-log") or []} & there.keys()
    for head in sorted(known, key=lambda each: -there[each]["sequence-number"]):
        if not undone & set(_attempts(companion, head)):
            return int(head)
    if known or companion.get("snapshots"):
        raise NotKnown
    return None


def as_of(document: Document, snapshot_id: int | None) -> Document:
    """The metadata as it was with ``main`` at a snapshot; the same document where it is there."""
    if current_of(document) == snapshot_id:
        return document
    snapshots = _snapshots(document)
    last = snapshots[snapshot_id]["sequence-number"] if snapshot_id is not None else 0
    stay = [each for each in document["snapshots"] if each.get("sequence-number", 0) <= last]
    ids = {each["snapshot-id"] for each in stay}
    refs = {
        name: ref for name, ref in (document.get("refs") or {}).items() if ref["snapshot-id"] in ids and name != "main"
    }
    if snapshot_id is not None:
        refs["main"] = {**document["refs"]["main"], "snapshot-id": snapshot_id}
    lists = {
        name: [each for each in document[name] if each["snapshot-id"] in ids]
        for name in ("statistics", "partition-statistics")
        if name in document
    }
    return {
        **document,
        **lists,
        **_schema_of(document, snapshots.get(snapshot_id) if snapshot_id is not None else None),
        "snapshots": stay,
        "snapshot-log": _log_until(document, snapshot_id, ids),
        "refs": refs,
        "current-snapshot-id": _QUIET if snapshot_id is None else snapshot_id,
    }


def _log_until(document: Document, snapshot_id: int | None, ids: set[int]) -> list[Document]:
    """The log of heads up to the last time that ``main`` was there, which it must end with."""
    log = [entry for entry in document.get("snapshot-log") or [] if entry["snapshot-id"] in ids]
    places = [place for place, entry in enumerate(log) if entry["snapshot-id"] == snapshot_id]
    if places:
        return log[: places[-1] + 1]
    if snapshot_id is None:
        return []
    at = _snapshots(document)[snapshot_id]["timestamp-ms"]
    return [*(entry for entry in log if entry["timestamp-ms"] <= at), {"timestamp-ms": at, "snapshot-id": snapshot_id}]


def _schema_of(document: Document, snapshot: Document | None) -> Document:
    """The columns of a snapshot, unless a partition spec or a sort order needs one that came later."""
    if snapshot is None or "schema-id" not in snapshot:
        return {}
    schemas = {schema["schema-id"]: schema for schema in document["schemas"]}
    then = schemas.get(snapshot["schema-id"])
    layouts = [*document.get("partition-specs", []), *document.get("sort-orders", [])]
    needed = {field["source-id"] for layout in layouts for field in layout["fields"]}
    if then is None or needed - {field["id"] for field in then["fields"]}:
        return {}
    return {"current-schema-id": then["schema-id"]}


def name_beside(location: str, body: bytes) -> str:
    """The name of a metadata file that was made out of another: the same bytes always have the same name."""
    folder, _, name = location.rpartition("/")
    number = name.partition("-")[0]
    following = int(number) + 1 if number.isdigit() else 0
    mark = uuid.uuid5(uuid.NAMESPACE_URL, f"{location}\n{body.decode()}")
    return f"{folder}/{following:05d}-{mark}.metadata.json"


def _snapshots(document: Document) -> dict[int, Document]:
    return {each["snapshot-id"]: each for each in document.get("snapshots") or []}


def _ancestors(document: Document, snapshot_id: int | None) -> Iterator[int]:
    snapshots = _snapshots(document)
    while snapshot_id in snapshots:
        yield snapshot_id
        snapshot_id = snapshots[snapshot_id].get("parent-snapshot-id")


def _attempts(document: Document, snapshot_id: int | None) -> Iterator[str]:
    snapshots = _snapshots(document)
    return (_attempt(snapshots[each]) for each in _ancestors(document, snapshot_id))


def _attempt(snapshot: Document) -> str:
    return str(snapshot.get("summary", {}).get(ATTEMPT_PROPERTY, ""))
