"""Ties between a process and those that it started or was started by. Linux knows them; elsewhere nothing is tied."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import MutableMapping

PARENT = "LAKEHOUSE_PARENT"
"""Set by whoever starts the program as a part of itself: its own pid."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def end_with_parent(environment: MutableMapping[str, str] = os.environ) -> None:
    """End this process at once when the one that started it ends, however that ends, if that one asked for it.

    What a job wrote and did not publish is on a branch of its own, so it may end anywhere. Spark's JVM ends by itself
    when the Python process is gone.
    """
    parent = environment.pop(PARENT, "")
    if not parent.isdigit():
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end, so that they can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
