"""A table's page: everything the overview says, and columns, rules, commits, contracts, batches and neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from lakehouse.contracts.model import Contract
from lakehouse.core.errors import LakehouseError
from lakehouse.core.names import TableName
from lakehouse.ledger.log import Batch
from lakehouse.ledger.pending import Ledger, Position
from lakehouse.ledger.recorded import Step, contract_history
from lakehouse.page.columns import ColumnRow, column_rows, partitioned_by, sorted_by
from lakehouse.page.commits import Commit, commits_of
from lakehouse.page.declared import Neighbour
from lakehouse.page.facts import Facts, Ref, refs_of
from lakehouse.page.known import Known, Problem
from lakehouse.page.overview import Row, problems_of, row_of
from lakehouse.page.records import Series, quality_of, rows_about
from lakehouse.page.refresh import Refresher
from lakehouse.quality.history import Finding, findings_in, newest
from lakehouse.quality.suite import suite

if TYPE_CHECKING:
    from pyiceberg.table import Table

BATCHES_SHOWN = 20


@dataclass(frozen=True)
class Reading:
    """What was read for one table: its metadata, and the logs of its source as far as they can be read."""

    table: Table
    ledger: Ledger | None
    ledger_error: LakehouseError | None = None


@dataclass(frozen=True)
class RuleRow:
    """A rule of the table, and what it said last."""

    name: str
    check: str
    level: str
    words: str
    last: Finding | None
    series: Series


@dataclass(frozen=True)
class BatchRow:
    """A batch that landed, and whether it counts in the table."""

    number: int
    unit: date
    landed_at: datetime
    kind: str
    files: int
    bytes: int
    records: int | None
    state: str


@dataclass(frozen=True)
class Detail:
    """One table. What could not be read is empty, and ``problems`` say why."""

    row: Row
    columns: tuple[ColumnRow, ...]
    rules: tuple[RuleRow, ...]
    commits: tuple[Commit, ...]
    contracts: tuple[Step, ...]
    batches: tuple[BatchRow, ...]
    refs: tuple[Ref, ...]
    upstream: tuple[Neighbour, ...]
    downstream: tuple[Neighbour, ...]
    layout: Mapping[str, str]
    problems: tuple[Problem, ...]
    read_at: datetime | None
    tables: frozenset[str]


def read_table(refresher: Refresher, known: Known, name: TableName, former: Reading | None) -> Reading:
    """What a table's page needs. Reads what changed since the former reading: one request, and new log entries."""
    location = known.pointers[name]
    is_same = former is not None and former.table.metadata_location == location
    table = former.table if former is not None and is_same else refresher.lake().table(name, location)
    contract = known.declared.contract_of.get(name)
    if contract is None or name.namespace == "quarantine" or contract.name not in known.sources:
        return Reading(table, None)
    try:
        end = known.sources[contract.name].end
        return Reading(table, refresher.journals.ledger(refresher.lake().store, contract.name, end))
    except LakehouseError as error:
        return Reading(table, former.ledger if former else None, error)


def detail(known: Known, name: TableName, reading: Reading | None, problem: Problem | None, now: datetime) -> Detail:
    """The page of what is known and was read."""
    contract = known.declared.contract_of.get(name)
    row = row_of(known, name, now)
    table = reading.table if reading else None
    if reading is not None and reading.ledger_error is not None:
        problem = Problem.of("batches", reading.ledger_error, now)
    return Detail(
        row=row,
        columns=tuple(column_rows(known.declared, name, table)),
        rules=tuple(_rules(known, name, contract)),
        commits=tuple(commits_of(table)) if table is not None else (),
        contracts=tuple(reversed(_contracts(table))) if table is not None else (),
        batches=tuple(_batches(contract, row.facts, reading)) if contract else (),
        refs=tuple(refs_of(table)) if table is not None else (),
        upstream=tuple(known.declared.upstream(name)),
        downstream=tuple(known.declared.downstream(name)),
        layout=_layout(table, contract),
        problems=_problems(known, problem),
        read_at=min(known.read_at.values(), default=None),
        tables=frozenset(str(each) for each in known.declared.expected | set(known.pointers)),
    )


def _problems(known: Known, problem: Problem | None) -> tuple[Problem, ...]:
    found = problems_of(known)
    return (*found, problem) if problem and problem.what not in {each.what for each in found} else found


def _contracts(table: Table) -> list[Step]:
    """How the table's contract changed; marts have the dbt project's fingerprint and no contract of their own."""
    return [] if table.name()[0] != "silver" else contract_history(table)


def _rules(known: Known, name: TableName, contract: Contract | None) -> Iterator[RuleRow]:
    """The contract's rules in its order, each with what it said last; then those that only the records know."""
    if contract is None or name.namespace != "silver":
        return
    rows = rows_about(known.results, name) if known.results is not None else []
    findings = {each.expected.rule: each for each in newest(findings_in(rows))}
    series = _series(rows, known.declared.increments)
    checks = {rule.name: rule.check for rule in contract.tables[name.name].all_rules}
    for expected in suite(contract, name.name):
        last = findings.pop(expected.rule, None)
        yield RuleRow(
            expected.rule, checks.get(expected.rule, ""), expected.level, expected.words, last,
            series.get(expected.rule, ()),
        )  # fmt: skip
    for rule, last in sorted(findings.items()):
        about = last.expected
        yield RuleRow(rule, "", about.level, about.words, last, series.get(rule, ()))


def _series(rows: Iterable[Mapping[str, Any]], increments: frozenset[str]) -> dict[str, Series]:
    """Quality by rule and unit: as that of tables, with rows that fail in place of those that are refused."""
    counted = (
        {
            **row,
            "table": row["rule"],
            "good": row["checked"] - row["failed"],
            "quarantined": row["failed"],
            "rejected": 0,
            "state": row["outcome"],
        }
        for row in rows
        if row["unit"] is not None
    )
    return quality_of(counted, increments)


def _batches(contract: Contract, facts: Facts | None, reading: Reading | None) -> list[BatchRow]:
    """The newest batches of the source, newest first, each with what it is for the table."""
    if reading is None or reading.ledger is None:
        return []
    states = _states(contract, facts, reading.ledger)
    found = [_batch_row(each, states) for each in reading.ledger.batches[-BATCHES_SHOWN:]]
    return found[::-1]


def _batch_row(batch: Batch, states: Mapping[int, str]) -> BatchRow:
    state = states.get(batch.number, "waiting")
    return BatchRow(
        batch.number, batch.unit, batch.landed_at, batch.kind, len(batch.files), batch.size_bytes, batch.records, state
    )


def _states(contract: Contract, facts: Facts | None, ledger: Ledger) -> dict[int, str]:
    """Live, superseded, held or discarded, as the table consumed the logs; what it has not consumed is waiting."""
    if facts is None:
        return {}
    head = facts.head
    consumed = head.consumed(contract.name)
    position = Position(min(consumed.through, ledger.end.through), min(consumed.decisions, ledger.end.decisions))
    frozen = head.baseline.frozen if head.baseline else {}
    sets = ledger.live(position, str(facts.name), head.held, frozen)
    named = {"live": sets.live, "superseded": sets.superseded, "held": sets.held, "discarded": sets.discarded}
    return {number: state for state, numbers in named.items() for number in numbers}


def _layout(table: Table | None, contract: Contract | None) -> dict[str, str]:
    """Facts about the table as a whole, by what they are called."""
    said: dict[str, str] = {}
    if contract is not None:
        source = contract.source
        where = source.pattern or (source.postgres.table if source.postgres else "")
        said |= {
            "Owner": contract.owner,
            "Source": f"{contract.name}: {source.kind} from {source.connector}, {where} ({source.format})",
            "Freshness": f"every {contract.freshness.expected_every}, late after {contract.freshness.warn_after}",
            "Kept": contract.retention,
            "Residency": contract.residency,
        }
    if table is not None:
        said |= {
            "Partitioned by": partitioned_by(table) or "nothing",
            "Sorted by": sorted_by(table) or "nothing",
            "Format": f"Iceberg v{table.metadata.format_version}",
            "Location": table.location(),
        }
    return said
