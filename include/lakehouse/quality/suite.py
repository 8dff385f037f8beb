"""What a contract expects of a table, rule by rule, in the terms of Great Expectations.

Expectations are said of the rows that a table judges: typed, those that go to quarantine included, with the names of
the rules that each one failed in ``_failed`` and its status in ``_status``. Nothing here imports Great Expectations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from lakehouse.contracts.derive import Automatic, compile_rule, hours
from lakehouse.contracts.model import AnyBatchRule, Column, Contract, Rule, Table
from lakehouse.contracts.validity import checks
from lakehouse.core import names

Dimension = Literal["completeness", "uniqueness", "validity", "consistency", "timeliness", "volume"]
FAILED, STATUS = "_failed", "_status"
HOURS_LATE = "_hours_after_day"
PUBLISHED = "rows_published"
QUARANTINED = "rows_quarantined"


@dataclass(frozen=True)
class Expected:
    """One rule: its name, what it is about, how grave it is, and the expectation that says it.

    ``scope`` is ``row`` for rules that split rows, ``batch`` for those that hold batches, ``table`` for what is asked
    of an attempt before it is published. ``type`` and ``arguments`` are Great Expectations' own.
    """

    rule: str
    dimension: Dimension
    level: Literal["error", "warn"]
    scope: Literal["row", "batch", "table"]
    words: str
    type: str
    arguments: Mapping[str, Any]

    @property
    def only_good(self) -> bool:
        """Whether only rows that passed the row rules are looked at."""
        return self.scope == "batch" and self.dimension != "timeliness"


def suite(contract: Contract, name: str) -> tuple[Expected, ...]:
    """All expectations of one of the contract's tables, in the order in which its rules stand."""
    table = contract.tables[name]
    rows = [*_automatic(table), *_of_columns(table), *_spelled_out(table)]
    return (*rows, *(_of_batches(rule) for rule in table.batch_rules), *_accounting(table))


def named_by_engine(rule: str) -> Expected:
    """A rule that the contract does not name: the engine refuses rows by it where a table's state demands it."""
    return Expected(rule, "validity", "error", "row", f"No row is refused by {rule}.", *_refused_by(rule))


def _automatic(table: Table) -> Iterator[Expected]:
    for column, spec in table.typed.items():
        if spec.type.name == "string":  # any text is one
            continue
        rule = Automatic.of_type(column)
        words = f"What the source says of {column} can be read as {spec.type}."
        yield Expected(rule, "validity", "error", "row", words, *_refused_by(rule))
    for column, spec in table.typed.items():
        if not spec.nullable and not (table.kind == "dimension" and column in table.key):
            yield _not_null(table, column)
    if table.kind == "dimension" and table.effective_time != names.UNIT:
        rule = Automatic.FUTURE
        words = f"{table.effective_time} is at most {table.future_allowance} later than the landing."
        yield Expected(rule, "timeliness", "error", "row", words, *_refused_by(rule))


def _not_null(table: Table, column: str) -> Expected:
    rule, words = Automatic.not_null(column), f"{column} has a value."
    if table.deletion and column in table.attributes:  # a deletion carries no attributes
        return Expected(rule, "completeness", "error", "row", words, *_refused_by(rule))
    arguments = {"column": column}
    return Expected(rule, "completeness", "error", "row", words, "expect_column_values_to_not_be_null", arguments)


def _of_columns(table: Table) -> Iterator[Expected]:
    for column, spec in table.typed.items():
        for rule, _, words in checks(column, spec):
            level = spec.valid.level if spec.valid else "error"
            yield Expected(rule, "validity", level, "row", words, *_validity(column, spec, rule))


def _validity(column: str, spec: Column, rule: str) -> tuple[str, dict[str, Any]]:
    valid, about = spec.valid, {"column": column}
    if valid is None:
        raise ValueError(rule)
    if rule == f"{column}_range":
        bounds = {"min_value": _bound(valid.min, spec), "max_value": _bound(valid.max, spec)}
        return "expect_column_values_to_be_between", about | {k: v for k, v in bounds.items() if v is not None}
    if rule == f"{column}_values":
        return "expect_column_values_to_be_in_set", about | {"value_set": [_bound(v, spec) for v in valid.values]}
    if rule == f"{column}_pattern":
        return "expect_column_values_to_match_regex", about | {"regex": valid.pattern}
    lengths = {"min_value": valid.min_length, "max_value": valid.max_length}
    return "expect_column_value_lengths_to_be_between", about | {k: v for k, v in lengths.items() if v is not None}


def _bound(text: str | None, spec: Column) -> object:
    """A constant of the contract as Great Expectations takes it."""
    if text is None or spec.type.name == "string":
        return text
    if spec.type.name in ("int", "long"):
        return int(text)
    if spec.type.name in ("decimal", "double"):
        return float(text)
    return date.fromisoformat(text) if spec.type.name == "date" else datetime.fromisoformat(text)


def _spelled_out(table: Table) -> Iterator[Expected]:
    for rule in table.rules:
        yield Expected(rule.name, "consistency", rule.level, "row", rule.description, *_query(_broken(table, rule)))


def _broken(table: Table, rule: Rule) -> str:
    return f"NOT coalesce(({compile_rule(table, rule)}), true)"


def _refused_by(rule: str) -> tuple[str, dict[str, Any]]:
    return _query(f"array_contains({FAILED}, '{rule}')")


def _query(condition: str) -> tuple[str, dict[str, Any]]:
    return "unexpected_rows_expectation", {"unexpected_rows_query": f"SELECT * FROM {{batch}} WHERE {condition}"}  # noqa: S608 - compiled from the contract


def _of_batches(rule: AnyBatchRule) -> Expected:
    if rule.kind == "completeness":
        return _on_good(rule, "completeness", "expect_column_values_to_not_be_null", rule.column, rule.min_share)
    if rule.kind == "relationship":
        member = f"_member_of_{rule.reference}"
        return _on_good(rule, "consistency", "expect_column_values_to_not_be_null", member, rule.min_share)
    if rule.kind == "uniqueness":
        about = {"column_list": [names.BATCH, *rule.columns]}
        kind = "expect_compound_columns_to_be_unique"
        return Expected(rule.name, "uniqueness", rule.level, "batch", rule.words, kind, about)
    late = {"column": HOURS_LATE, "max_value": hours(rule.within)}
    kind = "expect_column_values_to_be_between"
    return Expected(rule.name, "timeliness", rule.level, "batch", rule.words, kind, late)


def _on_good(rule: AnyBatchRule, dimension: Dimension, kind: str, column: str, share: float) -> Expected:
    about = {"column": column, "mostly": share}
    return Expected(rule.name, dimension, rule.level, "batch", rule.words, kind, about)


def _accounting(table: Table) -> Iterator[Expected]:
    """Rows that were written, seen from the branch: as many as were judged to go there."""
    kind = "expect_table_row_count_to_equal"
    if table.kind == "fact":
        words = "Every row that passed is published, once."
        yield Expected(PUBLISHED, "volume", "error", "table", words, kind, {})
    yield Expected(QUARANTINED, "volume", "error", "table", "Every row that was refused is kept, once.", kind, {})
