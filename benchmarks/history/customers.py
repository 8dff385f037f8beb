"""Customers, made up: each row is a pure function of the customer's number and of how often it has changed.

Twelve columns, and ``changed_at``, the moment that the file speaks of. Every change makes the phone number null, or
empty, or a number again, so whoever compares with ``<>`` or takes null for empty finds too few changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from columns import COLUMNS

SEED = 20260101
FIRST_DAY = date(2026, 1, 1)
CHUNK = 250_000
_FIRST = "Ada Bo Chloé Dev Eve Finn Gül Hugo Ines Jon Kaja Liam Mia Noé Olga Paul Quinn Rosa Sam Tea Uwe Vera".split()
_LAST = "Adler Brown Costa Dubois Evans Fischer Grant Hansen Ito Jansen Kowalski Lopez Müller Novak O'Neil".split()
_STREET = "High Street,Mill Lane,Rue de la Paix,Hauptstraße,Calle Mayor,Via Roma,Station Road,Church Row".split(",")
_CITY = "London,Leeds,Paris,Lyon,Berlin,München,Madrid,Roma,Milano,Lisboa,Oslo,Wien,Zürich,Gent".split(",")
_COUNTRY = "GB GB FR FR DE DE ES IT IT PT NO AT CH BE".split()
_SEGMENT = [None, "", "new", "regular", "loyal", "business"]


@dataclass(frozen=True)
class Day:
    """What a file of day ``number`` (from 1) holds: customers, and how often each had changed by then."""

    number: int
    customers: Any
    revisions: Any

    @property
    def at(self) -> datetime:
        """The day's midnight, from which its values hold."""
        start = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC)
        return start + timedelta(days=self.number - 1)


def write(day: Day, path: Path) -> None:
    """Write a day's rows as Parquet, in the order of their numbers, a chunk at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    with pq.ParquetWriter(scratch, rows(day, 0, 0).schema, compression="zstd") as writer:
        for start in range(0, len(day.customers), CHUNK):
            writer.write_table(rows(day, start, start + CHUNK))
    scratch.replace(path)


def rows(day: Day, start: int, end: int) -> pa.Table:
    """Some of a day's rows as an Arrow table."""
    number, revision = day.customers[start:end], day.revisions[start:end]
    hashed = _hash(number)
    first, last = _pick(_FIRST, hashed), _pick(_LAST, hashed >> 8)
    digits = pc.utf8_lpad(_text(number), 9, "0")
    house = _text((hashed >> 16) % 400 + revision // 2)
    town = (hashed >> 24) % len(_CITY)
    micros = (hashed >> 20) % (10 * 365 * 86_400) * 1_000_000 + (hashed >> 40) % 1_000_000
    values = [
        _joined("C", digits),
        _joined(first, " ", last),
        _joined(pc.utf8_lower(first), ".", digits, "@mail.example"),
        _phone(digits, hashed, revision),
        _joined(house, " ", _pick(_STREET, hashed >> 32)),
        _pick(_CITY, town),
        _pick(_COUNTRY, town),
        _pick(_SEGMENT, (hashed >> 12) + revision // 3),
        _money((hashed >> 28) % 10_000 * 5 + (revision + 1) // 2 * 50),
        pa.array((-9_000 + (hashed >> 36) % 20_000).astype("int32")).cast(pa.date32()),
        pc.equal(pa.array(((hashed >> 44) + revision // 4) % 2), 1),
        pa.array((micros + 1_400_000_000_000_000).astype("int64")).cast(pa.timestamp("us", tz="UTC")),
        pa.repeat(pa.scalar(day.at, pa.timestamp("us", tz="UTC")), len(number)),
    ]
    return pa.table(dict(zip([*COLUMNS, "changed_at"], values, strict=True)))


def _hash(number: Any) -> Any:
    """Splitmix64 of each number, as a signed number that is not negative."""
    with np.errstate(over="ignore"):
        mixed = number.astype(np.uint64) + np.uint64(SEED) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def _pick(values: list[str | None] | list[str], index: Any) -> Any:
    return pa.array(values, pa.string()).take(pa.array(index % len(values)))


def _text(number: Any) -> Any:
    return pa.array(number).cast(pa.string())


def _joined(*parts: Any) -> Any:
    return pc.binary_join_element_wise(*parts, "")


def _money(pounds: Any) -> Any:
    return pa.array(pounds).cast(pa.decimal128(21, 2)).cast(pa.decimal128(12, 2))


def _phone(digits: Any, hashed: Any, revision: Any) -> Any:
    """Null, empty or a number in turn: no revision has the phone of the one before."""
    turn = pa.array((hashed + revision) % 3)
    text = pc.if_else(pc.equal(turn, 1), "", _joined("+44 20 ", digits))
    return pc.if_else(pc.equal(turn, 0), pa.scalar(None, pa.string()), text)


def base(customers: int) -> Day:
    """Day 1: everybody, unchanged."""
    numbers = np.arange(1, customers + 1, dtype=np.int64)
    return Day(1, numbers, np.zeros_like(numbers))


def following(before: Day, changed_share: float, added_share: float) -> tuple[Day, Day]:
    """The day after: only what changed or is new, and everybody. The choice is seeded with the day's number."""
    chance = np.random.default_rng(SEED + before.number)
    known = len(before.customers)
    changed = np.sort(chance.choice(known, size=round(known * changed_share), replace=False))
    added = np.arange(known + 1, known + 1 + round(known * added_share), dtype=np.int64)
    revisions = np.concatenate([before.revisions, np.zeros_like(added)])
    revisions[changed] += 1
    customers = np.concatenate([before.customers, added])
    touched = np.concatenate([changed, np.arange(known, len(customers))])
    number = before.number + 1
    return Day(number, customers[touched], revisions[touched]), Day(number, customers, revisions)
