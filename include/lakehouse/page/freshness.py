"""Whether a table is as fresh as its contract wants it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from lakehouse.contracts.derive import hours
from lakehouse.contracts.model import Freshness as Wanted
from lakehouse.ledger.watermark import Head

State = Literal["fresh", "due", "late", "never", "unknown", "none"]
STATES: tuple[State, ...] = ("late", "due", "never", "unknown", "fresh", "none")
"""The ones that want a look first."""


@dataclass(frozen=True)
class Freshness:
    """``fresh``: within what is expected; ``due``: later than that; ``late``: later than the contract warns after.

    ``never``: nothing is in the table yet; ``unknown``: it cannot be told now; ``none``: nothing is asked of it.
    """

    state: State
    words: str = ""
    age: timedelta | None = None


NOTHING_ASKED = Freshness("none")


def of_batch(wanted: Wanted, landed_at: datetime, now: datetime) -> Freshness:
    """By the time since the newest batch in the table has landed."""
    age = max(now - landed_at, timedelta())
    if age > timedelta(hours=hours(wanted.warn_after)):
        return Freshness(
            "late", f"a batch is expected every {wanted.expected_every}, late after {wanted.warn_after}", age
        )
    if age > timedelta(hours=hours(wanted.expected_every)):
        return Freshness(
            "due", f"a batch is expected every {wanted.expected_every}, late after {wanted.warn_after}", age
        )
    return Freshness("fresh", f"a batch is expected every {wanted.expected_every}", age)


def of_mart(mart: Head, made_of: Iterable[str], silver: Mapping[str, Head]) -> Freshness:
    """By whether the silver tables that a mart is made of have been published since."""
    if mart.stamp is None or mart.stamp.is_first:
        return Freshness("never", "no run has made it yet")
    upstream = mart.stamp.upstream
    newer = [name for name in sorted(made_of) if _attempt(silver.get(name)) != upstream.get(name, "")]
    if newer:
        return Freshness("due", f"published since it was made: {', '.join(newer)}")
    return Freshness("fresh", "made of what its tables have now")


def _attempt(head: Head | None) -> str:
    """The attempt that published a table, as a mart's stamp names it."""
    stamp = head.stamp if head else None
    return stamp.attempt if stamp and not stamp.is_first else ""
