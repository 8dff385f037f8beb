"""Backups, a drill and a restore from Airflow: with forms, approvals over REST, and a report on the page.

The tests build on each other, on one Airflow, in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from tests.airflow.client import wait_for
from tests.airflow.conftest import World
from tests.airflow.test_operations import FACT, LAND, TRANSFORM, day, fingerprints, marts_are_current, rows, write

from lakehouse.backup.signing import public_key_of
from lakehouse.backup.status import Limits, read_status
from lakehouse.backup.vault import Vault
from lakehouse.core.clock import SystemClock
from lakehouse.recovery.drill import has_scratch

SEEN: dict[str, Any] = {}
"""What earlier tests leave for later ones."""


def land(world: World, number: int) -> None:
    """A day more, up to the marts."""
    write(world, number)
    run = world.airflow.trigger(LAND, first_day=day(number).isoformat())
    assert world.airflow.wait_for_run(LAND, run)["state"] == "success"
    wait_for(lambda: rows(world.settings, str(FACT)) == 30 * (number + 1), 300, "the day in silver")
    wait_for(lambda: marts_are_current(world.settings), 300, "the marts")


def returned(world: World, dag: str, run: str, task: str) -> Mapping[str, Any]:
    """What a task left for others."""
    path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
    found: Mapping[str, Any] = world.airflow.ask("GET", path)["value"]
    return found


def page(world: World, path: str) -> httpx.Response:
    """A page of Airflow, as who is logged in."""
    return world.airflow._http.get(f"{world.airflow.url}/{path}")


def asked(world: World, dag: str, run: str) -> str:
    """What an approval shows."""
    wait_for(lambda: world.airflow.tasks(dag, run)["approve"]["state"] == "awaiting_input", 300, "the approval")
    shown = world.airflow.ask("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails")
    return str(shown["body"])


def test_a_set_is_made_by_its_dag(world: World) -> None:
    world.airflow.unpause(LAND)
    for number in range(2):
        land(world, number)
    world.airflow.wait_until_idle(LAND, TRANSFORM, "build_marts")
    run = world.airflow.trigger("back_up_lake")
    assert world.airflow.wait_for_run("back_up_lake", run)["state"] == "success"
    made = returned(world, "back_up_lake", run, "create")
    SEEN["set"], SEEN["two days"] = made["id"], fingerprints(world.settings)
    assert made["tables"] > 5 and all(SEEN["two days"].values())


def test_a_drill_waits_for_approval_and_its_report_can_be_handed_on(world: World) -> None:
    run = world.airflow.trigger("drill_recovery")
    shown = asked(world, "drill_recovery", run)
    assert "are restored into a scratch catalog" in shown and "Nothing of the lake is touched" in shown
    assert world.airflow.approve("drill_recovery", run)["state"] == "success"
    found = returned(world, "drill_recovery", run, "drill")
    assert found["is_good"] and found["set_id"] in shown
    report = page(world, found["page"])
    assert report.status_code == 200 and httpx.get(f"{world.airflow.url}/{found['page']}").status_code == 401
    for words in ("Passed", found["set_id"], f"<dd>{world.airflow.user} (Airflow)</dd>", str(FACT), "Time to restore"):
        assert words in report.text, words
    assert f"<dt>Approved by</dt><dd>{world.airflow.user}</dd>" in report.text
    overview = wait_for(lambda: _with(page(world, "lakehouse/").text, found["id"]), 60, "the page to know of the drill")
    assert "passed" in overview and "Last complete set" in overview
    now = SystemClock().now()
    stands = read_status(Vault.open(world.settings, now), public_key_of(world.settings), Limits.of(world.settings), now)
    assert stands.drill and stands.drill.id == found["id"] and not has_scratch(world.settings)


def test_the_lake_is_restored_and_the_pipeline_goes_on(world: World) -> None:
    land(world, 2)
    world.airflow.wait_until_idle(LAND, TRANSFORM, "build_marts")
    three_days = fingerprints(world.settings)
    form = {"what": "everything", "when": SEEN["set"], "reason": "the third day must be looked at"}
    run = world.airflow.trigger("restore_lake", **form)
    assert f"**{FACT}**: 90 → 60 rows" in asked(world, "restore_lake", run)
    assert fingerprints(world.settings) == three_days, "nothing happens before"
    assert world.airflow.approve("restore_lake", run)["state"] == "success"
    done = returned(world, "restore_lake", run, "confirm")
    assert str(FACT) in done["tables"] and done["verified"]["files"] > 10
    said = world.airflow.log("restore_lake", run, "report")
    assert form["reason"] in said and f"approved by {world.airflow.user}" in said
    wait_for(lambda: rows(world.settings, str(FACT)) == 90, 300, "the third day, taken again")
    wait_for(lambda: marts_are_current(world.settings), 300, "the marts")
    world.airflow.wait_until_idle(TRANSFORM, "build_marts")
    assert fingerprints(world.settings) == three_days, "no batch twice"


def test_a_form_of_a_restore_takes_only_what_it_means(world: World) -> None:
    good = {"what": "silver", "when": "", "reason": "because"}
    for wrong in ({"what": "--all"}, {"what": "silver; x"}, {"when": "{{ x }}"}, {"when": "--yes"}, {"reason": ""}):
        body = {"logical_date": None, "conf": {**good, **wrong}}
        assert world.airflow.status("POST", "/dags/restore_lake/dagRuns", json=body) == 400, wrong


def _with(text: str, words: str) -> str | None:
    return text if words in text else None
