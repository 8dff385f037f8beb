"""How a table that stands becomes what its contract says: ALTER TABLE statements, decided as a pure function.

Every one is a metadata-only commit that leaves each row as it was. They follow each other on ``main``, so a reader may
see some done and some not; each by itself leaves a whole table. What would replace a column is planned only for a fork
(:mod:`lakehouse.engine.fork`), which no reader sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse.contracts.changes import Change, widens
from lakehouse.contracts.partitions import parse_partition
from lakehouse.core.errors import ContractError
from lakehouse.core.names import quote
from lakehouse.core.types import DataType
from lakehouse.engine.tables import (
    METRICS_PROPERTY,
    TableSpec,
    column_ddl,
    literal,
    partition_sql,
    qualified,
    sort_sql,
)
from lakehouse.ledger.watermark import STAMP_PROPERTY, ancestors, summary_of

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.types import IcebergType

_FORMER = "_former_"
_SPARK_TYPES = {"long": "bigint", "timestamptz": "timestamp"}
_CONTRACT_TYPES = {"bigint": "long"}


@dataclass(frozen=True)
class LiveColumn:
    """A column as the table has it; ``spark_type`` is '' where it is nested."""

    name: str
    field_id: int
    spark_type: str
    description: str


@dataclass(frozen=True)
class LiveTable:
    """What a table looks like. ``made_with`` has the field ids of the columns when its rows were last published.

    ``partitioned`` has the field ids of columns that partition it, or once did.
    """

    columns: tuple[LiveColumn, ...]
    properties: Mapping[str, str]
    partition: tuple[str, ...]
    sort: tuple[str, ...]
    made_with: Mapping[str, int] = field(default_factory=dict)
    partitioned: frozenset[int] = frozenset()

    @classmethod
    def of(cls, table: Table) -> LiveTable:
        """From the table's metadata."""
        schema = table.schema()
        columns = tuple(LiveColumn(c.name, c.field_id, _spark(c.field_type), c.doc or "") for c in schema.columns)
        names = {column.field_id: column.name for column in columns}
        partition = tuple(_partition(str(f.transform), names[f.source_id]) for f in table.spec().fields)
        sort = tuple(names.get(f.source_id, "") for f in table.sort_order().fields)
        partitioned = frozenset(f.source_id for spec in table.specs().values() for f in spec.fields)
        return cls(columns, dict(table.properties), partition, sort, _made_with(table), partitioned)


def _spark(kind: IcebergType) -> str:
    text = str(kind).replace(", ", ",")
    return _SPARK_TYPES.get(text, text) if kind.is_primitive else ""


def _partition(transform: str, column: str) -> str:
    if transform == "identity":
        return column
    name, bracket, number = transform.rstrip("]").partition("[")
    return f"{name}({number}, {column})" if bracket else f"{name}({column})"


def _made_with(table: Table) -> dict[str, int]:
    schemas = table.schemas()
    for snapshot in ancestors(table):
        if STAMP_PROPERTY in summary_of(snapshot) and snapshot.schema_id in schemas:
            return {column.name: column.field_id for column in schemas[snapshot.schema_id].columns}
    return {}


@dataclass(frozen=True)
class Alteration:
    """One ALTER TABLE, and what a person would call it; None for what nobody needs to know."""

    sql: str
    change: Change | None = None


def alterations(live: LiveTable, spec: TableSpec, *, may_replace: bool = False) -> list[Alteration]:
    """The statements, in the order in which they have to run; empty when the table is as its spec says.

    Raises ContractError where a column's type cannot be had without replacing it, unless ``may_replace``.
    """
    planner = _Planner(spec, live, [column.name for column in live.columns])
    planner.rename()
    if may_replace:
        planner.drop()
    planner.add()
    planner.widen()
    planner.describe()
    planner.reorder()
    planner.lay_out()
    planner.set_properties()
    return planner.found


@dataclass
class _Planner:
    spec: TableSpec
    live: LiveTable
    order: list[str]
    found: list[Alteration] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.columns = {column.name: column for column in self.live.columns}
        self.partition = [_spelled(text) for text in self.live.partition]
        self.sort = list(self.live.sort)

    def _do(self, sql: str, change: Change | None = None) -> None:
        self.found.append(Alteration(f"ALTER TABLE {qualified(self.spec.name)} {sql}", change))

    def rename(self) -> None:
        by_id = {column.field_id: column.name for column in self.live.columns}
        for name, column in self.spec.columns.items():
            if name in self.columns:
                continue
            # A rename that was taken back is undone by the field id that the rows were published with.
            former = by_id.get(self.live.made_with.get(name, -1)) or column.renamed_from
            if former in self.columns and former not in self.spec.columns:
                self._rename(former, name)

    def _rename(self, former: str, name: str) -> None:
        self._do(
            f"RENAME COLUMN {quote(former)} TO {quote(name)}", Change("column renamed", name, former, name, "free")
        )
        self.columns[name] = self.columns.pop(former)
        self.order[self.order.index(former)] = name
        self.partition = [_spelled(text, {former: name}) for text in self.partition]
        self.sort = [name if column == former else column for column in self.sort]

    def drop(self) -> None:
        """On a fork: columns that the contract no longer has, and those whose type cannot be had otherwise."""
        going = [name for name in self.columns if name not in self.spec.columns or self._clashes(name)]
        for text in [text for text in self.partition if parse_partition(text).column in going]:
            self._do(f"DROP PARTITION FIELD {partition_sql(text)}")
            self.partition.remove(text)
        if set(self.sort) & set(going):
            self._do("WRITE UNORDERED")
            self.sort = []
        for name in going:
            self._put_away(self.columns[name])

    def _put_away(self, column: LiveColumn) -> None:
        """Drop a column, or keep it under a name of the system if it ever partitioned the table.

        Iceberg reads all specs of a table before a MERGE, and fails where the column of one is gone.
        """
        if column.field_id not in self.live.partitioned:
            self._do(f"DROP COLUMN {quote(column.name)}", Change("column removed", column.name, column.spark_type))
            del self.columns[column.name]
            self.order.remove(column.name)
        elif not column.name.startswith(_FORMER):
            former = former_name(column.field_id)
            self._do(f"RENAME COLUMN {quote(column.name)} TO {former}")
            self.columns[former] = self.columns.pop(column.name)
            self.order[self.order.index(column.name)] = former

    def _clashes(self, name: str) -> bool:
        have, want = self.columns[name].spark_type, self.spec.columns[name].spark_type
        if not have or have == want:
            return False
        before, after = _contract_type(have), _contract_type(want)
        # A table that is wider than it has to be does no harm: a wider type was taken back before it held a row.
        return not (widens(before, after) or widens(after, before))

    def add(self) -> None:
        for name, column in self.spec.columns.items():
            if name not in self.columns:
                change = Change("column added", name, "", column.spark_type, "free")
                self._do(f"ADD COLUMNS ({column_ddl(name, column)})", change)
                self.columns[name] = LiveColumn(name, -1, column.spark_type, column.description)
                self.order.append(name)

    def widen(self) -> None:
        for name, column in self.spec.columns.items():
            have, want = self.columns[name].spark_type, column.spark_type
            if self._clashes(name):
                raise _incompatible(self.spec, name, have, want)
            if have and have != want and widens(_contract_type(have), _contract_type(want)):
                change = Change("column widened", name, have, want, "free")
                self._do(f"ALTER COLUMN {quote(name)} TYPE {want}", change)

    def describe(self) -> None:
        for name, column in self.spec.columns.items():
            if self.columns[name].description != column.description:
                change = Change("description of the column", name, "", column.description, "free")
                self._do(f"ALTER COLUMN {quote(name)} COMMENT {literal(column.description)}", change)
        if self.live.properties.get("comment") != self.spec.description:
            change = Change("description", "", "", self.spec.description, "free")
            self._do(f"SET TBLPROPERTIES ('comment' = {literal(self.spec.description)})", change)

    def reorder(self) -> None:
        """Columns that the contract does not have stay behind the others."""
        wanted = [*self.spec.columns, *(name for name in self.order if name not in self.spec.columns)]
        present = [name for name in self.order if name in {column.name for column in self.live.columns}]
        moved = [name for name in wanted if name in present] != present
        for place, name in enumerate(wanted):
            if self.order[place] != name:
                self.order.remove(name)
                self.order.insert(place, name)
                where = f"AFTER {quote(wanted[place - 1])}" if place else "FIRST"
                self._do(f"ALTER COLUMN {quote(name)} {where}")
        if moved and self.found:
            self.found[-1] = Alteration(self.found[-1].sql, Change("order of the columns", verdict="free"))

    def lay_out(self) -> None:
        """Partitioning and sort of files that are written from now on."""
        wanted = [_spelled(text) for text in self.spec.partition]
        before, after = ", ".join(self.partition), ", ".join(wanted)
        change = Change("partitioning", "", before or "none", after or "none", "free", "for files written from now on")
        for text in [text for text in self.partition if text not in wanted]:
            self._do(f"DROP PARTITION FIELD {partition_sql(text)}", change)
        for text in [text for text in wanted if text not in self.partition]:
            self._do(f"ADD PARTITION FIELD {partition_sql(text)}", change)
        if self.spec.sort and tuple(self.sort) != tuple(self.spec.sort):
            before, after = ", ".join(self.live.sort) or "none", ", ".join(self.spec.sort)
            self._do(sort_sql(self.spec.sort), Change("sort order", "", before, after, "free"))

    def set_properties(self) -> None:
        """Whether bounds of a column may be written, and what the spec itself asks for."""
        wanted = self.spec.hidden() | dict(self.spec.properties)
        # Iceberg moves a renamed column's property with it and drops that of a dropped column: all are set anew.
        touched = any(" RENAME COLUMN " in a.sql or " DROP COLUMN " in a.sql for a in self.found)
        missing = {k: v for k, v in wanted.items() if touched or self.live.properties.get(k) != v}
        if missing:
            self._do(f"SET TBLPROPERTIES ({', '.join(f'{literal(k)} = {literal(v)}' for k, v in missing.items())})")
            self._note_classes(missing, "classified")
        obsolete = [
            key
            for key in self.live.properties
            if key.startswith(METRICS_PROPERTY)
            and key not in wanted
            and key.removeprefix(METRICS_PROPERTY) in self.spec.columns
        ]
        if obsolete:
            self._do(f"UNSET TBLPROPERTIES IF EXISTS ({', '.join(map(literal, obsolete))})")
            self._note_classes(obsolete, "no longer classified")

    def _note_classes(self, keys: Sequence[str] | Mapping[str, str], word: str) -> None:
        known = {column.name for column in self.live.columns}
        names = [key.removeprefix(METRICS_PROPERTY) for key in keys if key.startswith(METRICS_PROPERTY)]
        changed = [
            n for n in names if n in known and (METRICS_PROPERTY + n in self.live.properties) == (word[0] == "n")
        ]
        if changed:
            change = Change(f"{word}:", ", ".join(changed), verdict="free")
            self.found[-1] = Alteration(self.found[-1].sql, change)


def former_name(field_id: int) -> str:
    """What a column is called that was replaced and has to stay."""
    return f"{_FORMER}{field_id}"


def _spelled(text: str, renamed: Mapping[str, str] | None = None) -> str:
    """A partition field in one spelling, over a column that may have been renamed."""
    found = parse_partition(text)
    column = (renamed or {}).get(found.column, found.column)
    if found.transform == "identity":
        return column
    number = f"{found.buckets}, " if found.buckets else ""
    return f"{found.transform}({number}{column})"


def _contract_type(text: str) -> DataType:
    try:
        return DataType.parse(_CONTRACT_TYPES.get(text, text))
    except ValueError:
        return DataType(text)


def _incompatible(spec: TableSpec, name: str, have: str, want: str) -> ContractError:
    return ContractError(
        f"column {name} of {spec.name} is {have} and cannot become {want}",
        untouched=f"{spec.name}, and what depends on it",
        todo=f"run `lakehouse rebuild {spec.name}` to make it anew from bronze, or take the change back",
    )
