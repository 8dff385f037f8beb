"""The columns of a table: what stands in its metadata, and what its contract or dbt file says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakehouse.contracts.dictionary import ColumnEntry, columns_of
from lakehouse.contracts.marts import DeclaredMart
from lakehouse.contracts.model import Contract
from lakehouse.core.names import TableName
from lakehouse.page.declared import Declared

if TYPE_CHECKING:
    from pyiceberg.table import Table


@dataclass(frozen=True)
class ColumnRow:
    """One column. ``roles`` says what it is for in the table; ``is_missing`` that the table does not have it yet."""

    name: str
    type: str
    null: str
    roles: tuple[str, ...]
    history: str
    classification: str
    description: str
    is_missing: bool = False

    @property
    def is_system(self) -> bool:
        """Whether the lakehouse made it: where a row came from, its keys."""
        return self.name.startswith("_")


def column_rows(declared: Declared, name: TableName, table: Table | None) -> list[ColumnRow]:
    """The columns in the table's order, and those that only its contract has so far; the system's last."""
    told = told_of(declared, name)
    roles = _roles(declared, name, table)
    rows = []
    for field in table.schema().fields if table is not None else ():
        entry = told.get(field.name)
        rows.append(
            ColumnRow(
                field.name,
                str(field.field_type),
                "no" if field.required else entry.null if entry else "yes",
                tuple(roles.get(field.name, ())),
                entry.history if entry else "",
                entry.classification if entry else "",
                (entry.description if entry else "") or field.doc or "",
            )
        )
    there = {row.name for row in rows}
    rows += [
        ColumnRow(
            entry.name,
            entry.type,
            entry.null,
            tuple(roles.get(entry.name, ())),
            entry.history,
            entry.classification,
            entry.description,
            is_missing=table is not None,
        )
        for entry in told.values()
        if entry.name not in there
    ]
    return sorted(rows, key=lambda row: row.is_system)


def told_of(declared: Declared, name: TableName) -> Mapping[str, ColumnEntry]:
    """What the contract or the dbt file says, by column."""
    contract = declared.contract_of.get(name)
    if contract is not None and name.namespace == "silver":
        return {entry.name: entry for entry in columns_of(contract.tables[name.name])}
    if contract is not None:
        return {entry.name: entry for entry in _source_columns(contract)}
    mart = declared.marts.get(name)
    return {entry.name: entry for entry in _mart_columns(mart)} if mart else {}


def _source_columns(contract: Contract) -> Iterable[ColumnEntry]:
    for name, column in contract.source.columns.items():
        yield ColumnEntry(name, "string", "yes", "", column.classification, column.description)


def _mart_columns(mart: DeclaredMart) -> Iterable[ColumnEntry]:
    for name, column in mart.columns.items():
        null = "no" if "not_null" in column.get("data_tests", ()) else "yes"
        description = " ".join(str(column.get("description") or "").split())
        yield ColumnEntry(name, str(column.get("data_type") or ""), null, "", "", description)


def _roles(declared: Declared, name: TableName, table: Table | None) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    contract, mart = declared.contract_of.get(name), declared.marts.get(name)
    spec = contract.tables[name.name] if contract is not None and name.namespace == "silver" else None
    for part in spec.key if spec else mart.key if mart else ():
        roles.setdefault(part, []).append("key")
    if spec and spec.effective_time in spec.columns:
        roles.setdefault(spec.effective_time, []).append("effective time")
    for reference in spec.references if spec else ():
        roles.setdefault(reference.column, []).append(f"refers to silver.{reference.table}")
    for partition in table.spec().fields if table is not None else ():
        column = table.schema().find_column_name(partition.source_id) if table is not None else None
        if column:
            roles.setdefault(column, []).append(f"partition: {partition.transform}")
    return roles


def sorted_by(table: Table) -> str:
    """The table's sort order, as columns."""
    names = [table.schema().find_column_name(field.source_id) for field in table.sort_order().fields]
    return ", ".join(name for name in names if name)


def partitioned_by(table: Table) -> str:
    """The table's partitioning, as transforms of columns."""
    schema = table.schema()
    fields = [(str(field.transform), schema.find_column_name(field.source_id)) for field in table.spec().fields]
    return ", ".join(f"{column}" if how == "identity" else f"{how}({column})" for how, column in fields)
