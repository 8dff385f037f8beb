"""Work that waits for servers: every wait has an end, and many run at once.

Timeouts of sockets say how long a server may be silent. One that sends a byte a second never is, so somebody else looks
at the clock: whoever started the thread that waits. What takes too long is left to itself, since nothing could end it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

WORKERS = 12
_LOOK_SECONDS = 0.2
_here = threading.local()

Item = TypeVar("Item")
Result = TypeVar("Result")
Late = Callable[[], Exception]
"""The error to raise where something takes too long."""


@dataclass
class _Watch:
    """What a thread of :func:`in_threads` waits for now, and until when."""

    waits: tuple[float, Late] | None = None

    def during(self, act: Callable[[], Result], seconds: float, late: Late) -> Result:
        """What ``act`` returns; meanwhile it is known until when that should be."""
        self.waits = (time.monotonic() + seconds, late)
        try:
            return act()
        finally:
            self.waits = None

    @property
    def overdue(self) -> Late | None:
        """The error of what takes too long, if it does."""
        waits = self.waits
        return waits[1] if waits and waits[0] < time.monotonic() else None


def in_time(act: Callable[[], Result], seconds: float, late: Late) -> Result:
    """What ``act`` returns, or the error that ``late`` makes when it has not after so many seconds.

    Costs a thread, except in those of :func:`in_threads`, which are watched as they are.
    """
    watch: _Watch | None = getattr(_here, "watch", None)
    if watch is not None:
        return watch.during(act, seconds, late)
    answer: list[Result] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            answer.append(act())
        except BaseException as error:  # for whoever waits
            failure.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(seconds)
    if failure:
        raise failure[0]
    if not answer:
        raise late()
    return answer[0]


def in_threads(act: Callable[[Item], Result], items: Iterable[Item], workers: int = WORKERS) -> list[Result]:
    """What ``act`` says of each item, in order. After the first error nothing new is begun, and that one is raised."""
    todo = list(items)
    crew = _Crew(act, todo)
    crew.start(min(workers, len(todo)))
    try:
        crew.wait()
    finally:
        crew.is_stopped = True
    return [crew.results[place] for place in range(len(todo))]


@dataclass
class _Crew:
    """Threads that share a list of items."""

    act: Callable[[Any], Any]
    todo: list[Any]
    results: dict[int, Any] = field(default_factory=dict)
    is_stopped: bool = False
    _failures: list[BaseException] = field(default_factory=list)
    _running: dict[threading.Thread, _Watch] = field(default_factory=dict)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, workers: int) -> None:
        for _ in range(workers):
            watch = _Watch()
            thread = threading.Thread(target=self._work, args=(watch,), daemon=True)
            self._running[thread] = watch
            thread.start()

    def wait(self) -> None:
        """Until all have ended; those that take too long are not waited for."""
        while self._running:
            thread, _ = next(iter(self._running.items()))
            thread.join(_LOOK_SECONDS)
            for each, watch in list(self._running.items()):
                late = watch.overdue
                if late is not None:
                    self._fail(late())
                if late is not None or not each.is_alive():
                    del self._running[each]
        if self._failures:
            raise self._failures[0]

    def _work(self, watch: _Watch) -> None:
        _here.watch = watch
        while (place := self._take()) is not None:
            try:
                self.results[place] = self.act(self.todo[place])
            except BaseException as error:  # for whoever waits
                self._fail(error)

    def _take(self) -> int | None:
        with self._lock:
            if self.is_stopped or self._next == len(self.todo):
                return None
            self._next += 1
            return self._next - 1

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failures.append(error)
            self.is_stopped = True
