"""Work with Spark ends when S3 does: what asks a server that is gone again and again is not waited for.

Iceberg reads a table's metadata up to twenty times more, for ten minutes, and a server that sends a byte a second is
never silent for long. Neither can be set. So somebody else looks whether S3 answers, and when it has not for as long as
it may, the work is given up. It may still be running in the JVM: it has lost its locks by then, and what it commits
later is on a branch of its own, or a fast-forward from the recorded base.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from typing import TypeVar, cast

from lakehouse.core.errors import SettingsError, TransientError
from lakehouse.core.settings import Settings
from lakehouse.ledger.store import ObjectStore

_LOOK_SECONDS = 5.0
_PROBE = "is-anybody-there"
"""An object that nobody makes: to be told that it is not there is an answer."""
Result = TypeVar("Result")


def while_s3_answers(settings: Settings, work: Callable[[], Result]) -> Result:
    """What ``work`` returns or raises; :class:`TransientError` once S3 has not answered for ``s3_timeout_seconds``."""
    done: Future[Result] = Future()
    away: Future[str] = Future()
    stop = threading.Event()

    def do() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # for whoever waits
            done.set_exception(error)

    for act in (do, lambda: _watch(settings, away, stop)):
        threading.Thread(target=act, daemon=True).start()
    try:
        wait(cast("list[Future[object]]", [done, away]), return_when=FIRST_COMPLETED)
    finally:
        stop.set()
    if done.done():
        return done.result()
    raise TransientError(
        f"S3 has not answered for {settings.s3_timeout_seconds} s; what Spark was doing there was given up",
        where=away.result(),
        untouched="every table has all of the attempt or nothing of it; what was being written is on a branch that the"
        " next run clears",
        todo="check `lakehouse status`, then run again; what was pending is still pending",
    )


def _watch(settings: Settings, away: Future[str], stop: threading.Event) -> None:
    """Ask S3 now and then; say where it is away."""
    store, answered = None, time.monotonic()
    while not stop.wait(min(_LOOK_SECONDS, settings.s3_timeout_seconds / 4)):
        store = store or ObjectStore.open(settings, settings.warehouse_bucket)
        try:
            with suppress(SettingsError):  # a refusal is an answer
                store.head(_PROBE)
            answered = time.monotonic()
        except TransientError as error:
            if time.monotonic() - answered >= settings.s3_timeout_seconds:
                away.set_result(f"{settings.s3_endpoint or 'AWS'}, bucket {store.bucket}: {error.what}")
                return
