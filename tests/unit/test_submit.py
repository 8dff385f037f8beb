"""Tasks on a cluster: what spark-submit is told, by a stand-in for it; and that no secret is in its command line."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.serialization.serialized_objects import DagSerialization

from lakehouse.contracts.index import Operation, build_index, compile_for, read_index, read_marts
from lakehouse.contracts.load import load_contracts
from lakehouse.core import jars, spark_conf
from lakehouse.core.answers import ANSWER_FILE, Ended, answering, read_answer
from lakehouse.core.process import PARENT
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.orchestration import assets, jobs, submit
from lakehouse.orchestration.jobs import Answer
from lakehouse.orchestration.reference import all_dags, project_index

# The provider leaves spark-submit's pipe to the collector; the process of a task ends soon.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
CONTRACTS, MODELS = PROJECT_ROOT / "include" / "contracts", PROJECT_ROOT / "include" / "dbt"
ON_CLUSTER = all_dags(build_index(load_contracts(CONTRACTS), {}, read_marts(MODELS), Operation(is_on_cluster=True)))
HERE = all_dags(project_index())
SPARK_TASKS = {
    **{f"transform_{source}": {"take_pending"} for source in ("crm_catalogue", "crm_customers", "retail_sales")},
    "build_marts": {"build"},
    **{dag_id: {"look", "confirm"} for dag_id in ("rebuild_table", "replay_table", "trim_bronze")},
    "maintain_tables": {"maintain"},
}
SECRETS = ("catalog-secret", "reader-secret", "s3-secret", "cluster-secret", "airflow-secret")
MASTER = "spark://127.0.0.1:7077"
# Stands in for spark-submit: notes what it was told, does what `does` says, and ends.
SPARK_SUBMIT = """#!{python}
import json, os, sys, time
told = {{"argv": sys.argv, "environment": dict(os.environ)}}
open({noted!r}, "w").write(json.dumps(told))
print("WARN: spark has something to say", flush=True)
answer = os.environ[{answer!r}]
{does}
"""
TABLES = {"tables": [{"table": "silver.a", "snapshot_id": 6, "quarantined": 0, "refusals": []}], "errors": []}


def spark_tasks(dags: dict[str, DAG]) -> dict[str, set[str]]:
    """The tasks that are the provider's operator, by DAG."""
    found = {
        dag_id: {task.task_id for task in dag.tasks if isinstance(task, SparkSubmitOperator)}
        for dag_id, dag in dags.items()
    }
    return {dag_id: tasks for dag_id, tasks in found.items() if tasks}


def test_on_a_cluster_tasks_that_need_spark_are_the_providers() -> None:
    assert spark_tasks(ON_CLUSTER) == SPARK_TASKS
    assert spark_tasks(HERE) == {}


def test_all_else_is_as_it_is_without_a_cluster() -> None:
    def facts(task: Any) -> tuple[Any, ...]:
        made = sorted(asset.name for asset in task.outlets)
        return task.task_id, task.pool, task.retries, task.execution_timeout, task.owner, made, task.downstream_task_ids

    assert ON_CLUSTER.keys() == HERE.keys()
    for dag_id, dag in ON_CLUSTER.items():
        assert [facts(task) for task in dag.tasks] == [facts(task) for task in HERE[dag_id].tasks]
        assert DagSerialization.from_dict(DagSerialization.to_dict(dag)).dag_id == dag_id


def test_nothing_of_a_submission_is_rendered_or_told_to_the_database() -> None:
    for dag_id, task_ids in SPARK_TASKS.items():
        for task_id in task_ids:
            task = ON_CLUSTER[dag_id].get_task(task_id)
            assert (task.template_fields, task.conf, task.env_vars, task.properties_file) == ((), None, None, None)
            assert task._openlineage_inject_transport_info is False


@pytest.mark.parametrize(
    ("master", "is_on_cluster"),
    [
        ("local[*]", False),
        ("connect", False),
        ("sc://host", False),
        (MASTER, True),
        ("yarn", True),
        ("k8s://https://h", True),
    ],
)
def test_one_setting_decides_when_contracts_are_compiled(master: str, is_on_cluster: bool, tmp_path: Path) -> None:
    contracts = tmp_path / "contracts"
    shutil.copytree(CONTRACTS, contracts, ignore=shutil.ignore_patterns("index.json"))
    compile_for(Settings(spark_master=master, contracts=contracts, dbt=MODELS))
    assert read_index(contracts).operation.is_on_cluster == is_on_cluster


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("run", "crm.catalogue", "--no-gold", "--json"), ("dataset", ["crm.catalogue"])),
        (("run", "--gold-only", "--json"), ("gold", [])),
        (("run", "--json"), ("run", [])),
        (("rebuild", "silver.a", "--dry-run", "--json"), ("rebuild", ["silver.a", "--dry-run", "--json"])),
        (("trim", "crm.catalogue", "--yes", "--json"), ("trim", ["crm.catalogue", "--yes", "--json"])),
        (("tables", "--json"), None),
        (("held", "crm.catalogue", "--json"), None),
    ],
)
def test_which_program_does_what_a_command_does(words: tuple[str, ...], found: tuple[str, list[str]] | None) -> None:
    assert submit.program(words) == found
    if found:
        assert (PROJECT_ROOT / "spark_jobs" / f"{found[0]}.py").is_file()


@pytest.mark.parametrize("verb", ["rebuild", "replay", "trim"])
def test_a_program_is_the_command_of_its_name(verb: str) -> None:
    command = [sys.executable, str(PROJECT_ROOT / "spark_jobs" / f"{verb}.py"), "--help"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert f"Usage: lakehouse {verb} " in run.stdout


# --- what spark-submit is told ----------------------------------------------------------------------------------------


@dataclass
class Submitted:
    """A home, and the stand-in for spark-submit."""

    home: Path
    spark: Path

    def let_it(self, does: str) -> None:
        """What the stand-in does once it has noted what it was told."""
        text = SPARK_SUBMIT.format(python=sys.executable, noted=str(self.noted), answer=ANSWER_FILE, does=does)
        program = self.spark / "bin" / "spark-submit"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o700)

    def answer(self, code: int, said: Any) -> None:
        ended = json.dumps({"code": code, "output": json.dumps(said) + "\n"})
        self.let_it(f"open(answer, 'w').write({ended!r}); sys.exit({code})")

    @property
    def noted(self) -> Path:
        return self.home / "noted.json"

    @property
    def told(self) -> Any:
        return json.loads(self.noted.read_text())


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submitted:
    found = Submitted(tmp_path, tmp_path / "pyspark")
    for name in [name for name in os.environ if name.startswith(("LAKEHOUSE_", "SPARK_"))]:
        monkeypatch.delenv(name)
    given = {
        "HOME": tmp_path,
        "SPARK_MASTER": MASTER,
        "SPARK_CONF": json.dumps({"spark.authenticate.secret": "cluster-secret"}),
        "S3_ACCESS_KEY_ID": "key",
        "S3_SECRET_ACCESS_KEY": "s3-secret",
        "POSTGRES_PORT": 5432,
        "CATALOG_PASSWORD": "catalog-secret",
        "READER_PASSWORD": "reader-secret",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"LAKEHOUSE_{name}", str(value))
    monkeypatch.setenv("AIRFLOW__API__SECRET_KEY", "airflow-secret")
    monkeypatch.setattr(jars, "spark_jars_folder", lambda: found.spark / "jars")
    monkeypatch.setattr(spark_conf, "jar_paths", lambda cache: (tmp_path / "a.jar",))
    monkeypatch.setattr(submit, "get_current_context", dict)
    return found


def task(**given: Any) -> submit.SubmitTakePendingOperator:
    options = {"arguments": ("crm.catalogue", "--no-gold"), "outlets": [assets.table("silver.a")], **given}
    return submit.SubmitTakePendingOperator(task_id="t", **options)


def test_the_program_is_submitted_without_any_secret_in_the_command_line(submitted: Submitted) -> None:
    submitted.answer(0, TABLES)
    before = dict(os.environ)
    assert task().run_command(["run", "crm.catalogue", "--no-gold", "--json"]).said == TABLES
    argv, environment = submitted.told["argv"], submitted.told["environment"]
    properties = Path(argv[argv.index("--properties-file") + 1])
    assert argv[argv.index("--master") + 1] == MASTER
    assert argv[argv.index("--deploy-mode") + 1] == "client"
    assert argv[-2:] == [str(PROJECT_ROOT / "spark_jobs" / "dataset.py"), "crm.catalogue"]
    assert [secret for secret in SECRETS if secret in " ".join(argv)] == []
    text = properties.read_text()
    assert "catalog-secret" in text and "cluster-secret" in text and "reader-secret" not in text
    assert stat.S_IMODE(properties.stat().st_mode) == 0o600
    assert [name for name in environment if name.startswith(("AIRFLOW", "_AIRFLOW"))] == []
    assert (environment[PARENT], environment["PYSPARK_PYTHON"]) == (str(os.getpid()), sys.executable)
    assert environment["SPARK_LOCAL_IP"] == "127.0.0.1", "the master is on this machine"
    assert not Path(environment[ANSWER_FILE]).parent.exists(), "nothing is left behind"
    assert dict(os.environ) == before


@pytest.mark.parametrize("master", ["yarn", "spark://one:7077,two:7077", "spark://[::1]:7077"])
def test_the_master_is_the_one_setting(master: str, submitted: Submitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_SPARK_MASTER", master)
    submitted.answer(0, TABLES)
    task().run_command(["run", "--gold-only", "--json"])
    argv = submitted.told["argv"]
    assert argv[argv.index("--master") + 1] == master


def test_a_task_makes_of_an_answer_what_it_makes_without_a_cluster(submitted: Submitted) -> None:
    """Code 9 says that a rule holds something back, which stops nothing."""
    submitted.answer(9, TABLES)

    class Events(dict[Any, Any]):
        def __missing__(self, key: Any) -> Any:
            self[key] = type("Event", (), {"extra": {}})()
            return self[key]

    one, events = task(), Events()
    run = {"ti": type("Task", (), {"try_number": 1})(), "outlet_events": events}
    one.execute(run)
    assert [(asset.name, event.extra["snapshot_id"]) for asset, event in events.items()] == [("silver.a", 6)]


def test_what_cannot_be_helped_is_not_tried_again_and_what_may_pass_is(submitted: Submitted) -> None:
    submitted.answer(6, None)
    with pytest.raises(AirflowFailException, match="(?s)spark has something to say.*exit code 6"):
        task().run_command(["rebuild", "silver.a", "--yes", "--json"])
    submitted.let_it("print('no worker is there', flush=True); sys.exit(1)")
    with pytest.raises(AirflowException, match="no worker is there") as raised:
        task().run_command(["run", "--gold-only", "--json"])
    assert not isinstance(raised.value, AirflowFailException)
    assert [secret for secret in SECRETS if secret in str(raised.value)] == []


def test_a_task_that_is_killed_ends_spark_submit(submitted: Submitted) -> None:
    submitted.let_it("time.sleep(120)")
    one = task()
    one.on_kill()  # nothing runs yet
    threading.Timer(2.0, one.on_kill).start()
    started = time.monotonic()
    with pytest.raises(AirflowException, match="trying again may help"):
        one.run_command(["run", "--gold-only", "--json"])
    assert time.monotonic() - started < 60


def test_other_commands_and_other_places_run_as_ever(submitted: Submitted, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[Any] = []

    def answer(words: Any, *_: Any, **__: Any) -> Answer:
        run.append(tuple(words))
        return Answer(0, [])

    monkeypatch.setattr(jobs, "run", answer)
    task().run_command(["tables", "--json"])
    monkeypatch.setenv("LAKEHOUSE_SPARK_MASTER", "local[*]")
    task().run_command(["run", "--gold-only", "--json"])
    assert run == [("tables", "--json"), ("run", "--gold-only", "--json")]


def test_what_is_missing_is_said_and_not_tried_again(submitted: Submitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_SPARK_MASTER", "k8s://https://host")
    with pytest.raises(AirflowFailException, match="cncf-kubernetes"):
        task().run_command(["run", "--gold-only", "--json"])
    monkeypatch.setenv("LAKEHOUSE_SPARK_MASTER", "spark://far.example:7077")
    monkeypatch.setenv("LAKEHOUSE_SPARK_CONF", "{}")
    with pytest.raises(AirflowFailException, match="spark.authenticate.secret"):
        task().run_command(["run", "--gold-only", "--json"])


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 9])
def test_a_program_answers_where_somebody_asks(code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {ANSWER_FILE: str(tmp_path / "answer")}

    def main() -> int:
        assert asked == {}, "what it starts answers nobody"
        print("something")
        return code

    assert answering(main, asked) == code
    assert read_answer(tmp_path / "answer") == Ended(code, "something\n")
    assert capsys.readouterr().out == "something\n"
    assert answering(lambda: code, {}) == code
    assert [path.name for path in tmp_path.iterdir()] == ["answer"]


@pytest.mark.parametrize(("given", "code"), [(None, 0), (143, 143), ("words", 1)])
def test_how_a_command_exits_is_its_answer(given: Any, code: int, tmp_path: Path) -> None:
    assert answering(lambda: sys.exit(given), {ANSWER_FILE: str(tmp_path / "answer")}) == code
    assert read_answer(tmp_path / "answer") == Ended(code, "")
    assert read_answer(tmp_path / "nothing") is None
