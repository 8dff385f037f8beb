"""What a change of contract means for a table, decided from two contracts and some evidence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.contracts.changes import Change, Worst, compare, verdict_of, widens
from lakehouse.contracts.checks import check_contract
from lakehouse.contracts.model import Contract
from lakehouse.contracts.rejudging import judged_as
from lakehouse.contracts.rewriting import computes_with, is_null_with, rename_columns
from lakehouse.core.types import DataType

BASE: dict[str, Any] = {
    "format": 1,
    "domain": "shop",
    "dataset": "orders",
    "owner": "somebody",
    "description": "Orders.",
    "source": {
        "connector": "files",
        "kind": "slice",
        "pattern": "{date}",
        "columns": {name: {"description": "A column."} for name in ("id", "a", "b", "at", "new")},
    },
    "tables": {
        "dim": {
            "kind": "dimension",
            "description": "A dimension.",
            "key": ["id"],
            "effective_time": "at",
            "tie_breakers": [{"column": "seq"}],
            "columns": {
                "id": {"type": "int", "nullable": False, "description": "Number."},
                "size": {"type": "int", "expression": "a", "nullable": False, "description": "Pieces."},
                "name": {"type": "string", "expression": "trim(b)", "history": 3, "description": "Name."},
                "price": {"type": "decimal(6,2)", "expression": "a", "description": "Price."},
            },
            "order": {
                "at": {"type": "timestamp", "nullable": False, "description": "When."},
                "seq": {"type": "int", "expression": "b", "description": "Serial."},
            },
            "rules": [{"name": "positive", "check": "size > 0 OR name = 'free'", "description": "Some."}],
        },
        "fact": {
            "kind": "fact",
            "description": "A fact.",
            "key": ["id"],
            "columns": {
                "id": {"type": "int", "nullable": False, "description": "Number."},
                "size": {"type": "int", "expression": "a", "description": "Pieces."},
            },
            "rules": [{"name": "even", "check": "size * 2 > 1", "description": "Some."}],
            "references": [{"column": "k", "table": "dim", "key": ["id"]}],
        },
    },
}
Edit = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Known:
    """Evidence as a test says it."""

    was_seen: frozenset[str] = frozenset()
    was_refused: frozenset[str] = frozenset()
    former: dict[str, set[str]] = field(default_factory=dict)

    def seen(self, columns: frozenset[str]) -> frozenset[str]:
        return columns & self.was_seen

    def refused(self, rules: frozenset[str]) -> bool:
        return bool(rules & self.was_refused)

    def names(self, column: str) -> frozenset[str]:
        return frozenset({column} | self.former.get(column, set()))


SEEN = Known(frozenset({"id", "a", "b", "at"}))


def edited(*edits: Edit, base: dict[str, Any] = BASE) -> Contract:
    raw = copy.deepcopy(base)
    for edit in edits:
        edit(raw)
    contract = Contract.model_validate(raw)
    assert list(check_contract(contract)) == []
    return contract


def changes(*edits: Edit, table: str = "dim", evidence: Any = SEEN) -> list[Change]:
    return compare(edited(), edited(*edits), table, evidence)


def summary(found: list[Change]) -> list[tuple[str, str, str]]:
    return [(change.what, change.subject, change.verdict) for change in found]


def put(table: str, *path: Any, value: Any) -> Edit:
    def edit(raw: dict[str, Any]) -> None:
        place = raw["tables"][table]
        for part in path[:-1]:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
        place[path[-1]] = value

    return edit


def column(**more: Any) -> dict[str, Any]:
    return {"type": "string", "expression": "new", "description": "A new one.", **more}


def rename(table: str, part: str, old: str, new: str) -> Edit:
    def edit(raw: dict[str, Any]) -> None:
        where = raw["tables"][table]
        spec = where[part]
        moved = {**spec[old], "renamed_from": old, "expression": spec[old].get("expression", old)}
        where[part] = {new if name == old else name: moved if name == old else one for name, one in spec.items()}
        where["key"] = [new if name == old else name for name in where["key"]]
        for tie in where.get("tie_breakers", ()):
            tie["column"] = new if tie["column"] == old else tie["column"]
        for rule in where.get("rules", ()):
            rule["check"] = rule["check"].replace(old, new)
        for reference in where.get("references", ()):
            reference["key"] = [new if name == old else name for name in reference["key"]]
        if where.get("effective_time") == old:
            where["effective_time"] = new

    return edit


CASES: dict[str, tuple[list[Edit], str, Any, list[tuple[str, str, str]]]] = {
    "nothing": ([], "dim", SEEN, []),
    "description": ([put("dim", "columns", "size", "description", value="Other.")], "dim", SEEN, []),
    "class": ([put("dim", "columns", "size", "classification", value="pii")], "dim", SEEN, []),
    "key column renamed": ([rename("dim", "columns", "id", "nr")], "dim", SEEN, [("column renamed", "nr", "free")]),
    "type 3 renamed": ([rename("dim", "columns", "name", "title")], "dim", SEEN, [("column renamed", "title", "free")]),
    "used by a rule": ([rename("dim", "columns", "size", "pcs")], "dim", SEEN, [("column renamed", "pcs", "free")]),
    "order renamed": ([rename("dim", "order", "seq", "serial")], "dim", SEEN, [("column renamed", "serial", "free")]),
    "time renamed": ([rename("dim", "order", "at", "moment")], "dim", SEEN, [("column renamed", "moment", "free")]),
    "fact's key": ([rename("fact", "columns", "id", "nr")], "fact", SEEN, [("column renamed", "nr", "free")]),
    "renamed and read otherwise": (
        [rename("dim", "columns", "size", "pcs"), put("dim", "columns", "pcs", "expression", value="b")],
        "dim",
        SEEN,
        [("column renamed", "pcs", "free"), ("expression of the column", "pcs", "rebuild")],
    ),
    "widened": (
        [put("dim", "columns", "size", "type", value="long")],
        "dim",
        SEEN,
        [("column widened", "size", "free")],
    ),
    "widened and renamed": (
        [put("dim", "columns", "size", "type", value="long"), rename("dim", "columns", "size", "pcs")],
        "dim",
        SEEN,
        [("column renamed", "pcs", "free"), ("column widened", "pcs", "free")],
    ),
    "wider decimal": (
        [put("dim", "columns", "price", "type", value="decimal(9,2)")],
        "dim",
        SEEN,
        [("column widened", "price", "free")],
    ),
    "widened, and values did not fit": (
        [put("dim", "columns", "size", "type", value="long")],
        "dim",
        Known(was_refused=frozenset({"size_type"})),
        [("column widened", "size", "rebuild")],
    ),
    "widened, and values did not fit under an earlier name": (
        [put("dim", "columns", "size", "type", value="long")],
        "dim",
        Known(was_refused=frozenset({"pieces_type"}), former={"size": {"pieces"}}),
        [("column widened", "size", "rebuild")],
    ),
    "widened, and a rule computes with it": (
        [put("fact", "columns", "size", "type", value="long")],
        "fact",
        SEEN,
        [("column widened", "size", "rebuild")],
    ),
    "narrowed decimal": (
        [put("dim", "columns", "price", "type", value="decimal(5,2)")],
        "dim",
        SEEN,
        [("type of the column", "price", "refused")],
    ),
    "other scale": (
        [put("dim", "columns", "price", "type", value="decimal(9,3)")],
        "dim",
        SEEN,
        [("type of the column", "price", "refused")],
    ),
    "text": (
        [put("fact", "columns", "size", "type", value="string"), put("fact", "rules", value=[])],
        "fact",
        SEEN,
        [("type of the column", "size", "refused"), ("rule removed", "even", "free")],
    ),
    "order column of another type": (
        [put("dim", "order", "seq", "type", value="string")],
        "dim",
        SEEN,
        [("type of the order column", "seq", "rebuild")],
    ),
    "added": ([put("dim", "columns", "more", value=column())], "dim", SEEN, [("column added", "more", "free")]),
    "added to a fact": (
        [put("fact", "columns", "more", value=column())],
        "fact",
        SEEN,
        [("column added", "more", "free")],
    ),
    "added, computed": (
        [put("dim", "columns", "more", value=column(expression="upper(trim(new)) || a"))],
        "dim",
        SEEN,
        [("column added", "more", "free")],
    ),
    "added, bronze has it": (
        [put("dim", "columns", "more", value=column(expression="b"))],
        "dim",
        SEEN,
        [("column added", "more", "rebuild")],
    ),
    "added, with a default": (
        [put("fact", "columns", "more", value=column(expression="coalesce(new, 'none')"))],
        "fact",
        SEEN,
        [("column added", "more", "rebuild")],
    ),
    "added, a constant": (
        [put("fact", "columns", "more", value=column(expression="'x'"))],
        "fact",
        SEEN,
        [("column added", "more", "rebuild")],
    ),
    "added, not nullable": (
        [put("dim", "columns", "more", value=column(nullable=False))],
        "dim",
        SEEN,
        [("column added", "more", "rebuild")],
    ),
    "added to the order": (
        [put("dim", "order", "more", value=column())],
        "dim",
        SEEN,
        [("order column added", "more", "free")],
    ),
    "a rule of the added column": (
        [
            put("fact", "columns", "more", value=column()),
            put("fact", "rules", 0, value={"name": "short", "check": "length(more) < 5", "description": "Some."}),
        ],
        "fact",
        SEEN,
        [("column added", "more", "free"), ("rule removed", "even", "free"), ("rule added", "short", "free")],
    ),
    "a rule that asks for null": (
        [
            put("fact", "columns", "more", value=column()),
            put("fact", "rules", 0, value={"name": "there", "check": "more IS NOT NULL", "description": "Some."}),
        ],
        "fact",
        SEEN,
        [("column added", "more", "free"), ("rule removed", "even", "free"), ("rule added", "there", "replay")],
    ),
    "a rule that refused rows is gone": (
        [put("fact", "rules", value=[])],
        "fact",
        Known(was_refused=frozenset({"even"})),
        [("rule removed", "even", "replay")],
    ),
    "a rule became a warning": (
        [put("fact", "rules", 0, "level", value="warn")],
        "fact",
        SEEN,
        [("rule removed", "even", "free")],
    ),
    "a rule changed": (
        [put("fact", "rules", 0, "check", value="size > 1")],
        "fact",
        SEEN,
        [("rule changed", "even", "replay")],
    ),
    "nullable": (
        [put("dim", "columns", "size", "nullable", value=True)],
        "dim",
        SEEN,
        [("nullable of the column", "size", "free")],
    ),
    "nullable, and nulls were refused": (
        [put("dim", "columns", "size", "nullable", value=True)],
        "dim",
        Known(was_refused=frozenset({"size_not_null"})),
        [("nullable of the column", "size", "replay")],
    ),
    "no longer nullable": (
        [put("dim", "columns", "name", "nullable", value=False)],
        "dim",
        SEEN,
        [("nullable of the column", "name", "replay")],
    ),
    "a rule changed, and a column was renamed": (
        [rename("fact", "columns", "size", "pcs"), put("fact", "rules", 0, "check", value="pcs > 1")],
        "fact",
        SEEN,
        [("column renamed", "pcs", "free"), ("rule changed", "even", "rebuild")],
    ),
    "a rule changed, and a column was widened": (
        [put("dim", "columns", "price", "type", value="decimal(9,2)"), put("dim", "rules", value=[])],
        "dim",
        Known(was_refused=frozenset({"positive"})),
        [("column widened", "price", "free"), ("rule removed", "positive", "rebuild")],
    ),
    "a rule changed, and a column was added": (
        [put("fact", "columns", "more", value=column()), put("fact", "rules", 0, "check", value="size > 1")],
        "fact",
        SEEN,
        [("column added", "more", "free"), ("rule changed", "even", "replay")],
    ),
    "other valid values": (
        [put("dim", "columns", "name", "valid", value={"values": ["free"]})],
        "dim",
        SEEN,
        [("rule added", "name_values", "replay")],
    ),
    "removed": (
        [lambda raw: raw["tables"]["dim"]["columns"].pop("price")],
        "dim",
        SEEN,
        [("column removed", "price", "rebuild")],
    ),
    "history": (
        [put("dim", "columns", "size", "history", value=1)],
        "dim",
        SEEN,
        [("history of the column", "size", "rebuild")],
    ),
    "per life": ([put("dim", "per_life", value=True)], "dim", SEEN, [("per life", "", "rebuild")]),
    "a later future": (
        [put("dim", "future_allowance", value="3d")],
        "dim",
        SEEN,
        [("future allowance hours", "", "free")],
    ),
    "a nearer future": (
        [put("dim", "future_allowance", value="3h")],
        "dim",
        SEEN,
        [("future allowance hours", "", "replay")],
    ),
    "how files are written": (
        [lambda raw: raw["source"].update(csv={"delimiter": ";"})],
        "fact",
        SEEN,
        [("csv of the source", "", "free")],
    ),
    "zone": (
        [lambda raw: raw["source"].update(timezone="Europe/London")],
        "fact",
        SEEN,
        [("timezone of the source", "", "rebuild")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_and_its_verdict(case: str) -> None:
    edits, table, evidence, expected = CASES[case]
    found = changes(*edits, table=table, evidence=evidence)
    assert summary(found) == expected
    assert all(change.render() and change.what in change.render() for change in found)


@pytest.mark.parametrize("case", CASES)
def test_only_a_replay_keeps_all_that_makes_values(case: str) -> None:
    """With the former rules put back, nothing is left that differs but what is free: a replay may judge by both."""
    edits, name, evidence, expected = CASES[case]
    before, after = edited(), edited(*edits)
    if verdict_of(changes(*edits, table=name, evidence=evidence)) == "replay":
        judged = after.model_copy(update={"tables": {name: judged_as(after, name, before.tables[name])}})
        left = compare(before, judged, name, evidence)
        assert verdict_of(left) == "free" and len(left) < len(expected)
        assert {change.what for change in left} <= {"column added", "csv of the source"}


def test_the_former_rules_are_those_of_the_former_contract() -> None:
    before = edited(
        put("dim", "columns", "name", "valid", value={"max_length": 3}), put("dim", "future_allowance", value="3h")
    )
    after = edited(
        put("dim", "columns", "size", "nullable", value=True),
        put("dim", "columns", "more", value=column(valid={"min_length": 1})),
        put("dim", "rules", 0, "check", value="size > 1"),
    )
    judged = judged_as(after, "dim", before.tables["dim"])
    assert [rule.name for rule in judged.all_rules] == ["name_length", "positive"]
    assert judged.rules == before.tables["dim"].rules and judged.future_allowance == "3h"
    assert not judged.columns["size"].nullable and judged.columns["more"].valid is None
    assert judged_as(after, "dim", after.tables["dim"]) == after.tables["dim"]


def test_a_fact_cannot_become_a_dimension() -> None:
    base = copy.deepcopy(BASE)
    base["tables"]["fact"] = {**copy.deepcopy(BASE["tables"]["dim"])}
    found = compare(edited(), Contract.model_validate(base), "fact", SEEN)
    assert summary(found) == [("kind of the table", "", "refused")]


@given(st.permutations(["id", "size", "name", "price"]), st.permutations(["at", "seq"]))
def test_order_is_no_change(columns: list[str], order: list[str]) -> None:
    def reorder(raw: dict[str, Any]) -> None:
        table = raw["tables"]["dim"]
        table["columns"] = {name: table["columns"][name] for name in columns}
        table["order"] = {name: table["order"][name] for name in order}

    assert changes(reorder) == []


NAMES = st.sampled_from(["alpha", "beta", "gamma", "delta"])


@given(
    st.lists(
        st.tuples(st.sampled_from(["id", "size", "name", "price"]), NAMES), unique_by=(lambda p: p[0], lambda p: p[1])
    )
)
def test_any_renames_together_are_free_and_nothing_else(pairs: list[tuple[str, str]]) -> None:
    found = changes(*[rename("dim", "columns", old, new) for old, new in pairs])
    assert sorted(summary(found)) == sorted(("column renamed", new, "free") for _, new in pairs)
    back = compare(edited(*[rename("dim", "columns", o, n) for o, n in pairs]), edited(), "dim", Worst())
    assert {change.what for change in back if change.verdict == "free"} <= {"column added", "column removed"}


DECIMALS = st.tuples(st.integers(1, 38), st.integers(0, 38)).filter(lambda p: p[1] <= p[0])
TYPES = st.one_of(
    st.sampled_from(["string", "boolean", "int", "long", "double", "date", "timestamp"]).map(DataType),
    DECIMALS.map(lambda p: DataType("decimal", *p)),
)


@given(TYPES, TYPES, TYPES)
def test_widening_is_a_strict_order(a: DataType, b: DataType, c: DataType) -> None:
    assert not widens(a, a) and not (widens(a, b) and widens(b, a))
    assert widens(a, c) or not (widens(a, b) and widens(b, c))


def test_the_gravest_verdict_counts() -> None:
    found = changes(
        put("dim", "columns", "price", "type", value="double"),
        put("dim", "columns", "size", "history", value=1),
        rename("dim", "columns", "name", "title"),
    )
    assert verdict_of(found) == "refused" and verdict_of(found[:1]) == "free" and verdict_of([]) == "free"


@pytest.mark.parametrize(
    ("text", "is_null"),
    [
        ("new", True),
        ("upper(trim(new))", True),
        ("CAST(new AS int) + 1", True),
        ("a || new", True),
        ("nullif(trim(new), '')", True),
        ("nullif(a, new)", False),
        ("coalesce(new, 'x')", False),
        ("coalesce(trim(new), new)", False),
        ("concat_ws('-', a, new)", False),
        ("new IS NULL", False),
        ("CASE WHEN new = 'x' THEN 1 ELSE 2 END", False),
        ("new = 'x' OR a = 'y'", False),
        ("new BETWEEN 'a' AND 'b'", True),
        ("new IN ('a', 'b')", True),
        ("a IN ('a', new)", False),
        ("greatest(a, new)", False),
        ("new <=> 'x'", False),
        ("new RLIKE 'x'", True),
        ("'x'", False),
    ],
)
def test_where_a_column_is_null(text: str, is_null: bool) -> None:
    assert is_null_with(text, frozenset({"new"})) is is_null


def test_computing_is_more_than_comparing() -> None:
    assert not computes_with("size > 0 AND size <> other", "size")
    assert computes_with("size * 2 > 0", "size") and computes_with("abs(size) > 0", "size")
    assert not computes_with("abs(other) > size", "size")


def test_renaming_in_an_expression() -> None:
    assert rename_columns("size > 0 AND name = 'size'", {"size": "pcs"}) == "`pcs` > 0 AND name = 'size'"


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([put("dim", "columns", "size", "renamed_from", value="name")], "'name' is a column of this table"),
        ([put("dim", "columns", "size", "renamed_from", value="seq")], "'seq' is a column of this table"),
        (
            [put("dim", "columns", name, "renamed_from", value="gone") for name in ("size", "name")],
            "'size' was renamed from 'gone' already",
        ),
    ],
)
def test_a_former_name_has_one_heir(edits: list[Edit], message: str) -> None:
    raw = copy.deepcopy(BASE)
    for edit in edits:
        edit(raw)
    found = [finding.message for finding in check_contract(Contract.model_validate(raw))]
    assert len(found) == 1 and message in found[0]
