"""Which batches count, as a pure function of the two logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Literal

from lakehouse.ledger.decisions import Action, Decision
from lakehouse.ledger.log import Batch

State = Literal["released", "held", "discarded"]
_STATES: Mapping[Action, State] = {
    "hold": "held",
    "rollback": "held",
    "release": "released",
    "discard": "discarded",
}


@dataclass(frozen=True)
class LiveSet:
    """The batches up to a number, each in exactly one of four sets."""

    live: frozenset[int] = field(default_factory=frozenset)
    superseded: frozenset[int] = field(default_factory=frozenset)
    held: frozenset[int] = field(default_factory=frozenset)
    discarded: frozenset[int] = field(default_factory=frozenset)

    @property
    def holes(self) -> frozenset[int]:
        """What is not consumed although nothing superseded it."""
        return self.held | self.discarded


def live(
    batches: Iterable[Batch],
    decisions: Iterable[Decision],
    through: int,
    decisions_through: int,
    table: str | None = None,
    held: frozenset[int] = frozenset(),
    frozen: Mapping[int, str] = MappingProxyType({}),
) -> LiveSet:
    """Sort the batches with number ≤ ``through`` by the decisions with number ≤ ``decisions_through``.

    Of the slices and snapshots of a unit, the latest that is neither held nor discarded is live, and those before it
    are superseded, held ones included. A held or discarded one supersedes nothing. Increments supersede nothing.

    ``table`` (as in ``silver.dim_customer``) is who asks: decisions about the source count for every table, those
    about one table for that table only. ``held`` are batches that the table itself holds, by a rule. ``frozen`` are
    those that were trimmed from bronze, each with the set that it was in: it stays there, and supersedes nothing.
    """
    states: dict[int, State] = dict.fromkeys(held, "held")
    for number, state in states_of(decisions, decisions_through, table).items():
        states[number] = "held" if number in held and state != "discarded" else state
    sets: dict[str, set[int]] = {"live": set(), "superseded": set(), "held": set(), "discarded": set()}
    covered: set[date] = set()  # units whose live batch was met, coming from the newest
    for batch in sorted(batches, key=lambda batch: batch.number, reverse=True):
        if batch.number in frozen:
            sets[frozen[batch.number]].add(batch.number)
        elif batch.number <= through:
            sets[_place(batch, states.get(batch.number, "released"), covered)].add(batch.number)
    return LiveSet(**{name: frozenset(numbers) for name, numbers in sets.items()})


def _place(batch: Batch, state: State, covered: set[date]) -> str:
    if state == "discarded":
        return "discarded"
    replaces = batch.kind != "increment"
    if replaces and batch.unit in covered:
        return "superseded"
    if state == "held":
        return "held"
    if replaces:
        covered.add(batch.unit)
    return "live"


def states_of(decisions: Iterable[Decision], decisions_through: int, table: str | None = None) -> dict[int, State]:
    """What the last decision that concerns ``table`` says of each batch; a discard is final."""
    states: dict[int, State] = {}
    for decision in sorted(decisions, key=lambda decision: decision.number):
        if decision.number > decisions_through:
            break
        if decision.table not in (None, table):
            continue
        for number in decision.batches:
            if states.get(number) != "discarded":
                states[number] = _STATES[decision.action]
    return states
