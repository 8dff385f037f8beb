"""The contract of a dataset: facts only. DDL, casts, quality, docs and DAGs are derived from it.

A dataset is one source and the silver tables that are made of it. Every model is frozen and refuses unknown keys.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from lakehouse.contracts.partitions import PARTITION_SCHEMA, parse_partition
from lakehouse.core.names import TableName
from lakehouse.core.types import DataType

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
SourceColumnName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_ .\-]{0,126}$")]
Classification = Literal["public", "internal", "sensitive", "pii"]
Duration = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}[hd]$", description="Hours or days, as in 36h or 7d.")]
STRICTNESS: tuple[Classification, ...] = ("public", "internal", "sensitive", "pii")


def _to_type(value: object) -> object:
    return DataType.parse(value) if isinstance(value, str) else value


ColumnType = Annotated[
    DataType,
    BeforeValidator(_to_type),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["string", "long", "decimal(18,4)", "timestamp"]}),
]


class Model(BaseModel):
    """Frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class SourceColumn(Model):
    """A column that the source is expected to have. Bronze keeps it as text."""

    description: str = Field(min_length=3)
    classification: Classification = "internal"


class CsvOptions(Model):
    """How a CSV file is written."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(min_length=1, max_length=1)] = '"'
    encoding: Literal["utf-8", "latin-1", "utf-16"] = "utf-8"
    null_values: tuple[str, ...] = Field(default=("",), description="Texts that mean null.")


class PostgresSource(Model):
    """A change table in PostgreSQL that is read incrementally.

    ``transaction_column`` holds the id of the transaction that wrote the row (type ``xid8``, default
    ``pg_current_xact_id()``). With it, a read takes exactly the rows that became visible since the last read.
    """

    connection: Identifier = Field(description="Name of the connection, as in LAKEHOUSE_CONNECTIONS__CRM.")
    table: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}\.[a-z][a-z0-9_]{0,62}$")]
    transaction_column: Identifier = "transaction_id"
    order_by: Identifier = Field(description="A column that orders the rows of the feed, such as its serial number.")


class Source(Model):
    """Where the data comes from and how its batches relate to each other."""

    connector: Literal["files", "postgres"]
    kind: Literal["slice", "snapshot", "increment"]
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    pattern: str = Field(
        "", description="Path below the sources' root; {date} stands for the unit, * for anything within a name."
    )
    csv: CsvOptions = CsvOptions()
    postgres: PostgresSource | None = None
    timezone: str = Field("UTC", description="Zone of timestamps that state none.")
    columns: dict[SourceColumnName, SourceColumn] = Field(min_length=1)


class Column(Model):
    """A typed column of a silver table."""

    type: ColumnType
    description: str = Field(min_length=3)
    classification: Classification = "internal"
    expression: str = Field("", description="Spark SQL over the source's columns; default: the column of that name.")
    format: str = Field("", description="Pattern of a date or timestamp, as in yyyy-MM-dd HH:mm:ss.")
    nullable: bool = True
    history: Literal[0, 1, 2, 3] | None = Field(None, description="Dimension columns only: the SCD type; default 2.")
    null: Literal["value", "not_observed"] = Field("value", description="What a null says about the column's value.")
    declassified: str = Field("", description="Why the class may be laxer than that of the source's columns.")
    renamed_from: Identifier | None = Field(None, description="The name that this column had before.")


class Rule(Model):
    """A row rule. It reads one row's columns only; null passes, as in a CHECK constraint."""

    name: Identifier
    description: str = Field(min_length=3)
    check: str
    level: Literal["error", "warn"] = "error"


class TieBreaker(Model):
    """Among observations of one key at one time, the greatest (or least) value of this column wins."""

    column: Identifier = Field(description="A column of this table, or an expression's name under `order`.")
    highest_wins: bool = True


class Reference(Model):
    """A fact's link to a dimension: the durable key is computed from the fact's own columns."""

    column: Identifier = Field(description="Name of the durable key column in the fact.")
    table: Identifier = Field(description="The dimension's name in silver.")
    key: tuple[Identifier, ...] = Field(min_length=1, description="This table's columns, in the dimension's key order.")
    before_first: Literal["first_version", "unknown"] = "first_version"


class Deletion(Model):
    """How a change feed says that a key was deleted."""

    column: Identifier
    values: tuple[str, ...] = Field(min_length=1)


def _partition_field(value: str) -> str:
    parse_partition(value)
    return value


PartitionField = Annotated[str, AfterValidator(_partition_field), WithJsonSchema(PARTITION_SCHEMA)]


class Table(Model):
    """A silver table made of the dataset's source."""

    kind: Literal["fact", "dimension"]
    description: str = Field(min_length=3)
    columns: dict[Identifier, Column] = Field(min_length=1)
    key: tuple[Identifier, ...] = Field(min_length=1)
    partition: tuple[PartitionField, ...] = ()
    sort: tuple[Identifier, ...] = ()
    rules: tuple[Rule, ...] = ()

    occurrence: bool = Field(False, description="Facts: number identical lines of a unit; part of the key.")
    references: tuple[Reference, ...] = ()

    effective_time: str = Field(
        "", description="Dimensions: a timestamp column of this table, or _unit (always for full snapshots)."
    )
    future_allowance: Duration = Field("1d", description="Effective times later than landing plus this: quarantined.")
    max_close_share: float = Field(
        0.5, gt=0, le=1, description="Dimensions of full snapshots: hold one that would close more than this share."
    )
    late_horizon: Duration | None = Field(
        None, description="Dimensions: how long observations are kept in bronze; later ones are refused."
    )
    tie_breakers: tuple[TieBreaker, ...] = ()
    deletion: Deletion | None = None
    per_life: bool = Field(False, description="Whether a re-inserted key starts anew for types 0, 1 and 3.")
    order: dict[Identifier, Column] = Field(
        default_factory=dict, description="Dimensions: further typed values for effective time, ties and deletion."
    )

    @cached_property
    def typed(self) -> dict[str, Column]:
        """Published columns and those that only order observations."""
        return {**self.columns, **self.order}

    @cached_property
    def attributes(self) -> dict[str, Column]:
        """A dimension's columns outside its key."""
        return {name: column for name, column in self.columns.items() if name not in self.key}

    def history(self, name: str) -> int:
        """The SCD type of a dimension's attribute."""
        history = self.attributes[name].history
        return 2 if history is None else history

    def columns_of_type(self, history: int) -> list[str]:
        """A dimension's attributes of one SCD type, in the contract's order."""
        return [name for name in self.attributes if self.history(name) == history]


class Freshness(Model):
    """When data is late."""

    expected_every: Duration = "1d"
    warn_after: Duration = "36h"


class Bronze(Model):
    """Layout of the bronze table."""

    partition: tuple[PartitionField, ...] = ("month(_unit)",)


class Contract(Model):
    """One dataset: its source and the silver tables made of it."""

    format: Literal[1]
    domain: Identifier
    dataset: Identifier
    owner: str = Field(min_length=3)
    description: str = Field(min_length=3)
    source: Source
    tables: dict[Identifier, Table] = Field(min_length=1)
    bronze: Bronze = Bronze()
    freshness: Freshness = Freshness()
    retention: Duration = Field("3650d", description="How long observations are kept in bronze.")
    residency: str = Field("any", description="Where the data may be stored.")

    @property
    def name(self) -> str:
        """The source's name: ``domain.dataset``."""
        return f"{self.domain}.{self.dataset}"

    @property
    def bronze_table(self) -> TableName:
        """The table that keeps this source as it came."""
        return TableName("bronze", f"{self.domain}_{self.dataset}")

    @property
    def classification(self) -> Classification:
        """The strictest class of the source's columns: bronze and quarantine inherit it."""
        return max((column.classification for column in self.source.columns.values()), key=STRICTNESS.index)

    def silver_table(self, name: str) -> TableName:
        """The full name of one of this contract's tables."""
        return TableName("silver", name)

    def dump(self) -> dict[str, Any]:
        """The contract as plain JSON values; :meth:`model_validate` reads it back."""
        return self.model_dump(mode="json", exclude_defaults=True)
