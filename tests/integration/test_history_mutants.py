"""The proof can fail: an engine that is wrong in a plausible way does not pass for the reference.

Bronze is loaded once for each kind of source. Each mutant folds it into a dimension of its own, batch after batch as
runs would have, until a version differs from the reference's or the engine itself refuses to go on.

The commonest mistakes are made by the tests, one kind of source a day, the others by ``make guards``, which sets
``EVERY``.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.histories import mutants
from tests.histories.cases import Scene
from tests.histories.mutants import FEED, MORE_FEED, MORE_SNAPSHOTS, RIGHT, SNAPSHOTS, Mutant
from tests.histories.play import Game, play
from tests.histories.shrink import shrink, told
from tests.histories.tables import FEW
from tests.histories.timelines import SEASONS, Batch, Run, Timeline
from tests.turns import on_turn

from lakehouse.core.errors import IntegrityError, LakehouseError
from lakehouse.engine.run import run_bronze
from lakehouse.engine.silver import Silver, run_silver
from lakehouse.engine.spark_errors import SparkFailed

if TYPE_CHECKING:
    from tests.servers import NewLake

HISTORIES = 600
BATCHES = {
    "increment": ((Batch(0), Batch(2)), (Batch(3),), (Batch(1), Batch(3))),
    "snapshot": ((Batch(0), Batch(1)), (Batch(3),), (Batch(2), Batch(4), Batch(5))),
}
EVERY = "LAKEHOUSE_EVERY_MUTANT"
WRONG = {"increment": FEED, "snapshot": SNAPSHOTS}
if os.environ.get(EVERY):
    WRONG = {"increment": FEED + MORE_FEED, "snapshot": SNAPSHOTS + MORE_SNAPSHOTS}
TURN = {kind: () if os.environ.get(EVERY) else on_turn(number, of=len(BATCHES)) for number, kind in enumerate(BATCHES)}
CASES = [(kind, mutant) for kind, found in WRONG.items() for mutant in found]


def scene_of(kind: str, *of: Mutant) -> Scene:
    """One dimension for each mutant, all alike."""
    shapes = tuple(replace(FEW, name=f"dim_{mutant.__name__}") for mutant in of)
    return Scene(shapes, Timeline(kind, SEASONS[0], tuple(map(Run, BATCHES[kind]))))


@pytest.fixture(scope="module")
def loaded(new_lake: NewLake, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Game]:
    """A lake whose bronze has every batch of a kind of source."""

    @cache
    def load(kind: str) -> Game:
        scene = scene_of(kind, *RIGHT, *(mutant for of, mutant in CASES if of == kind))
        chance = random.Random(f"mutants of {kind}")  # noqa: S311 - the same histories for every mutant and every run
        histories = [scene.draw(chance) for _ in range(HISTORIES)]
        if kind == "increment":  # quarantine has mutants of its own
            histories = [tuple(r for r in each if scene.observation(r, FEW)) for each in histories]
        game = Game(new_lake(), scene, [*histories, scene.anchor()], tmp_path_factory.mktemp(kind))
        for run in range(1, len(scene.timeline.runs) + 1):
            game.land(run)
        run_bronze(game.lake, game.contract)
        return game

    return load


def difference(game: Game, mutant: Mutant) -> str:
    """What first tells a mutant from the reference, in words; nothing if nothing does."""
    shape = next(shape for shape in game.scene.shapes if shape.name == f"dim_{mutant.__name__}")
    with pytest.MonkeyPatch.context() as patch:
        for run in range(1, len(game.scene.timeline.runs) + 1):
            if run > 1:  # the first fold is the same for all that change how tables go on
                mutant(patch)
            try:
                run_silver(Silver(game.lake, game.contract, shape.name, game.scene.timeline.landed(run)))
            except (IntegrityError, SparkFailed) as error:
                if refused := is_own_refusal(error):
                    return refused
                raise
            finally:
                patch.undo()
            if found := list(game.differences(shape, run)):
                return f"{len(found)} histories differ after run {run}"
    return ""


def is_own_refusal(error: LakehouseError) -> str:
    """What the engine says when it sees that its versions cannot be right; nothing where something else went wrong."""
    return str(error) if isinstance(error, IntegrityError) or "MERGE_CARDINALITY" in str(error) else ""


@pytest.mark.parametrize("mutant", RIGHT, ids=lambda mutant: mutant.__name__)
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=TURN[kind]) for kind in BATCHES])
def test_the_engine_is_right(kind: str, mutant: Mutant, loaded: Callable[[str], Game]) -> None:
    assert difference(loaded(kind), mutant) == ""


@pytest.mark.parametrize(
    ("kind", "mutant"),
    [pytest.param(kind, mutant, marks=TURN[kind], id=f"{kind}-{mutant.__name__}") for kind, mutant in CASES],
)
def test_a_wrong_engine_is_found_out(kind: str, mutant: Mutant, loaded: Callable[[str], Game]) -> None:
    found = difference(loaded(kind), mutant)
    print(f"{mutant.__name__}: {found}")
    assert found


def test_a_failure_is_made_small(new_lake: NewLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``<>`` two observations go wrong, of which one says null; all other values are of no interest."""
    chance = random.Random("to be made small")  # noqa: S311 - always the same
    scene = Scene((FEW,), Timeline("increment", SEASONS[0], (Run((Batch(0),)), Run((Batch(1), Batch(2))))))
    histories = [scene.draw(chance) for _ in range(100)]
    mutants.changes_by_unequal(monkeypatch)
    played = play(new_lake(), scene, histories, tmp_path / "all")
    failing = [histories[each.number] for each in played.differences[:3]]
    scene, history, found = shrink(new_lake, scene, failing, histories[:10], tmp_path / "small")
    text = told(scene, history, found)
    print(text)
    assert len(history) == 2 and sum(pick != 0 for record in history for pick in record.picks) == 1
    assert "null" in text and "expected:" in text and "found:" in text
