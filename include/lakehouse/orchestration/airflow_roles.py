"""``python -m lakehouse.orchestration.airflow_roles``: bring the roles into Airflow's database, where FAB keeps them.

A role gets exactly the rights that it should have: those that somebody added by hand are taken away, and who has the
role keeps it. Doing it again changes nothing. ``airflow roles import`` would leave a role that is there as it is.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from lakehouse.core.airflow_roles import AUTH_MANAGER, ROLES, Right, Role, is_fab
from lakehouse.core.errors import SettingsError, told_on_stderr
from lakehouse.core.process import end_with_parent


@dataclass(frozen=True)
class Change:
    """What became of a role."""

    role: str
    is_new: bool
    given: frozenset[Right]
    taken: frozenset[Right]

    def __str__(self) -> str:
        if not (self.is_new or self.given or self.taken):
            return f"{self.role}: as it should be"
        done = "made" if self.is_new else "corrected"
        return f"{self.role}: {done}, rights given: {len(self.given)}, taken: {len(self.taken)}"


def bring_roles() -> list[Change]:
    """Make the roles what they should be; raises SettingsError where Airflow does not use FAB."""
    if not is_fab(os.environ):
        raise SettingsError(
            "this Airflow keeps its users without FAB, and has no roles to make",
            todo=f"set AIRFLOW__CORE__AUTH_MANAGER={AUTH_MANAGER}, and start it again",
        )
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
    from airflow.utils.providers_configuration_loader import providers_configuration_loaded

    @providers_configuration_loaded
    def bring() -> list[Change]:
        with get_application_builder() as builder:  # brings FAB's own roles up to date as well, Admin among them
            return [_bring(builder.sm, role) for role in ROLES]

    return bring()


def _bring(manager: Any, role: Role) -> Change:
    """Change one role in one transaction, so that nobody ever has half of it."""
    is_new = manager.find_role(role.name) is None
    wanted = {right: manager.create_permission(*right) for right in sorted(role.rights)}
    stored = manager.add_role(role.name)
    had = {(each.action.name, each.resource.name) for each in stored.permissions}
    change = Change(role.name, is_new, role.rights - had, frozenset(had - role.rights))
    if change.given or change.taken:
        stored.permissions = list(wanted.values())
        manager.session.commit()
    return change


def main() -> None:
    """Bring them, and say what changed."""
    end_with_parent()
    logging.disable(logging.WARNING)  # FAB tells of every right, and Airflow of its libraries
    with told_on_stderr():
        for change in bring_roles():
            print(change)


if __name__ == "__main__":
    main()
