"""``python -m lakehouse.stack.airflow_supervisor PORT DATA``: Airflow's components as children of one process.

Components that end are started again, after a growing wait. Whatever loses its parent (the workers of a killed
scheduler, the task of a killed worker) becomes a child of this process, and is ended: nobody would ever hear of its
result, and the task is tried again anyway. SIGTERM ends everything, and so does the end of this process.

Settings come from the environment (``AIRFLOW__…``), so no command line holds a secret.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from lakehouse.core.airflow_roles import is_fab
from lakehouse.core.pools import as_import
from lakehouse.core.process import PARENT, PATIENCE_SECONDS, adopt_orphans

COMPONENTS: dict[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    # Without this option, the two serve logs on every interface.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
ROLES = (sys.executable, "-m", "lakehouse.orchestration.airflow_roles")
"""Brings the roles of FAB into Airflow's database: a program, since only orchestration imports Airflow."""
_POLL_SECONDS = 0.2
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 60.0
_STEADY_SECONDS = 60.0
_ORPHAN_SECONDS = PATIENCE_SECONDS + 3.0  # a program that was told to end takes its work on a server along
_STOP_SECONDS, _LAST_STOP_SECONDS = 8.0, 4.0
_LOG_LIMIT_BYTES = 20 << 20
_log = logging.getLogger("lakehouse.airflow")


def airflow(*words: str) -> list[str]:
    """A command of Airflow, tied to this process: it ends when this one ends."""
    return [sys.executable, "-m", "lakehouse.stack.airflow_component", *words]


@dataclass
class Component:
    """One long-running part of Airflow."""

    name: str
    command: Sequence[str]
    log: Path
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    wait_seconds: float = _FIRST_WAIT_SECONDS
    due: float = 0.0

    def start(self) -> None:
        """Start it in a process group and a folder of its own; by the folder its descendants are known."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        self.started = time.monotonic()
        _log.info("%s runs as %s", self.name, self.process.pid)

    def ended(self, code: int) -> None:
        """It ended: start it again, the later the more often it does."""
        now = time.monotonic()
        if now - self.started > _STEADY_SECONDS:
            self.wait_seconds = _FIRST_WAIT_SECONDS
        _log.warning("%s ended with %s; it starts again in %.0f s", self.name, code, self.wait_seconds)
        self.process, self.due = None, now + self.wait_seconds
        self.wait_seconds = min(2 * self.wait_seconds, _LONGEST_WAIT_SECONDS)

    def trim_log(self) -> None:
        """Keep a log that grew too large as the one before, and go on with an empty one."""
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
            os.truncate(self.log, 0)


@dataclass
class Supervisor:
    """Keeps components running until it is told to stop."""

    components: Sequence[Component]
    is_stopping: bool = False
    orphans: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        """Start everything, watch it, and end it."""
        adopt_orphans()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self.is_stopping:
                self.step()
                time.sleep(_POLL_SECONDS)
        finally:
            self.end()

    def step(self) -> None:
        """Look once: start what is due, take note of what ended, end what lost its parent."""
        for component in self.components:
            if component.process is None and time.monotonic() >= component.due:
                component.start()
            component.trim_log()
        self.reap()
        self.end_orphans()

    def reap(self) -> None:
        """Collect every child that ended."""
        mine = {component.process.pid: component for component in self.components if component.process}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in mine and (process := mine[pid].process):
                process.returncode = os.waitstatus_to_exitcode(status)
                mine[pid].ended(process.returncode)

    def end_orphans(self) -> None:
        """Kill what became a child of this process without having been started by it, after a short while."""
        mine = {component.process.pid for component in self.components if component.process}
        adopted = {child.pid: child for child in psutil.Process().children() if child.pid not in mine}
        now = time.monotonic()
        self.orphans = {pid: self.orphans.get(pid, now) for pid in adopted}
        for pid, since in self.orphans.items():
            if now - since >= _ORPHAN_SECONDS:
                _log.warning("process %s lost its parent, and is ended with all that it started", pid)
                _kill(adopted[pid])

    def end(self) -> None:
        """End all components, the API server last, so that tasks can tell how they ended; then whatever is left."""
        first = [each for each in self.components if each.name != "api-server"]
        last = [each for each in self.components if each.name == "api-server"]
        for group, seconds in ((first, _STOP_SECONDS), (last, _LAST_STOP_SECONDS)):
            running = [each.process for each in group if each.process]
            for process in running:
                process.terminate()
            _wait(lambda running=running: all(each.poll() is not None for each in running), seconds)  # type: ignore[misc]
        _kill(*psutil.Process().children())
        _log.info("everything has ended")

    def _stop(self, number: int, frame: object) -> None:
        self.is_stopping = True


def _wait(is_done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_done() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _kill(*processes: psutil.Process) -> None:
    """Kill processes with all their descendants, until none is left."""
    while found := [each for process in processes for each in _family(process)]:
        for each in found:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, timeout=1)


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        family = [process, *process.children(recursive=True)]
        return [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def prepare(data: Path) -> None:
    """Bring the database to what this version of Airflow needs; make the pools and, where FAB is used, the roles."""
    _complete(airflow("db", "migrate"))
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=data) as file:
        json.dump(as_import(), file)
        file.flush()
        _complete(airflow("pools", "import", file.name))
    if is_fab(os.environ):
        _complete(ROLES)


def _complete(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, env={**os.environ, PARENT: str(os.getpid())})


def main() -> None:
    """Run until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    data = Path(sys.argv[2])
    prepare(data)
    logs = data / "logs" / "components"
    parts = [Component(name, airflow(*words), logs / f"{name}.log", data) for name, words in COMPONENTS.items()]
    Supervisor(parts).run()


if __name__ == "__main__":
    main()
