"""What a history is, in plain Python: sort the observations of a key, and fold them. The engine is held to this.

It is written to be read and agreed with, not to be fast. It shares nothing with the engine but the canonical encoding,
which decides ties that nothing else decides.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from lakehouse.core.encoding import digest, encode, origin
from lakehouse.core.types import DataType

Version = dict[str, Any]
BOOLEAN = DataType("boolean")


@dataclass(frozen=True)
class Observation:
    """What one row says of its key at one time: the attributes that it observed, or that the key was deleted."""

    at: datetime
    values: Mapping[str, Any] = field(default_factory=dict)
    deleted: bool = False
    ties: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Rules:
    """The part of a contract that a fold depends on. ``ties``: for each tie-breaker, whether the highest wins.

    ``expressions``: what an attribute is read from, where that is not the source's column of the same name.
    """

    history: Mapping[str, int]
    kinds: Mapping[str, DataType]
    ties: tuple[bool, ...] = ()
    per_life: bool = False
    expressions: Mapping[str, str] = field(default_factory=dict)

    def of_type(self, history: int) -> list[str]:
        """The attributes of one SCD type."""
        return [name for name, kind in self.history.items() if kind == history]


@dataclass(frozen=True)
class Moment:
    """All that is known of a key at one time."""

    at: datetime
    values: Mapping[str, Any]
    deleted: bool


def fold(observations: Iterable[Observation], rules: Rules) -> list[Version]:
    """The versions of one key, oldest first."""
    moments = [_moment(at, group, rules) for at, group in _by_time(observations)]
    versions: list[Version] = []
    is_open = False
    for life in _lives(moments):
        scope = life if rules.per_life else moments
        for moment in life:
            row = _row(moment, scope, rules)
            is_new = not is_open or any(row[name] != versions[-1][name] for name in rules.of_type(2))
            if is_open and (moment.deleted or is_new):
                versions[-1] |= {"effective_to": moment.at, "is_current": False}
            if not moment.deleted and is_new:
                versions.append(row)
            is_open = not moment.deleted
    return versions


def from_snapshots(
    snapshots: Iterable[tuple[datetime, Mapping[str, Sequence[Observation]]]],
) -> dict[str, list[Observation]]:
    """The observations that full snapshots make of each key. A key that is there with no good row has an empty list.

    A key that was there and is not there in the next snapshot was deleted at the time of that one.
    """
    found: dict[str, list[Observation]] = defaultdict(list)
    present: set[str] = set()
    for at, rows in sorted(snapshots, key=lambda snapshot: snapshot[0]):
        for key in present - rows.keys():
            found[key].append(Observation(at, deleted=True))
        for key, good in rows.items():
            found[key] += good
        present = set(rows)
    return found


def _by_time(observations: Iterable[Observation]) -> list[tuple[datetime, list[Observation]]]:
    groups: dict[datetime, list[Observation]] = defaultdict(list)
    for observation in observations:
        groups[observation.at].append(observation)
    return sorted(groups.items())


def _moment(at: datetime, group: list[Observation], rules: Rules) -> Moment:
    """Of each attribute the highest rank that observed it; or a deletion, which carries none, as the highest says."""
    ranked = _ranked(group, rules)
    values: dict[str, Any] = {}
    for observation in ranked:
        if not observation.deleted:
            values |= observation.values
    is_deleted = ranked[-1].deleted
    return Moment(at, {} if is_deleted else values, is_deleted)


def _ranked(group: list[Observation], rules: Rules) -> list[Observation]:
    """Lowest rank first: the least important order is sorted by first. No value at all always loses."""
    if len(group) == 1:
        return group
    ranked = sorted(group, key=lambda o: _hash(o, rules))
    ranked.sort(key=lambda o: not o.deleted)
    for number, highest_wins in reversed(list(enumerate(rules.ties))):
        ranked.sort(key=partial(_tie, number, highest_wins), reverse=not highest_wins)
    return ranked


def _tie(number: int, highest_wins: bool, observation: Observation) -> tuple[bool, Any]:
    """Where no value stands among values: first, whichever way they are sorted."""
    value = observation.ties[number] if observation.ties else None
    return (value is None) != highest_wins, value


def _hash(observation: Observation, rules: Rules) -> str:
    """Of what was observed, in the order of what each attribute is read from: its name does not matter."""
    origins = {name: origin(rules.expressions.get(name, f"`{name}`"), "", kind) for name, kind in rules.kinds.items()}
    text = "".join(
        origins[name] + encode([rules.kinds[name]], [observation.values[name]])
        for name in sorted(rules.kinds, key=lambda name: (origins[name], name))
        if name in observation.values
    )
    return digest(text + encode([BOOLEAN], [observation.deleted]))


def _lives(moments: Sequence[Moment]) -> list[list[Moment]]:
    """A life ends with its deletion."""
    lives: list[list[Moment]] = [[]]
    for moment in moments:
        lives[-1].append(moment)
        if moment.deleted:
            lives.append([])
    return lives


def _row(moment: Moment, scope: Sequence[Moment], rules: Rules) -> Version:
    """The version that starts at a moment, were one to start there."""
    row: Version = {"effective_from": moment.at, "effective_to": None, "is_current": True}
    until_now = scope[: bisect_right(scope, moment.at, key=lambda m: m.at)]
    for name, history in rules.history.items():
        if history == 0:
            row[name] = next(_observed(name, scope), None)
        elif history == 2:
            row[name] = next(_observed(name, reversed(until_now)), None)
        else:
            row[name] = next(_observed(name, reversed(scope)), None)
        if history == 3:
            former = (value for value in _observed(name, reversed(scope)) if value != row[name])
            row[f"previous_{name}"] = next(former, None)
    return row


def _observed(name: str, moments: Iterable[Moment]) -> Iterator[Any]:
    """What was observed of an attribute, in the order of the moments."""
    return (moment.values[name] for moment in moments if name in moment.values)
