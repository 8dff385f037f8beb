"""The statements that bring a table to its spec, decided without a server; and what bronze knew from which batch on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.core.errors import ContractError
from lakehouse.core.names import TableName
from lakehouse.engine.alter import LiveColumn, LiveTable, alterations
from lakehouse.engine.tables import ColumnSpec, TableSpec
from lakehouse.ledger.generations import Generations

TABLE = TableName("silver", "t")
HIDDEN = "write.metadata.metrics.column."


def spec(**columns: ColumnSpec) -> TableSpec:
    return TableSpec(TABLE, "A table.", columns)


def col(kind: str = "string", text: str = "A column.", **more: Any) -> ColumnSpec:
    return ColumnSpec(kind, text, **more)


def live(of: TableSpec, **more: Any) -> LiveTable:
    columns = [LiveColumn(n, i, c.spark_type, c.description) for i, (n, c) in enumerate(of.columns.items(), 1)]
    properties = {"comment": of.description} | of.hidden()
    return replace(LiveTable(tuple(columns), properties, tuple(of.partition), tuple(of.sort)), **more)


def statements(before: LiveTable, after: TableSpec, **more: Any) -> list[str]:
    return [one.sql.removeprefix("ALTER TABLE lakehouse.silver.`t` ") for one in alterations(before, after, **more)]


BASE = spec(a=col("int"), b=col(), c=col(classification="pii"))


def test_a_table_as_its_spec_says_needs_nothing() -> None:
    for one in (BASE, replace(BASE, partition=("month(a)", "bucket(4,b)"), sort=("b",))):
        partition = tuple(text.replace(",", ", ") for text in one.partition)
        assert statements(live(one, partition=partition), one) == []


def test_each_free_change() -> None:
    after = spec(c=col(classification="pii"), a=col("bigint"), d=col("date"), bee=col(text="New.", renamed_from="b"))
    assert statements(live(BASE), after) == [
        "RENAME COLUMN `b` TO `bee`",
        "ADD COLUMNS (`d` date COMMENT 'A column.')",
        "ALTER COLUMN `a` TYPE bigint",
        "ALTER COLUMN `bee` COMMENT 'New.'",
        "ALTER COLUMN `c` FIRST",
        "ALTER COLUMN `d` AFTER `a`",
        f"SET TBLPROPERTIES ('{HIDDEN}c' = 'none')",
    ]


def test_a_rename_that_was_done_is_not_done_again_and_one_taken_back_goes_by_the_field_id() -> None:
    renamed = spec(a=col("int"), bee=col(renamed_from="b"), c=col(classification="pii"))
    assert statements(live(renamed), renamed) == []
    made_with = {"a": 1, "b": 2, "c": 3}
    assert statements(live(renamed, made_with=made_with), BASE)[0] == "RENAME COLUMN `bee` TO `b`"
    assert statements(live(renamed), BASE)[0].startswith("ADD COLUMNS (`b`")  # made without a column of that name


def test_partitioning_follows_a_renamed_column() -> None:
    before = replace(BASE, partition=("bucket(4, b)", "month(a)"), sort=("b",))
    after = replace(
        spec(a=col("int"), bee=col(renamed_from="b"), c=col(classification="pii")),
        partition=("bucket(4, bee)",),
        sort=("bee",),
    )
    assert statements(live(before), after) == [
        "RENAME COLUMN `b` TO `bee`",
        "DROP PARTITION FIELD months(`a`)",
        f"SET TBLPROPERTIES ('{HIDDEN}c' = 'none')",
    ]


@pytest.mark.parametrize("kind", ["string", "boolean", "decimal(10,0)", "double"])
def test_what_does_not_fit_is_refused_unless_it_may_be_replaced(kind: str) -> None:
    after = spec(a=col(kind), b=col(), c=col(classification="pii"))
    with pytest.raises(
        ContractError,
        match=f"column a of silver.t is int and cannot become {kind}".replace("(", "[(]").replace(")", "[)]"),
    ):
        alterations(live(BASE), after)
    done = statements(live(BASE), after, may_replace=True)
    assert done[:2] == ["DROP COLUMN `a`", f"ADD COLUMNS (`a` {kind} COMMENT 'A column.')"]


def test_a_column_that_ever_partitioned_is_put_away() -> None:
    before = live(replace(BASE, partition=("a",), sort=("a",)), partitioned=frozenset({1}))
    done = statements(
        before, replace(spec(a=col(), b=col(), c=col(classification="pii")), sort=("a",)), may_replace=True
    )
    assert done[:4] == [
        "DROP PARTITION FIELD `a`",
        "WRITE UNORDERED",
        "RENAME COLUMN `a` TO _former_1",
        "ADD COLUMNS (`a` string COMMENT 'A column.')",
    ]


def test_a_wider_table_stays() -> None:
    assert statements(live(spec(a=col("bigint"))), spec(a=col("int"))) == []


def test_bounds_follow_the_class() -> None:
    open_column = spec(a=col())
    closed = spec(a=col(classification="sensitive"))
    assert statements(live(open_column), closed) == [f"SET TBLPROPERTIES ('{HIDDEN}a' = 'none')"]
    assert statements(live(closed), open_column) == [f"UNSET TBLPROPERTIES IF EXISTS ('{HIDDEN}a')"]


@given(st.permutations("abcdefg"), st.permutations("abcdefg"))
def test_any_order_is_reached(before: list[str], after: list[str]) -> None:
    columns = list(before)
    for sql in statements(live(spec(**{name: col() for name in before})), spec(**{name: col() for name in after})):
        name, where = sql.removeprefix("ALTER COLUMN ").replace("`", "").split(" ", 1)
        columns.remove(name)
        columns.insert(columns.index(where.removeprefix("AFTER ")) + 1 if where != "FIRST" else 0, name)
    assert columns == after


COLUMNS = st.frozensets(st.sampled_from("abc"))


@given(st.lists(st.tuples(st.integers(0, 3), COLUMNS), max_size=6))
def test_generations_remember_what_each_batch_was_loaded_with(steps: list[tuple[int, frozenset[str]]]) -> None:
    """A step is a contract under which some batches are loaded, or none."""
    known, loaded = Generations(), []
    for batches, columns in steps:
        known = Generations.read({"lakehouse.generations": known.then(len(loaded), columns).to_json()})
        loaded += [columns] * batches
    for number, columns in enumerate(loaded, 1):
        assert {name for name in "abc" if known.knew(name, number)} == columns
