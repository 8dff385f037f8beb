"""What the proof of histories stands on, without a JVM: its own idea of live batches, and shrinking that ends."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.histories import shrink, timelines
from tests.histories.cases import SIMPLEST, History, Scene, with_pick
from tests.histories.play import Difference, Played
from tests.histories.tables import DAILY, LIVES, MIXED, TRACKED, contract
from tests.histories.timelines import Batch, Run, Timeline
from tests.histories.vocabulary import FIELDS, NAMES, NULL

from lakehouse.contracts.checks import check_contract
from lakehouse.ledger import live as ledger
from lakehouse.ledger.decisions import Decision
from lakehouse.ledger.log import Batch as Landed

PLANS = (timelines.feed, timelines.slices, timelines.snapshots, timelines.bad_snapshots)
AT = datetime(2024, 1, 1, tzinfo=UTC)
SIMPLE_RUNS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), max_size=3),
        st.lists(st.tuples(st.sampled_from(["hold", "release", "discard", "rollback"]), st.integers(1, 6)), max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("kind", ["increment", "slice", "snapshot"])
@given(drawn=SIMPLE_RUNS)
def test_batches_that_count_are_those_of_the_ledger(kind: str, drawn: list[tuple[list[int], list[tuple]]]) -> None:
    """Two ways to say it: one goes forward and forgets, the other comes from the newest and covers."""
    runs = tuple(Run(tuple(map(Batch, units)), tuple(decided)) for units, decided in drawn)
    timeline = Timeline(kind, timelines.SEASONS[0], runs)
    landed = [
        Landed("test", number, timeline.unit(number), kind, (), None, None, AT)
        for number in range(1, len(timeline.batches) + 1)
    ]
    for run in range(1, len(runs) + 1):
        decided = [pair for each in runs[:run] for pair in each.decides]
        log = [Decision("test", n, action, (b,), "", "", AT) for n, (action, b) in enumerate(decided, 1)]
        through = timeline.landed(run)
        assert timeline.live(run) == sorted(ledger.live(landed, log, through, len(log)).live)


@given(seed=st.integers(0, 2**32), plan=st.sampled_from(PLANS))
def test_every_step_of_shrinking_is_smaller(seed: int, plan: type[timelines.feed]) -> None:
    chance = random.Random(seed)  # noqa: S311 - a seed, not a secret
    scene = Scene((MIXED,), plan(chance))
    history = scene.draw(chance)
    for smaller in shrink._smaller(history):
        assert shrink._size(smaller) < shrink._size(history)


def test_shrinking_ends_at_the_smallest_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that loses a null city after another record: two records are enough, and everything else is simple."""
    place, null = NAMES.index("city"), FIELDS["city"].index(NULL)

    def fails(history: History) -> bool:
        return any(record.picks[place] == null for record in history[1:])

    def play(_: object, scene: Scene, histories: Sequence[History], folder: Path) -> Played:
        found = [Difference(n, MIXED, 2, [], []) for n, history in enumerate(histories) if fails(history)]
        return Played(len(histories), found, [])

    monkeypatch.setattr(shrink, "play", play)
    chance = random.Random(0)  # noqa: S311 - a seed, not a secret
    scene = Scene((LIVES, MIXED), timelines.feed(chance))
    failing = [history for history in (scene.draw(chance) for _ in range(50)) if fails(history) and len(history) > 5]
    small, history, difference = shrink.shrink(object, scene, failing, [], Path())
    assert [record.picks for record in history] == [SIMPLEST, with_pick(SIMPLEST, "city", null)]
    assert small.shapes == (MIXED,) and len(small.timeline.runs) == 2
    told = shrink.told(small, history, difference)
    assert "null" in told and len(told.splitlines()) < 20


@pytest.mark.parametrize("plan", PLANS)
def test_the_contracts_and_timelines_are_in_order(plan: type[timelines.feed]) -> None:
    for seed in range(20):
        scene = Scene((MIXED, LIVES, TRACKED), plan(random.Random(seed)))  # noqa: S311 - a seed, not a secret
        assert scene.timeline.live(len(scene.timeline.runs))
        assert all(batch.unit < timelines.UNITS for batch in scene.timeline.batches)
        drawn = {record.batch for number in range(50) for record in scene.draw(random.Random(number))}  # noqa: S311
        assert drawn | {n for n, b in enumerate(scene.timeline.batches, 1) if b.is_empty} == set(
            range(1, len(scene.timeline.batches) + 1)
        )
    fed = {"increment": (MIXED, LIVES), "slice": (DAILY, LIVES), "snapshot": (MIXED, LIVES, TRACKED)}[scene.kind]
    assert list(check_contract(contract(scene.kind, fed))) == []


@pytest.mark.parametrize("plan", [timelines.snapshots, timelines.bad_snapshots])
def test_a_decision_always_leaves_a_unit_of_snapshots_without_a_batch(plan: type[timelines.feed]) -> None:
    """Whatever is drawn: the proof on real servers walks the way of a snapshot that nothing took the place of."""
    for seed in range(300):
        timeline = plan(random.Random(seed))  # noqa: S311 - a seed, not a secret
        units = [{timeline.unit(number) for number in timeline.live(run)} for run in range(len(timeline.runs) + 1)]
        assert any(before - after for before, after in zip(units, units[1:], strict=False)), seed
