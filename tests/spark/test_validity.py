"""The checks of columns in Spark: what they refuse is what plain Python says is not valid; null passes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import SparkSession

from lakehouse.contracts.derive import compile_rule
from lakehouse.contracts.model import Column, Table
from lakehouse.contracts.validity import problems

pytestmark = pytest.mark.spark

Valid = Callable[[Any], bool]
CASES: Mapping[str, tuple[str, dict[str, Any], list[Any], Valid]] = {
    "int_range": ("int", {"min": -1, "max": 7}, [-2, -1, 0, 7, 8], lambda v: -1 <= v <= 7),
    "long_least": ("long", {"min": -(2**63)}, [-(2**63), 0, 2**63 - 1], lambda v: True),
    "int_most": ("int", {"max": -(2**31)}, [-(2**31), 1 - 2**31], lambda v: v == -(2**31)),
    "decimal_range": (
        *("decimal(10,2)", {"min": "0.01", "max": 99.5}),
        *([Decimal(v) for v in ("0.00", "0.01", "99.50", "99.51")], lambda v: Decimal("0.01") <= v <= Decimal("99.5")),
    ),
    "double_range": ("double", {"min": -0.5, "max": "1e3"}, [-0.6, -0.5, 0.0, 1e3, 1e4], lambda v: -0.5 <= v <= 1e3),
    "date_range": (
        *("date", {"min": date(2009, 12, 1), "max": "2011-12-09"}),
        *(
            [date(2009, 11, 30), date(2009, 12, 1), date(2011, 12, 10)],
            lambda v: date(2009, 12, 1) <= v <= date(2011, 12, 9),
        ),
    ),
    "set": (
        "string",
        {"values": ["a", "it's", "\\", ""]},
        ["a", "A", "it's", "\\", "", " "],
        lambda v: v in ("a", "it's", "\\", ""),
    ),
    "numbers": ("int", {"values": [1, -2]}, [1, 2, -2], lambda v: v in (1, -2)),
    "pattern": (
        "string",
        {"pattern": r"^\d{2}[.']x$"},
        ["12.x", "12'x", "12,x", "12.xx"],
        lambda v: bool(re.search(r"^\d{2}[.']x$", v)),
    ),
    "length": (
        "string",
        {"min_length": 2, "max_length": 3},
        ["", "ab", "é😀", "abc", "abcd"],
        lambda v: 2 <= len(v) <= 3,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_check_refuses_what_is_not_valid(spark: SparkSession, case: str) -> None:
    kind, given, values, is_valid = CASES[case]
    column = Column.model_validate({"type": kind, "description": "made for a test", "valid": given})
    assert problems(column) == {}
    table = Table.model_validate(
        {"kind": "fact", "description": "made for a test", "columns": {"v": column}, "key": ["v"]}
    )
    [rule] = table.all_rules
    rows = spark.createDataFrame([(i, v) for i, v in enumerate([*values, None])], f"i int, v {column.type.spark}")
    failed = {row.i for row in rows.where(f"NOT coalesce({compile_rule(table, rule)}, true)").collect()}
    assert failed == {i for i, value in enumerate(values) if not is_valid(value)}


def test_all_checks_of_a_column_are_rules_of_their_own() -> None:
    valid = {"min": 1, "values": [1, 2], "level": "warn"}
    column = Column.model_validate({"type": "int", "description": "made for a test", "valid": valid})
    table = Table.model_validate(
        {"kind": "fact", "description": "made for a test", "columns": {"v": column}, "key": ["v"]}
    )
    assert [(rule.name, rule.check, rule.level, rule.description) for rule in table.all_rules] == [
        ("v_range", "`v` >= 1", "warn", "v is at least 1."),
        ("v_values", "`v` IN (1, 2)", "warn", "v is one of 1, 2."),
    ]
