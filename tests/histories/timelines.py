"""What all histories of one table share: which batches land, in which order, in which runs, and what is decided."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from lakehouse.ledger.decisions import Action

# Clocks go forward on 2024-03-31 and back on 2024-10-27.
SEASONS = (date(2024, 3, 29), date(2024, 10, 25))
UNITS = 8


@dataclass(frozen=True)
class Batch:
    """What lands for a unit. ``is_restated``: the unit landed before, and most of it is the same again."""

    unit: int
    is_restated: bool = False
    is_empty: bool = False
    is_broken: bool = False
    has_repeats: bool = False
    lacks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Run:
    """A run: the batches that land before it, and what is decided about earlier ones."""

    lands: tuple[Batch, ...] = ()
    decides: tuple[tuple[Action, int], ...] = ()
    max_batches: int | None = None


@dataclass(frozen=True)
class Timeline:
    """Runs, one after another. Batches are numbered from 1 as they land."""

    kind: str
    first: date
    runs: tuple[Run, ...]
    batches: tuple[Batch, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", tuple(batch for run in self.runs for batch in run.lands))

    def unit(self, number: int) -> date:
        """The logical date of a batch."""
        return self.first + timedelta(days=self.batches[number - 1].unit)

    def landed(self, runs: int) -> int:
        """How many batches have landed before the end of a run, counted from 1."""
        return sum(len(run.lands) for run in self.runs[:runs])

    def live(self, runs: int) -> list[int]:
        """The batches that count after so many runs: the last of each unit, save those that are set aside."""
        aside: dict[int, str] = {}
        for run in self.runs[:runs]:
            for action, number in run.decides:
                if aside.get(number) != "discard":
                    aside[number] = action
        counting: dict[object, int] = {}
        for number in range(1, self.landed(runs) + 1):
            batch = self.batches[number - 1]
            if aside.get(number, "release") == "release" and not batch.is_broken:
                counting[number if self.kind == "increment" else ("unit", batch.unit)] = number
        return sorted(counting.values())

    def __str__(self) -> str:
        lines, number = [], 0
        for place, run in enumerate(self.runs, 1):
            parts = [f"{action} batch {batch}" for action, batch in run.decides]
            for batch in run.lands:
                number += 1
                parts.append(f"batch {number} of {self.unit(number)}{' (empty)' if batch.is_empty else ''}")
            limit = f", at most {run.max_batches} a pass" if run.max_batches else ""
            lines.append(f"run {place}{limit}: {', '.join(parts)}")
        return "\n".join(lines)


_COLUMNS = ("born", "origin", "name", "city", "rate", "segment", "level")


def _fresh(chance: random.Random, unit: int) -> Batch:
    lacks = chance.sample(_COLUMNS, 2) if chance.random() < 0.3 else []
    return Batch(unit, lacks=frozenset(lacks))


def _again(chance: random.Random, units: Sequence[int]) -> Batch:
    return Batch(chance.choice(units), is_restated=True)


def feed(chance: random.Random) -> Timeline:
    """A change feed: most in order, some late, some sent twice; a batch is held and let go, another discarded."""
    held = chance.randint(1, 3)
    runs = (
        Run((_fresh(chance, 0), _fresh(chance, 1))),
        Run((_fresh(chance, 2),)),
        Run((_fresh(chance, 3), _again(chance, (0, 1, 2))), decides=(("hold", held),)),
        Run((_fresh(chance, 5), _fresh(chance, 4)), decides=(("release", held),), max_batches=chance.choice([None, 1])),
        Run((_again(chance, range(6)), _fresh(chance, 6)), decides=(("discard", chance.randint(1, 6)),)),
    )
    return Timeline("increment", chance.choice(SEASONS), runs)


def slices(chance: random.Random) -> Timeline:
    """Daily slices: days late, days corrected beside late ones, a day held and released when others arrive."""
    held = chance.randint(1, 4)
    runs = (
        Run((_fresh(chance, 0), _fresh(chance, 1), _fresh(chance, 3))),
        Run((_fresh(chance, 4),)),
        Run((_fresh(chance, 2), _again(chance, (0, 1, 3)))),
        Run((_fresh(chance, 5), _again(chance, (3, 4))), decides=(("hold", held),)),
        Run((_fresh(chance, 7), _fresh(chance, 6), _again(chance, range(7))), (("release", held),), max_batches=2),
    )
    return Timeline("slice", chance.choice(SEASONS), runs)


def snapshots(chance: random.Random) -> Timeline:
    """Full snapshots: one at a time, several at once, late, restated, held beside a new one, released."""
    again = _again(chance, (0, 1, 3, 4))
    held = chance.choice([number for number, unit in enumerate((0, 1, 3, 4, 2), 1) if unit != again.unit])
    runs = (
        Run((_fresh(chance, 0), _fresh(chance, 1), _fresh(chance, 3))),
        Run((_fresh(chance, 4),)),
        Run((_fresh(chance, 2), again)),
        Run((_fresh(chance, 6), _fresh(chance, 5))),
        Run((_fresh(chance, 7),), decides=(("hold", held),)),
        Run((_again(chance, range(8)),), decides=(("release", held), ("discard", chance.choice([6, 7, 8])))),
    )
    return Timeline("snapshot", chance.choice(SEASONS), runs)


def bad_snapshots(chance: random.Random) -> Timeline:
    """Full snapshots, some of them empty, the first included; keys that stand twice; one that is broken until later."""
    runs = (
        Run((Batch(0, is_empty=True),)),
        Run((_fresh(chance, 1),)),
        Run((replace(_fresh(chance, 2), has_repeats=True),)),
        Run((Batch(3, is_broken=True), Batch(4, is_empty=True))),
        Run((Batch(3), _fresh(chance, 5)), decides=(("discard", chance.choice([2, 3])),)),
        Run((Batch(chance.choice([3, 5]), is_empty=True), replace(_fresh(chance, 6), has_repeats=True), Batch(7))),
    )
    return Timeline("snapshot", chance.choice(SEASONS), runs)
