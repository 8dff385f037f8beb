"""What a table looks like, and the one place that creates and widens tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse.contracts.derive import compile_column
from lakehouse.contracts.model import Contract, Table
from lakehouse.contracts.semantics import table_fingerprint
from lakehouse.core import names
from lakehouse.core.names import TableName, quote
from lakehouse.core.settings import CATALOG
from lakehouse.core.types import DataType
from lakehouse.engine.commits import say_twice
from lakehouse.ledger.recorded import trimmed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

METRICS_PROPERTY = "write.metadata.metrics.column."
_PROPERTIES = {
    "format-version": "3",
    "write.wap.enabled": "true",
    "write.parquet.compression-codec": "zstd",
    "write.delete.mode": "merge-on-read",
    "write.update.mode": "merge-on-read",
    "write.merge.mode": "merge-on-read",
    "write.target-file-size-bytes": str(128 * 1024 * 1024),
    # Batches leave small files. At the 4 MB that opening one counts for, a task would read four of them.
    "read.split.open-file-cost": str(256 * 1024),
}
_CLASSIFIED = ("sensitive", "pii")


@dataclass(frozen=True)
class ColumnSpec:
    """A column as the table has it; ``spark_type`` may be nested for system columns."""

    spark_type: str
    description: str
    classification: str = "internal"
    renamed_from: str | None = None


@dataclass(frozen=True)
class TableSpec:
    """Everything that CREATE TABLE needs, and what a later ALTER TABLE goes by.

    ``contract`` is the fingerprint and the JSON of the contract behind the rows; ``source_columns`` are the columns
    that bronze knows of its source.
    """

    name: TableName
    description: str
    columns: Mapping[str, ColumnSpec]
    partition: Sequence[str] = ()
    sort: Sequence[str] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    contract: tuple[str, str] | None = None
    source_columns: tuple[str, ...] | None = None

    def hidden(self) -> dict[str, str]:
        """Properties that keep bounds of classified columns out of the metadata, so that none has to be erased."""
        return {
            METRICS_PROPERTY + name: "none"
            for name, column in self.columns.items()
            if column.classification in _CLASSIFIED
        }

    def all_properties(self) -> dict[str, str]:
        """Properties at creation."""
        # Iceberg clusters by partition before it writes, so that a batch makes one file for each partition.
        return _PROPERTIES | {"write.distribution-mode": "hash"} | self.hidden() | dict(self.properties)


def qualified(table: TableName, branch: str | None = None) -> str:
    """The table as Spark SQL wants it, on a branch if given."""
    name = f"{CATALOG}.{table.namespace}.{quote(table.name)}"
    return f"{name}.{quote('branch_' + branch)}" if branch else name


def literal(text: str) -> str:
    """A SQL string literal, whatever the text contains."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def in_batches(batches: frozenset[int] | set[int]) -> str:
    """SQL that selects the rows of some batches: ranges, so that three hundred batches stay one short condition."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(batches):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    tests = [f"{names.BATCH} BETWEEN {low} AND {high}" for low, high in ranges]
    return "(" + " OR ".join(tests) + ")" if tests else "false"


def create_table(spark: SparkSession, spec: TableSpec) -> None:
    """Create the namespace and the table where they are missing."""
    say_twice(spark, f"CREATE NAMESPACE IF NOT EXISTS {CATALOG}.{spec.name.namespace}")
    columns = ", ".join(column_ddl(name, column) for name, column in spec.columns.items())
    partition = f" PARTITIONED BY ({', '.join(map(partition_sql, spec.partition))})" if spec.partition else ""
    properties = ", ".join(f"{literal(k)} = {literal(v)}" for k, v in spec.all_properties().items())
    say_twice(
        spark,
        f"CREATE TABLE IF NOT EXISTS {qualified(spec.name)} ({columns}) USING iceberg{partition} "
        f"COMMENT {literal(spec.description)} TBLPROPERTIES ({properties})",
    )
    if spec.sort:
        say_twice(spark, f"ALTER TABLE {qualified(spec.name)} {sort_sql(spec.sort)}")


def sort_sql(columns: Sequence[str]) -> str:
    """The sort order as ALTER TABLE has it."""
    return "WRITE DISTRIBUTED BY PARTITION LOCALLY ORDERED BY " + ", ".join(map(quote, columns))


def column_ddl(name: str, column: ColumnSpec) -> str:
    """A column as CREATE TABLE and ADD COLUMNS have it."""
    return f"{quote(name)} {column.spark_type} COMMENT {literal(column.description)}"


def partition_sql(field_text: str) -> str:
    """A contract's partition field as Iceberg's DDL has it."""
    transform, bracket, rest = field_text.partition("(")
    if not bracket:
        return quote(field_text)
    *numbers, column = [part.strip() for part in rest.rstrip(")").split(",")]
    inner = ", ".join([*numbers, quote(column)])
    return f"{transform}s({inner})" if transform in ("month", "day", "year") else f"{transform}({inner})"


_PROVENANCE = {
    names.BATCH: ColumnSpec("bigint", "Number of the batch in the landing log of the source."),
    names.UNIT: ColumnSpec("date", "Logical date of the batch."),
    names.FILE: ColumnSpec("string", "Name of the file as it was found."),
    names.RECORD: ColumnSpec("bigint", "Ordinal of the record in its file, from 1."),
    names.LINE: ColumnSpec("bigint", "Line on which the record starts, from 1; null where the format has no lines."),
}


def bronze_spec(contract: Contract) -> TableSpec:
    """Bronze: every source column as text, what was not expected, and where each record came from."""
    strictest = contract.classification
    source = {
        name: ColumnSpec("string", column.description, column.classification)
        for name, column in contract.source.columns.items()
    }
    system = {
        names.EXTRA: ColumnSpec("map<string,string>", "Columns that the contract does not know.", strictest),
        names.MISSING: ColumnSpec("array<string>", "Columns of the contract that the record did not have."),
        names.RAW: ColumnSpec("string", "A record that could not be read, as it came.", strictest),
        names.REJECTED: ColumnSpec("string", "Why the record could not be read; null for records that could."),
        **_PROVENANCE,
        names.LANDED_AT: ColumnSpec("timestamp", "When the batch landed, UTC."),
    }
    return TableSpec(
        contract.bronze_table,
        f"{contract.description} As it came, append-only.",
        source | system,
        contract.bronze.partition,
        _clustered_by(contract),
        source_columns=tuple(contract.source.columns),
    )


def key_columns(contract: Contract, name: str) -> list[str]:
    """The source's columns that the key of one of the contract's tables is made of."""
    table = contract.tables[name]
    read = [compile_column(contract, column, table.columns[column]).columns for column in table.key]
    return sorted(set().union(*read))


def _clustered_by(contract: Contract) -> tuple[str, ...]:
    """How bronze is sorted: by the key of its first dimension, so that what was said of a key lies close together."""
    dimension = next((name for name, table in contract.tables.items() if table.kind == "dimension"), None)
    keys = key_columns(contract, dimension) if dimension else []
    return (*keys, names.BATCH, names.RECORD)


def silver_columns(table: Table) -> dict[str, ColumnSpec]:
    """Business columns of a silver table, the generated ones included, in their order."""
    columns: dict[str, ColumnSpec] = {}
    for name, column in table.columns.items():
        former = column.renamed_from
        columns[name] = ColumnSpec(column.type.spark, column.description, column.classification, former)
        if column.history == 3:
            text = f"The last value of {name} that differs from it; null if there was none."
            former = former and f"previous_{former}"
            columns[f"previous_{name}"] = ColumnSpec(column.type.spark, text, column.classification, former)
    if table.kind == "dimension":
        columns[names.EFFECTIVE_FROM] = ColumnSpec("timestamp", "Start of the version, UTC, inclusive.")
        columns[names.EFFECTIVE_TO] = ColumnSpec("timestamp", "End of the version, UTC, exclusive; null while open.")
        columns[names.IS_CURRENT] = ColumnSpec("boolean", "Whether the version is open.")
    if table.occurrence:
        columns[names.OCCURRENCE] = ColumnSpec("int", "Number of the line among identical lines of its unit, from 1.")
    for reference in table.references:
        text = f"Durable key of the {reference.table} member; null when not stated."
        columns[reference.column] = ColumnSpec("string", text)
    return columns


_CONTRACT_TYPES = {"bigint": "long"}


def business_types(table: Table) -> dict[str, DataType]:
    """Types of the business columns, for the content fingerprint."""
    specs = silver_columns(table)
    return {name: DataType.parse(_CONTRACT_TYPES.get(c.spark_type, c.spark_type)) for name, c in specs.items()}


def silver_spec(contract: Contract, name: str) -> TableSpec:
    """A silver table: business columns, then the system's keys and provenance."""
    table = contract.tables[name]
    key = ColumnSpec("string", "Durable key: a hash of the natural key.")
    if table.kind == "dimension":
        version = ColumnSpec("string", "Key of the version: a hash of the durable key and effective_from.")
        system = {names.KEY: key, names.VERSION_KEY: version}
    else:
        system = {names.KEY: key, **_PROVENANCE}
    columns = silver_columns(table) | system
    return TableSpec(
        contract.silver_table(name),
        table.description,
        columns,
        table.partition,
        table.sort or (names.KEY,),
        contract=(table_fingerprint(contract, name), trimmed(contract, name)),
    )


def quarantine_spec(contract: Contract, name: str) -> TableSpec:
    """Quarantine of a silver table: the row as it came, with the names of all failed rules."""
    bronze = bronze_spec(contract)
    columns = {
        **bronze.columns,
        names.RULES: ColumnSpec("array<string>", "Names of all rules that the row failed."),
        names.FINGERPRINT: ColumnSpec("string", "Fingerprint of the contract's semantics that refused the row."),
    }
    return TableSpec(
        TableName("quarantine", name), f"Rows refused by silver.{name}, as they came.", columns, (), (names.BATCH,)
    )
