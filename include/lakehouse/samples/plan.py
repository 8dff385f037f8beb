"""What decides a sample: its options, its calendar of irregularities and its random numbers.

A day's content depends on the seed, the size and the day alone, never on the range that was asked for. Irregularities
follow a cycle of two weeks that starts on Monday, 2024-03-25, so that any 14 days hold all of them.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from datetime import date, timedelta

from lakehouse.core.errors import SettingsError

EPOCH = date(2024, 3, 25)
CYCLE_DAYS = 14


@dataclass(frozen=True)
class Options:
    """What is to be made. ``size`` 1.0 means about 1,500 sales lines a day and 400 customers.

    ``revision`` above 1 makes the days of :func:`is_corrected` anew as their source would re-send them.
    """

    seed: int = 7
    size: float = 1.0
    is_clean: bool = False
    revision: int = 1

    def __post_init__(self) -> None:
        if not 0.01 <= self.size <= 10_000:
            raise SettingsError(f"--size {self.size} is out of range", todo="use a number from 0.01 to 10000")
        if self.revision < 1:
            raise SettingsError(f"--revision {self.revision} is out of range", todo="use 1 or more")

    def scaled(self, count: int, least: int = 1) -> int:
        """``count`` at size 1.0, scaled."""
        return max(least, round(count * self.size))

    def random(self, *parts: object) -> random.Random:
        """Random numbers that depend on the seed, the size and ``parts`` only."""
        text = "|".join(map(str, (self.seed, self.size, *parts)))
        return random.Random(hashlib.sha256(text.encode()).digest())  # noqa: S311 - samples, not secrets

    def draw(self, choices: int, *parts: object) -> int:
        """A number below ``choices`` that depends on the seed and ``parts`` only."""
        text = "|".join(map(str, (self.seed, *parts)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % choices


def index(day: date) -> int:
    """Days since the epoch; negative before it."""
    return (day - EPOCH).days


def cycle(day: date) -> int:
    """The day's place in the cycle of irregularities: 0 is a Monday, 5 and 12 are Saturdays."""
    return index(day) % CYCLE_DAYS


def last_sunday(year: int, month: int) -> date:
    """The last Sunday of a month with 31 days, on which clocks in Europe change."""
    last = date(year, month, 31)
    return last - timedelta(days=(last.weekday() + 1) % 7)


def days(start: date, count: int) -> list[date]:
    """``count`` days from ``start`` on."""
    if count < 1:
        raise SettingsError(f"--days {count} makes nothing", todo="ask for at least one day")
    return [start + timedelta(days=offset) for offset in range(count)]
