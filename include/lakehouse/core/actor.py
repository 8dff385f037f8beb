"""Who acts: the name that decisions, and notes of what was done, are signed with."""

from __future__ import annotations

import getpass

from lakehouse.core.settings import Settings


def user_name(settings: Settings) -> str:
    """Who runs this program: as the scheduler says that runs it for somebody, else as the machine says."""
    if settings.actor:
        return settings.actor
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        return "unknown"
