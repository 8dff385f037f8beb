"""Tasks of backups, drills and restores: what they run, what they make of answers, and that no text is ever code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from tests.unit.test_orchestration import HOSTILE, Told, context, told, words_of

from lakehouse.contracts.index import Index, Operation
from lakehouse.core.settings import Settings
from lakehouse.orchestration import recovery, recovery_tasks
from lakehouse.orchestration.jobs import Answer
from lakehouse.orchestration.operators import ConfirmOperator
from lakehouse.orchestration.recovery_tasks import VERIFIED, restore_words, who_approved
from lakehouse.orchestration.reference import all_dags, project_index

__all__ = ["told"]
DAGS = all_dags(project_index())
PLACE = Settings(backup_bucket="lake-backups")
SET = "20260304T115500Z-4567cdef"
STANDS = Answer(0, {"set": {"id": SET}, "databases": None, "overdue": []})
NO_SET = Answer(7, {"set": None, "databases": {"base": None}, "overdue": ["there is none"]})
ONLY_A_BASE = Answer(7, {"set": None, "databases": {"base": {"id": SET}}, "overdue": ["there is none"]})
LOOKED = {"tables": ["silver.dim_customer"], "set": SET, "summary": "…"}
APPROVED = {"chosen_options": ["Approve"], "responded_by_user": {"id": "1", "name": "grace"}}
DRILLED: dict[str, Any] = {
    "id": "20260304T120000Z-0123abcd", "set_id": SET, "is_good": True, "rto_all_seconds": 61.0, "rpo_seconds": 300.0,
    "problems": [],
}  # fmt: skip
PLAN: dict[str, Any] = {
    "token": "abc", "is_empty": False, "set": SET, "at": None, "seconds": 12.4,
    "tables": [
        {"table": "silver.dim_customer", "rows_before": 10, "rows_after": 9, "is_new": False},
        {"table": "gold.sales_star", "rows_before": None, "rows_after": 5, "is_new": True},
    ],
    "copy": {"files": 3, "bytes": 4096}, "logs": {"entries": 2, "landed_files": 1, "bytes": 10},
}  # fmt: skip


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a place for backups."""
    monkeypatch.setattr("lakehouse.core.settings.load_settings", lambda: PLACE)


class Ti(SimpleNamespace):
    """What a task knows of others, and what it leaves for them."""

    def xcom_pull(self, task_ids: str) -> Any:
        return self.known.get(task_ids)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed = value


def task(dag: str, name: str) -> Any:
    return DAGS[dag].get_task(name)


def test_where_no_place_is_configured_every_task_of_backups_is_skipped(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.core.settings.load_settings", Settings)
    skipped = 0
    for dag in recovery.recovery_dags(project_index()).values():
        for each in dag.tasks:
            if isinstance(each, recovery_tasks.BackupOperator):
                skipped += 1
                with pytest.raises(AirflowSkipException, match="LAKEHOUSE_BACKUP_BUCKET"):
                    each.execute(context(ti=Ti(known={}), params={"tables": ""}))
    assert skipped == 6 and told.commands == []


def test_increments_are_frequent_enough_for_the_goal() -> None:
    assert DAGS["back_up_lake"].timetable.expression == "*/10 * * * *"  # type: ignore[attr-defined]
    assert DAGS["back_up_lake"].max_active_runs == 1
    assert recovery.BACK_UP_MINUTES < Settings().backup_rpo_minutes, "making a set takes time, too"


def test_a_set_is_made_and_told(told: Told) -> None:
    names = ("id", "cut_at", "finished_at", "tables", "files", "size_bytes", "new_files", "new_bytes")
    told.answers = [
        Answer(0, {**dict.fromkeys(names, 1), "signature": "x"}),
        Answer(8, None, ("somebody else makes one",)),
    ]
    assert task("back_up_lake", "create").execute(context()).keys() == set(names)
    with pytest.raises(AirflowException, match="trying again may help"):
        task("back_up_lake", "create").execute(context())
    assert words_of(told) == ["backup create --json"] * 2


def test_a_verification_names_what_is_damaged_and_old_sets_go_only_after_a_good_one(told: Told) -> None:
    damage = {"key": "objects/a", "kind": "data", "problem": "it is missing", "tables": ["silver.dim_customer"]}
    told.answers = [
        STANDS,
        Answer(7, {"set_id": SET, "damages": [damage] * 60}, ("60 files are missing or damaged",)),
        STANDS,
        Answer(7, None, ("a set's manifest was not signed with our key",)),
        STANDS,
        Answer(0, {"set_id": SET, "files": 9, "read": 4, "damages": []}),
    ]
    verify = task("verify_backups", "verify")
    with pytest.raises(AirflowFailException, match=r"objects/a \(data\): it is missing; hurts silver.dim_customer"):
        verify.execute(context())
    with pytest.raises(AirflowFailException, match="was not signed with our key"):
        verify.execute(context())
    running = context()
    verify.execute(running)
    assert running["outlet_events"][VERIFIED].extra == {"set_id": SET, "files": 9, "read": 4}
    [asset] = DAGS["prune_backups"].timetable.asset_condition.objects  # type: ignore[attr-defined]
    assert asset.name == VERIFIED.name and verify.outlets == [VERIFIED]


def test_the_databases_are_backed_up_each_day_before_they_are_verified_and_no_set_waits(told: Told) -> None:
    told.answers = [Answer(0, {"id": SET, "finished_at": "…", "size_bytes": 9, "stored_bytes": 3, "signature": "x"})]
    base = task("back_up_databases", "base_backup")
    assert base.execute(context()) == {"id": SET, "finished_at": "…", "size_bytes": 9, "stored_bytes": 3}
    assert words_of(told) == ["backup databases --json"]
    assert base.pool != task("back_up_lake", "create").pool, "a set would wait for it there"
    base_cron, verify_cron = (
        str(getattr(DAGS[dag].timetable, "expression", "")).split() for dag in ("back_up_databases", "verify_backups")
    )
    assert base_cron[2:] == ["*"] * 3 and int(base_cron[1]) < int(verify_cron[1])


def test_a_server_that_does_not_archive_fails_and_one_of_somebody_else_is_skipped(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.answers = [Answer(5, None, ("PostgreSQL does not archive its log", "run `lakehouse up`"))]
    with pytest.raises(AirflowException, match="does not archive its log"):
        task("back_up_databases", "base_backup").execute(context())
    for theirs in ({"postgres_server": "external"}, {"postgres_host": "db.example.com"}):
        given = Settings(backup_bucket="lake-backups", **theirs)  # type: ignore[arg-type]
        monkeypatch.setattr("lakehouse.core.settings.load_settings", lambda given=given: given)
        with pytest.raises(AirflowSkipException, match="PostgreSQL is not the local stack's"):
            task("back_up_databases", "base_backup").execute(context())
    assert len(told.commands) == 1


def test_base_backups_are_verified_before_there_is_a_set(told: Told) -> None:
    damage = {"key": "databases/wal/1/a", "kind": "wal", "problem": "it is missing", "tables": []}
    none = {"set_id": "", "files": 0, "read": 0, "damages": []}
    told.answers = [
        ONLY_A_BASE,
        Answer(7, {**none, "databases": [{"damages": [damage]}]}, ("1 files of the databases' backups",)),
        ONLY_A_BASE,
        Answer(0, {**none, "databases": [{"damages": []}]}),
    ]
    verify, running = task("verify_backups", "verify"), context()
    with pytest.raises(AirflowFailException, match=r"databases/wal/1/a \(wal\): it is missing"):
        verify.execute(context())
    verify.execute(running)
    assert running["outlet_events"][VERIFIED].extra == {"set_id": "", "files": 0, "read": 0}


def test_pruning_is_skipped_where_every_set_stays(told: Told) -> None:
    told.answers = [Answer(0, {"sets": [{"set_id": SET}], "is_removed": done}) for done in (True, False)]
    task("prune_backups", "prune").execute(context())
    with pytest.raises(AirflowSkipException):
        task("prune_backups", "prune").execute(context())
    assert words_of(told) == ["backup prune --yes --json"] * 2


def test_what_is_overdue_fails_and_so_alerts(told: Told) -> None:
    late = Answer(7, {"set": {"id": SET}, "overdue": ["the last good drill was 9 d ago"]})
    told.answers = [STANDS, late, Answer(7, None, ("not ours",))]
    watch = task("watch_backups", "on_time")
    watch.execute(context())
    with pytest.raises(AirflowFailException, match="the last good drill was 9 d ago"):
        watch.execute(context())
    with pytest.raises(AirflowFailException, match="not ours"):
        watch.execute(context())
    assert watch.on_failure_callback


def test_before_the_first_set_nothing_is_looked_at_and_once_nobody_is_told(told: Told) -> None:
    for dag, name in (("verify_backups", "verify"), ("drill_recovery", "look"), ("watch_backups", "on_time")):
        told.answers = [NO_SET]
        with pytest.raises(AirflowSkipException, match="no backup set is complete yet"):
            task(dag, name).execute(context(params={"tables": ""}))
    told.answers = [NO_SET]
    with pytest.raises(AirflowFailException, match="there is none"):
        task("watch_backups", "on_time").execute(context(prev_start_date_success="2024-03-30"))
    assert set(words_of(told)) == {"backup status --json"}


def test_damage_in_the_lake_is_named(told: Told) -> None:
    damage = {"uri": "s3://warehouse/a", "kind": "manifest", "problem": "it is missing", "tables": []}
    told.answers = [Answer(0, {"damages": []}), Answer(7, {"damages": [damage]}, ("1 file",))]
    task("check_lake", "fsck").execute(context())
    with pytest.raises(AirflowFailException, match=r"s3://warehouse/a \(manifest\): it is missing; hurts no table"):
        task("check_lake", "fsck").execute(context())


# --- drills ----------------------------------------------------------------------------------------------------------


def test_a_drill_restores_what_was_shown_and_says_who_approved(told: Told) -> None:
    said = {"set_id": SET, "cut_at": "2026-03-04T11:55:00", "tables": ["silver.dim_customer"], "tables_of_set": 4,
            "files": 9, "size_bytes": 1000}  # fmt: skip
    told.answers = [STANDS, Answer(0, said), Answer(0, DRILLED)]
    seen = task("drill_recovery", "look").execute(context("manual", params={"tables": " silver.dim_customer, "}))
    assert seen["set"] == SET and "1 of 4 tables, 9 files with 1,000 bytes" in seen["summary"]
    ti = Ti(known={"look": seen, "approve": APPROVED})
    task("drill_recovery", "drill").execute(context("manual", user="ada", ti=ti))
    assert words_of(told) == [
        "backup status --json",
        "backup drill silver.dim_customer --dry-run --json",
        f"backup drill silver.dim_customer --set={SET} --approved-by=grace --json",
    ]
    assert told.actors[-1] == "ada (Airflow)"
    assert ti.pushed["page"] == f"lakehouse/drills/{DRILLED['id']}"


def test_a_drill_that_fails_tells_where_its_report_is_and_fails_for_good(told: Told) -> None:
    told.answers = [Answer(7, {**DRILLED, "is_good": False, "problems": ["gold.sales: 2 rows are missing"]})]
    ti = Ti(known={"look": LOOKED, "approve": None})
    with pytest.raises(AirflowFailException, match="gold.sales: 2 rows are missing"):
        task("drill_recovery", "drill").execute(context(ti=ti))
    assert ti.pushed["is_good"] is False and "--approved-by=" in told.commands[0]
    assert told.actors == ["the schedule (Airflow)"]


@pytest.mark.parametrize(
    ("run_type", "approve", "waits"),
    [("manual", True, True), ("manual", False, False), ("scheduled", True, False)],
)
def test_only_a_drill_that_a_person_starts_waits_for_one(
    run_type: str, approve: bool, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.ApprovalOperator.execute", lambda self, c: asked.append(c)
    )
    task("drill_recovery", "approve").execute(context(run_type, params={"approve": approve}))
    assert bool(asked) == waits


@pytest.mark.parametrize("text", [*HOSTILE, "silver", "silver.a b", "silver.a\n", "a.b " * 51])
def test_a_drill_takes_tables_or_nothing(text: str, told: Told) -> None:
    with pytest.raises(AirflowFailException, match="does not name tables"):
        task("drill_recovery", "look").execute(
            context(params={"tables": text if text != "silver.a\n" else "silver.a\nx"})
        )
    assert told.commands == []


@pytest.mark.parametrize(
    ("answer", "name"),
    [(APPROVED, "grace"), (None, ""), ({}, ""), ({"responded_by_user": None}, ""),
     ({"responded_by_user": {"id": "7", "name": ""}}, "7"), ({"responded_by_user": {"name": "a\nb\x1b[0m"}}, "ab[0m")],
)  # fmt: skip
def test_who_approved_is_a_name(answer: Any, name: str) -> None:
    assert who_approved(answer) == name


# --- restores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "when", "words"),
    [
        ("silver.dim_customer", SET, ["silver.dim_customer", f"--set={SET}"]),
        ("silver", "2024-03-31", ["silver", "--at=2024-03-31"]),
        ("everything", "2024-03-31T14:05:00.25+02:00", ["--all", "--at=2024-03-31T14:05:00.25+02:00"]),
        ("silver.dim_customer", "8123456789012345678", ["silver.dim_customer", "--snapshot=8123456789012345678"]),
        ("everything", "", ["--all"]),
    ],
)
def test_a_form_is_words_of_the_command(what: str, when: str, words: list[str]) -> None:
    assert restore_words({"what": what, "when": when}) == words


@pytest.mark.parametrize("text", [*HOSTILE, "2024-03-31\n", "silver.dim_customer\n"])
def test_a_restore_is_of_something_and_to_some_time(text: str, told: Told) -> None:
    for params in ({"what": text, "when": ""}, {"what": "silver.dim_customer", "when": text}):
        with pytest.raises(AirflowFailException):
            task("restore_lake", "look").execute(context(params={**params, "reason": "because"}))
    assert told.commands == []


def test_a_restore_is_looked_at_done_told_and_reported(told: Told) -> None:
    done = {
        **PLAN,
        "restored": ["silver.dim_customer"],
        "verified": {"files": 3},
        "seconds_taken": 9,
        "kept": ["ops.kept"],
    }
    told.answers = [Answer(0, PLAN), Answer(0, done), Answer(0, {**PLAN, "is_empty": True})]
    params = {"what": "everything", "when": SET, "reason": "{{ conn.x }} <b>"}
    seen = task("restore_lake", "look").execute(context(params=params))
    assert "**silver.dim_customer**: 10 → 9 rows" in seen["summary"]
    assert "? → 5 rows (it is not there now)" in seen["summary"]
    known = {"look": seen, "approve": APPROVED}
    running = context("manual", user="ada", ti=Ti(known=known))
    known["confirm"] = task("restore_lake", "confirm").execute(running)
    assert words_of(told) == [
        f"restore --all --set={SET} --dry-run --json",
        f"restore --all --set={SET} --yes --if-seen abc --json",
    ]
    added = [name for name, _ in running["outlet_events"][ConfirmOperator.PUBLISHED].added]
    assert added == ["silver.dim_customer", "gold.sales_star", "landing.retail_sales"], "the next runs catch up"
    said = task("restore_lake", "report").execute(context("manual", user="ada", ti=Ti(known=known), params=params))
    for words in ("everything", SET, "{{ conn.x }} <b>", "Started by ada (Airflow), approved by grace", "Done in 9 s"):
        assert words in said
    with pytest.raises(AirflowSkipException):
        task("restore_lake", "look").execute(context(params=params))


def test_backups_need_no_contract() -> None:
    assert set(recovery.recovery_dags(Index({}, "", {}, {}, {}, (), Operation()))) == {
        "back_up_databases", "back_up_lake", "check_lake", "drill_recovery", "prune_backups", "restore_lake",
        "verify_backups", "watch_backups",
    }  # fmt: skip
    assert list(recovery.recovery_dags(project_index(), only="drill_recovery")) == ["drill_recovery"]
