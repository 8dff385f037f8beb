"""The program that is killed: it completes what the wave before left, says so, and parks every case at its failpoint.

It talks through files in one folder: ``recovered/<case>`` and ``ended/<case>`` with what went wrong, if anything;
``parked/<case>`` made by failpoints; ``plan.json``, which it waits for before it takes the wave's batches.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.faults.cases import Case, contracts, make_case
from tests.sessions import small_session

from lakehouse.core.settings import CATALOG, Settings, load_settings
from lakehouse.engine.gold import Marts, run_gold
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import run_bronze, run_dataset
from lakehouse.engine.session import session
from lakehouse.engine.silver import Silver, run_silver
from lakehouse.landing.land import Request, land
from lakehouse.ledger.decisions import Decision, append_decision, read_decisions
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog

LANES = 4
PARKED_SECONDS = 900
"""How long an update of the catalog waits for its kill: longer than a wave takes."""
SMALL = {"spark.sql.shuffle.partitions": "1", "spark.default.parallelism": "1", "spark.driver.memory": "1g"}
# Minutes of small jobs: the compiler's second stage would cost more than it saves. Without it the JVM reserves 48 MB
# for code, which are full after a wave; nothing is compiled from then on.
QUICK = {
    "spark.driver.extraJavaOptions": "-XX:+UseParallelGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m",
    "spark.python.worker.reuse": "true",
}
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Work:
    """How each kind of case takes everything up to a wave's batch. Done twice, it does nothing the second time."""

    folder: Path
    settings: Settings

    @cached_property
    def contracts(self) -> dict[str, Any]:
        return contracts()

    def take(self, lake: Lake, case: Case, wave: int) -> None:
        """Land, load or publish what a case has not taken yet."""
        contract = self.contracts[case.source]
        if case.source == case.name:
            self.land(case, wave)
        if case.kind == "bronze":
            run_bronze(lake, contract)
        elif case.kind == "whole":
            run_dataset(lake, contract, None, lambda _: None)
        elif case.kind == "decision":
            self.hold(case, wave + 1)
        elif case.kind == "gold":
            only = contract.model_copy(update={"tables": {case.table: contract.tables[case.table]}})
            run_gold(Marts(self.with_marts(lake, case), [only]))
        elif case.kind != "landing":
            run_silver(Silver(lake, contract, case.table, wave + 1))

    def land(self, case: Case, wave: int) -> None:
        root = str(self.folder / "files" / str(wave))
        land(self.settings, [self.contracts[case.source]], Request(root=root)).raise_if_refused()

    def hold(self, case: Case, batch: int) -> None:
        """Hold a batch unless it is held, as a person does who does not know whether it worked."""
        store, source = ObjectStore.open(self.settings), f"kills.{case.source}"
        if not any(batch in decision.batches for decision in read_decisions(store, source)):
            append_decision(store, Decision(source, 0, "hold", (batch,), "a test", "tests", datetime.now(UTC)))

    def with_marts(self, lake: Lake, case: Case) -> Lake:
        project = self.folder / "marts" / case.name
        mine = Lake(lake.spark, lake.settings.model_copy(update={"dbt": project, "home": project / "home"}))
        mine.__dict__["catalog"] = lake.catalog
        return mine


def in_lanes(
    cases: Iterable[Case],
    lakes: Callable[[], Lake],
    act: Callable[[Lake, Case], None],
    is_parked: Callable[[Case], bool],
) -> None:
    """Work on many cases with a few sessions. One that is parked stays where it is, and its lane goes on."""
    waiting: queue.SimpleQueue[Case | None] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)

    def lane() -> None:
        lake = lakes()
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            worker = threading.Thread(target=act, args=(lake, case), name=case.name, daemon=True)
            worker.start()
            while worker.is_alive() and not is_parked(case):
                worker.join(_LOOK_SECONDS)

    lanes = [threading.Thread(target=lane, daemon=True) for _ in range(LANES)]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()


@dataclass(frozen=True)
class Driver:
    """One process of the test: recovers wave ``wave - 1``, then takes ``wave``."""

    folder: Path
    wave: int
    spark: Any
    work: Work

    def run(self, cases: list[Case]) -> None:
        catalog = open_catalog(self.work.settings)

        def lake() -> Lake:
            one = small_session(self.spark, self.work.settings)
            # All cases that die while PostgreSQL updates the catalog have a connection of their own.
            one.conf.set(f"spark.sql.catalog.{CATALOG}.clients", "32")
            made = Lake(one, self.work.settings)
            made.__dict__["catalog"] = catalog
            return made

        loaded = lake()
        for source in sorted({case.source for case in cases} - {case.name for case in cases}):
            run_bronze(loaded, self.work.contracts[source])
        if self.wave:
            self._pass("recovered", cases, lake, self.wave - 1)
        plan = self._plan()
        if plan is not None:
            os.environ["LAKEHOUSE_FAILPOINTS"] = plan
            self._pass("ended", cases, lake, self.wave)
            threading.Event().wait()

    def _pass(self, said: str, cases: list[Case], lake: Callable[[], Lake], wave: int) -> None:
        """Take a wave: controls first, and marts last and one by one, since dbt knows one session at a time."""

        def act(mine: Lake, case: Case) -> None:
            problem = ""
            try:
                self.work.take(mine, case, wave)
            except BaseException:
                problem = traceback.format_exc()
            answer = self.folder / said / case.name
            answer.with_suffix(".new").write_text(problem)
            answer.with_suffix(".new").rename(answer)

        gold = [case for case in cases if case.kind == "gold"]
        others = sorted((case for case in cases if case.kind != "gold"), key=lambda case: not case.is_control)
        in_lanes(others, lake, act, self._is_parked)
        for case in gold:
            in_lanes([case], lake, act, self._is_parked)

    def _is_parked(self, case: Case) -> bool:
        return (self.folder / "parked" / case.name).exists()

    def _plan(self) -> str | None:
        """The armed failpoints of the wave, once they are known; None when there is no other wave."""
        path = self.folder / "plan.json"
        wait_for(path)
        plan = json.loads(path.read_text())
        return plan if plan is None else str(plan)


def wait_for(path: Path) -> None:
    """Wait until the test made a file."""
    while not path.exists():
        time.sleep(_LOOK_SECONDS)


def end_with(parent: int) -> None:
    """End when the test that started this program was killed itself."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: Path, wave: int, names: list[str]) -> None:
    end_with(os.getppid())
    faulthandler.register(signal.SIGUSR1)  # where does it hang?
    settings = load_settings()
    settings = settings.model_copy(update={"spark_conf": SMALL | QUICK, "catalog_timeout_seconds": PARKED_SECONDS})
    with session(settings, "kills") as spark:
        (folder / "ready").touch()
        wait_for(folder / "begin")
        Driver(folder, wave, spark, Work(folder.parent, settings)).run([make_case(name) for name in names])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","))
