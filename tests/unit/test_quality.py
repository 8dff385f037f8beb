"""What contracts expect, in the terms of Great Expectations, and what it says of counts."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from lakehouse.contracts.checks import check_contract
from lakehouse.contracts.model import Contract
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.quality.expectations import Tally, expectation, judge
from lakehouse.quality.suite import Expected, suite

MADE = {"description": "made for a test"}
CHECKS: dict[str, dict[str, Any]] = {
    "city": {"type": "string", "valid": {"values": ["x", "y"], "min_length": 1}},
    "mail": {"type": "string", "classification": "pii", "valid": {"pattern": "@", "level": "warn"}},
    "pieces": {"type": "int", "nullable": False, "valid": {"min": 0, "max": 10}},
    "price": {"type": "decimal(10,2)", "valid": {"min": "0.01"}},
    "day": {"type": "date", "valid": {"max": "2024-12-31"}},
}
RULES = [{"name": "whole", "check": "pieces <> 7", **MADE}]
BATCH_RULES: list[dict[str, Any]] = [
    {"kind": "completeness", "column": "mail", "min_share": 0.9},
    {"kind": "uniqueness", "columns": ["city", "day"], "level": "warn"},
    {"kind": "relationship", "reference": "shop_key", "min_share": 0.5},
    {"kind": "timeliness", "within": "36h"},
]


def contract(batch_rules: list[dict[str, Any]] = BATCH_RULES) -> Contract:
    columns = {name: {**column, **MADE} for name, column in CHECKS.items()}
    fact = {"kind": "fact", **MADE, "key": ["city", "day"], "columns": columns, "rules": RULES}
    fact |= {"references": [{"column": "shop_key", "table": "dim_shop", "key": ["city"]}], "batch_rules": batch_rules}
    shop = {
        "kind": "dimension",
        **MADE,
        "key": ["city"],
        "effective_time": "_unit",
        "tie_breakers": [{"column": "city"}],
    }
    shop["columns"] = {"city": {"type": "string", "nullable": False, **MADE}}
    source = {"connector": "files", "kind": "slice", "pattern": "{date}.csv", "columns": dict.fromkeys(CHECKS, MADE)}
    whole = {"format": 1, "domain": "test", "dataset": "sold", "owner": "tests", **MADE, "source": source}
    return Contract.model_validate({**whole, "tables": {"fact_sold": fact, "dim_shop": shop}})


def expected() -> dict[str, Expected]:
    return {each.rule: each for each in suite(contract(), "fact_sold")}


def test_every_rule_of_a_table_is_an_expectation_in_their_own_words() -> None:
    assert {rule: (each.dimension, each.scope, each.level, each.type) for rule, each in expected().items()} == {
        "pieces_type": ("validity", "row", "error", "unexpected_rows_expectation"),
        "price_type": ("validity", "row", "error", "unexpected_rows_expectation"),
        "day_type": ("validity", "row", "error", "unexpected_rows_expectation"),
        "pieces_not_null": ("completeness", "row", "error", "expect_column_values_to_not_be_null"),
        "city_values": ("validity", "row", "error", "expect_column_values_to_be_in_set"),
        "city_length": ("validity", "row", "error", "expect_column_value_lengths_to_be_between"),
        "mail_pattern": ("validity", "row", "warn", "expect_column_values_to_match_regex"),
        "pieces_range": ("validity", "row", "error", "expect_column_values_to_be_between"),
        "price_range": ("validity", "row", "error", "expect_column_values_to_be_between"),
        "day_range": ("validity", "row", "error", "expect_column_values_to_be_between"),
        "whole": ("consistency", "row", "error", "unexpected_rows_expectation"),
        "mail_completeness": ("completeness", "batch", "error", "expect_column_values_to_not_be_null"),
        "city_day_uniqueness": ("uniqueness", "batch", "warn", "expect_compound_columns_to_be_unique"),
        "shop_key_relationship": ("consistency", "batch", "error", "expect_column_values_to_not_be_null"),
        "timeliness": ("timeliness", "batch", "warn", "expect_column_values_to_be_between"),
        "rows_published": ("volume", "table", "error", "expect_table_row_count_to_equal"),
        "rows_quarantined": ("volume", "table", "error", "expect_table_row_count_to_equal"),
    }


@pytest.mark.parametrize("rule", [rule for rule, each in expected().items() if each.scope != "table"])
def test_what_great_expectations_says_follows_from_the_counts(rule: str) -> None:
    about = expected()[rule]
    share = about.arguments.get("mostly", 1)
    for failed in (0, 1, 5, 6, 10, 20):
        [judged] = judge([about], {rule: Tally(20, failed)})
        assert judged.success == (20 - failed >= share * 20), failed
        plain = judged.result.to_json_dict()
        assert plain["expectation_config"]["meta"]["rule"] == rule  # type: ignore[call-overload, index]
        if "unexpected_count" in judged.result.result:
            assert (judged.result.result["element_count"], judged.result.result["unexpected_count"]) == (20, failed)
        assert json.dumps(plain)


def test_a_rule_that_saw_no_rows_is_met() -> None:
    assert all(judged.success for judged in judge([e for e in expected().values() if e.scope != "table"], {}))


def test_the_gate_compares_rows_with_what_was_judged() -> None:
    about = Expected(**{**vars(expected()["rows_published"]), "arguments": {"value": 7}})
    assert [judge([about], {about.rule: Tally(n, abs(n - 7))})[0].success for n in (6, 7, 8)] == [False, True, False]


def test_expectations_carry_their_words() -> None:
    made = expectation(expected()["price_range"])
    assert (made.description, made.severity.value) == ("price is at least 0.01.", "critical")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"kind": "completeness", "column": "cty", "min_share": 0.5}, "did you mean 'city'"),
        ({"kind": "uniqueness", "columns": ["city", "days"]}, "did you mean 'day'"),
        ({"kind": "relationship", "reference": "city"}, "unknown column 'city'"),
    ],
)
def test_a_batch_rule_over_what_is_not_there_is_said(rule: dict[str, Any], said: str) -> None:
    assert any(said in finding.message for finding in check_contract(contract([rule])))


def test_a_batch_rule_stands_once() -> None:
    rule = {"kind": "timeliness", "within": "1d"}
    assert any("would stand twice" in finding.message for finding in check_contract(contract([rule, rule])))


def test_threads_that_come_one_after_another_find_great_expectations_whole() -> None:
    """In a process of its own, where nobody has imported it yet."""
    program = """
import threading, time
from tests.unit.test_quality import expected
from lakehouse.quality.expectations import Tally, judge

asked, failed = list(expected().values())[:-2], []

def work():
    try:
        judge(asked, {each.rule: Tally(1, 0) for each in asked})
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=work) for _ in range(40)]
for each in threads:
    each.start()
    time.sleep(0.1)
for each in threads:
    each.join()
print(failed)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT_ROOT, check=True
    )
    assert found.stdout == "[]\n"
