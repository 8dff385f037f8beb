"""What checks, semantics and engine all derive from a table: compiled columns and rules, names, defaults."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time
from zoneinfo import ZoneInfo

from lakehouse.contracts.expressions import Compiled, compile_check, compile_typed, source_columns
from lakehouse.contracts.model import Column, Contract, Rule, Table
from lakehouse.core import names
from lakehouse.core.encoding import origin
from lakehouse.core.types import DataType

_TEXT = DataType("string")


@dataclass(frozen=True)
class Automatic:
    """Names of the rules that every table has without asking."""

    @staticmethod
    def of_type(column: str) -> str:
        """The value could not be read as the column's type."""
        return f"{column}_type"

    @staticmethod
    def not_null(column: str) -> str:
        """The column is null and may not be."""
        return f"{column}_not_null"

    FUTURE = "effective_time_future"


def source_types(contract: Contract) -> dict[str, DataType]:
    """The columns that an expression may read: the source's, all text."""
    return dict.fromkeys(contract.source.columns, _TEXT)


def snapshot_time(contract: Contract, unit: date) -> datetime:
    """When a snapshot's state took effect: the start of its day where the source is."""
    return datetime.combine(unit, time(), ZoneInfo(contract.source.timezone))


def expression_of(name: str, column: Column) -> str:
    """A column's expression; by default the source's column of the same name."""
    return column.expression.strip() or names.quote(name)


def compile_column(contract: Contract, name: str, column: Column) -> Compiled:
    """SQL that gives a column's value before it is cast to its type. Raises ExpressionError."""
    return compile_typed(expression_of(name, column), source_types(contract))


def origin_of(name: str, column: Column) -> str:
    """What a column is read from, whatever it is called: see :func:`lakehouse.core.encoding.origin`."""
    text = expression_of(name, column)
    compiled = compile_typed(text, dict.fromkeys(source_columns(text), _TEXT))
    return origin(compiled.sql, column.format, column.type)


def compile_rule(table: Table, rule: Rule) -> str:
    """SQL of a rule over the table's typed columns. Raises ExpressionError."""
    return compile_check(rule.check, {name: column.type for name, column in table.typed.items()})


def rule_names(table: Table) -> list[str]:
    """Names of the automatic rules."""
    made = [rule for name in table.typed for rule in (Automatic.of_type(name), Automatic.not_null(name))]
    return [*made, Automatic.FUTURE] if table.kind == "dimension" else made


def generated_columns(table: Table) -> list[str]:
    """Columns without ``_`` that the table gets beside those of its contract."""
    if table.kind == "fact":
        numbered = [names.OCCURRENCE] if table.occurrence else []
        return [*numbered, *(reference.column for reference in table.references)]
    fixed = [names.EFFECTIVE_FROM, names.EFFECTIVE_TO, names.IS_CURRENT]
    return [*fixed, *(f"previous_{name}" for name in table.columns_of_type(3))]


def history_of(table: Table, name: str) -> int | None:
    """A dimension attribute's SCD type; None for keys and for facts' columns."""
    if table.kind == "fact" or name not in table.attributes:
        return None
    return table.history(name)


def hours(duration: str) -> int:
    """Hours of a duration such as 36h or 7d."""
    return int(duration[:-1]) * (24 if duration.endswith("d") else 1)
