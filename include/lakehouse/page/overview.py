"""The overview: one row for each table, from what is known at a moment. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import get_args

from lakehouse.backup.status import Status
from lakehouse.contracts.model import Contract
from lakehouse.core.names import TableName
from lakehouse.ledger.holds import Hold
from lakehouse.page.facts import Facts
from lakehouse.page.freshness import NOTHING_ASKED, STATES, Freshness, State, of_batch, of_mart
from lakehouse.page.known import Known, Problem, Source
from lakehouse.page.records import Series

LAYERS = ("bronze", "silver", "quarantine", "gold", "ops")
PAGE_ROWS = 100


@dataclass(frozen=True)
class LastBatch:
    """The newest batch that is in a table; ``waiting`` have landed that no run has looked at for it."""

    number: int
    unit: date
    landed_at: datetime
    waiting: int


@dataclass(frozen=True)
class Row:
    """A table. ``facts`` is None where it is not there yet, or could not be read so far."""

    name: TableName
    description: str
    kind: str
    contract: Contract | None
    facts: Facts | None
    freshness: Freshness
    batch: LastBatch | None = None
    waiting: int = 0
    holds: tuple[Hold, ...] = ()
    quality: Series = ()
    note: str = ""

    @property
    def layer(self) -> str:
        """bronze, silver, quarantine, gold or ops."""
        return self.name.namespace

    @property
    def held(self) -> int:
        """Batches that a rule or a person holds back; discarded ones are settled."""
        return len({hold.batch for hold in self.holds if hold.state == "held"})

    @property
    def share(self) -> float | None:
        """Share of the newest unit's rows that passed."""
        shares = [unit.share for unit in self.quality if unit.share is not None]
        return shares[-1] if shares else None

    @property
    def needs_a_look(self) -> bool:
        """Whether a person should look at it."""
        return self.freshness.state in ("late", "due") or bool(self.held) or bool(self.note)


@dataclass(frozen=True)
class Choice:
    """What a person wants to see. Made from a query; what it says wrongly is passed over."""

    layer: str = ""
    state: str = ""
    text: str = ""
    sort: str = "table"
    is_descending: bool = False
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Choice:
        """From the parameters of a URL."""
        sort = query.get("sort", "")
        number = query.get("page", "")
        return cls(
            layer=_one_of(query.get("layer", ""), LAYERS),
            state=_one_of(query.get("state", ""), ("look", "held", *get_args(State))),
            text=query.get("q", "").strip().lower()[:100],
            sort=_one_of(sort.removeprefix("-"), tuple(_ORDERS)) or "table",
            is_descending=sort.startswith("-"),
            page=max(1, int(number)) if number.isdecimal() and len(number) < 6 else 1,
        )


@dataclass(frozen=True)
class Overview:
    """The rows of one page, and what is said above them."""

    rows: tuple[Row, ...]
    choice: Choice
    found: int
    pages: int
    totals: Mapping[str, int]
    problems: tuple[Problem, ...]
    read_at: datetime | None
    unread: int
    has_backups: bool | None = None
    backups: Status | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no table at all."""
        return not self.totals["tables"]


def overview(known: Known, choice: Choice, now: datetime) -> Overview:
    """The overview of what is known."""
    rows = [row_of(known, name, now) for name in sorted(known.declared.expected | set(known.pointers))]
    found = sorted(_chosen(rows, choice), key=_ORDERS[choice.sort], reverse=choice.is_descending)
    found.sort(key=lambda row: _is_blank(row, choice.sort))  # what has nothing to sort by comes last either way
    pages = max(1, -(-len(found) // PAGE_ROWS))
    page = min(choice.page, pages)
    shown = tuple(found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS])
    return Overview(
        shown, choice, len(found), pages, _totals(rows), problems_of(known), _read_at(known), known.unread,
        known.has_backups, known.backups,
    )  # fmt: skip


def row_of(known: Known, name: TableName, now: datetime) -> Row:
    """What is known of one table."""
    contract = known.declared.contract_of.get(name)
    facts = known.tables.get(name)
    source = known.sources.get(contract.name) if contract else None
    batch, waiting = _last_batch(contract, facts, source)
    return Row(
        name=name,
        description=_description(known, name, contract, facts),
        kind=_kind(name, contract),
        contract=contract,
        facts=facts,
        freshness=_freshness(known, name, contract, facts, batch, now),
        batch=batch,
        waiting=waiting,
        holds=_holds(name, source),
        quality=known.quality.get(str(name), ()),
        note=_note(known, name, contract),
    )


def _last_batch(contract: Contract | None, facts: Facts | None, source: Source | None) -> tuple[LastBatch | None, int]:
    """The newest batch that is in a table, and how many landed that it has not looked at."""
    if contract is None or source is None or (facts and facts.name.namespace == "quarantine"):
        return None, 0
    through = facts.head.consumed(contract.name).through if facts else 0
    waiting = max(source.end.through - through, 0)
    batch = source.batches.get(facts.last_taken(contract.name)) if facts else None
    return (LastBatch(batch.number, batch.unit, batch.landed_at, waiting) if batch else None), waiting


def _freshness(
    known: Known,
    name: TableName,
    contract: Contract | None,
    facts: Facts | None,
    batch: LastBatch | None,
    now: datetime,
) -> Freshness:
    if name.namespace in ("quarantine", "ops"):
        return NOTHING_ASKED
    if name.namespace == "gold":
        return _mart_freshness(known, name, facts)
    if contract is None:
        return NOTHING_ASKED
    if batch is not None:
        return of_batch(contract.freshness, batch.landed_at, now)
    if facts is None and name not in known.pointers:
        return Freshness("never", "nothing has been published to it yet")
    if facts is not None and not facts.last_taken(contract.name):
        return Freshness("never", "it has taken no batch yet")
    return Freshness("unknown", "the log of what landed could not be read")


def _mart_freshness(known: Known, name: TableName, facts: Facts | None) -> Freshness:
    if facts is None:
        is_there = name in known.pointers
        return (
            Freshness("unknown", "its metadata could not be read") if is_there else Freshness("never", "not made yet")
        )
    if name not in known.declared.marts:
        return NOTHING_ASKED
    silver = {str(table): each.head for table, each in known.tables.items() if table.namespace == "silver"}
    return of_mart(facts.head, known.declared.silver_behind(name), silver)


def _holds(name: TableName, source: Source | None) -> tuple[Hold, ...]:
    """What is kept out of a table: by a rule or a decision of its own, or by one about its source."""
    if source is None or name.namespace not in ("bronze", "silver"):
        return ()
    about = (None,) if name.namespace == "bronze" else (None, str(name))
    return tuple(hold for hold in source.holds if hold.table in about)


def _description(known: Known, name: TableName, contract: Contract | None, facts: Facts | None) -> str:
    if name in known.declared.marts:
        return known.declared.marts[name].description
    if contract is not None and name.namespace == "silver":
        return contract.tables[name.name].description
    if facts is not None and facts.summary.description:
        return facts.summary.description
    return contract.description if contract is not None else ""


def _kind(name: TableName, contract: Contract | None) -> str:
    if name.namespace == "silver" and contract is not None:
        return contract.tables[name.name].kind
    return {"gold": "mart", "bronze": "as it came", "quarantine": "refused rows", "ops": "records"}.get(
        name.namespace, ""
    )


def _note(known: Known, name: TableName, contract: Contract | None) -> str:
    """What cannot be read of this table alone."""
    if name in known.damaged:
        return known.damaged[name]
    if contract is not None and contract.name in known.broken:
        return known.broken[contract.name]
    return ""


def _chosen(rows: Iterable[Row], choice: Choice) -> Iterable[Row]:
    for row in rows:
        if choice.layer and row.layer != choice.layer:
            continue
        if choice.text and choice.text not in f"{row.name} {row.description} {_source_of(row)}".lower():
            continue
        if _has_state(row, choice.state):
            yield row


def _source_of(row: Row) -> str:
    return f"{row.contract.name} {row.contract.owner}" if row.contract else ""


def _has_state(row: Row, state: str) -> bool:
    if state == "look":
        return row.needs_a_look
    if state == "held":
        return bool(row.held)
    return not state or row.freshness.state == state


_NEVER = timedelta(days=100_000)
_ORDERS = {
    "table": lambda row: (LAYERS.index(row.layer), row.name.name),
    "layer": lambda row: LAYERS.index(row.layer),
    "rows": lambda row: row.facts.summary.rows if row.facts else 0,
    "size": lambda row: row.facts.summary.bytes if row.facts else 0,
    "files": lambda row: row.facts.summary.files if row.facts else 0,
    "freshness": lambda row: (STATES.index(row.freshness.state), -(row.freshness.age or _NEVER)),
    "batch": lambda row: row.batch.landed_at.timestamp() if row.batch else 0,
    "held": lambda row: row.held,
    "quality": lambda row: row.share if row.share is not None else 0,
    "snapshots": lambda row: row.facts.summary.snapshots if row.facts else 0,
    "tags": lambda row: len(row.facts.tags) if row.facts else 0,
}


def _is_blank(row: Row, sort: str) -> bool:
    if sort == "quality":
        return row.share is None
    if sort == "batch":
        return row.batch is None
    return row.facts is None and sort in ("rows", "size", "files", "snapshots", "tags")


def _totals(rows: Iterable[Row]) -> dict[str, int]:
    found = list(rows)
    return {
        "tables": len(found),
        "rows": sum(row.facts.summary.rows for row in found if row.facts),
        "bytes": sum(row.facts.summary.bytes for row in found if row.facts),
        "missing": sum(row.freshness.state == "never" and row.facts is None for row in found),
        "late": sum(row.freshness.state == "late" for row in found),
        "due": sum(row.freshness.state == "due" for row in found),
        "held": len({(hold.source, hold.batch) for row in found for hold in row.holds if hold.state == "held"}),
        "look": sum(row.needs_a_look for row in found),
    }


def problems_of(known: Known) -> tuple[Problem, ...]:
    """What could not be read, each said once."""
    said: dict[str, Problem] = {}
    for problem in known.problems.values():
        said.setdefault(problem.what, problem)
    return tuple(said.values())


def _read_at(known: Known) -> datetime | None:
    """Since when all of it is known to have been so: the oldest of the readings that went well."""
    return min(known.read_at.values(), default=None)


def _one_of(value: str, allowed: Iterable[str]) -> str:
    return value if value in allowed else ""
