"""Airflow in the stack: its settings, and the process that keeps its components running. Without Airflow itself."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from lakehouse.core.airflow_roles import AUTH_MANAGER
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.stack import airflow, airflow_supervisor, credentials
from lakehouse.stack.airflow_supervisor import COMPONENTS, Component
from lakehouse.stack.credentials import Credentials

DATABASE = "postgresql+psycopg2://lakehouse_airflow:word@127.0.0.1:1/lakehouse_airflow"
# A supervisor whose components are the programs that are given; it prints a line once they were started.
SUPERVISOR = """
import sys
from pathlib import Path
from lakehouse.stack import airflow_supervisor as it
it._ORPHAN_SECONDS, it._FIRST_WAIT_SECONDS, it._STOP_SECONDS, it._LAST_STOP_SECONDS = 0.3, 0.1, 1.0, 1.0
folder = Path(sys.argv[1])
parts = [it.Component(f"part{n}", [sys.executable, "-c", code], folder / f"{n}.log", folder, wait_seconds=0.1)
         for n, code in enumerate(sys.argv[2:])]
it.Supervisor(parts).run()
"""
SLEEPER = "import sys, time; print('up', flush=True); time.sleep(120)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
# A worker with a task in a session of its own: what a killed scheduler leaves behind.
WITH_TASK = f"""
import subprocess, sys, time
task = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], start_new_session=True)
print(task.pid, flush=True)
time.sleep(120)
"""


@pytest.fixture
def kept(tmp_path: Path) -> Credentials:
    return credentials.load_or_create(settings(tmp_path))


def settings(home: Path) -> Settings:
    return Settings(home=home)


def eventually(is_so: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.05)
    return False


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a supervisor of some programs; it and its family are gone at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*programs: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), *programs]
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        assert eventually(lambda: len(family(started[-1])) >= len(programs))
        return started[-1]

    yield start
    for each in started:
        for child in family(each):
            child.kill()
        each.kill()
        each.wait()


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_it_listens_on_loopback_only_and_has_a_database_of_its_own(tmp_path: Path, kept: Credentials) -> None:
    told = airflow.environment(settings(tmp_path), kept, DATABASE, 8080)
    assert told["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert told["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"
    assert told["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == DATABASE
    assert told["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert told["AIRFLOW__CORE__DAGS_FOLDER"] == str(PROJECT_ROOT / "dags")
    assert told["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert told["LAKEHOUSE_HOME"] == str(tmp_path)


def test_secrets_are_kept_differ_and_stand_in_no_command_line(tmp_path: Path, kept: Credentials) -> None:
    told = airflow.environment(settings(tmp_path), kept, DATABASE, 8080)
    names = ("CORE__FERNET_KEY", "API__SECRET_KEY", "API_AUTH__JWT_SECRET")
    secrets = [told[f"AIRFLOW__{name}"] for name in names] + [login.password for login in airflow.logins(kept)]
    assert len(set(secrets)) == len(secrets) == 6
    assert min(map(len, secrets)) >= 20
    assert len(base64.urlsafe_b64decode(told["AIRFLOW__CORE__FERNET_KEY"])) == 32
    again = credentials.load_or_create(settings(tmp_path))
    assert airflow.environment(settings(tmp_path), again, DATABASE, 8080) == told
    commands = [airflow_supervisor.airflow(*words) for words in COMPONENTS.values()]
    assert not [secret for secret in secrets for command in commands if secret in " ".join(command)]
    assert all(login.password not in repr(login) for login in airflow.logins(kept))
    other = credentials.load_or_create(settings(tmp_path / "other"))
    assert {login.password for login in airflow.logins(other)} & set(secrets) == set()


def test_what_is_set_in_the_environment_wins(
    tmp_path: Path, kept: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "3")
    monkeypatch.setenv("AIRFLOW_HOME", "/somewhere/else")
    told = airflow.environment(settings(tmp_path), kept, DATABASE, 8080)
    assert told["AIRFLOW__CORE__PARALLELISM"] == "3"
    assert told["AIRFLOW_HOME"] == str(tmp_path / "airflow")


def test_it_is_started_anew_when_what_its_tasks_inherit_changed(
    tmp_path: Path, kept: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.contracts.index.compile_for", lambda _: None)
    for name in [name for name in os.environ if name.startswith(("LAKEHOUSE_", "AIRFLOW_"))]:
        monkeypatch.delenv(name)

    def mark(**changed: str) -> str:
        """What the record of a running Airflow says, with these variables set."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in changed.items():
                patch.setenv(name, value)
            return airflow.launch(settings(tmp_path), kept, {"LAKEHOUSE_POSTGRES_PORT": "1"}).ready_for

    changes = {
        "LAKEHOUSE_SPARK_MASTER": "spark://host:7077",
        "LAKEHOUSE_SPARK_CONF": '{"spark.authenticate.secret": "a-secret"}',
        "LAKEHOUSE_ALERTS": "slack",
        "LAKEHOUSE_TASK_RETRIES": "5",
        "LAKEHOUSE_CONNECTIONS__CRM": "postgresql://u:a-secret@host/crm",
        "AIRFLOW__CORE__PARALLELISM": "3",
    }
    marks = [mark(), *(mark(**{name: value}) for name, value in changes.items()), mark(**changes)]
    assert len(set(marks)) == len(marks)
    assert all(len(each) == 32 and "a-secret" not in each for each in marks)
    assert mark(**changes) == marks[-1]
    unasked = [mark(LAKEHOUSE_HOME="/elsewhere", AIRFLOW_HOME="/elsewhere", PATH="/bin")]
    credentials.write_stack_env(tmp_path, {"LAKEHOUSE_S3_ENDPOINT": "http://127.0.0.1:1", "LAKEHOUSE_ALERTS": "smtp"})
    assert [*unasked, mark()] == [marks[0]] * 2, "tasks read the stack's file by themselves"


def test_another_auth_manager_has_users_of_its_own(
    tmp_path: Path, kept: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [login.user for login in airflow.logins(kept)] == ["admin", "operator", "viewer"]
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", AUTH_MANAGER)
    assert airflow.logins(kept) == ()
    assert airflow.environment(settings(tmp_path), kept, DATABASE, 8080)["AIRFLOW__CORE__AUTH_MANAGER"] == AUTH_MANAGER


@pytest.mark.parametrize("base", ["https://data.example.org/airflow", "https://data.example.org/airflow/"])
def test_below_the_path_of_a_proxy_tasks_find_the_server_below_it_too(
    tmp_path: Path, kept: Credentials, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    told = airflow.environment(settings(tmp_path), kept, DATABASE, 8080)
    assert told["AIRFLOW__API__BASE_URL"] == base
    assert told["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/airflow/execution/"


@pytest.mark.parametrize(("manager", "brings"), [("", False), (AUTH_MANAGER, True)])
def test_roles_are_brought_in_where_fab_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str, brings: bool
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(list(command)))
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", manager)
    airflow_supervisor.prepare(tmp_path)
    assert [words[3:5] for words in commands[:2]] == [["db", "migrate"], ["pools", "import"]]
    assert commands[2:] == [[sys.executable, "-m", "lakehouse.orchestration.airflow_roles"]] * brings


def test_log_servers_are_off() -> None:
    assert COMPONENTS["scheduler"][1:] == COMPONENTS["triggerer"][1:] == ("--skip-serve-logs",)


def test_an_external_postgresql_needs_a_database_for_airflow(tmp_path: Path, kept: Credentials) -> None:
    away = settings(tmp_path).model_copy(update={"postgres_server": "external"})
    with pytest.raises(SettingsError, match="LAKEHOUSE_AIRFLOW_DATABASE"):
        airflow._database_url(away, kept, {})
    given = away.model_copy(update={"airflow_database": SecretStr(DATABASE)})
    assert airflow._database_url(given, kept, {}) == DATABASE


def test_dags_and_programs_read_the_same_contracts(tmp_path: Path) -> None:
    airflow._require_project(settings(tmp_path))
    apart = settings(tmp_path).model_copy(update={"contracts": tmp_path})
    with pytest.raises(SettingsError, match="LAKEHOUSE_CONTRACTS"):
        airflow._require_project(apart)


def test_a_component_that_ends_is_started_again(supervise: Callable[..., subprocess.Popen[bytes]]) -> None:
    running = supervise(SLEEPER, SLEEPER)
    before = {child.pid for child in family(running)}
    os.kill(min(before), signal.SIGKILL)
    assert eventually(lambda: len({child.pid for child in family(running)} - before) == 1)
    assert max(before) in {child.pid for child in family(running)}


def test_the_wait_grows_while_a_component_keeps_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    part = Component("part", ["true"], tmp_path / "log", tmp_path)
    waits = []
    for _ in range(8):
        part.ended(1)
        waits.append(part.due - now[0])
        now[0] = part.started = part.due
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    now[0] += 120
    part.ended(1)
    assert part.due - now[0] == 1, "one that ran for a while starts at once"


def test_what_loses_its_parent_is_ended(supervise: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    running = supervise(WITH_TASK)
    assert eventually(lambda: bool((tmp_path / "0.log").read_text()))
    task = int((tmp_path / "0.log").read_text().splitlines()[0])
    assert is_running(task)
    os.kill(psutil.Process(task).ppid(), signal.SIGKILL)
    assert eventually(lambda: not is_running(task))
    assert eventually(lambda: len(family(running)) == 2), "the component is back, with a new task"


def test_the_end_leaves_nothing(supervise: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    running = supervise(SLEEPER, STUBBORN, WITH_TASK)
    assert eventually(lambda: all((tmp_path / f"{n}.log").read_text() for n in range(3)))
    pids = [child.pid for child in family(running)]
    assert len(pids) == 4
    running.terminate()
    assert running.wait(20) == 0
    assert [pid for pid in pids if is_running(pid)] == []


def test_a_log_that_grew_too_large_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_supervisor, "_LOG_LIMIT_BYTES", 10)
    part = Component("part", [], tmp_path / "part.log", tmp_path)
    part.log.write_text("x" * 11)
    part.trim_log()
    assert (part.log.read_text(), (tmp_path / "part.log.1").read_text()) == ("", "x" * 11)


def test_strays_are_told_by_their_folder(tmp_path: Path) -> None:
    code = [sys.executable, "-c", SLEEPER]
    for name in ("airflow", "other"):
        (tmp_path / name).mkdir()
    mine = subprocess.Popen(code, cwd=tmp_path / "airflow", stdout=-1)
    other = subprocess.Popen(code, cwd=tmp_path / "other", stdout=-1)
    with mine, other:
        for each in (mine, other):
            assert each.stdout and each.stdout.readline()
        airflow.end_strays(tmp_path)
        assert not is_running(mine.pid)
        assert is_running(other.pid)
        other.kill()
