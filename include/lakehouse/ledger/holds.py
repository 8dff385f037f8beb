"""What is not in the tables although it landed: batches that a rule or a person holds back, or that were discarded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from lakehouse.contracts.model import Contract
from lakehouse.ledger.beyond import why_beyond
from lakehouse.ledger.decisions import Decision
from lakehouse.ledger.live import states_of
from lakehouse.ledger.pending import Ledger, read_ledger
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import STAMP_PROPERTY, Stamp, ancestors, load_table, summary_of

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

Holding = Sequence[tuple[datetime, Stamp]]
"""The newest stamps of a table that hold batches without interruption, newest first, with their times."""


@dataclass(frozen=True)
class Hold:
    """A hole: one batch, kept out of one table, or of all tables of its source where ``table`` is None.

    ``by`` is who decided, None where a rule did; ``since`` is when it was decided, or first published without it.
    """

    source: str
    batch: int
    unit: date
    state: str
    table: str | None
    reason: str
    by: str | None
    since: datetime
    todo: str

    @property
    def name(self) -> str:
        """The batch as the commands want it."""
        return f"{self.source}#{self.batch}"

    @property
    def is_automatic(self) -> bool:
        """Whether a rule holds it, to be judged again by the next run."""
        return self.by is None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        times = {"unit": self.unit.isoformat(), "since": self.since.isoformat()}
        return {**asdict(self), **times, "name": self.name, "is_automatic": self.is_automatic}


def holds(catalog: Catalog, store: ObjectStore, contracts: Sequence[Contract]) -> list[Hold]:
    """Every hole of these sources: what rules hold, by table, then what was decided. No JVM."""
    found: list[Hold] = []
    for contract in contracts:
        stamps = {name: holding(load_table(catalog, contract.silver_table(name))) for name in contract.tables}
        found += holds_of(contract, stamps, read_ledger(store, contract.name))
    return found


def holds_of(contract: Contract, stamps: Mapping[str, Holding], ledger: Ledger) -> list[Hold]:
    """Every hole of one source, given what :func:`holding` found in each of its tables."""
    found = [
        hold
        for name, held in stamps.items()
        for hold in _by_rule(contract, str(contract.silver_table(name)), held, ledger)
    ]
    return [*found, *_decided(contract, ledger)]


def held_by_rules(catalog: Catalog, store: ObjectStore, contracts: Sequence[Contract]) -> list[Hold]:
    """What rules hold. Reads the logs of sources only from which something is held."""
    suspects = [
        contract
        for contract in contracts
        if any(holding(load_table(catalog, contract.silver_table(name)), 1) for name in contract.tables)
    ]
    return [hold for hold in holds(catalog, store, suspects) if hold.is_automatic]


def holding(table: Table | None, limit: int | None = None) -> Holding:
    """The newest stamps of a table that hold something without interruption, newest first, with their times."""
    found: list[tuple[datetime, Stamp]] = []
    for snapshot in ancestors(table) if table is not None else ():
        text = summary_of(snapshot).get(STAMP_PROPERTY)
        if not text:
            continue
        stamp = Stamp.from_json(text)
        if not stamp.held or len(found) == limit:
            break
        found.append((datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC), stamp))
    return found


def _by_rule(contract: Contract, name: str, stamps: Holding, ledger: Ledger) -> Iterator[Hold]:
    if not stamps:
        return
    newest = stamps[0][1]
    frozen = newest.baseline.frozen if newest.baseline else {}
    sets = ledger.live(ledger.end, name, frozenset(newest.held), frozen)
    states = states_of(ledger.decisions, ledger.end.decisions, name)
    for number, reason in sorted(newest.held.items()):
        if number in sets.discarded:
            continue  # listed as that
        batch = ledger.batches[number - 1]
        is_settled = states.get(number) == "released" or number in sets.superseded
        todo = "run `lakehouse run`: it was released, or landed anew" if is_settled else _todo(contract, number)
        if why_beyond(contract, newest.baseline, batch) and number not in sets.superseded:
            todo = f"say `lakehouse discard '{contract.name}#{number}'`: it can never be taken"
        yield Hold(contract.name, number, batch.unit, "held", name, reason, None, _since(stamps, number), todo)


def _since(stamps: Holding, number: int) -> datetime:
    """The oldest of the newest stamps that hold a batch without interruption."""
    return [at for at, _ in takewhile(lambda each: number in each[1].held, stamps)][-1]


def _todo(contract: Contract, number: int) -> str:
    return (
        f"land the unit again when it is right, or say `lakehouse release '{contract.name}#{number}'` to take it as it "
        "is, or `lakehouse discard`"
    )


def _decided(contract: Contract, ledger: Ledger) -> Iterator[Hold]:
    for table in (None, *[str(contract.silver_table(name)) for name in contract.tables]):
        states = states_of(ledger.decisions, ledger.end.decisions, table)
        sets = ledger.live(ledger.end, table)
        for number in sorted(sets.holes):
            decision = last_decision(ledger.decisions, number, table)
            if decision is None or decision.table != table or number > ledger.end.through:
                continue
            state = states[number]
            todo = "nothing: a discard is final" if state == "discarded" else _todo(contract, number)
            unit = ledger.batches[number - 1].unit
            yield Hold(contract.name, number, unit, state, table, decision.reason, decision.by, decision.at, todo)


def last_decision(decisions: Sequence[Decision], number: int, table: str | None = None) -> Decision | None:
    """The decision that says what a batch is for a table: the last one about it, or its discard."""
    about = [d for d in decisions if number in d.batches and d.table in (None, table)]
    discards = [d for d in about if d.action == "discard"]
    return discards[0] if discards else about[-1] if about else None
