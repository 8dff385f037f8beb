"""A program that was started as a part of another one ends with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lakehouse.core.pools import as_import, pools
from lakehouse.core.process import PARENT, end_with_parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties processes like this")
CHILD = (
    "import time; from lakehouse.core.process import end_with_parent; end_with_parent(); print('up'); time.sleep(60)"
)
PARENT_OF_IT = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-uc', {CHILD!r}], stdout=subprocess.PIPE, start_new_session=True,
                         env={{**os.environ, {PARENT!r}: str(os.getpid())}})
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def ended(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_it_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT_OF_IT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not ended(child, 0.2)
        os.kill(parent.pid, signal.SIGKILL)
        assert ended(child)


def test_it_ends_at_once_where_its_parent_is_gone_already() -> None:
    run = subprocess.run([sys.executable, "-c", CHILD], env={**os.environ, PARENT: "1"}, timeout=30, check=False)
    assert run.returncode == -signal.SIGKILL


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
