"""Failpoints: named places where a test can make the process die, fail or wait.

``LAKEHOUSE_FAILPOINTS="publish.before_fast_forward=kill"`` arms one; nothing is armed otherwise. What the process is
working on there can be named, too: ``publish.before_fast_forward@silver.dim_customer=kill``. Actions: ``kill`` (SIGKILL
to this process), ``raise`` (:class:`FailpointHit`), ``park:PATH`` (create PATH, then wait to be killed), and
``pause:PATH`` (create PATH, then wait until somebody removes it).
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from lakehouse.core.errors import TransientError

_ENVIRONMENT = "LAKEHOUSE_FAILPOINTS"
_LOOK_SECONDS = 0.02


class FailpointHit(TransientError):
    """Raised by a failpoint that was armed with ``raise``."""


def failpoint(name: str, *about: object) -> None:
    """Do what was armed for ``name``, if anything. ``about`` are the tables or the source that are worked on."""
    for armed in filter(None, os.environ.get(_ENVIRONMENT, "").split(",")):
        place, _, action = armed.rpartition("=")  # a path of a partition may have one, too
        point, _, subject = place.partition("@")
        if point == name and (not subject or subject in map(str, about)):
            _act(name, action)


def _act(name: str, action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    what, _, path = action.partition(":")
    if what in ("park", "pause"):
        Path(path).touch()
        if what == "park":
            threading.Event().wait()
        while Path(path).exists():
            threading.Event().wait(_LOOK_SECONDS)
        return
    raise FailpointHit(f"failpoint {name} was armed with {action or 'raise'}")
