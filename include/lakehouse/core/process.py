"""Ties between a process and those that it started or was started by. Linux knows them; elsewhere nothing is tied."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

PARENT = "LAKEHOUSE_PARENT"
"""Set by whoever starts the program as a part of itself: its own pid."""
PATIENCE_SECONDS = 5.0
"""How long a program whose parent is gone may take to end by itself."""
_LOOK_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def end_with_parent(
    environment: MutableMapping[str, str] = os.environ, patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """End this process when the one that asked for it ends, however that ends: told to at once, killed a while later.

    Being told, by SIGTERM, a job takes its work on a Spark Connect server along. What a job wrote and did not publish
    is on a branch of its own, so it may end anywhere; a JVM in this process's care ends by itself. Whoever asked is the
    parent or further up: spark-submit stands between a task and its program.

    Without patience, the parent's end kills this process, and only the kernel watches it: no thread, so it may fork.
    """
    parent = environment.pop(PARENT, "")
    if not parent.isdigit() or sys.platform != "linux":
        return
    if os.getppid() == int(parent):
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM if patience_seconds else signal.SIGKILL)
    ancestor = _ancestor(int(parent))
    if ancestor is None:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)
    elif patience_seconds:
        threading.Thread(target=_outlive, args=(ancestor, patience_seconds), name="parent", daemon=True).start()


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end, so that they can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def runs(process: psutil.Process) -> bool:
    """Whether the process still runs. One that has ended but was not collected counts as ended."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ancestor(pid: int) -> psutil.Process | None:
    import psutil

    return next((process for process in psutil.Process().parents() if process.pid == pid), None)


def _outlive(ancestor: psutil.Process, patience_seconds: float) -> None:
    """Wait for the end of a process; then tell this one to end, and kill it in case that it does not."""
    while runs(ancestor):
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience_seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
