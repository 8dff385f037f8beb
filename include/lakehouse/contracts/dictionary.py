"""The dictionary of tables and columns: one Markdown file, generated from the contracts and the marts' dbt files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lakehouse.contracts import derive
from lakehouse.contracts.model import Contract, Table
from lakehouse.core import names

_HEAD = """\
# Dictionary

Generated from the contracts by `lakehouse contract dictionary`; do not edit. Times are UTC. Columns whose names begin
with `_` are the system's and are left out here.
"""
_GENERATED = {
    names.OCCURRENCE: ("int", "Number of the line among identical lines of its unit, from 1."),
    names.EFFECTIVE_FROM: ("timestamp", "When this version began to hold."),
    names.EFFECTIVE_TO: ("timestamp", "When it ceased to hold; null while it holds."),
    names.IS_CURRENT: ("boolean", "Whether it holds now."),
}
_HISTORY = {0: "0, first value", 1: "1, last value", 2: "2, versions", 3: "3, last value and the one before"}


class ColumnEntry(NamedTuple):
    """What the dictionary says of a published column, as text."""

    name: str
    type: str
    null: str
    history: str
    classification: str
    description: str


@dataclass(frozen=True)
class Mart:
    """A gold table, as its dbt file describes it."""

    name: str
    description: str
    columns: tuple[tuple[str, str], ...]


def dictionary(contracts: Mapping[str, Contract], marts: Iterable[Mart] = ()) -> str:
    """The whole dictionary, as Markdown."""
    lines = [_HEAD]
    users = _users(contracts)
    for contract in contracts.values():
        lines += _dataset(contract, users)
    found = list(marts)
    if found:
        lines.append("## gold\n")
        for mart in found:
            lines += _mart(mart)
    return "\n".join(lines).rstrip() + "\n"


def read_marts(dbt: Path) -> list[Mart]:
    """The models that dbt's files describe in the folder of marts, sorted by name."""
    found = [mart for path in sorted(dbt.glob("models/**/marts/**/*.yml")) for mart in _marts_of(path)]
    return sorted(found, key=lambda mart: mart.name)


def _marts_of(path: Path) -> Iterator[Mart]:
    content: dict[str, Any] = yaml.safe_load(path.read_text("utf-8")) or {}
    for model in content.get("models") or []:
        columns = tuple((column["name"], _flat(column.get("description"))) for column in model.get("columns") or [])
        yield Mart(model["name"], _flat(model.get("description")), columns)


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())


def _users(contracts: Mapping[str, Contract]) -> dict[str, list[str]]:
    """For each dimension, the facts that refer to it."""
    users: dict[str, list[str]] = {}
    for contract in contracts.values():
        for name, table in contract.tables.items():
            for reference in table.references:
                users.setdefault(reference.table, []).append(f"silver.{name}.{reference.column}")
    return users


def _dataset(contract: Contract, users: Mapping[str, list[str]]) -> list[str]:
    source = contract.source
    where = source.pattern or (source.postgres.table if source.postgres else "")
    lines = [f"## {contract.name}\n", contract.description.strip() + "\n"]
    lines.append(f"Owner {contract.owner}; {source.kind} from {source.connector} (`{where}`, {source.format});")
    lines.append(f"zone {source.timezone}; expected every {contract.freshness.expected_every},")
    lines.append(f"kept {contract.retention}; residency {contract.residency}.\n")
    lines += _bronze(contract)
    for name, table in contract.tables.items():
        lines += _silver(contract, name, table, users.get(name, []))
    return lines


def _bronze(contract: Contract) -> list[str]:
    rows = [(n, "string", c.classification, c.description) for n, c in contract.source.columns.items()]
    quarantined = ", ".join(f"`quarantine.{name}`" for name in contract.tables)
    return [
        f"### {contract.bronze_table}\n",
        "The source as it came, every column as text, with batch, file and record of each row. Rows that a table's",
        f"rules refuse are in {quarantined}, with the names of the rules. All of them are",
        f"{contract.classification}, as the strictest column here.\n",
        *_table(("column", "type", "class", "description"), rows),
    ]


def _silver(contract: Contract, name: str, table: Table, users: list[str]) -> list[str]:
    lines = [f"### silver.{name}\n", " ".join(table.description.split()) + "\n"]
    lines.append(f"- {table.kind}, made from `{contract.bronze_table}`; key: {_codes(table.key)}")
    if table.effective_time:
        ties = [f"{tie.column} ({'highest' if tie.highest_wins else 'lowest'} wins)" for tie in table.tie_breakers]
        lines.append(f"- effective time: `{table.effective_time}`" + (f"; ties: {', '.join(ties)}" if ties else ""))
    if table.deletion:
        lines.append(f"- deleted where `{table.deletion.column}` is {' or '.join(table.deletion.values)}")
    if table.partition or table.sort:
        lines.append(
            f"- partitioned by {_codes(table.partition) or 'nothing'}; sorted by {_codes(table.sort) or 'nothing'}"
        )
    if users:
        lines.append(f"- referred to by {_codes(users)}")
    lines += ["", *_table(("column", "type", "null", "history", "class", "description"), columns_of(table))]
    rules = [(rule.name, f"`{_cell(rule.check)}`", rule.level, rule.description) for rule in table.all_rules]
    return lines + (_table(("rule", "check", "level", "description"), rules) if rules else [])


def columns_of(table: Table) -> Iterator[ColumnEntry]:
    """The columns of a silver table, the generated ones included, the system's left out."""
    for name, column in table.columns.items():
        history = derive.history_of(table, name)
        null = "yes" if column.nullable else "no"
        text = column.description + (f" Declassified: {column.declassified}" if column.declassified else "")
        told = "" if history is None else _HISTORY[history]
        yield ColumnEntry(name, str(column.type), null, told, column.classification, text)
    references = {reference.column: reference for reference in table.references}
    for name in derive.generated_columns(table):
        if name in references:
            text = f"Durable key in `silver.{references[name].table}`, of {_codes(references[name].key)}."
            yield ColumnEntry(name, "string", "yes", "", "internal", text)
        elif name in _GENERATED:
            kind, text = _GENERATED[name]
            null = "yes" if name == names.EFFECTIVE_TO else "no"
            yield ColumnEntry(name, kind, null, "", "internal", text)
        else:
            column = table.columns[name.removeprefix("previous_")]
            text = f"The last value of {name.removeprefix('previous_')} that differs from the one that stands."
            yield ColumnEntry(name, str(column.type), "yes", "", column.classification, text)


def _mart(mart: Mart) -> list[str]:
    rows = _table(("column", "description"), mart.columns) if mart.columns else []
    return [f"### gold.{mart.name}\n", mart.description + "\n", *rows]


def _codes(items: Iterable[str]) -> str:
    return ", ".join(f"`{item}`" for item in items)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return [*lines, ""]
