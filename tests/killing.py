"""Work that is killed at a failpoint: a process of its own, SIGKILL, and nothing of it left on the servers."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable

from tests.servers import as_catalog_user

from lakehouse.core.settings import Settings
from lakehouse.engine.lock import LOCKS_OF
from lakehouse.ledger import store

_PATIENCE_SECONDS = 30


def is_killed(failpoints: str, work: Callable[[], object]) -> bool:
    """Do something in a process of its own, which must open its own connections; whether it was killed on its way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads do not go along, which is fine here
        child = os.fork()
    if child == 0:
        os.environ["LAKEHOUSE_FAILPOINTS"] = failpoints
        store._client.cache_clear()  # connections are the parent's
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def wait_until_no_locks(settings: Settings) -> None:
    """A server hears of a client's death a moment later; then nobody holds a lock of this lake."""
    end = time.monotonic() + _PATIENCE_SECONDS
    with as_catalog_user(settings, autocommit=True) as connection:
        while held := connection.execute(LOCKS_OF).fetchall():
            assert time.monotonic() < end, held
            time.sleep(0.02)
