"""Bringing a table's metadata to what its spec says, before an attempt writes. Needs the table's lock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from lakehouse.engine.alter import LiveTable, alterations
from lakehouse.engine.tables import TableSpec, column_ddl, literal, qualified
from lakehouse.ledger.generations import GENERATIONS_PROPERTY, Generations
from lakehouse.ledger.recorded import CONTRACT_PROPERTY, record
from lakehouse.ledger.watermark import head_of

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyspark.sql import SparkSession


def evolve_table(
    spark: SparkSession, table: Table, spec: TableSpec, now: datetime, *, may_replace: bool = False
) -> bool:
    """Alter a table and record the contract that its next rows stand on. Returns whether anything was to do.

    An alteration whose reply is lost is answered by a conflict, and cannot be said twice: where the table shows that it
    was done, the rest goes on. Raises ContractError, with nothing done, where a column would have to be replaced and
    may not be.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    statements = list(_statements(table, spec, now, may_replace))
    for statement in statements:
        try:
            spark.sql(statement)
        except (PySparkException, Py4JJavaError):
            if statement in _statements(table.refresh(), spec, now, may_replace):
                raise
    return bool(statements)


def is_evolved(table: Table, spec: TableSpec, now: datetime) -> bool:
    """Whether :func:`evolve_table` would find nothing to do."""
    return not list(_statements(table, spec, now, may_replace=False))


def _statements(table: Table, spec: TableSpec, now: datetime, may_replace: bool) -> Iterator[str]:
    if spec.name.namespace == "gold":  # dbt writes marts by position: theirs only grow
        yield from _new_columns(table, spec)
        return
    altered = alterations(LiveTable.of(table), spec, may_replace=may_replace)
    if spec.source_columns is not None:
        yield from _generation(table, spec)
    yield from (alteration.sql for alteration in altered)
    if spec.contract is not None:
        yield from _contract(table, spec, now)


def _new_columns(table: Table, spec: TableSpec) -> Iterator[str]:
    present = {column.name for column in table.schema().columns}
    missing = [column_ddl(name, column) for name, column in spec.columns.items() if name not in present]
    if missing:
        yield f"ALTER TABLE {qualified(spec.name)} ADD COLUMNS ({', '.join(missing)})"


def next_generation(table: Table, source_columns: tuple[str, ...]) -> Generations:
    """What bronze knows of its source from its next batch on."""
    known = Generations.read(table.properties)
    stamp = head_of(table).stamp
    through = max((consumed.through for consumed in stamp.inputs.values()), default=0) if stamp else 0
    if not known.entries and through:  # a table from before generations were recorded: its columns are what it knew
        live = {column.name for column in table.schema().columns}
        known = known.then(0, (column for column in live if not column.startswith("_")))
    return known.then(through, source_columns)


def _generation(table: Table, spec: TableSpec) -> Iterator[str]:
    text = next_generation(table, spec.source_columns or ()).to_json()
    if table.properties.get(GENERATIONS_PROPERTY) != text:
        yield _set(spec, GENERATIONS_PROPERTY, text)


def _contract(table: Table, spec: TableSpec, now: datetime) -> Iterator[str]:
    fingerprint, contract = spec.contract or ("", "")
    if CONTRACT_PROPERTY + fingerprint not in table.properties:
        head = table.current_snapshot()
        yield _set(spec, CONTRACT_PROPERTY + fingerprint, record(contract, now, head.snapshot_id if head else None))


def _set(spec: TableSpec, key: str, value: str) -> str:
    return f"ALTER TABLE {qualified(spec.name)} SET TBLPROPERTIES ({literal(key)} = {literal(value)})"
