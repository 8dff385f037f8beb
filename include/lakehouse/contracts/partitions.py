"""Partition fields of contracts, read once: ``month(x)``, ``day(x)``, ``year(x)``, ``bucket(n, x)`` or ``x``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CALENDAR = re.compile(r"(year|month|day)\((\w+)\)\Z")
_BUCKET = re.compile(r"bucket\((\d{1,4}), ?(\w+)\)\Z")
PARTITION_SCHEMA = {"type": "string", "examples": ["month(sold_at)", "bucket(16, customer_id)", "country"]}


@dataclass(frozen=True)
class Partition:
    """A partition field: ``transform`` is year, month, day, bucket or identity."""

    transform: str
    column: str
    buckets: int = 0


def parse_partition(text: str) -> Partition:
    """Read a partition field; raises ValueError saying what is allowed."""
    if match := _CALENDAR.match(text):
        return Partition(match[1], match[2])
    if match := _BUCKET.match(text):
        if int(match[1]) < 1:
            raise ValueError("bucket needs at least one bucket")
        return Partition("bucket", match[2], int(match[1]))
    if re.fullmatch(r"\w+", text):
        return Partition("identity", text)
    raise ValueError(f"{text!r} is no partition field; write year(x), month(x), day(x), bucket(n, x) in quotes, or x")
