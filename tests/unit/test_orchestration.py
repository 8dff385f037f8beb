"""Tasks without Airflow's machinery: what they run, what they make of answers, and that no text is ever code."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskDeferred

from lakehouse.contracts.index import Timing
from lakehouse.core import errors
from lakehouse.core.names import TableName
from lakehouse.core.process import PARENT
from lakehouse.core.settings import Settings
from lakehouse.orchestration import alerts, assets, dag_links, jobs, operators, upkeep
from lakehouse.orchestration.jobs import Answer
from lakehouse.orchestration.process import Child
from lakehouse.orchestration.reference import all_dags, project_index

LOG = logging.getLogger("tests.orchestration")
TIMING = Timing("Europe/London", 24, 2, 36)
HOSTILE = [
    "{{ var.value.secret }}",
    "{{ conn.lakehouse_slack.password }}",
    "x'; DROP TABLE silver.dim_customer; --",
    "$(touch /tmp/owned)",
    "; rm -rf ~",
    "--help",
    "../../etc/passwd",
    "a\nb",
    "silver.dim_customer --yes",
]


# --- processes -------------------------------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_what_a_program_says_to_people_and_to_programs_are_kept_apart() -> None:
    code = (
        "import sys; print('{\"a\": 1}'); print('hello', file=sys.stderr); print('\\udcff', file=sys.stderr); exit(3)"
    )
    child = Child(python(code), os.environ)
    assert next(iter(child.lines())) == "hello"
    assert child.wait() == (3, '{"a": 1}\n')
    child.close()


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_program_ends_with_all_that_it_started(stubborn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.orchestration.process._END_SECONDS", 0.5)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if stubborn else ""
    inner = f"import signal, time; {ignore} time.sleep(60)"
    code = (
        f"import signal, subprocess, sys, time; {ignore}"
        f"inner = subprocess.Popen([sys.executable, '-c', {inner!r}]);"
        "print(inner.pid, file=sys.stderr); time.sleep(60)"
    )
    child = Child(python(code), os.environ)
    grandchild = int(next(child.lines()))
    time.sleep(0.3)  # until the grandchild has said what it ignores
    child.end()
    assert child.wait()[0] in (-signal.SIGTERM, -signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_running(grandchild) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(grandchild)
    child.end()
    child.close()


def test_a_task_that_is_killed_ends_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        jobs, "command", lambda words: python("import sys, time; print('up', file=sys.stderr); time.sleep(60)")
    )
    task = operators.CommandOperator(task_id="t", words=("doctor",))
    threading.Timer(1.0, task.on_kill).start()
    started = time.monotonic()
    with pytest.raises(AirflowException, match="exit code -15"):
        task.run_command(["doctor"])
    assert time.monotonic() - started < 30


def test_the_program_is_given_all_but_what_is_airflows() -> None:
    inherited = {
        "PATH": "/bin",
        "LAKEHOUSE_HOME": "/home",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "secret",
        "AIRFLOW_CONN_LAKEHOUSE_SLACK": "secret",
        "_AIRFLOW__TASK": "secret",
    }
    given = jobs.environment("ada", inherited)
    assert given == {"PATH": "/bin", "LAKEHOUSE_HOME": "/home", PARENT: str(os.getpid()), "LAKEHOUSE_ACTOR": "ada"}
    assert "LAKEHOUSE_ACTOR" not in jobs.environment("", inherited)


def test_a_command_is_a_list_of_words_for_this_python() -> None:
    words = ["release", HOSTILE[3], f"--reason={HOSTILE[0]}"]
    assert jobs.command(words) == [sys.executable, "-m", "lakehouse.cli.main", *words]


def test_a_real_command_is_run_and_read() -> None:
    answer = jobs.run(["contract", "check", "--json"], LOG)
    assert (answer.code, answer.said["problems"]) == (0, [])
    refused = jobs.run(["land", "no.source"], LOG)
    assert refused.code == 2
    with pytest.raises(AirflowFailException, match="trying again cannot help"):
        refused.require()


def test_what_the_json_says_went_wrong_is_told_to_people(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [{"error": "GateFailed", "message": "silver.dim: a key stands twice\n  what to do: correct the file"}]
    code = f"print({json.dumps(json.dumps({'tables': [], 'errors': errors}))}); raise SystemExit(6)"
    monkeypatch.setattr(jobs, "command", lambda words: [sys.executable, "-c", code])
    answer = jobs.run(["run", "--json"], LOG)
    assert answer.last_lines == ("silver.dim: a key stands twice", "  what to do: correct the file")
    with pytest.raises(AirflowFailException, match=r"a key stands twice\n  what to do: correct the file"):
        answer.require()


# --- exit codes ------------------------------------------------------------------------------------------------------

FINAL = (
    errors.SettingsError,
    errors.ContractError,
    errors.SourceError,
    errors.GateFailed,
    errors.IntegrityError,
    errors.BatchesHeld,
)
PASSING = (errors.LakehouseError, errors.StackError, errors.TransientError, errors.TableBusy, errors.ConcurrentCommit)


@pytest.mark.parametrize("error", FINAL)
def test_what_cannot_be_helped_is_not_tried_again(error: type[errors.LakehouseError]) -> None:
    with pytest.raises(AirflowFailException, match="what happened"):
        Answer(error.exit_code, None, ("what happened",)).require()


@pytest.mark.parametrize("code", [*(error.exit_code for error in PASSING), -signal.SIGKILL, 137])
def test_what_may_pass_is_tried_again(code: int) -> None:
    with pytest.raises(AirflowException, match="what happened") as raised:
        Answer(code, None, ("what happened",)).require()
    assert not isinstance(raised.value, AirflowFailException)


def test_every_error_of_ours_is_judged() -> None:
    assert {each.exit_code for each in (*FINAL, *PASSING)} == {
        each.exit_code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.LakehouseError)
    }
    assert not [each for each in FINAL if each.is_retryable]


def test_a_source_that_was_away_is_tried_again() -> None:
    code = errors.SourceError.exit_code
    away = {"refused_files": [{"is_retryable": False}, {"is_retryable": True}]}
    with pytest.raises(AirflowException) as raised:
        Answer(code, away).require()
    assert not isinstance(raised.value, AirflowFailException)


# --- tasks -----------------------------------------------------------------------------------------------------------


@dataclass
class Event:
    extra: dict[str, Any] = field(default_factory=dict)
    added: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(self, asset: Asset, extra: dict[str, Any]) -> None:
        self.added.append((asset.name, extra))


class Events(dict[Any, Event]):
    def __missing__(self, key: Any) -> Event:
        self[key] = Event()
        return self[key]


@dataclass
class Told:
    """The commands that a task ran, each answered with the next of these answers."""

    answers: list[Answer]
    commands: list[tuple[str, ...]] = field(default_factory=list)
    actors: list[str] = field(default_factory=list)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found = Told([])

    def run(words: Any, log: Any, actor: str = "", started: Any = None) -> Answer:
        found.commands.append(tuple(words))
        found.actors.append(actor)
        return found.answers.pop(0)

    monkeypatch.setattr(jobs, "run", run)
    return found


def context(run_type: str = "scheduled", day: date = date(2024, 3, 31), **more: Any) -> dict[str, Any]:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    run = SimpleNamespace(
        run_type=run_type,
        logical_date=start,
        data_interval_start=start,
        data_interval_end=start + more.pop("interval", timedelta(days=1)),
        start_date=start + timedelta(days=1),
        triggering_user_name=more.pop("user", None),
    )
    task = SimpleNamespace(try_number=more.pop("attempt", 1))
    return {"dag_run": run, "ti": task, "params": more.pop("params", {}), "outlet_events": Events(), **more}


def unit(**given: Any) -> dict[str, Any]:
    return {
        "source": "retail.sales", "unit": "2024-03-31", "status": "landed", "batch": 7, "files": 1,
        "size_bytes": 10, "records": 3, **given,
    }  # fmt: skip


def report(table: str, snapshot: int | None, **given: Any) -> dict[str, Any]:
    return {"table": table, "snapshot_id": snapshot, "quarantined": 0, "refusals": [], **given}


def landing(**given: Any) -> operators.LandOperator:
    options = {"source": "retail.sales", "timing": TIMING, "is_feed": False, **given}
    return operators.LandOperator(task_id="land", asset=assets.landing("retail.sales"), **options)


def words_of(told: Told) -> list[str]:
    return [" ".join(words) for words in told.commands]


def test_a_dated_run_lands_its_day_and_says_what_landed(told: Told) -> None:
    told.answers = [Answer(0, {"units": [unit()]})]
    running = context()
    landing().execute(running)
    assert words_of(told) == ["land retail.sales --json --from 2024-03-31 --to 2024-03-31"]
    assert running["outlet_events"][assets.landing("retail.sales")].extra == {
        "days": ["2024-03-31"], "batches": [7], "new": 1, "files": 1, "bytes": 10, "records": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "days"),
    [
        ({"run_type": "backfill"}, "--from 2024-03-31 --to 2024-03-31"),
        ({"interval": timedelta(days=7)}, "--from 2024-03-31 --to 2024-04-06"),
        ({"interval": timedelta(hours=6)}, "--from 2024-03-31 --to 2024-03-31"),
        ({"run_type": "manual"}, ""),
        ({"run_type": "manual", "params": {"first_day": "2024-01-02"}}, "--from 2024-01-02 --to 2024-01-02"),
        ({"run_type": "manual", "params": {"last_day": "2024-01-02"}}, "--from 2024-01-02 --to 2024-01-02"),
        (
            {"params": {"first_day": "2024-01-02", "last_day": "2024-01-05"}},
            "--from 2024-01-02 --to 2024-01-05",
        ),
    ],
)
def test_which_days_a_run_lands(given: dict[str, Any], days: str, told: Told) -> None:
    told.answers = [Answer(0, {"units": [unit()]})]
    landing().execute(context(**given))
    assert words_of(told) == [f"land retail.sales --json {days}".strip()]


def test_a_feed_is_read_up_to_now_whatever_the_day(told: Told) -> None:
    told.answers = [Answer(0, {"units": [unit()]})]
    landing(is_feed=True).execute(context())
    assert words_of(told) == ["land retail.sales --json"]


def test_a_run_without_anything_to_land_is_skipped(told: Told) -> None:
    told.answers = [Answer(0, {"units": []})]
    with pytest.raises(AirflowSkipException, match="nothing of retail.sales is there to land for 2024-03-31"):
        landing().execute(context())


def test_what_has_landed_already_is_told_again(told: Told) -> None:
    """An attempt that was killed after it landed has told nobody."""
    told.answers = [Answer(0, {"units": [unit(status="unchanged")]})]
    running = context()
    landing().execute(running)
    assert running["outlet_events"][assets.landing("retail.sales")].extra["new"] == 0


def test_a_scheduled_run_waits_until_its_day_is_over_where_the_source_is(told: Told) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    with pytest.raises(TaskDeferred) as deferred:
        landing().execute(context(day=tomorrow))
    assert deferred.value.method_name == "land"
    assert told.commands == []
    told.answers = [Answer(0, {"units": [unit()]})] * 2
    running = context(day=tomorrow)
    landing().land(running, event=None)
    landing().execute(context(run_type="backfill", day=tomorrow))
    assert len(told.commands) == 2


@pytest.mark.parametrize(
    ("zone", "day", "due"),
    [
        ("UTC", date(2024, 3, 31), datetime(2024, 4, 1, 2, tzinfo=UTC)),
        ("Europe/London", date(2024, 3, 31), datetime(2024, 4, 1, 1, tzinfo=UTC)),
        ("America/Los_Angeles", date(2024, 3, 31), datetime(2024, 4, 1, 9, tzinfo=UTC)),
        ("Asia/Tokyo", date(2024, 3, 31), datetime(2024, 3, 31, 17, tzinfo=UTC)),
    ],
)
def test_when_the_data_of_a_day_are_expected(zone: str, day: date, due: datetime) -> None:
    assert operators.due_at((day, day), Timing(zone, 24, 2, 36)) == due
    assert operators.due_at((day, day), Timing(zone, 6, 2, 36)) is None


@pytest.mark.parametrize("text", [*HOSTILE, "2024-02-30", 20240331])
def test_what_is_no_day_never_reaches_a_command(text: Any, told: Told) -> None:
    with pytest.raises(AirflowFailException, match="is no date"):
        landing().execute(context(run_type="manual", params={"first_day": text}))
    assert told.commands == []


def test_days_in_the_wrong_order_are_refused(told: Told) -> None:
    with pytest.raises(AirflowFailException, match="is after the last"):
        landing().execute(context(params={"first_day": "2024-01-05", "last_day": "2024-01-02"}))


def test_events_are_of_tables_that_changed_and_of_no_other(told: Told) -> None:
    outlets = [assets.table(name) for name in ("bronze.s", "silver.a", "silver.b", "quarantine.a", "quarantine.b")]
    refusal = {"rule": "not_null", "rows": 2}
    told.answers = [
        Answer(
            0,
            {
                "tables": [
                    report("bronze.s", 5, received=9, rows_added=9, seconds=1.5),
                    report("silver.a", 6, received=9, good=7, quarantined=2, refusals=[refusal], warned={"w": 1}),
                    report("silver.b", None),
                ]
            },
        )
    ]
    task = operators.TakePendingOperator(task_id="t", arguments=("s", "--no-gold"), outlets=outlets)
    running = context()
    task.execute(running)
    assert words_of(told) == ["run s --no-gold --json"]
    assert [asset.name for asset in task.outlets] == ["bronze.s", "silver.a", "quarantine.a"]
    said = {asset.name: event.extra for asset, event in running["outlet_events"].items()}
    assert said == {
        "bronze.s": {"snapshot_id": 5, "rows_added": 9, "seconds": 1.5, "quality": {"received": 9}},
        "silver.a": {"snapshot_id": 6, "quality": {"received": 9, "good": 7, "quarantined": 2, "warned": {"w": 1}}},
        "quarantine.a": {"rows": 2, "rules": {"not_null": 2}},
    }


def test_what_a_killed_attempt_published_is_told_by_the_next_one(told: Told) -> None:
    outlets = [assets.table(name) for name in ("bronze.s", "silver.a", "silver.b")]
    tables = [
        {"table": "bronze.s", "snapshot_id": 4, "rows": 9, "committed_at": "2024-04-01 00:00:05+00:00"},
        {"table": "silver.a", "snapshot_id": 5, "rows": 8, "committed_at": "2024-04-01 00:00:06+00:00"},
        {"table": "silver.b", "snapshot_id": 3, "rows": 7, "committed_at": "2024-03-31 23:59:59+00:00"},
        {"table": "silver.c", "snapshot_id": None, "rows": 0, "committed_at": None},
    ]
    told.answers = [Answer(0, {"tables": [report("silver.a", 6)]}), Answer(0, tables)]
    task = operators.TakePendingOperator(task_id="t", arguments=("s",), outlets=outlets)
    running = context(attempt=2)
    task.execute(running)
    said = {asset.name: event.extra["snapshot_id"] for asset, event in running["outlet_events"].items()}
    assert said == {"bronze.s": 4, "silver.a": 6}
    told.answers = [Answer(0, {"tables": []}), Answer(0, tables)]
    task = operators.TakePendingOperator(task_id="t", arguments=("s",), outlets=outlets)
    task.execute(context(attempt=2))
    assert [asset.name for asset in task.outlets] == ["bronze.s", "silver.a"]


def test_what_is_held_does_not_stop_the_rest(told: Told) -> None:
    told.answers = [
        Answer(9, {"tables": [report("silver.a", 6)]}),
        Answer(9, {"tables": []}),
        Answer(6, {"tables": []}),
    ]
    task = operators.TakePendingOperator(task_id="t", arguments=("s",), outlets=[assets.table("silver.a")])
    task.execute(context())
    with pytest.raises(AirflowSkipException, match="nothing was pending"):
        task.execute(context())
    with pytest.raises(AirflowFailException):
        task.execute(context())


def test_a_hold_of_a_rule_fails_and_says_what_to_do(told: Told) -> None:
    hold = {"name": "s.t#3", "unit": "2024-03-31", "table": "silver.a", "reason": "too few rows", "is_automatic": True}
    told.answers = [Answer(0, [hold]), Answer(0, [{**hold, "is_automatic": False}]), Answer(0, [])]
    task = operators.HeldOperator(task_id="t", source="s.t")
    with pytest.raises(AirflowFailException, match="s.t#3 .2024-03-31., silver.a: too few rows"):
        task.execute(context())
    task.execute(context())
    task.execute(context())


REBUILD = {
    "table": "silver.dim_customer", "token": "abc", "published": None, "quarantined": {"before": 1, "after": 2},
    "difference": {"added": 1, "removed": 0, "changed": 2, "same": 9, "columns_added": ["x"], "columns_removed": []},
}  # fmt: skip


def test_only_what_was_looked_at_is_confirmed(told: Told) -> None:
    dag = all_dags(project_index())["rebuild_table"]
    look, confirm = dag.get_task("look"), dag.get_task("confirm")
    told.answers = [Answer(0, REBUILD), Answer(0, {**REBUILD, "published": 77})]
    seen = look.execute(context(params={"table": "silver.dim_customer"}))
    assert seen["token"] == "abc"
    assert "rows added: 1, removed: 0, changed: 2" in seen["summary"] and "columns added: x" in seen["summary"]
    running = context(ti=SimpleNamespace(xcom_pull=lambda task_ids: {"look": seen, "approve": APPROVED}[task_ids]))
    confirm.execute(running)
    assert words_of(told) == [
        "rebuild silver.dim_customer --dry-run --json",
        "rebuild silver.dim_customer --yes --if-seen abc --json",
    ]
    added = running["outlet_events"][operators.ConfirmOperator.PUBLISHED].added
    assert added == [("silver.dim_customer", {"by": "rebuild", "approved_by": "grace (Airflow)", "snapshot_id": 77})]


def test_where_nothing_would_change_nobody_is_asked(told: Told) -> None:
    nothing = {**REBUILD["difference"], "added": 0, "changed": 0, "columns_added": []}  # type: ignore[dict-item]
    told.answers = [Answer(0, {**REBUILD, "difference": nothing}), Answer(0, {"table": "silver.x", "verdicts": None})]
    dags = all_dags(project_index())
    for dag_id in ("rebuild_table", "replay_table"):
        with pytest.raises(AirflowSkipException):
            dags[dag_id].get_task("look").execute(context(params={"table": "silver.dim_customer"}))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    ("dag_id", "param"), [("rebuild_table", "table"), ("replay_table", "table"), ("trim_bronze", "source")]
)
def test_names_of_a_form_are_checked_again_by_the_task(dag_id: str, param: str, text: str, told: Told) -> None:
    task = all_dags(project_index())[dag_id].get_task("look")
    with pytest.raises((AirflowFailException, errors.ContractError)):
        task.execute(context(params={param: text, "before": None}))
    assert told.commands == []


def test_upkeep_says_what_was_done_and_skips_where_nothing_is(told: Told) -> None:
    task = all_dags(project_index())["maintain_tables"].get_task("maintain")
    some = {"tables": 3, "needs": [{"table": "silver.a"}], "done": [{"table": "silver.a"}]}
    told.answers = [Answer(0, some), Answer(0, {**some, "done": None}), Answer(0, {**some, "needs": [], "done": []})]
    task.execute(context(params={"table": None, "max_delete": 100, "dry_run": False}))
    task.execute(context(params={"table": "silver.a", "max_delete": 0, "dry_run": True}))
    with pytest.raises(AirflowSkipException, match="nothing is to be done for 3 tables"):
        task.execute(context(params={"table": None, "max_delete": 100, "dry_run": False}))
    assert words_of(told) == [
        "maintain --max-delete=100 --json",
        "maintain silver.a --max-delete=0 --dry-run --json",
        "maintain --max-delete=100 --json",
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_upkeep_takes_a_table_and_a_number_or_nothing(text: str, told: Told) -> None:
    task = all_dags(project_index())["maintain_tables"].get_task("maintain")
    for params in ({"table": text, "max_delete": 1}, {"table": None, "max_delete": text}):
        with pytest.raises(AirflowFailException):
            task.execute(context(params={**params, "dry_run": False}))
    assert told.commands == []


APPROVED = {"chosen_options": ["Approve"], "responded_by_user": {"id": "3", "name": "grace"}}
ROLLBACK = {
    "table": "silver.dim_customer", "token": "abc", "is_empty": False, "published": None,
    "to": {"snapshot_id": 7, "at": "2024-03-31T14:05:00+00:00"}, "rows": {"before": 1214, "after": 1187},
    "batches": {"lost": [9, 10], "release": [], "drops": [4]},
}  # fmt: skip


def test_a_rollback_is_looked_at_and_marts_follow(told: Told) -> None:
    dag = all_dags(project_index())["rollback_table"]
    look, confirm = dag.get_task("look"), dag.get_task("confirm")
    told.answers = [Answer(0, ROLLBACK), Answer(0, {**ROLLBACK, "published": 7})]
    asked = {"table": "silver.dim_customer", "to": "2024-03-31T14:05:00", "reason": "shifted by a row"}
    seen = look.execute(context(params=asked))
    assert "rows: 1,214 → 1,187" in seen["summary"]
    assert "leave the table, and are held: #9, #10" in seen["summary"] and "come back" not in seen["summary"]
    running = context(ti=SimpleNamespace(xcom_pull=lambda task_ids: {"look": seen, "approve": APPROVED}[task_ids]))
    confirm.execute(running)
    given = ("rollback", "silver.dim_customer", "--to=2024-03-31T14:05:00", "--reason=shifted by a row")
    assert told.commands == [(*given, "--dry-run", "--json"), (*given, "--yes", "--if-seen", "abc", "--json")]
    added = running["outlet_events"][operators.ConfirmOperator.PUBLISHED].added
    assert added == [("silver.dim_customer", {"by": "rollback", "approved_by": "grace (Airflow)", "snapshot_id": 7})]
    assert told.actors == ["", "grace (Airflow)"]
    told.answers = [Answer(0, {**ROLLBACK, "is_empty": True})]
    with pytest.raises(AirflowSkipException):
        look.execute(context(params=asked))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_rollback_goes_to_a_time_a_snapshot_or_a_tag(text: str, told: Told) -> None:
    task = all_dags(project_index())["rollback_table"].get_task("look")
    for params in ({"table": text, "to": "7"}, {"table": "silver.dim_customer", "to": text}):
        with pytest.raises((AirflowFailException, errors.ContractError)):
            task.execute(context(params={**params, "reason": "because"}))
    assert told.commands == []


DROPPED = {
    "table": "silver.dim_customer", "metadata_location": "s3://warehouse/silver/dim_customer/metadata/7.json",
    "updated_at": "2024-03-31T14:05:00+00:00", "rows": 1214, "snapshot_id": 7, "files": 31,
    "lost_of_older_snapshots": [],
}  # fmt: skip


def test_a_dropped_table_comes_back_out_of_the_file_that_was_shown(told: Told) -> None:
    dag = all_dags(project_index())["undrop_table"]
    look, confirm = dag.get_task("look"), dag.get_task("confirm")
    told.answers = [Answer(0, DROPPED), Answer(0, DROPPED)]
    seen = look.execute(context(params={"table": "silver.dim_customer"}))
    assert "1,214 rows; all of its 31 files are there" in seen["summary"] and "gone" not in seen["summary"]
    running = context(ti=SimpleNamespace(xcom_pull=lambda task_ids: {"look": seen, "approve": APPROVED}[task_ids]))
    confirm.execute(running)
    given = ("undrop", "silver.dim_customer")
    metadata = f"--metadata={DROPPED['metadata_location']}"
    assert told.commands == [(*given, "--dry-run", "--json"), (*given, metadata, "--json")]
    assert told.actors == ["", "grace (Airflow)"]
    extra = {"by": "undrop", "approved_by": "grace (Airflow)", "snapshot_id": 7}
    added = running["outlet_events"][operators.ConfirmOperator.PUBLISHED].added
    assert added == [("silver.dim_customer", extra), ("landing.retail_sales", extra)]
    told.answers = [Answer(0, {**DROPPED, "lost_of_older_snapshots": ["a", "b"]})]
    assert "2 files of former snapshots are gone" in look.execute(context(params={"table": "silver.x"}))["summary"]


NO_TAG = {"table": None, "name": None, "at": None, "keep": None}


def test_tags_are_those_that_are_due_or_the_one_that_is_asked_for(told: Told) -> None:
    task = all_dags(project_index())["tag_tables"].get_task("tag")
    told.answers = [Answer(0, None)] * 3
    for asked in (
        {},
        {"table": "gold.x", "name": "before"},
        {"table": "gold.x", "name": "v1", "at": "7", "keep": "2d"},
    ):
        task.execute(context(params=NO_TAG | asked))
    assert words_of(told) == ["tag --due", "tag gold.x before", "tag gold.x v1 --at=7 --keep=2d"]


@pytest.mark.parametrize("asked", [{"table": "gold.x"}, {"name": "before"}, {"at": "7"}, {"keep": "2d"}])
def test_half_a_tag_is_no_tag(asked: dict[str, str], told: Told) -> None:
    with pytest.raises(AirflowFailException, match="needs a table and a name"):
        all_dags(project_index())["tag_tables"].get_task("tag").execute(context(params=NO_TAG | asked))
    assert told.commands == []


def test_two_times_of_a_table_are_compared(told: Told) -> None:
    dag = all_dags(project_index())["compare_table"]
    told.answers = [Answer(0, None)] * 4
    for since, until in (("2024-03-31", None), ("before", "7")):
        for name in ("snapshots", "diff"):
            dag.get_task(name).execute(context(params={"table": "silver.dim_customer", "from": since, "to": until}))
    assert words_of(told) == [
        "snapshots silver.dim_customer",
        "diff silver.dim_customer --from=2024-03-31",
        "snapshots silver.dim_customer",
        "diff silver.dim_customer --from=before --to=7",
    ]
    with pytest.raises(AirflowSkipException, match="the log of `snapshots`"):
        dag.get_task("diff").execute(context(params={"table": "silver.dim_customer", "from": None, "to": None}))


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_form_about_time_becomes_an_option(text: str, told: Told) -> None:
    dags, right = all_dags(project_index()), {"table": "silver.dim_customer", "from": "7", "to": None}
    for task, params in (
        (dags["undrop_table"].get_task("look"), {"table": text}),
        *((dags["compare_table"].get_task("diff"), right | {name: text}) for name in ("table", "from", "to")),
        *((dags["tag_tables"].get_task("tag"), NO_TAG | {"table": "a.b", "name": "c", name: text}) for name in NO_TAG),
    ):
        with pytest.raises((AirflowFailException, errors.ContractError)):
            task.execute(context(params=params))
    assert told.commands == []


@pytest.mark.parametrize("text", HOSTILE)
def test_a_decision_is_about_a_batch_of_ours_or_is_refused(text: str, told: Told) -> None:
    task = all_dags(project_index())["decide_batch"].get_task("decide")
    for params in ({"batch": text, "action": "release"}, {"batch": "crm.catalogue#1", "action": text}):
        with pytest.raises(AirflowFailException, match="is no decision"):
            task.execute(context(params={**params, "reason": "because"}))
    assert told.commands == []


@pytest.mark.parametrize("reason", HOSTILE)
def test_a_reason_stays_the_text_that_it_is(reason: str, told: Told) -> None:
    told.answers = [Answer(0, None), Answer(0, None)]
    task = all_dags(project_index())["decide_batch"].get_task("decide")
    running = context("manual", user="ada", params={"batch": "crm.catalogue#1", "action": "release", "reason": reason})
    task.execute(running)
    assert told.commands == [("release", "crm.catalogue#1", f"--reason={reason}")]
    assert told.actors == ["ada (Airflow)"]
    [(asset, extra)] = running["outlet_events"][operators.DecideOperator.DECIDED].added
    assert (asset, extra["decided"], extra["by"]) == ("landing.crm_catalogue", "release", "ada (Airflow)")
    running["params"]["action"] = "discard"
    task.execute(running)
    assert told.commands[1][-1] == "--yes"


def test_only_sources_of_dimensions_are_trimmed() -> None:
    assert upkeep.trimmable(project_index()) == ["crm.catalogue", "crm.customers"]


def test_a_trim_of_a_day_is_of_that_day(told: Told) -> None:
    told.answers = [
        Answer(
            0,
            {"source": "crm.catalogue", "before": "2024-01-01", "batches": [1, 2], "rows": 9, "kept": {}, "token": "t"},
        )
    ]
    task = all_dags(project_index())["trim_bronze"].get_task("look")
    seen = task.execute(context(params={"source": "crm.catalogue", "before": "2024-01-01"}))
    assert told.commands == [("trim", "crm.catalogue", "--before=2024-01-01", "--dry-run", "--json")]
    assert "2 batches of **crm.catalogue** with 9 rows" in seen["summary"]


# --- alerts ----------------------------------------------------------------------------------------------------------


def failed(text: str) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="land_x", task_id="land", run_id="manual__1", try_number=4, log_url="http://log")
    return {"ti": ti, "exception": AirflowException(text)}


def test_nobody_is_told_unless_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.core.settings.load_settings", Settings)
    monkeypatch.setattr(alerts, "_notify", lambda notifier: pytest.fail("somebody was told"))
    alerts.tell_failure(failed("x"))
    alerts.tell_late({"dag_run": {"dag_id": "land_x"}})


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_told_is_text_and_no_template(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        "lakehouse.core.settings.load_settings",
        lambda: Settings(alerts="slack, smtp,webhook", alerts_to="a@b.c, d@e.f"),
    )
    monkeypatch.setattr(alerts, "_notify", sent.append)
    alerts.tell_failure(failed(text))
    slack, smtp, webhook = sent
    assert text in slack.text and text in webhook.json["text"]
    assert (smtp.to, smtp.subject) == (["a@b.c", "d@e.f"], "land_x: land failed")
    assert "<pre>" in smtp.html_content and "<b>" not in smtp.html_content
    assert (slack.slack_webhook_conn_id, smtp.smtp_conn_id, webhook.http_conn_id) == tuple(alerts.CONNECTIONS.values())


def test_sending_renders_nothing() -> None:
    seen: list[str] = []

    @dataclass
    class Notifier:
        text: str

        def __call__(self, context: Any) -> None:
            pytest.fail("calling a notifier renders its fields")

        def notify(self, context: Any) -> None:
            seen.append(self.text)

    alerts._notify(Notifier("{{ 7 * 7 }}"))
    assert seen == ["{{ 7 * 7 }}"]


def test_a_way_that_does_not_work_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[str] = []

    def broken(message: Any, settings: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr("lakehouse.core.settings.load_settings", lambda: Settings(alerts="slack,webhook"))
    monkeypatch.setitem(alerts._WAYS, "slack", broken)
    monkeypatch.setitem(alerts._WAYS, "webhook", lambda message, settings: sent.append(message.plain))
    alerts.tell_late({"dag_run": {"dag_id": "land_x", "dag_run_id": "scheduled__1", "state": "running"}})
    assert sent == [
        "land_x is late\nrun: scheduled__1\nstate: running\nIts data will be older than the contract allows."
    ]
    assert "lakehouse_slack" in caplog.text


@pytest.mark.parametrize("value", ["carrier pigeon", "slack,pager"])
def test_unknown_ways_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="knows slack, smtp and webhook"):
        Settings(alerts=value)


# --- assets ----------------------------------------------------------------------------------------------------------


def test_assets_are_named_as_the_tables_are() -> None:
    asset = assets.table("silver.dim_customer")
    assert (asset.name, asset.uri, asset.group) == (
        "silver.dim_customer",
        "x-lakehouse://silver/dim_customer",
        "silver",
    )
    assert assets.landing("retail.sales").name == "landing.retail_sales"
    made = [asset.name for asset in assets.made_by(project_index().datasets["crm.catalogue"])]
    assert made == ["bronze.crm_catalogue", "silver.dim_catalogue_product", "quarantine.dim_catalogue_product"]


def test_dags_are_looked_for_by_the_assets_that_they_have() -> None:
    """The page asks Airflow's database for names of assets: they are those of the tasks."""
    table = TableName("silver", "dim_catalogue_product")
    asked = {why: query.compile().params for why, query in dag_links._asked(table, "crm.catalogue")}
    dags = all_dags(project_index())
    made = {asset.name for task in dags["transform_crm_catalogue"].tasks for asset in task.outlets}
    landed = {asset.name for task in dags["land_crm_catalogue"].tasks for asset in task.outlets}
    for why in (dag_links.WRITES, dag_links.STARTS, dag_links.READS):
        assert set(asked[why].values()) & made == {str(table)}
    assert set(asked[f"{dag_links.LANDS} crm.catalogue"].values()) & landed == {"landing.crm_catalogue"} == landed
