"""Which snapshots are held for the keys that they would close, against a walk over plain sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from lakehouse.contracts.model import Contract, Table
from lakehouse.core import names
from lakehouse.core.encoding import durable_key
from lakehouse.core.types import DataType
from lakehouse.engine import snapshots
from lakehouse.engine.snapshots import held_snapshots

FIRST = date(2024, 3, 29)
KEY_TYPES = [DataType("string"), DataType("long")]
MANY = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def table(share: float = 0.5, classification: str = "internal") -> Table:
    column = {"type": "string", "description": "made for a test", "classification": classification}
    dimension = {
        "kind": "dimension",
        "description": "made for a test",
        "key": ["id", "site"],
        "effective_time": names.UNIT,
        "columns": {"id": column, "site": {**column, "type": "long"}},
        "max_close_share": share,
    }
    source = {"connector": "files", "kind": "snapshot", "columns": {"id": {"description": "the key"}}}
    whole = {"format": 1, "domain": "test", "dataset": "listed", "owner": "tests", "description": "for a test"}
    return Contract.model_validate({**whole, "source": source, "tables": {"dim": dimension}}).tables["dim"]


@dataclass
class Listed:
    """What :class:`lakehouse.engine.silver.Silver` shows of some snapshots; remembers what was read."""

    spark: SparkSession
    table: Table
    content: Mapping[int, Sequence[int]]
    reads: list[frozenset[int]] = field(default_factory=list)

    def typed(self, batches: frozenset[int]) -> DataFrame:
        self.reads.append(batches)
        rows: list[tuple[Any, ...]] = []
        for batch in batches:
            rows += [(f"k{key}", key, durable_key(KEY_TYPES, [f"k{key}", key]), batch) for key in self.content[batch]]
            rows += [rows[-1], (None, 1, None, batch)] if self.content[batch] else []  # a repeat, and no key
        return self.spark.createDataFrame(rows, f"id string, site long, {names.KEY} string, {names.BATCH} long")


def naive(
    content: Mapping[int, Sequence[int]],
    units: Mapping[int, date],
    stays: frozenset[int],
    share: float,
) -> set[int]:
    """Unit by unit: the newest that may count is taken, and what it is measured against is what was taken last."""
    held, before = set(), None
    for unit in sorted(set(units.values())):
        had = set(content[before]) if before else set()
        for batch in sorted((b for b in units if units[b] == unit), reverse=True):
            gone = had - set(content[batch])
            if batch in stays or not had or len(gone) / len(had) <= share:
                before = batch
                break
            held.add(batch)
    return held


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[int, list[int]], dict[int, date], frozenset[int], frozenset[int]]:
    """Snapshots of few keys, some of the same unit, some of them taken before and some released."""
    days = draw(st.lists(st.integers(0, 6), min_size=1, max_size=9))
    units = {number: FIRST + timedelta(days=day) for number, day in enumerate(days, 1)}
    content = {number: draw(st.lists(st.integers(0, 5), unique=True, max_size=6)) for number in units}
    some = st.sets(st.sampled_from(sorted(units)))
    return content, units, frozenset(draw(some)), frozenset(draw(some))


@pytest.mark.parametrize("window", [2, 3, 62])
@MANY
@given(history=histories(), share=st.sampled_from([0.2, 0.5, 0.9]))
def test_the_walk_is_that_over_plain_sets(  # type: ignore[no-untyped-def]
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, window: int, history, share: float
) -> None:
    monkeypatch.setattr(snapshots, "WINDOW", window)
    content, units, live, released = history
    silver = Listed(spark, table(share), content)
    found = held_snapshots(silver, frozenset(units) - live, live, units, released)  # type: ignore[arg-type]
    assert found.keys() == naive(content, units, live | released, share)


def held(spark: SparkSession, content: Mapping[int, Sequence[int]], *, live: set[int], **more: Any) -> dict[int, str]:
    units = {number: FIRST + timedelta(days=number) for number in content}
    silver = Listed(spark, table(**more), content)
    found = held_snapshots(silver, frozenset(units) - live, frozenset(live), units, frozenset())  # type: ignore[arg-type]
    return dict(found)


def test_the_reason_says_how_many_and_shows_some(spark: SparkSession) -> None:
    found = held(spark, {1: range(1000), 2: range(300)}, live={1})
    assert found.keys() == {2}
    assert "would close 700 of the 1,000 keys of batch 1 (2024-03-30)" in found[2]
    assert "id='k300' site='300'" in found[2] and "id='k999' site='999'" in found[2]
    assert "70.0%, and the contract allows 50.0%" in found[2]


@pytest.mark.parametrize("classification", ["sensitive", "pii"])
def test_classified_keys_are_not_shown(spark: SparkSession, classification: str) -> None:
    [reason] = held(spark, {1: [7], 2: []}, live={1}, classification=classification).values()
    assert "k7" not in reason and "site" not in reason
    assert durable_key(KEY_TYPES, ["k7", 7]) in reason


def test_an_empty_snapshot_closes_all_and_the_first_closes_nothing(spark: SparkSession) -> None:
    assert held(spark, {1: [], 2: [1, 2], 3: []}, live=set()).keys() == {3}
    assert held(spark, {1: [], 2: [1, 2], 3: []}, live=set(), share=1) == {}


def test_what_is_held_is_not_what_the_next_is_measured_against(spark: SparkSession) -> None:
    """Day 3 is like day 2, and both lack most of day 1; day 4 is whole again."""
    assert held(spark, {1: range(10), 2: [1], 3: [1], 4: range(9)}, live={1}).keys() == {2, 3}


def test_a_late_snapshot_is_measured_against_the_one_before_it(spark: SparkSession) -> None:
    """Day 3 stands, whatever it closes of day 2, which comes later and has more."""
    assert held(spark, {1: [1], 2: range(10), 3: [1]}, live={1, 3}) == {}
    assert held(spark, {1: range(10), 2: [1], 3: range(10)}, live={1, 3}).keys() == {2}


def test_many_snapshots_take_few_jobs(spark: SparkSession) -> None:
    content = {number: [1, 2, 3] if number % 7 else [1] for number in range(1, 301)}
    units = {number: FIRST + timedelta(days=number) for number in content}
    silver = Listed(spark, table(), content)
    found = held_snapshots(silver, frozenset(units), frozenset(), units, frozenset())  # type: ignore[arg-type]
    assert found.keys() == {number for number in content if number % 7 == 0}
    assert len(silver.reads) <= 8
