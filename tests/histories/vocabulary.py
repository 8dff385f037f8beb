"""What records say: the text of each field as JSON, beside the value that the contract makes of it.

Few values for each field, so that neighbours are often equal, and all the awkward ones: null, the empty text, a field
that is not there, NaN and -0.0, a decimal written in two ways, times in the hour that a change of clocks skips or
repeats, and values that a rule refuses. The first of each field is the simplest: shrinking goes towards it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Europe/London")
NAN = "NaN"
"""NaN as the reference sees it: a value that equals itself. The canonical encoding reads it as the double it is."""


@dataclass(frozen=True)
class Said:
    """One thing that a field may say. ``json`` is None where the record has no such field."""

    json: str | None
    typed: Any = None
    is_bad: bool = False
    weight: int = 2

    def __str__(self) -> str:
        return "–" if self.json is None else self.json


NULL, MISSING = Said("null"), Said(None)


def _texts(*, weight: int = 2) -> tuple[Said, ...]:
    return Said('"x"', "x", weight=3), Said('"y"', "y", weight=weight), Said('""', ""), NULL, MISSING


def _local(text: str) -> datetime:
    """A time that states no zone: of a repeated hour the first, of a skipped one what clocks would have shown."""
    return datetime.fromisoformat(text).replace(tzinfo=ZONE).astimezone(UTC)


FIELDS: dict[str, tuple[Said, ...]] = {
    "operation": (Said('"U"', "U", weight=8), Said('"D"', "D", weight=3), NULL),
    "sequence": (Said("1", 1), Said("2", 2), Said('"03"', 3), NULL, MISSING),
    "tag": (Said('"a"', "a"), Said('"ab"', "ab"), Said('""', ""), NULL),
    "born": _texts(),
    "origin": _texts(),
    "name": _texts(),
    "city": (*_texts(weight=3), Said('"nowhere"', is_bad=True, weight=1)),
    "price": (
        Said("1.5", Decimal("1.5"), weight=5),
        Said('"1.50"', Decimal("1.50")),
        Said("-0.00", Decimal(0)),
        Said("1e1", Decimal(10)),
        Said("1.234", is_bad=True, weight=1),
        NULL,
        MISSING,
    ),
    "seen": (
        Said('"2024-03-31 01:30:00"', _local("2024-03-31 01:30:00")),
        Said('"2024-10-27 01:30:00"', _local("2024-10-27 01:30:00")),
        Said('"2024-10-27T00:30:00Z"', datetime(2024, 10, 27, 0, 30, tzinfo=UTC)),
        NULL,
        MISSING,
    ),
    "rate": (
        Said("0", 0.0, weight=3),
        Said("-0.0", 0.0),
        Said('"NaN"', NAN, weight=4),
        Said("1E-3", 0.001),
        NULL,
        MISSING,
    ),
    "segment": (*_texts(weight=3), Said('"z"', "z")),
    "level": (Said("1", 1), Said('"2"', 2), Said('"many"', is_bad=True, weight=1), NULL, MISSING),
}
NAMES = tuple(FIELDS)
WEIGHTED = tuple(tuple(i for i, said in enumerate(choices) for _ in range(said.weight)) for choices in FIELDS.values())


@dataclass(frozen=True)
class Instant:
    """An effective time as a record writes it, and what it means."""

    text: str
    at: datetime


SLOTS = 4
NOON = 2


@cache
def instants(first: date, days: int) -> tuple[Instant, ...]:
    """Four times of each day, in no order: two of them are the same where clocks are an hour ahead."""
    found = []
    for day in (first + timedelta(days=number) for number in range(days)):
        night = datetime.combine(day, time(0, 30), UTC)
        found += [
            Instant(f"{day} 01:30:00", _local(f"{day} 01:30:00")),
            Instant(f"{day}T00:30:00Z", night),
            Instant(f"{day} 12:00:00", _local(f"{day} 12:00:00")),
            Instant(f"{day} 06:00:00.250+02:00", night + timedelta(hours=3, minutes=30, milliseconds=250)),
        ]
    return tuple(found)


def midnight(day: date) -> datetime:
    """When the snapshot of a day took effect."""
    return datetime.combine(day, time(), ZONE).astimezone(UTC)
