"""Tags by day, week, month and year: which are due, against a naive reading of the policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lakehouse.contracts.model import Tags
from lakehouse.ledger.tagging import due_tags, is_periodic

NOW = datetime(2024, 4, 3, 12, tzinfo=UTC)  # a Wednesday
NONE = Tags(daily=0, weekly=0, monthly=0, yearly=0)


def daily(count: int) -> Tags:
    return NONE.model_copy(update={"daily": count})


def days_ago(*days: float) -> list[tuple[datetime, int]]:
    """Heads, oldest first, each with a snapshot that is named by its place."""
    return [(NOW - timedelta(days=each), place) for place, each in enumerate(sorted(days, reverse=True), start=1)]


def test_a_period_is_tagged_with_its_last_head_once_it_has_ended() -> None:
    heads = days_ago(2.1, 2, 1, 0.9, 0.1)
    assert due_tags(heads, [], daily(7), NOW).make == {"daily-2024-04-01": 2, "daily-2024-04-02": 4}
    assert due_tags(heads, [], daily(7), NOW + timedelta(days=1)).make["daily-2024-04-03"] == 5


def test_every_kind_has_its_own_names() -> None:
    found = due_tags(days_ago(400, 40, 3), [], Tags(daily=1, weekly=1, monthly=1, yearly=1), NOW)
    assert found.make == {"daily-2024-03-31": 3, "weekly-2024-W13": 3, "monthly-2024-03": 3, "yearly-2023": 1}
    assert all(is_periodic(name) for name in found.make)
    assert not any(map(is_periodic, ["daily", "daily-2024-04-02-mine", "before-migration", "weekly-2024"]))


def test_what_the_policy_no_longer_asks_for_is_dropped_and_other_tags_stay() -> None:
    tags = ["daily-2024-03-01", "daily-2024-03-30", "mine", "baseline-2024-01-01-7", "main"]
    found = due_tags(days_ago(1), tags, daily(2), NOW)
    assert (found.make, found.drop) == ({"daily-2024-04-02": 1}, ("daily-2024-03-01",))
    assert due_tags(days_ago(1), tags, NONE, NOW).drop == ("daily-2024-03-01", "daily-2024-03-30")


def test_an_idle_table_keeps_its_last_tags() -> None:
    tags = ["daily-2023-01-01", "daily-2023-01-02"]
    assert due_tags([], tags, daily(2), NOW).is_empty


@given(
    st.lists(st.floats(0, 30), max_size=20),
    st.integers(0, 5),
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
)
def test_however_often_it_is_asked_the_newest_days_are_kept(ages: list[float], count: int, looks: list[int]) -> None:
    heads = days_ago(*ages)
    tags: dict[str, int] = {}
    now = NOW
    for hours in looks:
        now += timedelta(hours=hours)
        found = due_tags(heads, tags, daily(count), now)
        assert not found.make.keys() & tags.keys()
        tags = {name: snapshot for name, snapshot in tags.items() if name not in found.drop} | dict(found.make)
    last = {f"daily-{at:%Y-%m-%d}": snapshot for at, snapshot in heads if at.date() < now.date()}
    assert tags == {name: last[name] for name in sorted(last)[len(last) - min(count, len(last)) :]}
    assert due_tags(heads, tags, daily(count), now).is_empty
