"""A fold that starts from a baseline is the fold of everything, as the reference says, whatever comes later."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from tests import reference
from tests.reference import Observation
from tests.spark.test_history import (
    FEEDS,
    HISTORIES,
    MANY,
    SNAPSHOTS,
    UNITS,
    Histories,
    Row,
    Shape,
    arrow,
    collected,
    compare,
    drawn_rows,
    midnight,
)

from lakehouse.core import names
from lakehouse.engine.baseline import BEYOND, condense, join_baseline, refuse_beyond
from lakehouse.engine.history import fold, observations
from lakehouse.engine.typed import EFFECTIVE, FAILED, STATUS
from lakehouse.ledger.watermark import Baseline


def from_baselines(spark: SparkSession, shape: Shape, rows: list[Row], units: dict[int, object], horizons: list[int]):  # type: ignore[no-untyped-def]
    """Fold with a baseline at each of the horizons in turn; rows before one are gone when the next is made."""
    contract = shape.contract()
    table = contract.tables["dim"]
    typed = spark.createDataFrame(arrow([row.typed(table) for row in rows], table)).localCheckpoint()
    kept, found, last = None, observations(typed, contract, table, units), None  # type: ignore[arg-type]
    for place in sorted(horizons):
        horizon = midnight(UNITS[place])
        kept = condense(found.where(f"{EFFECTIVE} < TIMESTAMP '{horizon.isoformat()}'"), table).localCheckpoint()
        left = typed.where(f"{EFFECTIVE} >= TIMESTAMP '{horizon.isoformat()}'")
        found, last = join_baseline(contract, table, left, units, kept, horizon), horizon  # type: ignore[arg-type]
    assert last is not None and kept is not None
    return collected(fold(found, table), table), kept.count()


HORIZONS = st.lists(st.integers(0, len(UNITS) - 1), min_size=1, max_size=2, unique=True)


@pytest.mark.parametrize("shape", FEEDS.values(), ids=FEEDS.keys())
@MANY
@given(histories=HISTORIES, horizons=HORIZONS)
def test_feeds_fold_from_a_baseline_as_from_everything(
    spark: SparkSession, shape: Shape, histories: Histories, horizons: list[int]
) -> None:
    rows = list(drawn_rows(histories, shape))
    by_key: dict[str, list[Observation]] = defaultdict(list)
    for row in rows:
        by_key[row.key].append(row.observation)
    expected = {key: reference.fold(found, shape.rules()) for key, found in by_key.items()}
    found, kept = from_baselines(spark, shape, rows, {}, horizons)
    compare(rows, expected, found)
    assert kept <= len(rows)


@pytest.mark.parametrize("shape", SNAPSHOTS.values(), ids=SNAPSHOTS.keys())
@MANY
@given(
    histories=HISTORIES,
    landed=st.sets(st.integers(1, len(UNITS)), min_size=1),
    bad=st.sets(st.integers(0, 2999)),
    horizons=HORIZONS,
)
def test_snapshots_fold_from_a_baseline_as_from_everything(
    spark: SparkSession, shape: Shape, histories: Histories, landed: set[int], bad: set[int], horizons: list[int]
) -> None:
    """A key that stood at the horizon and is not in the next snapshot was deleted then."""
    drawn = (row for row in drawn_rows(histories, shape) if row.batch in landed)
    rows = [
        Row(r.key, r.batch, "quarantined", r.observation, r.sequence, r.tag) if number in bad else r
        for number, r in enumerate(drawn)
    ]
    units = {batch: UNITS[batch - 1] for batch in landed}
    snapshots: dict[int, dict[str, list[Observation]]] = {batch: {} for batch in landed}
    for row in rows:
        present = snapshots[row.batch].setdefault(row.key, [])
        present += [row.observation] if row.status == "good" else []
    by_key = reference.from_snapshots([(midnight(units[batch]), found) for batch, found in snapshots.items()])
    expected = {key: reference.fold(found, shape.rules()) for key, found in by_key.items()}
    found, _ = from_baselines(spark, shape, rows, units, horizons)  # type: ignore[arg-type]
    compare(rows, expected, found)


def test_what_a_trim_refused_stays_refused_by_the_next(spark: SparkSession) -> None:
    """Rows of a batch that came between two trims: from before the first horizon, between both, and after."""
    first, second = midnight(UNITS[1]), midnight(UNITS[3])
    baseline = Baseline(second.isoformat(), 1, 5, "f", passed=(4,), former=((first.isoformat(), 2, (1,)),))
    times = [first - timedelta(days=1), first, second]
    rows = [(batch, at, "good", []) for batch in (1, 2, 3, 4, 6) for at in times]
    kinds = f"{names.BATCH} long, {EFFECTIVE} timestamp, {STATUS} string, {FAILED} array<string>"
    found = refuse_beyond(spark.createDataFrame(rows, kinds), baseline).collect()
    assert [row[STATUS] == "quarantined" for row in found] == [
        *(True, False, False),  # it did not count at the first trim
        *(False, False, False),
        *(True, False, False),  # it came after the first trim
        *(True, True, False),  # it did not count at the second
        *(True, True, False),  # it came after the second
    ]
    assert {tuple(row[FAILED]) for row in found if row[STATUS] == "quarantined"} == {(BEYOND,)}
