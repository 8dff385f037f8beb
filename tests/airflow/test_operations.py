"""A lake is operated from Airflow: a backfill with a kill in the middle, a gate that refuses, a file that is corrected,
a rule that changes, a backup, a drill and a restore.

The tests build on each other, on one Airflow, in this order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import httpx
import psutil
import pytest
from tests.airflow.client import wait_for
from tests.airflow.conftest import World

from lakehouse.backup.signing import public_key_of
from lakehouse.backup.status import Limits, read_status
from lakehouse.backup.vault import Vault
from lakehouse.contracts.index import compile_for
from lakehouse.contracts.load import load_contracts
from lakehouse.core.clock import SystemClock
from lakehouse.core.encoding import fingerprint_table
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.core.types import DataType
from lakehouse.engine.tables import business_types
from lakehouse.ledger.outstanding import gold_is_current
from lakehouse.ledger.points import existing_table, publications
from lakehouse.ledger.watermark import load_table, open_catalog, read_head
from lakehouse.recovery.drill import has_scratch
from lakehouse.stack import buckets, credentials, roles

LAND, TRANSFORM, GOLD = "land_shop_orders", "transform_shop_orders", "build_marts"
FIRST = date(2024, 3, 1)
DAYS = 4
FACT, DIMENSION, MART = TableName("silver", "fact_order"), TableName("silver", "dim_shopper"), "gold.orders_by_city"


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def write(world: World, number: int, *, twice: bool = False) -> None:
    """A day's file: thirty orders of ten shoppers who move now and then; one order stands twice, if so."""
    lines = ["order_id,shopper,city,amount,ordered_at"]
    for order in range(30):
        shopper, city = f"s{order % 10}", f"city {(order % 10 + number // 2) % 4}"
        lines.append(f"{number}-{order},{shopper},{city},{order}.50,{day(number)} {order % 24:02}:00:00")
    lines += lines[-1:] if twice else []
    (world.files / f"{day(number)}.csv").write_text("\n".join(lines) + "\n")


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def running(world: World, text: str) -> list[psutil.Process]:
    """Processes of this stack, and of no other on the machine, with this text in their command line."""
    return [process for process in psutil.process_iter() if text in command_of(process) and is_ours(world, process)]


def is_ours(world: World, process: psutil.Process) -> bool:
    """By the folder that it works in: many of Airflow's give themselves other titles."""
    try:
        return process.cwd().startswith(str(world.settings.home))
    except psutil.Error:
        return False


def rows(settings: Settings, table: str) -> int:
    loaded = load_table(open_catalog(settings), TableName.parse(table))
    return len(loaded.scan().to_arrow()) if loaded else 0


def fingerprints(settings: Settings) -> dict[str, str]:
    """What stands in every table that people read, whatever batches it came in."""
    catalog = open_catalog(settings)
    [contract] = load_contracts(settings.contracts).values()
    found = {}
    for name, table in contract.tables.items():
        loaded = load_table(catalog, TableName("silver", name))
        found[name] = fingerprint_table(loaded.scan().to_arrow(), business_types(table)) if loaded else ""
    mart = load_table(catalog, TableName.parse(MART))
    columns = {"city": "string", "orders": "bigint", "amount": "decimal(38,2)"}
    types = {column: DataType.parse(name.replace("bigint", "long")) for column, name in columns.items()}
    found[MART] = fingerprint_table(mart.scan().to_arrow(), types) if mart else ""
    return found


def marts_are_current(settings: Settings) -> bool:
    contracts = list(load_contracts(settings.contracts).values())
    return gold_is_current(open_catalog(settings), contracts, settings.dbt)


def extra_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(event["extra"])


def test_only_who_logs_in_sees_anything(world: World) -> None:
    assert httpx.get(f"{world.airflow.url}/api/v2/dags", timeout=30).status_code == 401
    dags = world.airflow.ask("GET", "/dags", params={"limit": 100})["dags"]
    assert {LAND, TRANSFORM, GOLD, "rebuild_table", "housekeeping"} <= {dag["dag_id"] for dag in dags}
    assert world.airflow.ask("GET", "/importErrors")["total_entries"] == 0
    assert {dag["dag_id"]: dag["is_paused"] for dag in dags}[LAND] is True
    assert {dag["dag_id"]: dag["is_paused"] for dag in dags}[TRANSFORM] is False


def test_nothing_listens_to_the_outside(world: World) -> None:
    listening, home = [], str(world.settings.home)
    for process in psutil.process_iter():
        if home in command_of(process) or is_ours(world, process):
            listening += [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    ports = {urlparse(url).port for url in (world.airflow.url, world.settings.s3_endpoint)}
    assert ports | {world.settings.postgres_port} <= {address.port for address in listening}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}


def test_secrets_stand_in_no_command_line(world: World) -> None:
    kept = credentials.load_or_create(world.settings)
    secrets = [world.airflow.password, kept.passwords.airflow, kept.airflow_secret, kept.s3_secret_access_key]
    lines = [command_of(process) for process in psutil.process_iter()]
    assert any("scheduler" in line for line in lines)
    assert [line for line in lines for secret in secrets if secret in line] == []


def test_a_backfill_lands_days_side_by_side_and_survives_kills(world: World) -> None:
    """The scheduler and the worker that runs the Spark job are killed in the middle of it."""
    for number in range(DAYS):
        write(world, number)
    world.airflow.unpause(LAND)
    world.airflow.backfill(LAND, f"{day(0)}T00:00:00Z", f"{day(DAYS - 1)}T00:00:00Z")
    job = wait_for(lambda: running(world, "run shop.orders --no-gold"), 600, "the transform's program")[0]
    task = job.parent()
    assert task is not None
    worker = task.parent()
    scheduler = min(running(world, "airflow_component scheduler"), key=lambda each: each.create_time())
    for process in (worker, scheduler):
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE, 30, "the program to end")
    wait_for(lambda: rows(world.settings, str(FACT)) == 30 * DAYS, 600, "all days in silver")
    world.airflow.wait_until_idle(LAND, TRANSFORM)
    landed = [run for run in world.airflow.runs(LAND) if run["run_type"] == "backfill"]
    assert [run["state"] for run in landed] == ["success"] * DAYS
    assert {run["state"] for run in world.airflow.runs(TRANSFORM)} == {"success"}
    assert rows(world.settings, str(FACT)) == 30 * DAYS, "nothing was written twice"


def test_events_say_what_happened_and_wake_the_marts(world: World) -> None:
    days = sorted(day for event in world.airflow.events("landing.shop_orders") for day in extra_of(event)["days"])
    assert set(days) == {day(number).isoformat() for number in range(DAYS)}
    wait_for(lambda: rows(world.settings, MART) == 4, 600, "the mart")
    world.airflow.wait_until_idle(TRANSFORM, GOLD)
    catalog = open_catalog(world.settings)
    for name in (str(FACT), str(DIMENSION), "bronze.shop_orders", MART):
        last = extra_of(world.airflow.events(name)[-1])
        assert last["snapshot_id"] == read_head(catalog, TableName.parse(name)).snapshot_id, name
    assert len(world.airflow.events(str(FACT))) <= 2, "many landings, few Spark jobs"


def test_a_gate_that_refuses_fails_at_once_and_publishes_nothing(world: World) -> None:
    before = read_head(open_catalog(world.settings), FACT).snapshot_id
    done = {run["dag_run_id"] for run in world.airflow.runs(TRANSFORM)}
    write(world, DAYS, twice=True)
    run = world.airflow.trigger(LAND, first_day=day(DAYS).isoformat())
    assert world.airflow.wait_for_run(LAND, run)["state"] == "success"
    found = wait_for(
        lambda: [each for each in world.airflow.runs(TRANSFORM) if each["dag_run_id"] not in done], 300, "the transform"
    )[-1]
    assert world.airflow.wait_for_run(TRANSFORM, found["dag_run_id"])["state"] == "failed"
    task = world.airflow.tasks(TRANSFORM, found["dag_run_id"])["take_pending"]
    assert (task["state"], task["try_number"]) == ("failed", 1), "a gate is not helped by another try"
    assert "fact_order" in world.airflow.log(TRANSFORM, found["dag_run_id"], "take_pending")
    assert read_head(open_catalog(world.settings), FACT).snapshot_id == before
    [message] = wait_for(lambda: [m for m in world.webhook.told if "take_pending failed" in m["title"]], 30, "an alert")
    assert TRANSFORM in message["title"] and "fact_order" in message["text"]


def test_a_corrected_file_is_landed_by_clearing_its_run(world: World) -> None:
    write(world, DAYS)
    [run] = [each for each in world.airflow.runs(LAND) if each["run_type"] == "manual"]
    world.airflow.clear(LAND, run["dag_run_id"])
    wait_for(lambda: rows(world.settings, str(FACT)) == 30 * (DAYS + 1), 600, "the corrected day in silver")
    wait_for(lambda: marts_are_current(world.settings), 600, "the marts")
    world.airflow.wait_until_idle(LAND, TRANSFORM)
    last = world.airflow.runs(TRANSFORM)[-1]
    assert last["state"] == "success"
    extra = extra_of(world.airflow.events("landing.shop_orders")[-1])
    assert (extra["days"], extra["new"]) == ([day(DAYS).isoformat()], 1)
    extra = extra_of(world.airflow.events(str(FACT))[-1])
    assert (extra["rows_added"], extra["quality"]["good"]) == (30, 30)


@pytest.mark.parametrize(
    "conf",
    [
        {"table": "{{ var.value.secret }}"},
        {"table": "silver.fact_order; DROP TABLE silver.fact_order"},
        {"table": "--help"},
        {"table": None},
    ],
)
def test_a_form_takes_only_what_it_offers(conf: dict[str, Any], world: World) -> None:
    path = "/dags/rebuild_table/dagRuns"
    refused = world.airflow.status("POST", path, json={"logical_date": None, "conf": conf})
    assert refused == 400


def test_jinja_in_a_runs_conf_stays_text(world: World) -> None:
    """Whatever stands in conf beside the form's fields reaches no command, and is shown as it is."""
    text = "{{ conn.lakehouse_webhook.host }}"
    run = world.airflow.trigger("quality_docs", note=text)
    assert world.airflow.wait_for_run("quality_docs", run)["state"] == "success"
    assert world.airflow.run("quality_docs", run)["conf"]["note"] == text
    assert world.webhook.url.removeprefix("http://") not in world.airflow.log("quality_docs", run, "make_pages")
    assert (world.settings.home / "data-docs" / "index.html").exists()


def test_a_viewer_triggers_nothing(world: World) -> None:
    from tests.airflow.client import Airflow

    from lakehouse.stack import logins

    [viewer] = [login for login in logins(world.settings) if login.user == "viewer"]
    seen = Airflow(world.airflow.url, viewer.user, viewer.password)
    assert seen.status("GET", "/dags") == 200
    assert seen.status("POST", f"/dags/{LAND}/dagRuns", json={"logical_date": None}) == 403


def test_a_replay_waits_for_a_person_and_does_what_was_shown(world: World) -> None:
    """A rule that refuses the last order of each day; a person sees how many rows that concerns, and approves."""
    contract = world.settings.contracts / "shop" / "orders.yaml"
    rule = "    rules: [{name: not_too_much, check: amount < 29, description: Orders are small.}]\n    references:\n"
    contract.write_text(contract.read_text().replace("    references:\n", rule, 1))
    compile_for(world.settings)
    run = world.airflow.trigger("replay_table", table=str(FACT))
    shown = world.airflow.asked("replay_table", run)
    assert f"of {30 * (DAYS + 1)} rows 0 come in and {DAYS + 1} go out" in shown
    assert rows(world.settings, str(FACT)) == 30 * (DAYS + 1), "nothing is published before"
    assert world.airflow.approve("replay_table", run)["state"] == "success"
    assert rows(world.settings, str(FACT)) == 29 * (DAYS + 1)
    last = extra_of(world.airflow.events(str(FACT))[-1])
    published = read_head(open_catalog(world.settings), FACT).snapshot_id
    assert last == {"by": "replay", "approved_by": "admin (Airflow)", "snapshot_id": published}
    wait_for(lambda: marts_are_current(world.settings), 600, "the marts")


def back_up(world: World) -> str:
    """A set by its DAG; returns its id."""
    run = world.airflow.trigger("back_up_lake")
    assert world.airflow.wait_for_run("back_up_lake", run)["state"] == "success"
    made = world.airflow.returned("back_up_lake", run, "create")
    assert made["tables"] > 5
    return str(made["id"])


def test_a_drill_waits_for_approval_and_its_report_can_be_handed_on(world: World) -> None:
    set_id = back_up(world)
    run = world.airflow.trigger("drill_recovery")
    shown = world.airflow.asked("drill_recovery", run)
    assert "are restored into a scratch catalog" in shown and "Nothing of the lake is touched" in shown
    assert world.airflow.approve("drill_recovery", run)["state"] == "success"
    found = world.airflow.returned("drill_recovery", run, "drill")
    assert found["is_good"] and found["set_id"] >= set_id and found["set_id"] in shown
    report = world.airflow.page(found["page"])
    assert report.status_code == 200 and httpx.get(f"{world.airflow.url}/{found['page']}").status_code == 401
    who = world.airflow.user
    for words in ("Passed", found["set_id"], f"<dd>{who} (Airflow)</dd>", str(FACT), "Time to restore"):
        assert words in report.text, words
    assert f"<dt>Approved by</dt><dd>{who}</dd>" in report.text
    overview = wait_for(lambda: world.airflow.page_with("lakehouse/", found["id"]), 60, "the page to know of the drill")
    assert "passed" in overview and "Last complete set" in overview
    now = SystemClock().now()
    stands = read_status(Vault.open(world.settings, now), public_key_of(world.settings), Limits.of(world.settings), now)
    assert stands.drill and stands.drill.id == found["id"] and not has_scratch(world.settings)


def test_the_lake_is_restored_and_the_pipeline_goes_on(world: World) -> None:
    """To a set, and a day that landed after it is taken again."""
    world.airflow.wait_until_idle(LAND, TRANSFORM, GOLD)
    before, set_id = rows(world.settings, str(FACT)), back_up(world)
    write(world, DAYS + 1)
    run = world.airflow.trigger(LAND, first_day=day(DAYS + 1).isoformat())
    assert world.airflow.wait_for_run(LAND, run)["state"] == "success"
    wait_for(lambda: rows(world.settings, str(FACT)) == before + 29, 300, "the day in silver")
    wait_for(lambda: marts_are_current(world.settings), 300, "the marts")
    world.airflow.wait_until_idle(LAND, TRANSFORM, GOLD)
    whole = fingerprints(world.settings)
    form = {"what": "everything", "when": set_id, "reason": "the last day must be looked at"}
    run = world.airflow.trigger("restore_lake", **form)
    assert f"**{FACT}**: {before + 29} → {before} rows" in world.airflow.asked("restore_lake", run)
    assert fingerprints(world.settings) == whole, "nothing happens before"
    assert world.airflow.approve("restore_lake", run)["state"] == "success"
    done = world.airflow.returned("restore_lake", run, "confirm")
    assert str(FACT) in done["tables"] and done["verified"]["files"] > 10
    said = world.airflow.log("restore_lake", run, "report")
    assert form["reason"] in said and f"approved by {world.airflow.user}" in said
    wait_for(lambda: rows(world.settings, str(FACT)) == before + 29, 300, "the last day, taken again")
    wait_for(lambda: marts_are_current(world.settings), 300, "the marts")
    world.airflow.wait_until_idle(TRANSFORM, GOLD)
    assert fingerprints(world.settings) == whole, "no batch twice"


@pytest.mark.parametrize("wrong", [
    {"what": "--all"}, {"what": "silver; x"}, {"when": "{{ x }}"}, {"when": "--yes"}, {"reason": ""},
])  # fmt: skip
def test_a_form_of_a_restore_takes_only_what_it_means(wrong: dict[str, str], world: World) -> None:
    body = {"logical_date": None, "conf": {"what": "silver", "when": "", "reason": "because", **wrong}}
    assert world.airflow.status("POST", "/dags/restore_lake/dagRuns", json=body) == 400


def test_a_table_goes_back_in_time_and_a_dropped_one_comes_back(world: World) -> None:
    """By forms alone: a tag, what changed since a time, a rollback that is taken back, and a table that was dropped."""
    ended, whole = world.airflow.wait_for_run, fingerprints(world.settings)
    before, count = read_head(open_catalog(world.settings), FACT).snapshot_id, rows(world.settings, str(FACT))
    run = world.airflow.trigger("tag_tables", table=str(FACT), name="as-it-was")
    assert ended("tag_tables", run)["state"] == "success"
    open_catalog(world.settings).drop_table(str(FACT))
    run = world.airflow.trigger("undrop_table", table=str(FACT))
    shown = world.airflow.asked("undrop_table", run)
    assert f"**{FACT}** comes back" in shown and f"{count} rows" in shown
    assert load_table(open_catalog(world.settings), FACT) is None, "nothing happens before"
    assert world.airflow.approve("undrop_table", run)["state"] == "success"
    assert read_head(open_catalog(world.settings), FACT).snapshot_id == before
    last = extra_of(world.airflow.events(str(FACT))[-1])
    assert last == {"by": "undrop", "approved_by": f"{world.airflow.user} (Airflow)", "snapshot_id": before}
    run = world.airflow.trigger("rollback_table", table=str(FACT), to=day(0).isoformat(), reason="never published then")
    assert ended("rollback_table", run)["state"] == "failed"
    former = publications(existing_table(open_catalog(world.settings), FACT))[-2].snapshot.snapshot_id
    for to, snapshot in ((str(former), former), ("as-it-was", before)):
        run = world.airflow.trigger("rollback_table", table=str(FACT), to=to, reason="to see what it was")
        assert world.airflow.approve("rollback_table", run)["state"] == "success"
        assert read_head(open_catalog(world.settings), FACT).snapshot_id == snapshot
        said = {"from": "as-it-was"} if to != "as-it-was" else {"from": str(former), "to": "as-it-was"}
        run = world.airflow.trigger("compare_table", table=str(FACT), **said)
        assert ended("compare_table", run)["state"] == "success"
        assert "as-it-was" in world.airflow.log("compare_table", run, "snapshots")
        assert "29 removed" in (told := world.airflow.log("compare_table", run, "diff")) or "29 added" in told
    wait_for(lambda: marts_are_current(world.settings), 300, "the marts")
    world.airflow.wait_until_idle(TRANSFORM, GOLD)
    assert fingerprints(world.settings) == whole


def test_upkeep_says_what_it_did_and_changes_no_row(world: World) -> None:
    whole = fingerprints(world.settings)
    world.airflow.wait_until_idle("maintain_tables")
    run = world.airflow.trigger("maintain_tables")
    assert world.airflow.wait_for_run("maintain_tables", run)["state"] == "success"
    assert "lakehouse maintain" in world.airflow.log("maintain_tables", run, "maintain")
    assert fingerprints(world.settings) == whole


def test_the_tables_are_those_that_the_command_line_makes(world: World, tmp_path: Path) -> None:
    """The same files, landed and taken by the program alone, into a lake of its own."""
    mark = uuid.uuid4().hex[:12]
    apart = world.settings.model_copy(
        update={"catalog_database": f"lake_{mark}", "landing_bucket": f"l-{mark}", "warehouse_bucket": f"w-{mark}"}
    )
    roles.provision(apart, apart.postgres_port, credentials.load_or_create(world.settings).passwords)
    buckets.create(apart)
    told = {
        "LAKEHOUSE_CATALOG_DATABASE": apart.catalog_database,
        "LAKEHOUSE_LANDING_BUCKET": apart.landing_bucket,
        "LAKEHOUSE_WAREHOUSE_BUCKET": apart.warehouse_bucket,
    }
    for words in (("land",), ("run",)):
        subprocess.run(
            [sys.executable, "-m", "lakehouse.cli.main", *words],
            env={**os.environ, **told},
            check=True,
            cwd=tmp_path,
            capture_output=True,
        )
    assert fingerprints(apart) == fingerprints(world.settings)
    assert all(fingerprints(apart).values())
