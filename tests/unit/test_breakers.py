"""How far a batch's volume is from that of its neighbours in time."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.contracts.model import Volume
from lakehouse.engine.breakers import nearest, unlikely

USUAL = [900, 1000, 1100, 950, 1050, 1020, 980] * 2
UNITS = {number: date(2024, 1, 1) + timedelta(days=number) for number in range(1, 40)}


@pytest.mark.parametrize("rows", [1000, 800, 1250])
def test_what_is_near_the_usual_is_taken(rows: int) -> None:
    assert unlikely(rows, USUAL, Volume()) == ""


@pytest.mark.parametrize("rows", [0, 1, 100, 10_000, 10**9])
def test_ten_times_a_tenth_and_nothing_are_far(rows: int) -> None:
    reason = unlikely(rows, USUAL, Volume())
    assert f"it has {rows:,} rows" in reason
    assert "the 14 batches closest in time have 1,000 (median)" in reason
    assert "the contract allows 6" in reason


def test_nothing_is_said_while_too_little_is_known() -> None:
    assert unlikely(0, USUAL[:13], Volume()) == ""
    assert unlikely(0, USUAL[:13], Volume(min_days=13)) != ""


def test_days_that_are_all_alike_may_still_differ_a_little() -> None:
    assert unlikely(1500, [1000] * 14, Volume()) == ""
    assert unlikely(2000, [1000] * 14, Volume()) != ""


@given(st.lists(st.integers(0, 10**7), min_size=14, max_size=60), st.integers(0, 10**7))
def test_the_median_itself_is_never_held(others: list[int], rows: int) -> None:
    middle = sorted(others)[len(others) // 2]
    assert unlikely(middle, [*others, middle], Volume(deviations=1000)) == ""
    assert unlikely(rows, [rows] * 14, Volume()) == ""


def test_the_closest_in_time_are_compared() -> None:
    assert nearest(10, set(UNITS) - {10}, UNITS, 5) == [9, 11, 8, 12, 7]
    assert nearest(1, set(UNITS) - {1}, UNITS, 3) == [2, 3, 4]
    assert nearest(5, {6}, UNITS, 28) == [6]
