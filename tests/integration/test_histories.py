"""The engine against the reference: thousands of random histories on real servers, held to it after every run.

A history is all that is ever said of one key. A world is one source with its dimensions; five thousand histories are
keys of one world, and share its timeline: batches in wild order, late, sent again, restated, held, released and
discarded. ``LAKEHOUSE_TEST_SEED`` plays a run again. A history that fails is made small before it is shown.

Hypothesis draws too slowly for this many, and its first draw is always the simplest, so a seeded generator draws here.
Hypothesis drives ``tests/spark/test_history.py``, and what this proof stands on: ``tests/unit/test_histories.py``.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.histories import timelines
from tests.histories.cases import Scene, World
from tests.histories.paths import count_paths
from tests.histories.play import play
from tests.histories.shrink import shrink, told
from tests.histories.tables import DAILY, LIVES, MIXED, TRACKED
from tests.sessions import compiling

if TYPE_CHECKING:
    from tests.servers import NewLake

PROVEN = 20_000
OTHERS = 40
FAILING = 5
COMMON = {"in order", "late", "unsettled", "ties"}
WORLDS = {
    World("feed", timelines.feed, (MIXED, LIVES)): COMMON,
    World("slices", timelines.slices, (DAILY, LIVES)): COMMON | {"replaced"},
    World("snapshots", timelines.snapshots, (MIXED, LIVES)): COMMON - {"ties"}
    | {"compared", "several snapshots", "replaced", "withdrawn", "late snapshot"},
    World("bad snapshots", timelines.bad_snapshots, (TRACKED, MIXED)): {
        *("in order", "late", "ties", "compared", "stood twice", "several snapshots", "withdrawn", "late snapshot")
    },
}
HISTORIES = -(-PROVEN // len(WORLDS))


@pytest.fixture
def new_lake(new_lake: NewLake) -> NewLake:
    """Lakes for more data than other tests have."""
    return lambda: compiling(new_lake())


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_random_histories_are_what_the_reference_says(
    world: World, new_lake: NewLake, tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(world.shapes, world.plan(chance))
    histories = [scene.draw(chance) for _ in range(HISTORIES)]
    with monkeypatch.context() as patch:
        counts = count_paths(patch)
        played = play(new_lake(), scene, histories, tmp_path / "all")
    if played.differences:
        failing = [histories[each.number] for each in played.differences[:FAILING]]
        small = shrink(new_lake, scene, failing, histories[:OTHERS], tmp_path / "small")
        pytest.fail(f"{len(played.differences)} of {len(histories)} histories differ, such as\n{told(*small)}")
    print(f"{world.name}: {played.compared} histories after each of {len(scene.timeline.runs)} runs; {dict(counts)}")
    assert played.compared == HISTORIES and HISTORIES * len(WORLDS) >= PROVEN
    assert WORLDS[world] <= {path for path, count in counts.items() if count}, "a way that nothing went proves nothing"
