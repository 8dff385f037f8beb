"""One wave of the kill tests, from outside: start the driver, let every case park, kill the whole process group."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from tests.faults.cases import Case, places
from tests.faults.looking import Looking

from lakehouse.core.settings import CATALOG, PROJECT_ROOT, Settings

LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 600
"""Long enough for a machine that does other things; a driver that hangs is an error."""


class Deck:
    """Deals places to be killed at: those that a kind has met least come first, in random order."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.met: Counter[tuple[str, str]] = Counter()

    def deal(self, cases: Sequence[Case], wave: int) -> dict[Case, str]:
        dealt = {}
        for case in cases:
            if not case.is_control:
                there = places(case, wave)
                self._chance.shuffle(there)
                place = min(there, key=lambda place: self.met[step_of(case, place)])
                self.met[step_of(case, place)] += 1
                dealt[case] = place
        return dealt


def step_of(case: Case, place: str) -> tuple[str, str]:
    """The kind and step of a place, whatever the case is called: ``("fact", "done@quarantine")``."""
    point, _, subject = place.partition("@")
    layer = subject.partition(".")[0] if case.kind not in ("landing", "decision") else ""
    part = subject[-2:] if case.kind == "gold" else ""
    return case.kind, f"{point}@{layer}{part}"


@dataclass
class Wave:
    """One driver and the folder that it talks through."""

    settings: Settings
    folder: Path
    number: int
    cases: Sequence[Case]
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("recovered", "ended", "parked"):
            (self.folder / name).mkdir(parents=True)
        names = ",".join(case.name for case in self.cases)
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.driver", str(self.folder), str(self.number), names],
                **{"cwd": PROJECT_ROOT, "env": environment(self.settings), "stdout": log, "stderr": log},
                start_new_session=True,
            )

    def begin(self) -> None:
        """Let the driver begin with what the wave before left."""
        self.wait_for(lambda: (self.folder / "ready").exists())
        (self.folder / "begin").touch()

    def answers(self, said: str) -> Iterator[tuple[Case, str]]:
        """The cases as they end, each with what went wrong; '' where nothing did."""
        left = {case.name: case for case in self.cases}
        while left:
            self.wait_for(lambda: any((self.folder / said / name).exists() for name in left))
            for name in [name for name in left if (self.folder / said / name).exists()]:
                yield left.pop(name), (self.folder / said / name).read_text()

    def arm(self, dealt: Mapping[Case, str]) -> dict[Case, str]:
        """Tell the driver where to park, and wait until each case is parked or ended; what went wrong, by case."""
        armed = ",".join(self._armed(case, place) for case, place in dealt.items())
        plan = self.folder / "plan.json"
        plan.with_suffix(".new").write_text(json.dumps(armed))
        plan.with_suffix(".new").rename(plan)
        self.wait_for(lambda: all(self.is_parked(case) or self._ended(case).exists() for case in self.cases))
        ended = {case: self._ended(case).read_text() for case in self.cases if self._ended(case).exists()}
        missed = {case: f"it ended and did not come to {dealt[case]}" for case in ended if case in dealt}
        return missed | {case: problem for case, problem in ended.items() if problem}

    def _armed(self, case: Case, place: str) -> str:
        action = "pause" if is_update(place) else "park"
        return f"{place.replace('.update@', '.before_fast_forward@')}={action}:{self._parked(case)}"

    def _ended(self, case: Case) -> Path:
        return self.folder / "ended" / case.name

    def _parked(self, case: Case) -> Path:
        return self.folder / "parked" / case.name

    def is_parked(self, case: Case) -> bool:
        return self._parked(case).exists()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; an error if the driver ends before, or hangs."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            log = self.folder / "log"
            assert self.process.poll() is None, f"the driver ended: {log.read_text()[-4000:]}"
            assert time.monotonic() < end, f"the driver hangs: {self._stacks()}"
            time.sleep(LOOK_SECONDS)

    def _stacks(self) -> str:
        """Where the driver's threads are."""
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(1)
        return (self.folder / "log").read_text()[-20_000:]

    @contextmanager
    def updating(self, looking: Looking, cases: Sequence[Case], dealt: Mapping[Case, str]) -> Iterator[None]:
        """Inside, the catalog's UPDATE of these cases is under way; after it, PostgreSQL carries them out."""
        with looking.connect() as connection:
            for case in cases:
                namespace, _, name = dealt[case].partition("@")[2].partition(".")
                connection.execute(
                    "SELECT 1 FROM iceberg_tables WHERE catalog_name = %s AND table_namespace = %s AND table_name = %s "
                    "FOR UPDATE",
                    (CATALOG, namespace, name),
                )
                self._parked(case).unlink()
            with looking.connect() as other:
                other.autocommit = True
                self.wait_for(lambda: _waiting(other) == len(cases))
            yield

    def kill(self) -> None:
        """SIGKILL to the whole process group, the JVM included."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Leave no process behind, whatever happened."""
        if self.process.poll() is None:
            self.kill()

    def end(self) -> None:
        """Let the driver end by itself."""
        (self.folder / "plan.json").write_text("null")
        assert self.process.wait(PATIENCE_SECONDS) == 0, (self.folder / "log").read_text()[-4000:]


def environment(settings: Settings) -> dict[str, str]:
    """What a program of its own needs to work on a lake of these tests."""
    mine = {
        "LAKEHOUSE_HOME": str(settings.home),
        "LAKEHOUSE_CATALOG_DATABASE": settings.catalog_database,
        "LAKEHOUSE_LANDING_BUCKET": settings.landing_bucket,
        "LAKEHOUSE_WAREHOUSE_BUCKET": settings.warehouse_bucket,
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "SPARK_"))}
    cache = {name: os.environ[name] for name in ("LAKEHOUSE_CACHE",) if name in os.environ}
    return others | cache | mine


def is_update(place: str) -> bool:
    """Whether the case dies while the catalog is carrying out its fast-forward."""
    return ".update@" in place


def _waiting(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND query ILIKE 'UPDATE iceberg_tables%'"
    ).fetchone()
    assert row is not None
    return int(row[0])
