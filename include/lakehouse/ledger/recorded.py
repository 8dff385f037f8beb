"""The contracts that a table was made with, as they stand in its properties.

A stamp names its contract by the fingerprint of the semantics. The property ``lakehouse.contract.<fingerprint>`` holds
that contract, trimmed to the table. It is set before data of that fingerprint is published; one that no stamp names is
harmless, since nothing is looked up but what a stamp names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lakehouse.contracts.changes import Change, Worst, compare
from lakehouse.contracts.model import Contract
from lakehouse.contracts.semantics import table_fingerprint
from lakehouse.ledger.watermark import STAMP_PROPERTY, Stamp, ancestors, summary_of

if TYPE_CHECKING:
    from pyiceberg.table import Table

CONTRACT_PROPERTY = "lakehouse.contract."
_FORMAT = 1


@dataclass(frozen=True)
class Recorded:
    """A contract that a table had: since when, and the snapshot that was ``main`` then."""

    fingerprint: str
    contract: Contract
    at: datetime
    after: int | None


@dataclass(frozen=True)
class Step:
    """From one contract of a table to the next. Snapshots are None where they have expired."""

    at: datetime
    before: int | None
    snapshot: int | None
    fingerprint: str
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "at": self.at.isoformat(),
            "snapshot_before": self.before,
            "snapshot_after": self.snapshot,
            "fingerprint": self.fingerprint,
            "changes": [
                {"what": c.what, "subject": c.subject, "before": c.before, "after": c.after} for c in self.changes
            ],
        }


def trimmed(contract: Contract, name: str) -> str:
    """The contract of one table as canonical JSON."""
    raw = contract.dump()
    raw["tables"] = {name: raw["tables"][name]}
    return json.dumps(raw, sort_keys=False, separators=(",", ":"))


def record(contract: str, at: datetime, after: int | None) -> str:
    """The property's value."""
    value = {"format": _FORMAT, "at": at.isoformat(), "after": after, "contract": json.loads(contract)}
    return json.dumps(value, separators=(",", ":"))


def recorded(table: Table, fingerprint: str) -> Recorded | None:
    """The contract of a fingerprint; None where it was never recorded, or where this version reads it differently."""
    text = table.properties.get(CONTRACT_PROPERTY + fingerprint)
    return _read(fingerprint, text) if text else None


def all_recorded(table: Table) -> list[Recorded]:
    """Every contract that the table knows, oldest first."""
    found = []
    for key, text in table.properties.items():
        if key.startswith(CONTRACT_PROPERTY):
            found.append(_read(key.removeprefix(CONTRACT_PROPERTY), text))
    return sorted(filter(None, found), key=lambda one: one.at)


def _read(fingerprint: str, text: str) -> Recorded | None:
    value = json.loads(text)
    if value.get("format") != _FORMAT:
        return None
    try:
        contract = Contract.model_validate(value["contract"])
    except ValidationError:
        return None
    (name,) = contract.tables
    if table_fingerprint(contract, name) != fingerprint:
        return None
    return Recorded(fingerprint, contract, datetime.fromisoformat(value["at"]), value["after"])


def contract_history(table: Table) -> list[Step]:
    """How the contract of a table changed, oldest first. The first step is the contract that it began with."""
    steps: list[Step] = []
    for found, at, before, snapshot in _stamped(table):
        if not steps or found != steps[-1].fingerprint:
            changes = _changes(table, steps[-1].fingerprint, found) if steps else (Change("first contract"),)
            steps.append(Step(at, before, snapshot, found, changes))
    return steps


def _changes(table: Table, before: str, after: str) -> tuple[Change, ...]:
    old, new = recorded(table, before), recorded(table, after)
    if old is None or new is None:
        return (Change("not recorded"),)
    (name,) = new.contract.tables
    return tuple(compare(old.contract, new.contract, name, Worst()))


def _stamped(table: Table) -> Iterator[tuple[str, datetime, int | None, int | None]]:
    """Fingerprint, time, parent and id: contracts of expired snapshots first, then what stands in ``main``."""
    kept = []
    for snapshot in ancestors(table):
        text = summary_of(snapshot).get(STAMP_PROPERTY)
        if text and (fingerprint := Stamp.from_json(text).fingerprint):
            at = datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)
            kept.append((fingerprint, at, snapshot.parent_snapshot_id, snapshot.snapshot_id))
    kept.reverse()
    known = {snapshot.snapshot_id for snapshot in table.metadata.snapshots}
    for one in all_recorded(table):
        if one.after is not None and one.after not in known:
            yield one.fingerprint, one.at, None, None
    yield from kept
