"""Time is passed in, never read from the wall inside a transform."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from lakehouse.core.errors import SettingsError


class Clock(Protocol):
    """Whatever can tell the time."""

    def now(self) -> datetime:
        """The current moment, aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True)
class FixedClock:
    """A clock that stands still, for tests and contract cases."""

    at: datetime

    def now(self) -> datetime:
        return self.at


def moment(text: str) -> datetime:
    """A point in time from ISO text; UTC unless it says. Raises :class:`SettingsError`."""
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise SettingsError(f"{text!r} is no time", todo="write it as 2024-03-31 or 2024-03-31T14:05:00") from None
