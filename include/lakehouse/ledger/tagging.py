"""Tags by day, week, month and year: which are due, and which a policy no longer asks for. A pure function.

The tag of a period names the last snapshot that was ``main``'s head in it, so it is made once the period has ended, and
never moves. Periods in which nothing was published have none: the tag before them says what the table said then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from lakehouse.contracts.model import Tags

_PERIODS: Mapping[str, tuple[str, str]] = {
    "daily": ("daily-%Y-%m-%d", r"daily-\d{4}-\d\d-\d\d"),
    "weekly": ("weekly-%G-W%V", r"weekly-\d{4}-W\d\d"),
    "monthly": ("monthly-%Y-%m", r"monthly-\d{4}-\d\d"),
    "yearly": ("yearly-%Y", r"yearly-\d{4}"),
}
"""How a tag is named after its period in UTC, so that names of one kind sort by time, and how it is told again."""


@dataclass(frozen=True)
class Due:
    """Tags to make, each with its snapshot, and tags to drop."""

    make: Mapping[str, int]
    drop: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        return not self.make and not self.drop


def is_periodic(tag: str) -> bool:
    """Whether a name is one that the policy gives and takes."""
    return any(re.fullmatch(pattern, tag) for _, pattern in _PERIODS.values())


def due_tags(heads: Iterable[tuple[datetime, int]], tags: Iterable[str], policy: Tags, now: datetime) -> Due:
    """What is to be done, given every head that ``main`` had, oldest first, and the names of all tags.

    Of each kind the newest periods are kept, as many as the policy says, in which something was published.
    """
    heads, there = list(heads), set(tags)
    make: dict[str, int] = {}
    drop: list[str] = []
    for kind, (form, pattern) in _PERIODS.items():
        today = _period(now, form)
        ended = {name: head for name, head in _last_of_each(heads, form).items() if name < today}
        stand = {tag for tag in there if re.fullmatch(pattern, tag)}
        kept = sorted(stand | ended.keys(), reverse=True)[: getattr(policy, kind)]
        make |= {name: ended[name] for name in sorted(kept) if name not in stand}
        drop += sorted(stand - set(kept))
    return Due(make, tuple(drop))


def _last_of_each(heads: Iterable[tuple[datetime, int]], form: str) -> dict[str, int]:
    """For each period the last head in it."""
    return {_period(at, form): snapshot_id for at, snapshot_id in heads}


def _period(at: datetime, form: str) -> str:
    return at.astimezone(UTC).strftime(form)
