"""A real Airflow: the stack with its own home, and a small project with one source and one mart.

It lasts as long as one file of tests: what it puts into the environment is for nobody else.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.airflow.client import Airflow

from lakehouse.core.settings import PROJECT_ROOT, Settings, load_settings
from lakehouse.stack import down, logins, up

PROJECT = Path(__file__).parent / "project"


@dataclass
class Webhook:
    """Who is told of failures."""

    url: str
    told: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class World:
    """The stack, its Airflow, the folder of the source's files, and who is told."""

    settings: Settings
    airflow: Airflow
    files: Path
    webhook: Webhook


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    """A server on loopback that keeps what it is told."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: the test's output is for the test."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found = Webhook(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that PostgreSQL's account may enter."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-airflow-") as folder:
        os.chmod(folder, 0o711)  # noqa: S103 - entering is enough, and needed
        yield Path(folder)


@pytest.fixture(scope="module")
def world(place: Path, webhook: Webhook) -> Iterator[World]:
    """Everything, started once; no process is left at the end."""
    with started(place, copy_project(place / "project"), webhook, "shop/orders") as running:
        yield running


@contextmanager
def started(place: Path, project: Path, webhook: Webhook, files: str) -> Iterator[World]:
    """A stack below ``place`` with a project's DAGs, contracts and marts; ``files`` says where its source looks."""
    told = {
        "LAKEHOUSE_HOME": place / "home",
        "LAKEHOUSE_DAGS": project / "dags",
        "LAKEHOUSE_CONTRACTS": project / "include" / "contracts",
        "LAKEHOUSE_DBT": project / "include" / "dbt",
        "LAKEHOUSE_SOURCES": place / "sources",
        "LAKEHOUSE_TASK_RETRY_SECONDS": 1,
        "LAKEHOUSE_SPARK_DRIVER_MEMORY": "1g",
        "LAKEHOUSE_ALERTS": "webhook",
        "AIRFLOW_CONN_LAKEHOUSE_WEBHOOK": webhook.url,
        # What a killed scheduler or worker left is looked for every few seconds, not every minute.
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 5,
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 10,
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": 2,
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 20,
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 10,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LAKEHOUSE_") and name != "LAKEHOUSE_CACHE"]:
            patch.delenv(name)
        for name, value in told.items():
            patch.setenv(name, str(value))
        try:
            up(load_settings(), with_airflow=True)
            settings = load_settings()
            admin = logins(settings)[0]
            folder = place / "sources" / files
            folder.mkdir(parents=True)
            yield World(settings, Airflow(settings.airflow_url, admin.user, admin.password), folder, webhook)
        finally:
            down(load_settings())
    assert _left(place) == []


def copy_project(folder: Path) -> Path:
    """The layout of a project: DAG files and plugins of ours, one small contract, one mart."""
    for name in ("dags", "plugins"):
        shutil.copytree(PROJECT_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "contracts", folder / "include" / "contracts")
    dbt = PROJECT_ROOT / "include" / "dbt"
    ours = shutil.ignore_patterns("models", "target", "logs")
    shutil.copytree(dbt, folder / "include" / "dbt", ignore=ours)
    shutil.copytree(PROJECT / "dbt" / "models", folder / "include" / "dbt" / "models")
    return folder


def _left(place: Path) -> list[str]:
    """Processes that have to do with this place, found without the stack's own records."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.cmdline()]
            if process.pid != os.getpid() and any(str(place) in word for word in words):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
