"""The roles of Airflow's FAB auth manager: what stands in them, and how they get there; without a running Airflow."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from lakehouse.core.airflow_roles import ADMIN, AUTH_MANAGER, OPERATOR, ROLES, VIEWER, Right, Role, is_fab
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.orchestration.airflow_roles import _bring, bring_roles

LOOKING = {"can_read", "menu_access"}
OWN = {"My Profile", "My Password"}
SECRET = {"Connections", "Variables", "Configurations", "Users", "Roles", "Passwords", "Permission Views", "Audit Logs"}
LEFT_OUT = {
    ("can_read", "Backfills"): "Airflow asks for DAG Runs instead",
    ("can_read", "Cluster Activity"): "no page of this Airflow asks for it",
    ("can_read", "Jobs"): "for who runs the servers",
    ("menu_access", "Jobs"): "the same",
    ("can_read", "SLA Misses"): "Airflow 3 has none",
    ("menu_access", "SLA Misses"): "the same",
    ("menu_access", "Browse"): "a menu that Airflow 3 does not have",
    ("menu_access", "Cluster Activity"): "the same",
    ("menu_access", "DAG Dependencies"): "the same",
    ("menu_access", "Docs"): "the same",
    ("menu_access", "Documentation"): "links to Airflow's own documentation, with the address of the API's explorer",
    ("menu_access", "Task Instances"): "a menu that Airflow 3 does not have",
}
"""What FAB's own Viewer may do and ours may not, with the reason."""


@pytest.fixture(scope="module")
def fabs() -> dict[str, set[Right]]:
    """The roles that FAB brings along."""
    from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride

    return {role["role"]: set(role["perms"]) for role in FabAirflowSecurityManagerOverride.ROLE_CONFIGS}


def test_a_viewer_changes_nothing_but_what_is_his_own() -> None:
    assert VIEWER.rights
    assert {right for right in VIEWER.rights if right[0] not in LOOKING and right[1] not in OWN} == set()


def test_an_operator_may_do_what_a_viewer_may_and_act_on_runs() -> None:
    assert OPERATOR.rights - VIEWER.rights == {
        ("can_edit", "DAGs"),
        ("can_create", "DAG Runs"),
        ("can_edit", "DAG Runs"),
        ("can_edit", "Task Instances"),
        ("can_edit", "HITL Detail"),
        ("menu_access", "HITL Detail"),
    }
    assert OPERATOR.rights > VIEWER.rights


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_nobody_but_an_admin_has_to_do_with_secrets_or_people_or_deletes(role: Role) -> None:
    assert {right for right in role.rights if right[1] in SECRET or right[0] == "can_delete"} == set()


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_right_is_one_that_airflow_knows(role: Role, fabs: dict[str, set[Right]]) -> None:
    assert role.rights - fabs[ADMIN] == set()


def test_names_are_ours(fabs: dict[str, set[Right]]) -> None:
    names = [role.name for role in ROLES]
    assert len(set(names)) == len(names) == 2
    assert {name.lower() for name in names} & {name.lower() for name in fabs} == set()


def test_a_viewer_differs_from_fabs_own_as_said(fabs: dict[str, set[Right]]) -> None:
    assert VIEWER.rights - fabs["Viewer"] == {("can_read", "Plugins")}
    assert fabs["Viewer"] - VIEWER.rights == LEFT_OUT.keys()


@dataclass
class Stored:
    """A role as FAB's database has it."""

    name: str
    permissions: list[SimpleNamespace] = field(default_factory=list)


class Manager:
    """FAB's security manager, in memory; counts what is committed."""

    def __init__(self, *roles: Stored) -> None:
        self.roles = {role.name: role for role in roles}
        self.known: dict[Right, SimpleNamespace] = {}
        self.commits = 0
        self.session = SimpleNamespace(commit=self._commit)

    def _commit(self) -> None:
        self.commits += 1

    def find_role(self, name: str) -> Stored | None:
        return self.roles.get(name)

    def add_role(self, name: str) -> Stored:
        return self.roles.setdefault(name, Stored(name))

    def create_permission(self, action: str, resource: str) -> SimpleNamespace:
        new = SimpleNamespace(action=SimpleNamespace(name=action), resource=SimpleNamespace(name=resource))
        return self.known.setdefault((action, resource), new)

    def rights(self, name: str) -> set[Right]:
        return {(each.action.name, each.resource.name) for each in self.roles[name].permissions}


def test_a_role_is_made_once() -> None:
    manager = Manager()
    assert str(_bring(manager, VIEWER)) == f"Lakehouse Viewer: made, rights given: {len(VIEWER.rights)}, taken: 0"
    assert manager.rights(VIEWER.name) == VIEWER.rights
    assert str(_bring(manager, VIEWER)) == "Lakehouse Viewer: as it should be"
    assert manager.commits == 1


def test_what_was_added_by_hand_is_taken_and_what_was_taken_is_given() -> None:
    manager = Manager()
    _bring(manager, OPERATOR)
    stored = manager.roles[OPERATOR.name]
    stored.permissions = [each for each in stored.permissions if each.resource.name != "Pools"]
    stored.permissions.append(manager.create_permission("can_read", "Connections"))
    change = _bring(manager, OPERATOR)
    assert (change.is_new, change.given, change.taken) == (
        False,
        {("can_read", "Pools")},
        {("can_read", "Connections")},
    )
    assert str(change) == "Lakehouse Operator: corrected, rights given: 1, taken: 1"
    assert manager.rights(OPERATOR.name) == OPERATOR.rights
    assert manager.roles[OPERATOR.name] is stored, "who has the role keeps it"


def test_an_airflow_without_fab_has_no_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__CORE__AUTH_MANAGER", raising=False)
    with pytest.raises(SettingsError, match="AIRFLOW__CORE__AUTH_MANAGER=") as refused:
        bring_roles()
    assert AUTH_MANAGER in refused.value.todo
    assert not is_fab({}) and is_fab({"AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER})


def test_the_page_for_admins_names_these_roles_and_no_others() -> None:
    page = (PROJECT_ROOT / "docs" / "users.md").read_text("utf-8")
    assert set(re.findall(r"[`\"](Lakehouse [A-Z]\w+)[`\"]", page)) == {role.name for role in ROLES}
    assert set(re.findall(r"AUTH_MANAGER=([\w.]+)", page)) == {AUTH_MANAGER}


def test_the_auth_manager_is_where_it_is_said_to_be() -> None:
    from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager

    assert f"{FabAuthManager.__module__}.{FabAuthManager.__qualname__}" == AUTH_MANAGER
