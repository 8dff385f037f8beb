"""The page inside Airflow's own application: its login, its permissions, its navigation, below a proxy's path."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
from tests.integration.page_in_airflow import FACT, PREFIX

from lakehouse.contracts.index import compile_index
from lakehouse.core.settings import PROJECT_ROOT

TABLE = f"/lakehouse/tables/{FACT}"
Answers = dict[str, Any]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What Airflow answers to four people."""
    home = tmp_path_factory.mktemp("airflow")
    contracts = home / "contracts"
    shutil.copytree(PROJECT_ROOT / "include" / "contracts", contracts, ignore=shutil.ignore_patterns("index.json"))
    compile_index(contracts)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "AIRFLOW"))}
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__AUTH_MANAGER": "tests.integration.page_in_airflow.Strict",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,viewer:viewer,outsider:viewer",
        "AIRFLOW__API__BASE_URL": f"http://localhost{PREFIX}",
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of this test alone, long enough for what signs with it, 64 bytes!",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "LAKEHOUSE_HOME": str(home / "lakehouse"),
        "LAKEHOUSE_CONTRACTS": str(contracts),
        "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT / "include"), str(PROJECT_ROOT)]),
    }
    asked = subprocess.run(
        [sys.executable, "-m", "tests.integration.page_in_airflow"],
        cwd=PROJECT_ROOT, env=kept | settings, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr[-4000:]
    return dict(json.loads(asked.stdout.strip().splitlines()[-1]))


def test_nothing_is_shown_without_a_login(said: Answers) -> None:
    for person in ("nobody", "forged"):
        for path, answer in said[person].items():
            assert answer["status"] in (401, 403, 404), (person, path)
            assert FACT not in answer["text"].replace(path, "")
    assert said["nobody"]["/lakehouse/"]["status"] == 401
    assert "You are not logged in" in said["nobody"]["/lakehouse/"]["text"]


def test_who_may_not_read_assets_may_not_see_the_page(said: Answers) -> None:
    assert [said["outsider"][path]["status"] for path in ("/lakehouse/", TABLE, "/lakehouse/static/page.css")] == [
        403
    ] * 3
    assert "You may not see this page" in said["outsider"][TABLE]["text"]


@pytest.mark.parametrize("person", ["admin", "viewer"])
def test_who_may_read_assets_sees_the_page(said: Answers, person: str) -> None:
    page = said[person]["/lakehouse/"]
    assert page["status"] == 200
    assert "fact_sales_line" in page["text"]
    assert "The reader&#39;s role has no password" in page["text"]  # no servers here, and it says so
    assert page["headers"]["content-security-policy"].startswith("default-src 'none'")
    assert said[person]["/lakehouse/static/page.css"]["status"] == 200
    assert said[person]["/lakehouse/openapi.json"]["status"] == 404


def test_a_table_links_to_the_dags_that_act_on_it_and_that_the_person_may_see(said: Answers) -> None:
    everything = {
        "silver_retail_sales": "writes it, works on retail.sales",
        "gold": "starts when it changes",
        "quality": "reads it",
        "land_retail_sales": "lands retail.sales",
        "rebuild_table": "repair",
        "secret_sweep": "works on retail.sales",
    }
    for person, hidden in {"admin": set(), "viewer": {"secret_sweep"}}.items():
        text = said[person][TABLE]["text"]
        for dag_id, why in everything.items():
            link = f'<a href="../../dags/{dag_id}" target="_top">{dag_id}</a> <span class="dim">{why}</span>'
            assert (link in text) == (dag_id not in hidden), (person, dag_id)
        assert "dags/other" not in text and "dags/gone" not in text


def test_airflow_shows_the_page_in_its_navigation_below_its_own_path(said: Answers) -> None:
    assert said["errors"]["import_errors"] == []
    [plugin] = [each for each in said["plugins"]["plugins"] if each["name"] == "lakehouse_page"]
    [view] = plugin["external_views"]
    assert {key: view[key] for key in ("name", "href", "url_route", "destination", "nav_top_level")} == {
        "name": "Lakehouse",
        "href": f"{PREFIX}/lakehouse/",
        "url_route": "lakehouse",
        "destination": "nav",
        "nav_top_level": True,
    }
    assert view["icon"].startswith(f"{PREFIX}/lakehouse/static/icon.svg?v=")
    assert [app["url_prefix"] for app in plugin["fastapi_apps"]] == ["/lakehouse"]
