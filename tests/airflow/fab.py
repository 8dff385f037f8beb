"""An Airflow that lets people in through FAB, made as docs/users.md says, below a proxy's path: without a scheduler.

Its parts are those of the stack: PostgreSQL, the preparation, the API server. Runs are made by its REST API.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from tests.airflow.client import wait_for

from lakehouse.core.airflow_roles import ADMIN, AUTH_MANAGER, OPERATOR, VIEWER
from lakehouse.core.process import PARENT
from lakehouse.core.settings import PROJECT_ROOT, Settings, load_settings
from lakehouse.stack import airflow, credentials, postgres, roles
from lakehouse.stack.airflow_supervisor import ROLES
from lakehouse.stack.airflow_supervisor import airflow as command
from lakehouse.stack.ports import LOOPBACK, any_free

BELOW = "/team/airflow"
LAND, REBUILD = "land_shop_orders", "rebuild_table"
NAMES = {"viewer": VIEWER.name, "operator": OPERATOR.name, "admin": ADMIN}
LOG_LINE = "a line that a task wrote"
_START_SECONDS = 240.0
_SPOIL = """
with reading as (
  select pair.id, resource.name from ab_permission_view pair
  join ab_permission action on action.id = pair.permission_id
  join ab_view_menu resource on resource.id = pair.view_menu_id
  where action.name = 'can_read'
)
update ab_permission_view_role set permission_view_id = (select id from reading where name = %(given)s)
where permission_view_id = (select id from reading where name = %(taken)s)
  and role_id = (select id from ab_role where name = %(role)s)
"""
"""Somebody gives a role another right by hand, and takes one away."""


@dataclass
class Person:
    """Somebody with a password, and what was answered to them."""

    url: str
    user: str
    password: str = field(default_factory=lambda: secrets.token_urlsafe(15), repr=False)

    def sign_in(self) -> httpx.Response:
        login = {"username": self.user, "password": self.password}
        return httpx.post(f"{self.url}/auth/token", json=login, timeout=60)

    @cached_property
    def http(self) -> httpx.Client:
        token = self.sign_in().raise_for_status().json()["access_token"]
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.http.request(method, path, json=body) if body is not None else self.http.request(method, path)


@dataclass(frozen=True)
class Fab:
    """The running Airflow, who has a login, and what was said while it was made."""

    url: str
    people: Mapping[str, Person]
    environment: Mapping[str, str]
    said: tuple[str, str]
    command_line: str


@contextmanager
def fab(settings: Settings, project: Path) -> Iterator[Fab]:
    """From an empty database to three people, with the DAGs of a project."""
    port, kept = any_free(), credentials.load_or_create(settings)
    database = f"{LOOPBACK}:{settings.postgres_port}/{roles.AIRFLOW_DATABASE}"
    environment = _environment(
        settings, project, port, f"postgresql+psycopg2://{roles.AIRFLOW}:{kept.passwords.airflow}@{database}"
    )
    folder = Path(environment["AIRFLOW_HOME"])
    folder.mkdir(exist_ok=True)
    url = f"http://{LOOPBACK}:{port}{BELOW}"
    people = {name: Person(url, name) for name in NAMES}
    first = _complete([sys.executable, str(PROJECT_ROOT / "docker" / "airflow_init.py")], environment)
    connection = postgres.connect(settings.postgres_port, roles.AIRFLOW_DATABASE, roles.AIRFLOW, kept.passwords.airflow)
    with connection, _server(environment, folder), ThreadPoolExecutor() as together:
        spoilt = connection.execute(_SPOIL, {"role": OPERATOR.name, "taken": "Pools", "given": "Connections"})
        assert spoilt.rowcount == 1
        made = together.submit(_make_admin, people["admin"], environment)
        again = together.submit(_complete, ROLES, environment)
        together.submit(_complete, command("dags", "reserialize"), environment).result()
        made.result()
        wait_for(lambda: _answers(url), _START_SECONDS, "the API server")
        for name in ("viewer", "operator"):
            _make(people["admin"], people[name])
        _fill(people["admin"], connection, folder / "logs")
        yield Fab(url, people, environment, (first, again.result()), made.result())
        for person in people.values():
            person.http.close()


def _environment(settings: Settings, project: Path, port: int, database: str) -> dict[str, str]:
    """The stack's settings with what docs/users.md adds."""
    added = {
        "AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER,
        "AIRFLOW__API__BASE_URL": f"http://{LOOPBACK}:{port}{BELOW}",
        "AIRFLOW__FAB__ENABLE_PROXY_FIX": "True",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "LAKEHOUSE_DAGS": str(project / "dags"),
        "LAKEHOUSE_CONTRACTS": str(project / "include" / "contracts"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("LAKEHOUSE_", "AIRFLOW_"))]:
            if name != "LAKEHOUSE_CACHE":
                patch.delenv(name)
        for name, value in added.items():
            patch.setenv(name, value)
        mine = load_settings(settings.home)
        return airflow.environment(mine, credentials.load_or_create(settings), database, port)


def _complete(words: Any, environment: Mapping[str, str], given: str | None = None) -> str:
    """Run a program to its end, without a terminal; returns what it printed."""
    done = subprocess.run(
        words, env={**environment, PARENT: str(os.getpid())}, cwd=environment["AIRFLOW_HOME"], input=given,
        capture_output=True, text=True, timeout=_START_SECONDS, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def _make_admin(person: Person, environment: Mapping[str, str]) -> str:
    """The first person, by the command line; the password is asked for, twice. Returns the command line."""
    about = ("--username", person.user, "--firstname", "Ada", "--lastname", "Min", "--email", "ada@example.org")
    words = command("users", "create", *about, "--role", ADMIN)
    said = _complete(words, environment, f"{person.password}\n{person.password}\n")
    assert f'User "{person.user}" created with role "{ADMIN}"' in said
    return " ".join(words)


def _make(admin: Person, person: Person) -> None:
    """Everybody else, by the first one, as the page of users does it."""
    body = {
        "username": person.user,
        "email": f"{person.user}@example.org",
        "first_name": person.user,
        "last_name": "Test",
        "roles": [{"name": NAMES[person.user]}],
        "password": person.password,
    }
    answer = admin.ask("POST", "/auth/fab/v1/users", body)
    assert answer.is_success, answer.text


@contextmanager
def _server(environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    with (folder / "api-server.log").open("wb") as log:
        process = subprocess.Popen(
            command("api-server"), env={**environment, PARENT: str(os.getpid())}, cwd=folder, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/v2/version", timeout=5).is_success
    except httpx.HTTPError:
        return False


def _fill(admin: Person, connection: psycopg.Connection, logs: Path) -> None:
    """A run for each person, as a scheduler would have left it: one task done, the next waits for somebody's word."""
    for name in NAMES:
        made = admin.ask("POST", f"/api/v2/dags/{REBUILD}/dagRuns", {"logical_date": None, "dag_run_id": name})
        assert made.is_success, made.text
        log = logs / f"dag_id={REBUILD}" / f"run_id={name}" / "task_id=look" / "attempt=1.log"
        log.parent.mkdir(parents=True)
        log.write_text(json.dumps({"event": LOG_LINE}) + "\n")
    connection.execute("update task_instance set state = 'success', try_number = 1 where task_id = 'look'")
    connection.execute("update task_instance set state = 'awaiting_input', try_number = 1 where task_id = 'approve'")
    connection.execute(
        "insert into hitl_detail (ti_id, options, subject, multiple, params, created_at, params_input)"
        """ select id, '["Approve", "Reject"]', 'Is that right?', false, '{}', now(), '{}'"""
        " from task_instance where task_id = 'approve'"
    )
