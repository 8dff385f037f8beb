"""A program that was started as a part of another one ends with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lakehouse.core.pools import as_import, pools
from lakehouse.core.process import PARENT, PATIENCE_SECONDS, end_with_parent
from lakehouse.stack import airflow_supervisor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties processes like this")
CHILD = """
import signal, sys, time
from lakehouse.core.process import end_with_parent
def told(number, frame):
    print('told', flush=True)
    if {stubborn}:
        return
    time.sleep(0.3)
    print('ended', flush=True)
    sys.exit(0)
if {listens}:
    signal.signal(signal.SIGTERM, told)
end_with_parent(patience_seconds={patience})
print('up', flush=True)
while True:
    time.sleep(60)
"""
# Starts a program with its own pid, or lets somebody else do it, and tells the program's pid.
PARENT_OF_IT = """
import os, subprocess, sys, time
command, log, between = sys.argv[1], open(sys.argv[2], 'ab'), {between}
through = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
words = [sys.executable, '-c', through, command] if between else [sys.executable, '-c', command]
told = {{**os.environ, {name!r}: str(os.getpid())}}
subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True, env=told)
time.sleep(60)
"""


@dataclass(frozen=True)
class Family:
    """A parent, and the program that it started: the last of its descendants."""

    parent: subprocess.Popen[bytes]
    program: psutil.Process
    log: Path

    def lose_the_parent(self, seconds: float = 15) -> list[str]:
        """Kill the parent; what the program said, once it has ended."""
        self.parent.kill()
        self.parent.wait()
        assert ended(self.program.pid, seconds), self.log.read_text()
        return self.log.read_text().split()


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Callable[..., Family]]:
    """Makes families; nobody of them is left at the end."""
    made: list[psutil.Process] = []

    def make(*, between: bool = False, stubborn: bool = False, listens: bool = True, patience: float = 3) -> Family:
        log = tmp_path / "log"
        program = CHILD.format(stubborn=stubborn, listens=listens, patience=patience)
        command = [sys.executable, "-c", PARENT_OF_IT.format(between=between, name=PARENT), program, str(log)]
        parent = subprocess.Popen(command)
        made.append(psutil.Process(parent.pid))
        assert eventually(lambda: log.exists() and "up" in log.read_text()), log.read_text()
        made.extend(made[0].children(recursive=True))
        return Family(parent, made[-1], log)

    yield make
    for process in made:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def eventually(is_so: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.02)
    return False


def ended(pid: int, seconds: float) -> bool:
    return eventually(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, seconds
    )


@pytest.mark.parametrize("between", [False, True], ids=["child", "through another program"])
def test_it_is_told_when_its_parent_is_killed_and_ends_by_itself(between: bool, family: Callable[..., Family]) -> None:
    one = family(between=between)
    assert not ended(one.program.pid, 0.2)
    said = one.lose_the_parent()
    assert said[:2] == ["up", "told"] and said[-1] == "ended"


def test_it_is_killed_where_being_told_does_not_help(family: Callable[..., Family]) -> None:
    started = time.monotonic()
    said = family(stubborn=True, patience=1).lose_the_parent()
    assert said[:2] == ["up", "told"] and "ended" not in said
    assert time.monotonic() - started > 1


def test_without_anything_to_take_along_it_ends_at_once(family: Callable[..., Family]) -> None:
    assert family(listens=False, patience=600).lose_the_parent() == ["up"]


def test_without_patience_it_is_killed(family: Callable[..., Family]) -> None:
    assert family(patience=0).lose_the_parent() == ["up"]


def test_it_ends_at_once_where_its_parent_is_gone_already() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    program = CHILD.format(stubborn=False, listens=True, patience=600)
    told = {**os.environ, PARENT: str(gone.pid)}
    run = subprocess.run([sys.executable, "-c", program], env=told, timeout=60, check=False)
    assert run.returncode == -signal.SIGKILL


def test_a_supervisor_leaves_a_program_the_time_to_end_by_itself() -> None:
    assert airflow_supervisor._ORPHAN_SECONDS > PATIENCE_SECONDS


def test_nothing_is_tied_unless_asked_for() -> None:
    environment = {"PATH": "/bin"}
    end_with_parent(environment)
    assert environment == {"PATH": "/bin"}
    tied = {PARENT: "nobody"}
    end_with_parent(tied)
    assert tied == {}, "what it starts itself is not tied to this one's parent"


@pytest.mark.parametrize(("cores", "sessions"), [(1, 1), (2, 1), (4, 1), (8, 2), (64, 16)])
def test_a_small_machine_runs_one_session_at_a_time(cores: int, sessions: int) -> None:
    slots = {pool.name: pool.slots for pool in pools(cores)}
    assert slots["lakehouse_spark"] == sessions
    assert slots["lakehouse_landing"] >= 2
    assert {name: pool["slots"] for name, pool in as_import(cores).items()} == slots


def test_the_pools_are_printed_as_airflow_imports_them() -> None:
    run = subprocess.run([sys.executable, "-m", "lakehouse.core.pools"], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == as_import()
