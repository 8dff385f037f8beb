"""Failpoints: named places where a test can make the process die, fail or wait.

``LAKEHOUSE_FAILPOINTS="publish.before_fast_forward=kill"`` arms one; nothing is armed otherwise. Actions: ``kill``
(SIGKILL to this process), ``raise`` (:class:`FailpointHit`), ``park:PATH`` (create PATH, then wait to be killed).
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from lakehouse.core.errors import TransientError

_ENVIRONMENT = "LAKEHOUSE_FAILPOINTS"


class FailpointHit(TransientError):
    """Raised by a failpoint that was armed with ``raise``."""


def failpoint(name: str) -> None:
    """Do what was armed for ``name``, if anything."""
    for armed in filter(None, os.environ.get(_ENVIRONMENT, "").split(",")):
        point, _, action = armed.partition("=")
        if point == name:
            _act(name, action)


def _act(name: str, action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action.startswith("park:"):
        Path(action.removeprefix("park:")).touch()
        threading.Event().wait()
    raise FailpointHit(f"failpoint {name} was armed with {action or 'raise'}")
