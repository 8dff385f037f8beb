"""The contract of a dataset: facts only. DDL, casts, quality, docs and DAGs are derived from it.

A dataset is one source and the silver tables that are made of it. Every model is frozen and refuses unknown keys.
"""

from __future__ import annotations

from datetime import date
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from lakehouse.contracts.partitions import PARTITION_SCHEMA, parse_partition
from lakehouse.contracts.validity import checks
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


class Volume(Model):
    """How many rows a batch may have, seen from the batches closest to it in time.

    A batch is held whose number of rows is further from their median than so many deviations. The deviation is the
    median absolute one (times 1.4826, as that of a normal distribution), both of logarithms.
    """

    days: int = Field(28, ge=3, le=1000, description="How many batches a batch is compared with.")
    min_days: int = Field(14, ge=2, le=1000, description="Nothing is held while fewer batches than these are known.")
    deviations: float = Field(6, gt=0, description="How many deviations from the median are allowed.")


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
    drift: Literal["allow", "warn", "block"] = Field(
        "warn",
        description="What to do with a batch whose columns are not those listed: take it, say so, or hold it.",
    )
    volume: Volume | None = Field(None, description="Hold batches with far more or fewer rows than is usual.")
    columns: dict[SourceColumnName, SourceColumn] = Field(min_length=1)


def _to_text(value: object) -> object:
    """What YAML reads as a number or a date, as text again."""
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Constant = Annotated[
    str, BeforeValidator(_to_text), WithJsonSchema({"type": ["string", "number"], "examples": [0, "2009-01-01", "GBP"]})
]


class Validity(Model):
    """What values a column may have; null passes. Each check is a row rule: ``<column>_range``, ``_values``, …"""

    min: Constant | None = Field(None, description="The least valid value.")
    max: Constant | None = Field(None, description="The greatest valid value.")
    values: tuple[Constant, ...] = Field((), description="All valid values.")
    pattern: str = Field("", description="Regular expression of Java that is found in the text; ^ and $ bind it.")
    min_length: int | None = Field(None, ge=0, description="The least number of characters.")
    max_length: int | None = Field(None, ge=0, description="The greatest number of characters.")
    level: Literal["error", "warn"] = "error"


class Column(Model):
    """A typed column of a silver table."""

    type: ColumnType
    description: str = Field(min_length=3)
    classification: Classification = "internal"
    expression: str = Field("", description="Spark SQL over the source's columns; default: the column of that name.")
    format: str = Field("", description="Pattern of a date or timestamp, as in yyyy-MM-dd HH:mm:ss.")
    nullable: bool = True
    valid: Validity | None = Field(None, description="What values it may have.")
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


class BatchRule(Model):
    """A rule over a batch: what it says of the rows that passed the row rules, as a whole.

    A batch that fails one is held (``error``) or reported (``warn``); none of its rows goes to quarantine for it.
    """

    level: Literal["error", "warn"] = "error"

    def passes(self, checked: int, failed: int) -> bool:
        """Whether a batch is as the rule wants it, of which so many rows were looked at and so many fail."""
        return failed == 0


class ShareRule(BatchRule):
    """A rule that a share of the rows may fail."""

    min_share: float = Field(1, gt=0, le=1, description="The least share of rows that pass.")

    def passes(self, checked: int, failed: int) -> bool:
        """Whether enough rows pass."""
        return checked - failed >= self.min_share * checked


class Completeness(ShareRule):
    """A column has a value in at least this share of the rows."""

    kind: Literal["completeness"]
    column: Identifier

    @property
    def name(self) -> str:
        """The rule's name in results."""
        return f"{self.column}_completeness"

    @property
    def words(self) -> str:
        """What it asks for."""
        return f"{self.column} has a value in at least {self.min_share:.2%} of the rows."


class Uniqueness(BatchRule):
    """No two rows agree in these columns; rows with a null in them are not compared."""

    kind: Literal["uniqueness"]
    columns: tuple[Identifier, ...] = Field(min_length=1)

    @property
    def name(self) -> str:
        """The rule's name in results."""
        return f"{'_'.join(self.columns)}_uniqueness"

    @property
    def words(self) -> str:
        """What it asks for."""
        return f"No two rows have the same {', '.join(self.columns)}."


class Relationship(ShareRule):
    """At least this share of the rows that refer to a dimension refer to a member that it has."""

    kind: Literal["relationship"]
    reference: Identifier = Field(description="The column of one of the table's references.")

    @property
    def name(self) -> str:
        """The rule's name in results."""
        return f"{self.reference}_relationship"

    @property
    def words(self) -> str:
        """What it asks for."""
        return f"At least {self.min_share:.2%} of the rows with a {self.reference} find their member."


class Timeliness(BatchRule):
    """The batch landed within this time after its day had ended."""

    kind: Literal["timeliness"]
    within: Duration
    level: Literal["error", "warn"] = "warn"

    @property
    def name(self) -> str:
        """The rule's name in results."""
        return "timeliness"

    @property
    def words(self) -> str:
        """What it asks for."""
        return f"The batch landed within {self.within} after its day had ended."


AnyBatchRule = Annotated[Completeness | Uniqueness | Relationship | Timeliness, Field(discriminator="kind")]


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


class Upkeep(Model):
    """When the files of a table are put in order, and how long its snapshots stay."""

    max_scan_cost: float = Field(
        default=1.15,
        gt=1,
        le=100,
        description="Compact where reading costs more than this times a freshly written table.",
    )
    max_deleted_share: float = Field(
        default=0.15,
        gt=0,
        le=1,
        description="Compaction rewrites a file of which more than this share of rows is deleted.",
    )
    keep_snapshots: Duration = Field(
        default="7d",
        description="How long what a table said can be read. Tags, and what marts have not read, stay longer.",
    )
    min_snapshots: int = Field(default=3, ge=1, le=1000, description="Publications that stay, whatever their age.")
    statistics: bool = Field(default=False, description="Count distinct keys for engines whose planner asks for it.")


class Table(Model):
    """A silver table made of the dataset's source."""

    kind: Literal["fact", "dimension"]
    description: str = Field(min_length=3)
    columns: dict[Identifier, Column] = Field(min_length=1)
    key: tuple[Identifier, ...] = Field(min_length=1)
    partition: tuple[PartitionField, ...] = ()
    sort: tuple[Identifier, ...] = ()
    rules: tuple[Rule, ...] = ()
    batch_rules: tuple[AnyBatchRule, ...] = Field(
        (), description="Rules over all rows of a batch: completeness, uniqueness, relationship, timeliness."
    )

    occurrence: bool = Field(False, description="Facts: number identical lines of a unit; part of the key.")
    references: tuple[Reference, ...] = ()

    effective_time: str = Field(
        "", description="Dimensions: a timestamp column of this table, or _unit (always for full snapshots)."
    )
    future_allowance: Duration = Field("1d", description="Effective times later than landing plus this: quarantined.")
    max_close_share: float = Field(
        0.5, gt=0, le=1, description="Dimensions of full snapshots: hold one that would close more than this share."
    )
    max_quarantined_share: float = Field(
        1, gt=0, le=1, description="Hold a batch of which more than this share of rows would go to quarantine."
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
    upkeep: Upkeep | None = Field(None, description="Upkeep of this table, in place of the contract's.")

    @cached_property
    def typed(self) -> dict[str, Column]:
        """Published columns and those that only order observations."""
        return {**self.columns, **self.order}

    @cached_property
    def all_rules(self) -> tuple[Rule, ...]:
        """The rules of the columns, and then those that the contract spells out."""
        made = [
            Rule.model_construct(name=rule, check=sql, description=words, level=column.valid.level)
            for name, column in self.typed.items()
            if column.valid
            for rule, sql, words in checks(name, column)
        ]
        return (*made, *self.rules)

    @property
    def complete_columns(self) -> list[str]:
        """The columns whose nulls are counted, since a rule asks for a share of values."""
        return [rule.column for rule in self.batch_rules if rule.kind == "completeness"]

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
    """When data comes, and when it is late."""

    expected_every: Duration = "1d"
    expected_after: Duration = Field(
        default="1h",
        description="How long after the end of its day, where the source is, a day's data are there as a rule.",
    )
    warn_after: Duration = "36h"


class Bronze(Model):
    """Layout of the bronze table."""

    partition: tuple[PartitionField, ...] = ("month(_unit)",)


class Tags(Model):
    """How many snapshots of each table are kept by a tag: the last of each day, week, month and year, in UTC."""

    daily: int = Field(default=7, ge=0, le=1000, description="Days with a publication.")
    weekly: int = Field(default=5, ge=0, le=1000, description="Weeks with a publication; they begin on Monday.")
    monthly: int = Field(default=12, ge=0, le=1000, description="Months with a publication.")
    yearly: int = Field(default=0, ge=0, le=1000, description="Years with a publication.")


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
    upkeep: Upkeep = Field(Upkeep(), description="Upkeep of bronze, and of the tables that say nothing of their own.")
    tags: Tags = Tags()
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
