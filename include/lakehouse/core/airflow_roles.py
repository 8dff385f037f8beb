"""Who may do what in Airflow where people sign in through FAB: the roles, and each right in FAB's own words.

FAB's roles are not used but for *Admin*. Its *Viewer* may not see plugins, so the Lakehouse page is missing from the
navigation; its *Op* may read and change connections and variables, which hold secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

AUTH_MANAGER = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
"""What ``AIRFLOW__CORE__AUTH_MANAGER`` says where FAB is used."""
ADMIN = "Admin"
"""FAB's own role with every right; FAB itself keeps it complete."""

Right = tuple[str, str]
"""An action and the resource that it is done to."""


@dataclass(frozen=True)
class Role:
    """A role of ours, with all its rights."""

    name: str
    rights: frozenset[Right]


def is_fab(environment: Mapping[str, str]) -> bool:
    """Whether an Airflow with this environment lets people in through FAB."""
    return environment.get("AIRFLOW__CORE__AUTH_MANAGER", "") == AUTH_MANAGER


def _rights(actions: Mapping[str, str]) -> frozenset[Right]:
    return frozenset((action, resource) for resource, words in actions.items() for action in words.split())


_LOOK = {
    "Website": "can_read",  # FAB gives it to every role; left out, it would be taken and given in turn
    "DAGs": "can_read menu_access",
    "DAG Code": "can_read",
    "DAG Dependencies": "can_read",
    "DAG Versions": "can_read",
    "DAG Warnings": "can_read",
    "ImportError": "can_read",
    "DAG Runs": "can_read menu_access",  # the menu is that of deadlines
    "Task Instances": "can_read",
    "Task Logs": "can_read",
    "XComs": "can_read",
    "HITL Detail": "can_read",  # the list of DAGs asks for it
    "Assets": "can_read menu_access",  # the Lakehouse page asks for it, too
    "Asset Aliases": "can_read",  # the list of assets asks for it
    "Plugins": "can_read",  # without it, the navigation shows no Lakehouse page
    "Pools": "can_read",
    "My Profile": "can_read can_edit",
    "My Password": "can_read can_edit",
}
_OPERATE = {
    "DAGs": "can_edit",  # pause and unpause; whatever changes a run or a task asks for it as well
    "DAG Runs": "can_create can_edit",  # trigger, backfill; clear, end, go on with a backfill
    "Task Instances": "can_edit",  # clear, mark
    "HITL Detail": "can_edit menu_access",  # approve
}

VIEWER = Role("Lakehouse Viewer", _rights(_LOOK))
OPERATOR = Role("Lakehouse Operator", VIEWER.rights | _rights(_OPERATE))
ROLES = (VIEWER, OPERATOR)
