"""Viewer, operator and admin on an Airflow that lets people in through FAB: what each asks for, and what is answered.

Nothing here needs a scheduler: who may do something is told by the status of the answer.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from tests.airflow.conftest import copy_project
from tests.airflow.fab import BELOW, LAND, LOG_LINE, REBUILD, Fab, Person, fab

from lakehouse.core.airflow_roles import OPERATOR, VIEWER
from lakehouse.core.settings import Settings

API, RUNS = "/api/v2", f"/api/v2/dags/{REBUILD}/dagRuns"
REFUSED = 403


class Request(NamedTuple):
    """What is asked, by whom it may be asked, and what is answered then. ``{me}`` stands for one's own run."""

    method: str
    path: str
    body: Any = None
    status: int = 200


DAYS = {"dag_id": LAND, "from_date": "2024-03-01T00:00:00Z", "to_date": "2024-03-03T00:00:00Z"}
LOOK = [
    Request("GET", f"{API}/dags"),
    Request("GET", f"{API}/dags/{LAND}/details"),
    Request("GET", f"{API}/dagSources/{LAND}"),
    Request("GET", f"{API}/dags/{LAND}/dagVersions"),
    Request("GET", f"{API}/dagWarnings"),
    Request("GET", f"{API}/importErrors"),
    Request("GET", f"{API}/dagStats"),
    Request("GET", RUNS),
    Request("GET", f"{RUNS}/{{me}}/taskInstances"),
    Request("GET", f"{RUNS}/{{me}}/taskInstances/look/logs/1"),
    Request("GET", f"{RUNS}/{{me}}/taskInstances/look/xcomEntries"),
    Request("GET", f"{RUNS}/{{me}}/hitlDetails"),
    Request("GET", f"{API}/backfills?dag_id={LAND}"),
    Request("GET", f"{API}/assets"),
    Request("GET", f"{API}/assets/events"),
    Request("GET", f"{API}/pools"),
    Request("GET", f"{API}/plugins"),
    # What the pages of the web UI ask for.
    Request("GET", "/ui/auth/menus"),
    Request("GET", "/ui/config"),
    Request("GET", "/ui/dags"),
    Request("GET", "/ui/dashboard/dag_stats"),
    Request("GET", f"/ui/grid/runs/{REBUILD}"),
    Request("GET", f"/ui/grid/structure/{REBUILD}"),
    Request("GET", f"/ui/structure/structure_data?dag_id={REBUILD}"),
    Request("GET", "/ui/dependencies"),
    Request("GET", f"/ui/backfills?dag_id={LAND}"),
    Request("GET", "/lakehouse/"),
    Request("GET", "/lakehouse/tables/silver.fact_order"),
]
OPERATE = [
    Request("PATCH", f"{API}/dags/{LAND}", {"is_paused": False}),
    Request("PATCH", f"{API}/dags/{LAND}", {"is_paused": True}),
    Request("POST", f"{API}/dags/{LAND}/dagRuns", {"logical_date": None}),
    Request("POST", f"{API}/backfills/dry_run", DAYS),
    Request("PATCH", f"{RUNS}/{{me}}/taskInstances/approve/-1/hitlDetails", {"chosen_options": ["Approve"]}),
    Request(
        "POST",
        f"{API}/dags/{REBUILD}/clearTaskInstances",
        {"dag_run_id": "{me}", "dry_run": False, "only_failed": False},
    ),
    Request("PATCH", f"{RUNS}/{{me}}/taskInstances/look", {"new_state": "success"}),
    Request("PATCH", f"{RUNS}/{{me}}", {"state": "failed"}),
]
ADMINISTER = [
    Request("GET", f"{API}/connections"),
    Request("POST", f"{API}/connections", {"connection_id": "one", "conn_type": "http"}, 201),
    Request("PATCH", f"{API}/connections/one", {"connection_id": "one", "conn_type": "ftp"}),
    Request("DELETE", f"{API}/connections/one", None, 204),
    Request("GET", f"{API}/variables"),
    Request("POST", f"{API}/variables", {"key": "one", "value": "1"}, 201),
    Request("PATCH", f"{API}/variables/one", {"key": "one", "value": "2"}),
    Request("DELETE", f"{API}/variables/one", None, 204),
    Request("GET", "/auth/fab/v1/users"),
    Request("PATCH", "/auth/fab/v1/users/viewer", {"last_name": "Looker"}),
    Request("GET", "/auth/fab/v1/roles"),
    Request("POST", f"{API}/pools", {"name": "one", "slots": 1}, 201),
    Request("DELETE", f"{API}/pools/one", None, 204),
    Request("GET", f"{API}/eventLogs"),
    Request("GET", f"{API}/providers"),
    Request("GET", f"{API}/jobs"),
    Request("POST", f"{RUNS}/{{me}}/taskInstances/look/xcomEntries", {"key": "one", "value": "1"}, 201),
    Request("POST", f"{API}/assets/events", {"asset_id": 1}),
    Request("DELETE", f"{RUNS}/{{me}}", None, 204),
    Request("DELETE", f"{API}/dags/quality_docs", None, 204),
]
MAY = {"viewer": LOOK, "operator": LOOK + OPERATE, "admin": LOOK + OPERATE + ADMINISTER}
ASKED = [
    pytest.param(person, request, id=f"{person} {request.method} {request.path}")
    for person in MAY
    for request in LOOK + OPERATE + ADMINISTER
]
FORM_FIELD = re.compile(r'name="csrf_token"[^>]*value="([^"]+)"')


@pytest.fixture(scope="module")
def served(servers: Settings) -> Iterator[Fab]:
    with (
        tempfile.TemporaryDirectory(prefix="lakehouse-users-") as folder,
        fab(servers, copy_project(Path(folder))) as it,
    ):
        yield it


def answer(served: Fab, name: str, request: Request) -> httpx.Response:
    body = {key: value if value != "{me}" else name for key, value in request.body.items()} if request.body else None
    return served.people[name].ask(request.method, request.path.replace("{me}", name), body)


@pytest.mark.parametrize(("person", "request_"), ASKED)
def test_each_may_do_what_they_should_and_nothing_else(served: Fab, person: str, request_: Request) -> None:
    said = answer(served, person, request_)
    expected = request_.status if request_ in MAY[person] else REFUSED
    assert said.status_code == expected, said.text


def test_nobody_is_let_in_without_a_login(served: Fab) -> None:
    wanted = LOOK + OPERATE + ADMINISTER
    with httpx.Client(base_url=served.url, timeout=60) as nobody:
        said = [(each, nobody.request(each.method, each.path, json=each.body).status_code) for each in wanted]
    assert [(each.method, each.path, status) for each, status in said if status != 401] == []


def test_roles_are_made_once_and_what_was_changed_by_hand_is_corrected(served: Fab) -> None:
    first, again = served.said
    for role in (VIEWER, OPERATOR):
        assert f"{role.name}: made, rights given: {len(role.rights)}, taken: 0" in first
    # Airflow logs warnings of its libraries to the same place.
    assert [line for line in again.splitlines() if line.startswith("Lakehouse ")] == [
        f"{VIEWER.name}: as it should be",
        f"{OPERATOR.name}: corrected, rights given: 1, taken: 1",
    ]


def test_the_stack_and_its_tasks_find_a_server_that_is_below_a_path(served: Fab) -> None:
    at_root = served.url.removesuffix(BELOW)
    assert httpx.get(f"{at_root}/api/v2/monitor/health", timeout=30).json()["metadatabase"]["status"] == "healthy"
    tasks = served.environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
    assert httpx.get(f"{tasks}health", timeout=30).status_code == 200
    assert httpx.get(f"{at_root}/execution/health", timeout=30).status_code != 200, "so the path has to be said"


def test_the_log_of_a_task_and_the_page_are_shown_to_a_viewer(served: Fab) -> None:
    viewer = served.people["viewer"]
    assert LOG_LINE in viewer.ask("GET", f"{RUNS}/operator/taskInstances/look/logs/1").text
    assert "fact_order" in viewer.ask("GET", "/lakehouse/").text
    [plugin] = [
        each for each in viewer.ask("GET", f"{API}/plugins").json()["plugins"] if each["name"] == "lakehouse_page"
    ]
    assert plugin["external_views"][0]["href"] == f"{BELOW}/lakehouse/"


def test_the_navigation_leads_only_where_somebody_may_go(served: Fab) -> None:
    menus = {name: served.people[name].ask("GET", "/ui/auth/menus").json() for name in MAY}
    found = {name: set(each["authorized_menu_items"]) for name, each in menus.items()}
    assert found["viewer"] == {"Assets", "Dags", "Deadlines"}
    assert found["operator"] == found["viewer"] | {"Required Actions"}
    assert found["admin"] > found["operator"] | {"Connections", "Variables", "Pools", "Plugins"}
    assert [name for name, each in menus.items() if each["extra_menu_items"]] == ["admin"]


def test_an_operator_runs_a_backfill_and_a_viewer_watches(served: Fab) -> None:
    viewer, operator = served.people["viewer"], served.people["operator"]
    assert viewer.ask("POST", f"{API}/backfills", DAYS).status_code == REFUSED
    made = operator.ask("POST", f"{API}/backfills", DAYS)
    assert made.status_code == 200, made.text
    one = f"{API}/backfills/{made.json()['id']}"
    assert viewer.ask("GET", one).json()["dag_id"] == LAND
    for step in ("pause", "unpause", "cancel"):
        assert viewer.ask("PUT", f"{one}/{step}").status_code == REFUSED
        assert operator.ask("PUT", f"{one}/{step}").status_code == 200
    assert len([run for run in runs_of(viewer, LAND) if run["run_type"] == "backfill"]) == 3


def runs_of(person: Person, dag: str) -> list[dict[str, Any]]:
    return list(person.ask("GET", f"{API}/dags/{dag}/dagRuns").json()["dag_runs"])


def test_a_wrong_password_lets_nobody_in_and_no_password_is_in_a_command_line(served: Fab) -> None:
    assert Person(served.url, "viewer", "wrong").sign_in().status_code == 401
    assert Person(served.url, "nobody").sign_in().status_code == 401
    assert served.people["admin"].password not in served.command_line
    assert "password" not in served.command_line


def form(page: httpx.Response, **fields: str) -> dict[str, str]:
    """What a browser sends back, with the mark that the page was given."""
    found = FORM_FIELD.search(page.text)
    assert page.status_code == 200 and found, page.text
    return {"csrf_token": found[1], **fields}


def test_a_person_signs_in_with_a_browser_behind_a_proxy_and_changes_the_password(served: Fab) -> None:
    viewer = served.people["viewer"]
    before, after = viewer.password, f"{viewer.password}-new"
    seen = f"https://data.example.org{BELOW}"
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "data.example.org", "Referer": f"{seen}/"}
    with httpx.Client(base_url=served.url, headers=forwarded, timeout=60) as browser:
        assert browser.get("/lakehouse/").status_code == 401
        login = form(browser.get("/auth/login/"), username=viewer.user, password=before)
        done = browser.post("/auth/login/", data=login)
        assert done.status_code == 302, done.text
        assert done.headers["location"].removeprefix("https://data.example.org").startswith(BELOW)
        [token] = [each for each in done.headers.get_list("set-cookie") if each.startswith("_token=")]
        assert {f"Path={BELOW}/", "Secure", "HttpOnly", "SameSite=Lax"} <= set(token.split("; "))
        # A browser sends it by https, which the proxy would end.
        browser.headers["Cookie"] = "; ".join(
            [token.partition(";")[0], *(f"{each.name}={each.value}" for each in browser.cookies.jar)]
        )
        assert browser.get("/lakehouse/").status_code == 200
        changed = form(browser.get("/auth/resetmypassword/form"), password=after, conf_password=after)
        assert browser.post("/auth/resetmypassword/form", data=changed).status_code == 302
    assert viewer.sign_in().status_code == 401
    viewer.password = after
    assert viewer.sign_in().status_code == 201
