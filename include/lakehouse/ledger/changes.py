"""How the knowledge of one key evolved: what each publication that touched it changed. No JVM."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from lakehouse.core import names
from lakehouse.ledger.diff import KeyChange, diff
from lakehouse.ledger.files import Files
from lakehouse.ledger.points import Point, publications
from lakehouse.ledger.reading import Subject


@dataclass(frozen=True)
class Step:
    """What became known of a key at a point. ``is_earliest``: what came before is not kept, so it is all at once."""

    point: Point
    change: KeyChange
    is_earliest: bool


def key_changes(subject: Subject, key: str, *, show_classified: bool = False) -> list[Step]:
    """The publications that changed something about a durable key, oldest first."""
    files = Files(subject.table.io)
    key_id = subject.table.schema().find_field(names.KEY).field_id
    heads = publications(subject.table)
    steps = []
    for before, point in pairwise([None, *heads]):
        if point is None:
            continue
        delta = files.of_key(files.delta(before.snapshot if before else None, point.snapshot), key_id, key)
        if not delta.old and not delta.new:
            continue
        found = diff(subject, before, point, limit=1, key=key, show_classified=show_classified, files=files)
        is_earliest = before is None and point.snapshot.parent_snapshot_id is not None
        steps += [Step(point, change, is_earliest) for change in found.samples]
    return steps
