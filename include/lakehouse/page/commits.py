"""How a table came to be what it is: its publications, in words. From one metadata file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from lakehouse.ledger.points import Point, publications, rows_of
from lakehouse.ledger.watermark import Stamp, head_of, summary_of
from lakehouse.page.facts import refs_of

if TYPE_CHECKING:
    from pyiceberg.table import Table

SHOWN = 50


@dataclass(frozen=True)
class Commit:
    """A snapshot that became ``main``'s head. ``change`` is how many rows more or less than the head before it."""

    at: datetime
    snapshot_id: int
    operation: str
    what: str
    rows: int
    change: int | None
    files: int
    attempt: str
    refs: tuple[str, ...]
    is_current: bool


def commits_of(table: Table) -> list[Commit]:
    """The newest publications, newest first."""
    heads = publications(table)
    return list(_commits(table, heads))[: -SHOWN - 1 : -1]


def _commits(table: Table, heads: list[Point]) -> Iterator[Commit]:
    refs: dict[int, list[str]] = {}
    for ref in refs_of(table):
        refs.setdefault(ref.snapshot_id, []).append(ref.name)
    current = table.metadata.current_snapshot_id
    before: Commit | None = None
    stood: Stamp | None = None
    for number, point in enumerate(heads):
        snapshot_id = point.snapshot.snapshot_id
        summary = summary_of(point.snapshot)
        stamp = head_of(table, snapshot_id).stamp
        rows = rows_of(point.snapshot)
        operation = point.snapshot.summary.operation.value if point.snapshot.summary else ""
        commit = Commit(
            at=point.at,
            snapshot_id=snapshot_id,
            operation=operation,
            what="; ".join(
                _what(stood, stamp, operation, snapshot_id in {h.snapshot.snapshot_id for h in heads[:number]})
            ),
            rows=rows,
            change=rows - before.rows if before else None,
            files=int(summary.get("total-data-files", 0)),
            attempt=stamp.attempt if stamp else "",
            refs=tuple(refs.get(snapshot_id, ())),
            is_current=snapshot_id == current and number == len(heads) - 1,
        )
        yield commit
        before, stood = commit, stamp


def _what(before: Stamp | None, stamp: Stamp | None, operation: str, is_again: bool) -> Iterator[str]:
    """What a publication did, by what its stamp says that the one before did not."""
    if is_again:
        yield "set back to an earlier snapshot"
        return
    if stamp is None or stamp == before:
        yield f"no new data ({operation})"
        return
    if stamp.is_first and not stamp.held:
        yield "records of a run" if before else "table created"
        return
    said = [*_consumed(before, stamp), *_otherwise(before, stamp)]
    yield from said or ["nothing new was taken"]


def _consumed(before: Stamp | None, stamp: Stamp) -> Iterator[str]:
    for source, consumed in stamp.inputs.items():
        former = before.inputs.get(source) if before else None
        first = (former.through if former else 0) + 1
        if consumed.through == first:
            yield f"{source}#{first}"
        elif consumed.through > first:
            yield f"{source}#{first} to #{consumed.through}"
        if consumed.decisions > (former.decisions if former else 0):
            yield f"decisions to {consumed.decisions}"
    newer = [
        name
        for name, attempt in stamp.upstream.items()
        if attempt and (not before or before.upstream.get(name) != attempt)
    ]
    if newer:
        yield "made of new " + ", ".join(newer)


def _otherwise(before: Stamp | None, stamp: Stamp) -> Iterator[str]:
    if before and before.fingerprint and stamp.fingerprint != before.fingerprint:
        yield "contract changed"
    if stamp.held and (not before or stamp.held.keys() != before.held.keys()):
        yield f"held: {', '.join(f'#{number}' for number in sorted(stamp.held))}"
    if stamp.baseline and (not before or before.baseline != stamp.baseline):
        yield f"trimmed to {stamp.baseline.effective}"
