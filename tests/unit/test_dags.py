"""What every DAG must be like, asked of the DAGs themselves; and a parse in a fresh process, with nothing around it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, AssetOrTimeSchedule
from airflow.serialization.serialized_objects import DagSerialization

from lakehouse.contracts.index import Index, Operation, Timing, build_index, compile_index
from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.pools import pools
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.orchestration import policy
from lakehouse.orchestration.operators import LakehouseOperator
from lakehouse.orchestration.recovery import recovery_dags
from lakehouse.orchestration.reference import all_dags, project_index, render

INDEX = project_index()
DAGS = all_dags(INDEX)
SOURCES = ("crm_catalogue", "crm_customers", "retail_sales")
EXPECTED = {
    *(f"land_{source}" for source in SOURCES),
    *(f"transform_{source}" for source in SOURCES),
    "land_late_files",
    "build_marts",
    "rebuild_table",
    "replay_table",
    "decide_batch",
    "trim_bronze",
    "compare_table",
    "rollback_table",
    "tag_tables",
    "undrop_table",
    "quality_docs",
    "housekeeping",
    "maintain_tables",
    "back_up_databases",
    "back_up_lake",
    "check_lake",
    "drill_recovery",
    "prune_backups",
    "restore_lake",
    "verify_backups",
    "watch_backups",
}
HEAVY = ("pyspark", "boto3", "botocore", "great_expectations", "pandas", "pyarrow", "pyiceberg", "dbt", "numpy")
PARSE = """
import json, os, socket, sys, tempfile, time
import airflow.sdk, airflow.providers.standard.operators.hitl
from airflow.dag_processing.dagbag import DagBag

folder, project, heavy = sys.argv[1:]
asked = []

class Watched(type(os.environ)):
    def _note(self, name):
        frame = sys._getframe(2)
        while frame and "/airflow/" not in frame.f_code.co_filename:
            if frame.f_code.co_filename.startswith((project, folder)):
                asked.append(f"{frame.f_code.co_filename}: {name}")
                return
            frame = frame.f_back

    def __getitem__(self, name):
        self._note(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self._note(name)
        return super().get(name, default)

def refused(*_, **__):
    raise AssertionError("a parse opened a connection")

os.environ.__class__ = Watched
socket.socket.connect = socket.create_connection = refused
with tempfile.TemporaryDirectory() as empty:
    DagBag(empty)  # Airflow's own plugins come with the first bag
before = set(sys.modules)
started = time.process_time()
bag = DagBag(folder, safe_mode=True)
took = time.process_time() - started
print(json.dumps({
    "dags": sorted(bag.dags), "errors": {str(k): str(v) for k, v in bag.import_errors.items()}, "asked": asked,
    "heavy": [name for name in heavy.split() if name in sys.modules.keys() - before], "seconds": took,
    "spark_provider": "airflow.providers.apache.spark.operators.spark_submit" in sys.modules,
    "files": sorted({os.path.basename(dag.fileloc) for dag in bag.dags.values()}),
}))
"""


def tasks() -> Iterator[tuple[DAG, Any]]:
    yield from ((dag, task) for dag in DAGS.values() for task in dag.tasks)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of its own: the DAG files, and the contracts with their index."""
    shutil.copytree(PROJECT_ROOT / "dags", tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    contracts = tmp_path / "include" / "contracts"
    shutil.copytree(PROJECT_ROOT / "include" / "contracts", contracts, ignore=shutil.ignore_patterns("index.json"))
    compile_index(contracts, PROJECT_ROOT / "include" / "dbt")
    return tmp_path


def parse(project: Path) -> dict[str, Any]:
    """Parse as Airflow's DAG processor does, in a fresh process that notes what is asked for."""
    environment = {**os.environ, "AIRFLOW_HOME": str(project / "home")}
    words = [
        sys.executable,
        "-c",
        PARSE,
        str(project / "dags"),
        str(PROJECT_ROOT / "include" / "lakehouse"),
        " ".join(HEAVY),
    ]
    run = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_the_list_of_dags() -> None:
    assert set(DAGS) == EXPECTED


def test_airflow_finds_them_all_and_parsing_touches_nothing(project: Path) -> None:
    found = parse(project)
    assert found["errors"] == {}
    assert set(found["dags"]) == EXPECTED
    assert (found["heavy"], found["asked"]) == ([], [])
    assert not found["spark_provider"], "only what a cluster needs imports it"
    assert found["files"] == ["data.py", "recovery.py", "upkeep.py"], "the UI shows the code of these files"


def test_on_a_cluster_parsing_is_no_heavier(project: Path) -> None:
    compile_index(project / "include" / "contracts", PROJECT_ROOT / "include" / "dbt", Operation(is_on_cluster=True))
    found = parse(project)
    assert (set(found["dags"]), found["errors"], found["heavy"], found["asked"]) == (EXPECTED, {}, [], [])
    assert found["spark_provider"]


def test_a_missing_index_is_an_import_error_that_says_what_to_do(project: Path) -> None:
    (project / "include" / "contracts" / "index.json").unlink()
    found = parse(project)
    assert found["dags"] == []
    assert len(found["errors"]) == 3
    assert all("lakehouse contract compile" in error for error in found["errors"].values())


def test_dag_files_are_thin() -> None:
    files = sorted((PROJECT_ROOT / "dags").glob("*.py"))
    assert [path.name for path in files] == ["data.py", "recovery.py", "upkeep.py"]
    for path in files:
        text = path.read_text("utf-8")
        assert len(text.splitlines()) < 40
        assert "dag" in text.lower() and "airflow" in text.lower(), "Airflow looks for these words"


def test_nothing_of_a_machine_is_read_where_dags_are_built() -> None:
    """No environment, settings, variables, connections or clock in the modules that a parse runs."""
    banned = {"environ", "getenv", "Variable", "Connection", "BaseHook", "now", "utcnow", "today", "load_settings"}
    for name in ("families", "upkeep", "recovery", "policy", "assets", "spark_tasks"):
        path = PROJECT_ROOT / "include" / "lakehouse" / "orchestration" / f"{name}.py"
        tree = ast.parse(path.read_text("utf-8"))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert len(used) > 5
        assert used & banned == set(), path


@pytest.mark.parametrize("dag", DAGS.values(), ids=list(DAGS))
def test_a_dag_says_what_it_is(dag: DAG) -> None:
    assert dag.doc_md and len(dag.doc_md) > 150
    assert dag.description and dag.description in dag.doc_md
    assert "lakehouse" in dag.tags and len(dag.tags) > 1
    assert not dag.catchup
    assert dag.max_active_runs >= 1
    assert dag.tasks
    assert DagSerialization.from_dict(DagSerialization.to_dict(dag)).dag_id == dag.dag_id


def test_only_what_begins_to_read_sources_by_itself_waits_for_a_person() -> None:
    """A run that somebody asks for of a paused DAG would wait for good."""
    paused = {name for name, dag in DAGS.items() if dag.is_paused_upon_creation}
    assert paused == {name for name in DAGS if name.startswith("land_")} != set()
    assert {dag.is_paused_upon_creation for dag in DAGS.values()} == {True, False}


def test_every_task_is_tried_again_ends_some_time_and_waits_its_turn() -> None:
    known = {pool.name for pool in pools()}
    looked_at = 0
    for dag, task in tasks():
        place = f"{dag.dag_id}.{task.task_id}"
        limit = task.execution_timeout or getattr(task, "response_timeout", None)
        assert task.retries >= 2 and task.retry_exponential_backoff > 1, place
        assert timedelta(0) < task.retry_delay <= task.max_retry_delay, place
        assert limit and limit <= timedelta(days=7), place
        assert task.pool in known, place
        assert task.on_failure_callback, place
        assert task.owner not in ("", "airflow"), place
        looked_at += 1
    assert looked_at > len(DAGS)


def test_owners_are_those_of_the_contracts() -> None:
    for dataset in INDEX.datasets.values():
        for dag_id in (f"land_{dataset.name}", f"transform_{dataset.name}"):
            dag = DAGS[dag_id.replace(".", "_")]
            assert dag.owner == dataset.owner
            assert dag.owner_links == {dataset.owner: f"mailto:{dataset.owner}"}


def test_no_task_of_ours_renders_templates() -> None:
    ours = [task for _, task in tasks() if isinstance(task, LakehouseOperator)]
    assert len(ours) > 10
    assert [task.task_id for task in ours if task.template_fields] == []


def test_the_asset_graph_is_the_lineage() -> None:
    """For each edge between two tables, a task has the one as its inlet or schedule, and the other as its outlet."""
    made: set[tuple[str, str]] = set()
    for dag, task in tasks():
        read = {asset.name for asset in task.inlets}
        if isinstance(dag.timetable, AssetOrTimeSchedule):
            read |= {asset.name for asset in dag.timetable.asset_condition.objects}  # type: ignore[attr-defined]
        made |= {(source, asset.name) for source in read for asset in task.outlets}
    edges = [edge for edge in INDEX.lineage if edge.kind in ("landed", "mart") and not edge.source.startswith("gold.")]
    assert len(edges) > 6
    for edge in edges:
        source = edge.source.removeprefix("source.").replace(".", "_")
        wanted = (f"landing.{source}", edge.target) if edge.kind == "landed" else (edge.source, edge.target)
        assert wanted in made, edge
    makers = {asset.name for _, task in tasks() for asset in task.outlets}
    assert {f"silver.{name}" for name in INDEX.tables} | {f"gold.{name}" for name in INDEX.marts} <= makers


def test_landing_is_dated_by_its_day_wherever_the_source_is() -> None:
    back = DagSerialization.from_dict(DagSerialization.to_dict(DAGS["land_retail_sales"]))
    runs = back.iter_dagrun_infos_between(datetime(2010, 6, 1, tzinfo=UTC), datetime(2010, 6, 3, tzinfo=UTC))
    assert [str(run.logical_date.date()) for run in runs] == ["2010-06-01", "2010-06-02", "2010-06-03"]
    assert DAGS["land_retail_sales"].max_active_runs > 4


@pytest.mark.parametrize("dag_id", [dag_id for dag_id in DAGS if dag_id.startswith(("transform_", "build_"))])
def test_what_is_started_by_events_also_looks_by_itself_and_runs_alone(dag_id: str) -> None:
    dag = DAGS[dag_id]
    assert isinstance(dag.timetable, AssetOrTimeSchedule)
    assert dag.timetable.timetable.expression.count(" ") == 4  # type: ignore[attr-defined]
    assert dag.max_active_runs == 1


@pytest.mark.parametrize(
    ("hours", "landing", "sweep"),
    [
        (1, "0 */1 * * *", "* * * *"),
        (5, "0 */4 * * *", "* * * *"),
        (12, "0 */12 * * *", "*/3 * * *"),
        (24, "0 0 * * *", "*/6 * * *"),
        (72, "0 0 * * *", "*/6 * * *"),
        (168, "0 0 * * 1", "*/6 * * *"),
        (720, "0 0 1 * *", "*/6 * * *"),
    ],
)
def test_schedules_follow_from_the_contract(hours: int, landing: str, sweep: str) -> None:
    assert policy.landing_schedule(Timing("UTC", hours, 1, 2 * hours)).expression == landing
    assert policy.sweep("a.b", hours).expression.split(" ", 1)[1] == sweep


def test_how_often_tasks_are_tried_again_is_in_the_index() -> None:
    quick = build_index(load_contracts(PROJECT_ROOT / "include" / "contracts"), {}, {}, Operation(5, 2))
    [task] = all_dags(quick)["land_retail_sales"].tasks
    assert (task.retries, task.retry_delay) == (5, timedelta(seconds=2))


def test_a_task_builds_only_its_own_dag(project: Path) -> None:
    from lakehouse.orchestration.families import data_dags

    assert list(data_dags(INDEX, only="land_retail_sales")) == ["land_retail_sales"]
    assert data_dags(INDEX, only="housekeeping") == {}


def test_an_index_without_contracts_has_its_housekeeping() -> None:
    empty = Index({}, "", {}, {}, {}, (), Operation())
    assert set(all_dags(empty)) == {"housekeeping", "maintain_tables", "quality_docs", *recovery_dags(empty)}


def test_two_hundred_contracts_are_built_quickly() -> None:
    """The benchmark benchmarks/parse.py measures it; this only finds what grows out of proportion."""
    contracts = load_contracts(PROJECT_ROOT / "include" / "contracts")
    one = contracts["crm.catalogue"].dump()
    many = {}
    for number in range(200):
        raw = {**one, "dataset": f"d{number}", "tables": {f"dim_{number}": one["tables"]["dim_catalogue_product"]}}
        many[f"crm.d{number}"] = Contract.model_validate(raw)
    index = build_index(many, {}, {})
    started = time.process_time()
    assert len(all_dags(index)) == 421
    assert time.process_time() - started < 10


def test_the_page_of_dags_is_what_the_dags_say() -> None:
    said = (PROJECT_ROOT / "docs" / "dags.md").read_text("utf-8")
    assert said == render(INDEX), "run `python -m lakehouse.orchestration.reference > docs/dags.md`"
