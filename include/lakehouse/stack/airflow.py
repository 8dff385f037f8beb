"""Airflow as a part of the local stack: its place, its secrets, its settings, and whether it is well.

It listens on loopback only, keeps its state in a database and a role of its own, and lets three users in, each with a
generated password. Everything that Airflow is told comes from the environment; an ``AIRFLOW__…`` variable that is set
when ``lakehouse up --airflow`` runs wins over what stands here, so another auth manager has users of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import psutil

from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.stack import credentials, external, ports, roles
from lakehouse.stack.credentials import Credentials
from lakehouse.stack.files import private_folder, write_private
from lakehouse.stack.model import Login
from lakehouse.stack.processes import User
from lakehouse.stack.supervisor import Identity, Launch

KIND = "airflow"
USERS = {"admin": "admin", "operator": "op", "viewer": "viewer"}
"""Who may log in, each with a role of Airflow's simple auth manager."""
_SIMPLE = "SimpleAuthManager"
_USUAL_PORT = 8080
_START_SECONDS = 240.0
_STOP = ((signal.SIGTERM, 30.0),)
_PARTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")
_SETTINGS = ("AIRFLOW_", "LAKEHOUSE_")
_SAID_BY_US = ("AIRFLOW_HOME", "LAKEHOUSE_HOME")


def identity(home: Path) -> Identity:
    """How the supervisor is told from other processes."""
    return Identity(KIND, KIND, "python", home, _STOP)


def launch(settings: Settings, kept: Credentials, home_lines: dict[str, str]) -> Launch:
    """How to start it; ``home_lines`` are those of ``stack.env`` as they will be. Compiles the contracts' index."""
    from lakehouse.contracts.index import compile_for  # jars are fetched where there are no contracts yet

    _require_project(settings)
    compile_for(settings)
    data = identity(settings.home).data
    database = _database_url(settings, kept, home_lines)
    return Launch(
        wanted_port=settings.airflow_port,
        remembered_port=_remembered_port(settings.home) or _USUAL_PORT,
        port_setting="LAKEHOUSE_AIRFLOW_PORT",
        ready_for=kept.fingerprint(database, settings.airflow_port, str(settings.dags), sorted(_inherited().items())),
        prepare=lambda: _prepare(data, kept),
        command=lambda port: [sys.executable, "-m", "lakehouse.stack.airflow_supervisor", str(port), str(data)],
        environment=lambda port: environment(settings, kept, database, port),
        is_ready=is_well,
        make_ready=lambda port: None,
        start_seconds=_START_SECONDS,
    )


def lines(port: int) -> dict[str, str]:
    """The line of ``stack.env``."""
    return {"LAKEHOUSE_AIRFLOW_URL": f"http://{ports.LOOPBACK}:{port}"}


def logins(kept: Credentials) -> tuple[Login, ...]:
    """Who may log in, with passwords: for the one who starts it. Nobody whom another auth manager would know."""
    if not os.environ.get("AIRFLOW__CORE__AUTH_MANAGER", _SIMPLE).endswith(_SIMPLE):
        return ()
    return tuple(Login(user, role, kept.derived(f"airflow user {user}")[:20]) for user, role in USERS.items())


def environment(settings: Settings, kept: Credentials, database: str, port: int) -> dict[str, str]:
    """The environment of all components, and of the tasks that they start."""
    url = f"http://{ports.LOOPBACK}:{port}"
    # Where a proxy serves Airflow below a path, Airflow itself serves everything below it.
    path = urlparse(os.environ.get("AIRFLOW__API__BASE_URL", "")).path.rstrip("/")
    data = identity(settings.home).data
    ours: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": settings.dags,
            "plugins_folder": settings.dags.parent / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": 2 * (os.cpu_count() or 1) + 2,
            "max_active_tasks_per_dag": 16,
            "fernet_key": kept.derived("airflow fernet") + "=",  # a key is 32 bytes in padded base64
            "execution_api_server_url": f"{url}{path}/execution/",
            "simple_auth_manager_users": ",".join(f"{user}:{role}" for user, role in USERS.items()),
            "simple_auth_manager_passwords_file": _passwords_path(data),
        },
        "api": {
            "host": ports.LOOPBACK,
            "port": port,
            "base_url": url,
            "workers": 1,
            "secret_key": kept.derived("airflow sessions"),
        },
        "api_auth": {"jwt_secret": kept.derived("airflow tokens")},
        "database": {"sql_alchemy_conn": database},
        "dag_processor": {"refresh_interval": 60, "parsing_processes": 1},
        "logging": {"base_log_folder": data / "logs"},
        "scheduler": {
            # A task of a scheduler that was killed waits as long for another one, and one of a killed worker as long.
            "orphaned_tasks_check_interval": 60,
            "task_instance_heartbeat_timeout": 120,
        },
    }
    told = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for section, values in ours.items()
        for name, value in values.items()
    }
    inherited = {name: value for name, value in os.environ.items() if name != "AIRFLOW_HOME"}
    path = os.pathsep.join(filter(None, (str(PROJECT_ROOT / "include"), os.environ.get("PYTHONPATH", ""))))
    mine = {"AIRFLOW_HOME": str(data), "LAKEHOUSE_HOME": str(settings.home), "PYTHONPATH": path}
    return {**told, **inherited, **mine}


def command_environment(settings: Settings) -> dict[str, str]:
    """The environment for a command of Airflow beside the running one. Raises SettingsError before the first `up`."""
    port = _remembered_port(settings.home)
    if not port:
        raise SettingsError("there is no Airflow here yet", todo="run `lakehouse up --airflow`")
    kept = credentials.load_or_create(settings)
    return environment(settings, kept, _database_url(settings, kept, credentials.read_stack_env(settings.home)), port)


def is_well(port: int) -> bool:
    """Whether the API server answers, and says that every component is healthy."""
    try:
        with urllib.request.urlopen(f"http://{ports.LOOPBACK}:{port}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
            health = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return all((health.get(part) or {}).get("status") == "healthy" for part in _PARTS)


def end_strays(home: Path) -> None:
    """Kill what is left of an Airflow whose supervisor was killed: processes that work in its folder.

    Workers give themselves other titles, which takes the place of their environment too: only the folder stays.
    """
    data = str(identity(home).data)
    strays = [process for process in psutil.process_iter() if _is_ours(process, data)]
    for process in strays:
        process.kill()
    psutil.wait_procs(strays, timeout=10)


def _is_ours(process: psutil.Process, data: str) -> bool:
    try:
        return process.pid != os.getpid() and process.cwd() == data
    except psutil.Error:
        return False


def _prepare(data: Path, kept: Credentials) -> User | None:
    private_folder(data)
    private_folder(data / "logs")
    end_strays(data.parent)
    passwords = {login.user: login.password for login in logins(kept)}
    write_private(_passwords_path(data), json.dumps(passwords))
    return None


def _passwords_path(data: Path) -> Path:
    return data / "passwords.json"


def _remembered_port(home: Path) -> int:
    return urlparse(credentials.read_stack_env(home).get("LAKEHOUSE_AIRFLOW_URL", "")).port or 0


def _database_url(settings: Settings, kept: Credentials, home_lines: dict[str, str]) -> str:
    given = settings.airflow_database.get_secret_value()
    if given:
        return given
    if external.is_postgres_external(settings):
        raise SettingsError(
            "Airflow needs a database of its own, and PostgreSQL is not ours to make one",
            todo="make one, and set LAKEHOUSE_AIRFLOW_DATABASE=postgresql+psycopg2://user:password@host:port/database",
        )
    place = f"{ports.LOOPBACK}:{home_lines['LAKEHOUSE_POSTGRES_PORT']}/{roles.AIRFLOW_DATABASE}"
    return f"postgresql+psycopg2://{roles.AIRFLOW}:{kept.passwords.airflow}@{place}"


def _require_project(settings: Settings) -> None:
    """DAG files read the index beside them; the programs that they start read the settings' contracts."""
    read = settings.dags.parent / "include" / "contracts"
    if not settings.dags.is_dir() or read.resolve() != settings.contracts.resolve():
        raise SettingsError(
            f"the DAGs in {settings.dags} would read the contracts in {read}, not those in {settings.contracts}",
            todo="set LAKEHOUSE_DAGS to the project's folder dags, and LAKEHOUSE_CONTRACTS to its include/contracts",
        )


def _inherited() -> dict[str, str]:
    """What components and tasks take from the environment for as long as they run: Airflow's settings, and ours.

    What `up` writes into ``stack.env`` is none of it: each task reads that file by itself.
    """
    inherited = {name: value for name, value in os.environ.items() if name.upper().startswith(_SETTINGS)}
    return {name: value for name, value in inherited.items() if name not in _SAID_BY_US}
