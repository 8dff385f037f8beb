"""What a request gets, in time: nobody waits long for a server that is slow or away."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, field

from lakehouse.core.clock import Clock, SystemClock
from lakehouse.core.errors import LakehouseError, SettingsError, TransientError
from lakehouse.core.names import TableName
from lakehouse.page.detail import Detail, Reading, detail, read_table
from lakehouse.page.known import Known, Problem
from lakehouse.page.overview import Choice, Overview, overview
from lakehouse.page.refresh import Refresher

FRESH_SECONDS = 10.0
WAIT_SECONDS = 4.0
GIVEN_UP_SECONDS = 90.0
"""A refresh that takes longer hangs: the next one does not wait for it."""
_READERS = 4
_KEPT = 20


@dataclass
class LakeView:
    """Keeps what is known, and brings it up to date when somebody asks.

    What is younger than ``fresh_seconds`` is shown as it is. Else a refresh is started, one at a time, and whoever
    asked waits for it, but no longer than ``wait_seconds``: then they see what is known by then.
    """

    refresher: Refresher
    clock: Clock = field(default_factory=SystemClock)
    fresh_seconds: float = FRESH_SECONDS
    wait_seconds: float = WAIT_SECONDS
    known: Known = field(default_factory=Known)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: Refreshing | None = None
    _readings: OrderedDict[TableName, Reading] = field(default_factory=OrderedDict)
    _readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_READERS, "lakehouse-page-table"))

    def overview(self, choice: Choice) -> Overview:
        """The overview, as of now or as it is known."""
        return overview(self.current(), choice, self.clock.now())

    def detail(self, name: TableName) -> Detail | None:
        """A table's page; None where neither the catalog nor a contract knows the table."""
        known = self.current()
        if name not in known.pointers and name not in known.declared.contract_of and name not in known.declared.marts:
            return None
        reading, problem = self._read(known, name)
        return detail(known, name, reading, problem, self.clock.now())

    def drill_report(self, drill_id: str) -> str:
        """The report of a drill. Raises :class:`LakehouseError` where there is none that we signed, or no server."""
        backups = self.refresher.lake().backups
        if backups is None:
            raise SettingsError("there is no place for backups", todo="set `LAKEHOUSE_BACKUP_BUCKET`")
        return backups.report(drill_id)

    def current(self) -> Known:
        """What is known, after a refresh if one is due and quick enough."""
        with self._lock:
            running = self._running
            if running is not None and running.hangs(self.clock):
                self.refresher.forget_servers()
            if running is None or running.is_over(self.clock, self.fresh_seconds):
                running = self._running = Refreshing(self, self.clock.now().timestamp())
                threading.Thread(target=running.run, name="lakehouse-page-refresh", daemon=True).start()
        running.done.wait(self._patience())
        return self.known

    def _patience(self) -> float:
        """How long to wait: less, once something is known and its servers did not answer last time."""
        return self.wait_seconds / 8 if self.known.problems and self.known.tables else self.wait_seconds

    def _read(self, known: Known, name: TableName) -> tuple[Reading | None, Problem | None]:
        """What the table's page needs beyond the overview, or the last that was read, and why it is no newer."""
        if name not in known.pointers:
            return None, None
        future = self._readers.submit(read_table, self.refresher, known, name, self._readings.get(name))
        try:
            return self._keep(name, future.result(self._patience())), None
        except TooLate:
            future.cancel()
            error: LakehouseError = TransientError(
                f"what {name} is made of was not read in {self.wait_seconds:.0f} s",
                todo="reload the page in a moment; if it stays like this, see `lakehouse status`",
            )
        except LakehouseError as met:
            error = met
        return self._readings.get(name), Problem.of("table", error, self.clock.now())

    def _keep(self, name: TableName, reading: Reading) -> Reading:
        """Keep the readings of the last few tables: metadata may be large."""
        self._readings[name] = reading
        self._readings.move_to_end(name)
        while len(self._readings) > _KEPT:
            self._readings.popitem(last=False)
        return reading


@dataclass
class Refreshing:
    """One refresh: when it began, and whether it has ended."""

    view: LakeView
    began: float
    done: threading.Event = field(default_factory=threading.Event)
    ended: float = 0.0

    def is_over(self, clock: Clock, fresh_seconds: float) -> bool:
        """Whether another one is due."""
        now = clock.now().timestamp()
        return self.hangs(clock) if not self.done.is_set() else now - self.ended > fresh_seconds

    def hangs(self, clock: Clock) -> bool:
        """Whether nobody should wait for it any longer."""
        return not self.done.is_set() and clock.now().timestamp() - self.began > GIVEN_UP_SECONDS

    def run(self) -> None:
        """Read all, showing what is known on the way; one that was given up shows nothing more."""
        try:
            for known in self.view.refresher.run(self.view.known):
                if self.view._running is not self:
                    return
                self.view.known = known
        except Exception:
            logging.getLogger(__name__).exception("the Lakehouse page could not be brought up to date")
        finally:
            self.ended = self.view.clock.now().timestamp()
            self.done.set()
