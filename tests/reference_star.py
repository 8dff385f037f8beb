"""What a fact's reference resolves to, in plain Python. The marts are held to this.

It is written to be read and agreed with: the version of the member that was valid at the time of the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

Version = dict[str, Any]


def resolve(
    key: str | None, at: datetime, versions: Sequence[Version], before_first: str = "first_version"
) -> tuple[Version | None, str]:
    """The version valid at a time, and why there is none. ``versions`` are the member's, oldest first."""
    if key is None:
        return None, "not_stated"
    if not versions:
        return None, "unknown"
    if at < versions[0]["effective_from"]:
        return (versions[0], "known") if before_first == "first_version" else (None, "unknown")
    for version in versions:
        end = version["effective_to"]
        if version["effective_from"] <= at and (end is None or at < end):
            return version, "known"
    return None, "deleted"
