"""Histories of single keys: how they are drawn, what their records say, and what the reference makes of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import groupby
from typing import NamedTuple

from tests.histories.tables import Shape
from tests.histories.timelines import UNITS, Batch, Timeline
from tests.histories.vocabulary import FIELDS, MISSING, NAMES, NOON, SLOTS, WEIGHTED, Instant, instants, midnight
from tests.reference import Observation, Version, fold, from_snapshots


class Record(NamedTuple):
    """One record of a key: its batch, its effective time, and which value each field has; all as numbers.

    Smaller numbers are simpler, so that one record is simpler than another if none of its numbers is greater.
    """

    batch: int
    at: int
    picks: tuple[int, ...]


History = tuple[Record, ...]
SIMPLEST = (0,) * len(NAMES)


@dataclass(frozen=True)
class World:
    """A table's worth of histories: a way to draw the timeline, and the dimensions that its batches are folded into."""

    name: str
    plan: Callable[[random.Random], Timeline]
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Scene:
    """A world with its timeline drawn."""

    shapes: tuple[Shape, ...]
    timeline: Timeline

    @cached_property
    def instants(self) -> tuple[Instant, ...]:
        """Effective times that records may have."""
        return instants(self.timeline.first, UNITS)

    @property
    def kind(self) -> str:
        """The kind of source."""
        return self.timeline.kind

    def draw(self, chance: random.Random) -> History:
        """The records of one key in all batches."""
        found: list[Record] = []
        for number, batch in enumerate(self.timeline.batches, 1):
            found += self._draw_batch(chance, number, batch, found)
        return tuple(found)

    def _draw_batch(self, chance: random.Random, number: int, batch: Batch, before: Sequence[Record]) -> list[Record]:
        if batch.is_empty:
            return []
        if batch.is_restated:
            repeated = [r._replace(batch=number) for r in self._former(batch, before) if chance.random() < 0.7]
            if repeated or chance.random() < 0.5:
                return repeated
        if self.kind == "snapshot":
            count = (chance.random() < 0.7) * (1 + (batch.has_repeats and chance.random() < 0.2))
        else:
            count = chance.choice((0, 0, 0, 1, 1, 2))
        return [self._draw_record(chance, number, batch) for _ in range(count)]

    def _former(self, batch: Batch, before: Sequence[Record]) -> list[Record]:
        """The records of the last batch of the same unit."""
        units = self.timeline.batches
        numbers = [record.batch for record in before if units[record.batch - 1].unit == batch.unit]
        return [record for record in before if record.batch == numbers[-1]] if numbers else []

    def _draw_record(self, chance: random.Random, number: int, batch: Batch) -> Record:
        unit = batch.unit if chance.random() < 0.8 else chance.randrange(batch.unit + 1)
        at = 0 if self.kind == "snapshot" else unit * SLOTS + chance.randrange(SLOTS)
        picks = tuple(map(chance.choice, WEIGHTED))
        for name in batch.lacks:
            picks = with_pick(picks, name, FIELDS[name].index(MISSING))
        return Record(number, at, picks)

    def anchor(self) -> History:
        """A key that each batch has, at the latest time of its day: what is late does not hang on who else is there."""
        found = []
        for number, batch in enumerate(self.timeline.batches, 1):
            if not batch.is_empty and not batch.is_broken:
                found.append(Record(number, 0 if self.kind == "snapshot" else batch.unit * SLOTS + NOON, SIMPLEST))
        return tuple(found)

    def expected(self, history: History, shape: Shape, live: Sequence[int]) -> list[Version]:
        """What the reference makes of a key's records in the live batches."""
        observed = self.observed(history, shape, live)
        known = self.folded.get((shape.name, history))
        if known is None or known[0] != observed:
            known = self.folded[shape.name, history] = (observed, fold(observed, shape.rules))
        return known[1]

    @cached_property
    def folded(self) -> dict[tuple[str, History], tuple[Sequence[Observation], list[Version]]]:
        """The last fold of each history: most keys have nothing new in a run."""
        return {}

    def observed(self, history: History, shape: Shape, live: Sequence[int]) -> tuple[Observation, ...]:
        """The observations that a key's records in the live batches make."""
        if self.kind != "snapshot":
            made = (self.observation(record, shape) for record in history if record.batch in live)
            return tuple(observation for observation in made if observation)
        rows = {number: list(group) for number, group in groupby(history, key=lambda record: record.batch)}
        taken = [(midnight(self.timeline.unit(n)), self._of_snapshot(rows.get(n, ()), shape)) for n in live]
        return tuple(from_snapshots(taken).get("key", ()))

    def _of_snapshot(self, records: Iterable[Record], shape: Shape) -> Mapping[str, Sequence[Observation]]:
        """A key that is there with refused rows only has an empty list; one that is not there is no key at all."""
        made = [self.observation(record, shape) for record in records]
        return {"key": [observation for observation in made if observation]} if made else {}

    def observation(self, record: Record, shape: Shape) -> Observation | None:
        """What a record says to a dimension; None where it is refused."""
        if self.kind == "snapshot" or shape.is_by_unit:
            at = midnight(self.timeline.unit(record.batch))
        else:
            at = self.instants[record.at].at
        return _observation(at, record.picks, shape, self.kind)


def with_pick(picks: tuple[int, ...], name: str, pick: int) -> tuple[int, ...]:
    """The same values but one."""
    place = NAMES.index(name)
    return (*picks[:place], pick, *picks[place + 1 :])


@lru_cache(maxsize=1_000_000)
def _observation(at: datetime, picks: tuple[int, ...], shape: Shape, kind: str) -> Observation | None:
    said = {name: FIELDS[name][pick] for name, pick in zip(NAMES, picks, strict=True)}
    if any(said[name].is_bad for name in shape.typed(kind)):
        return None
    values = {
        name: said[name].typed
        for name in shape.history
        if said[name].json is not None and not (name in shape.silent and said[name].typed is None)
    }
    is_deleted = kind != "snapshot" and said["operation"].typed == "D"
    return Observation(at, values, is_deleted, tuple(said[name].typed for name, _ in shape.ties))
