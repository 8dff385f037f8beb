"""Rules over batches, the gate, and the records of both, on real servers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import DataFrame
from tests.integration.pipeline import branches, fingerprints, heads, land_files

from lakehouse.contracts.model import Contract, Table
from lakehouse.core.errors import GateFailed
from lakehouse.core.names import TableName
from lakehouse.engine import silver
from lakehouse.engine.publish import Target
from lakehouse.engine.run import RunResult, run_waiting
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.store import ObjectStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from tests.servers import NewLake

    from lakehouse.engine.publish import Lake

DAYS = [date(2024, 5, 1) + timedelta(days=day) for day in range(3)]
MADE = {"description": "made for a test"}
Row = tuple[str, str, str]
GOOD: list[Row] = [("s1", "a@x", "10"), ("s2", "b@x", "11"), ("s3", "c@x", "12"), ("s4", "d@x", "13")]


def contract(*batch_rules: dict[str, Any]) -> Contract:
    """Lines of shops with a mail address; all rules over batches are those of the test."""
    text = {"type": "string", **MADE}
    columns = {
        "shop": {**text, "nullable": False},
        "mail": {**text, "classification": "pii", "valid": {"pattern": "@", "level": "warn"}},
        "pieces": {"type": "int", "valid": {"min": 0}, **MADE},
    }
    fact = {"kind": "fact", "key": ["shop", "mail", "pieces"], "occurrence": True, "columns": columns, **MADE}
    fact |= {"references": [{"column": "shop_key", "table": "dim_shop", "key": ["shop"]}]}
    shop = {
        "kind": "dimension",
        "key": ["shop"],
        "effective_time": "_unit",
        "tie_breakers": [{"column": "name"}],
        **MADE,
    }
    # A shop without a name says nothing: it never becomes a member.
    expression = "CASE WHEN mail IS NOT NULL THEN shop END"
    shop["columns"] = {
        "shop": {**text, "nullable": False, "expression": expression},
        "name": {**text, "expression": "mail"},
    }
    source = {"connector": "files", "kind": "slice", "pattern": "{date}.csv"}
    source["columns"] = {name: {**MADE, "classification": "pii"} for name in ("shop", "mail", "pieces")}  # type: ignore[assignment]
    whole = {"format": 1, "domain": "test", "dataset": "lines", "owner": "tests", **MADE, "source": source}
    return Contract.model_validate(
        {**whole, "tables": {"fact_line": {**fact, "batch_rules": batch_rules}, "dim_shop": shop}}
    )


def write(folder: Path, day: date, rows: Iterable[Row]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{day}.csv").write_text("shop,mail,pieces\n" + "".join(",".join(row) + "\n" for row in rows))


def run(lake: Lake, contract: Contract) -> RunResult:
    """What `lakehouse run` does, marts aside."""
    return run_waiting(lake, [contract], [contract.name], None, lambda _: None)


def recorded(lake: Lake, table: str, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
    rows = lake.table(TableName("ops", table)).where(where).selectExpr(*columns.split(", "))
    return sorted(map(tuple, rows.collect()))


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        ({"kind": "completeness", "column": "mail", "min_share": 0.75}, [*GOOD[:2], ("s3", "", "1"), ("s4", "", "1")]),
        ({"kind": "uniqueness", "columns": ["mail", "pieces"]}, [*GOOD, ("s9", "a@x", "10")]),
        ({"kind": "relationship", "reference": "shop_key", "min_share": 0.9}, [*GOOD, ("s9", "", "10")]),
    ],
    ids=lambda each: each["kind"] if isinstance(each, dict) else "",
)
def test_a_batch_that_breaks_a_rule_is_held_and_its_neighbours_are_taken(
    lake: Lake, new_lake: NewLake, tmp_path: Path, rule: dict[str, Any], bad: list[Row]
) -> None:
    mine = contract(rule)
    for day, rows in zip(DAYS, (GOOD, bad, GOOD[:3]), strict=True):
        write(tmp_path, day, rows)
    land_files(lake, [mine], tmp_path)
    result = run(lake, mine)
    assert (result.errors, result.notes) == ([], [])
    [fact] = [report for report in result.reports if str(report.table) == "silver.fact_line"]
    assert list(fact.held) == [2]
    assert fact.held[2].startswith(mine.tables["fact_line"].batch_rules[0].name)
    states = recorded(lake, "batches", "batch, state, good", "table = 'silver.fact_line'")
    assert states == [(1, "taken", 4), (2, "held", len(bad)), (3, "taken", 3)]
    write(tmp_path, DAYS[1], GOOD[1:])  # corrected at the source
    land_files(lake, [mine], tmp_path)
    assert run(lake, mine).errors == []
    whole = new_lake()
    land_files(whole, [mine], tmp_path)
    run(whole, mine)
    assert fingerprints(lake, [mine]) == fingerprints(whole, [mine])


def test_warnings_are_recorded_and_hold_nothing(lake: Lake, tmp_path: Path) -> None:
    mine = contract(
        {"kind": "uniqueness", "columns": ["pieces"], "level": "warn"}, {"kind": "timeliness", "within": "1d"}
    )
    write(tmp_path, DAYS[0], [*GOOD, ("s5", "no mail", "10"), ("s6", "e@x", "-1"), ("s7", "f@x", "many")])
    land_files(lake, [mine], tmp_path)
    [fact] = [report for report in run(lake, mine).reports if str(report.table) == "silver.fact_line"]
    assert (fact.good, fact.quarantined, fact.held) == (5, 2, {})
    assert [(each.rule, each.rows, each.place) for each in fact.refusals] == [
        ("pieces_range", 1, f"{DAYS[0]}.csv, line 7"),
        ("pieces_type", 1, f"{DAYS[0]}.csv, line 8"),
    ]
    columns = "rule, dimension, scope, level, checked, failed, outcome"
    assert recorded(lake, "quality_results", columns, "table = 'silver.fact_line'") == [
        ("mail_pattern", "validity", "row", "warn", 7, 1, "warned"),
        ("pieces_range", "validity", "row", "error", 7, 1, "quarantined"),
        ("pieces_type", "validity", "row", "error", 7, 1, "quarantined"),
        ("pieces_uniqueness", "uniqueness", "batch", "warn", 5, 2, "warned"),
        ("shop_not_null", "completeness", "row", "error", 7, 0, "passed"),
        ("timeliness", "timeliness", "batch", "warn", 7, 7, "warned"),
    ]
    assert recorded(lake, "runs", "outcome, tables, received, quarantined, held") == [("succeeded", 3, 14, 2, 0)]


def _lost(typed: DataFrame, table: Table, facts: Any = silver.fact_rows) -> DataFrame:
    return facts(typed, table).where("shop <> 's2'")


def _doubled(typed: DataFrame, table: Table, facts: Any = silver.fact_rows) -> DataFrame:
    rows = facts(typed, table)
    return rows.unionAll(rows.where("shop = 's2'"))


@pytest.mark.parametrize("wrong", [_lost, _doubled])
def test_an_engine_that_loses_or_doubles_a_row_does_not_get_past_the_gate(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    mine = contract()
    write(tmp_path, DAYS[0], GOOD)
    land_files(lake, [mine], tmp_path)
    run(lake, mine)
    before = heads(lake, [TableName("silver", "fact_line"), TableName("quarantine", "fact_line")])
    write(tmp_path, DAYS[1], [*GOOD, ("s5", "e@x", "-1")])
    land_files(lake, [mine], tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(silver, "fact_rows", wrong)
        [error] = run(lake, mine).errors
    assert isinstance(error, GateFailed)
    assert f"8 rows were judged to be there, {7 if wrong is _lost else 9} are there" in str(error)
    assert "@x" not in str(error)
    after = heads(lake, [TableName("silver", "fact_line"), TableName("quarantine", "fact_line")])
    assert after[TableName("silver", "fact_line")] == before[TableName("silver", "fact_line")]
    assert len(branches(lake, after)) == 2  # both are kept to be looked at
    assert recorded(lake, "batches", "state", "batch = 2 AND table = 'silver.fact_line'") == [("blocked",)]
    assert ("failed",) in recorded(lake, "runs", "outcome")
    assert run(lake, mine).errors == []
    assert [p for each in accounts(lake.catalog, ObjectStore.open(lake.settings), mine) for p in each.problems] == []


def test_rows_of_a_superseded_batch_that_stay_do_not_get_past_the_gate(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = contract()
    write(tmp_path, DAYS[0], GOOD)
    land_files(lake, [mine], tmp_path)
    run(lake, mine)
    write(tmp_path, DAYS[0], GOOD[1:])
    land_files(lake, [mine], tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Target, "delete", lambda *_: None)
        [error] = run(lake, mine).errors
    assert isinstance(error, GateFailed)
    assert "3 rows were judged to be there, 7 are there" in str(error)
    assert run(lake, mine).errors == []
    assert [p for each in accounts(lake.catalog, ObjectStore.open(lake.settings), mine) for p in each.problems] == []


def test_great_expectations_own_engine_counts_the_same(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    """The suite as it is written for others, run by Great Expectations itself over the rows that the table judged."""
    import great_expectations as gx

    from lakehouse.quality.expectations import expectation
    from lakehouse.quality.suite import FAILED, STATUS, suite

    mine = contract({"kind": "completeness", "column": "mail", "min_share": 0.1, "level": "warn"})
    mine = mine.model_copy(update={"tables": {"fact_line": mine.tables["fact_line"]}})
    poor = [("s5", "no mail", "10"), ("", "e@x", "-1"), ("s7", "f@x", "many"), ("s8", "", ""), ("s9", "", "-2")]
    write(tmp_path, DAYS[0], [*GOOD, *poor])
    land_files(lake, [mine], tmp_path)
    assert run(lake, mine).errors == []
    table = silver.Silver(lake, mine, "fact_line", 1)
    judged = table.typed(frozenset([1])).where(f"{STATUS} IN ('good', 'quarantined')")
    # It asks the JVM's first session, which has not the lake's catalog.
    rows = spark.createDataFrame(judged.select(*table.table.typed, FAILED, STATUS).toArrow())
    asked = [each for each in suite(mine, "fact_line") if each.scope != "table"]
    context = gx.get_context(mode="ephemeral")
    frame = context.data_sources.add_spark("spark", persist=False).add_dataframe_asset("rows")
    batch = frame.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": rows})
    made = gx.ExpectationSuite("fact_line", expectations=[expectation(each) for each in asked])
    said = batch.validate(made, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
    theirs = {}
    for result in said.results:
        rule = result.expectation_config["meta"]["rule"]
        assert not result.exception_info.get("raised_exception"), result.exception_info
        found = result.result
        theirs[rule] = (bool(result.success), found.get("unexpected_count", found.get("observed_value")))
    ours = recorded(lake, "quality_results", "rule, failed", "true")
    assert {rule: failed for rule, (_, failed) in theirs.items()} == dict(ours)
    assert {rule for rule, (success, _) in theirs.items() if not success} == {
        "mail_pattern", "pieces_range", "pieces_type", "shop_not_null",
    }  # fmt: skip
