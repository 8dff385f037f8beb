"""How values are written for people. Times are UTC, and say so where they stand alone."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, timedelta

from markupsafe import Markup, escape

NONE = "–"
_CODE = re.compile(r"`([^`]+)`")


def number(value: int | None) -> str:
    """1,234,567"""
    return NONE if value is None else f"{value:,}"


def signed(value: int | None) -> str:
    """+12, −3 or ±0"""
    if value is None:
        return NONE
    return f"+{value:,}" if value > 0 else f"−{-value:,}" if value else "±0"


def size(value: int | None) -> str:
    """12.3 MB"""
    if value is None:
        return NONE
    scaled = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if scaled < 1000:
            return f"{scaled:.0f} B" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1000
    return f"{scaled:.1f} TB"


def share(value: float | None) -> str:
    """99.95 %; only what is whole is said to be 100 %."""
    if value is None:
        return NONE
    return "100 %" if value == 1 else f"{math.floor(value * 10_000) / 100:.2f} %"


def age(value: timedelta | None) -> str:
    """3 h, 2 d"""
    if value is None:
        return NONE
    seconds = int(value.total_seconds())
    for length, unit in ((86_400 * 2, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // (86_400 if unit == 'd' else length)} {unit}"
    return f"{max(seconds, 0)} s"


def moment(value: datetime | date | None) -> str:
    """2024-03-05 14:03, or the day alone"""
    if value is None:
        return NONE
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else value.isoformat()


def timestamp(text: str) -> str:
    """A moment that a record has as ISO text."""
    return moment(datetime.fromisoformat(text))


def sentence(text: str) -> str:
    """With a capital at its beginning, as messages of errors have none."""
    return text[:1].upper() + text[1:]


def coded(text: str) -> Markup:
    """What stands between backticks as code; everything else is escaped as it is."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before anything is put in
