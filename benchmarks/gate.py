"""What the gate costs beside the transform that it guards: CPU seconds of the whole process tree, and Spark jobs.

    .venv/bin/python benchmarks/gate.py --data ../shared/data/online-retail/by-day

All days in one run but the last, which comes alone afterwards, and once more as a re-sent day with other bytes: each in
one session, on a fresh local stack. The gate is the pass that counts rows by rule before anything is written, the
judging of the branch (Great Expectations from counts, the import of it included in the first), the naming of refused
rows, the records, and their three tables in ops; the transform is all else of bronze and silver. Marts are left out.
Goal: at most half.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from lakehouse.contracts.load import load_contracts
from lakehouse.core.settings import load_settings
from lakehouse.engine import run as engine
from lakehouse.engine import silver
from lakehouse.engine.publish import Lake
from lakehouse.engine.session import session
from lakehouse.landing.land import Request, land
from lakehouse.stack import down, up


def cpu_seconds() -> float:
    """CPU seconds so far of this process and all that it started, the JVM among them; servers run elsewhere."""
    me = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (me, *me.children(recursive=True)))


@dataclass
class Meter:
    """CPU seconds and Spark jobs of parts of a run."""

    jobs_so_far: Callable[[], int]
    cpu: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        before, jobs = cpu_seconds(), self.jobs_so_far()
        try:
            yield
        finally:
            self.cpu[name] = self.cpu.get(name, 0) + cpu_seconds() - before
            self.jobs[name] = self.jobs.get(name, 0) + self.jobs_so_far() - jobs

    def metered(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return inner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the daily files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakehouse-benchmark-", ignore_cleanup_errors=True) as scratch:
        os.chmod(scratch, 0o711)  # noqa: S103 - PostgreSQL runs as another account when started by root
        os.environ["LAKEHOUSE_HOME"] = scratch
        up(load_settings())
        try:
            _measure(Path(options.data).resolve(), Path(scratch) / "days")
        finally:
            down(load_settings())


def _measure(data: Path, days: Path) -> None:
    settings = load_settings()
    contract = load_contracts(settings.contracts)["retail.sales"]
    files = sorted(data.glob("*.csv*"))
    if not files:
        sys.exit(f"no files in {data}")
    folder = days / "retail" / "sales"
    folder.mkdir(parents=True)
    with session(settings, "gate") as spark:
        tracker = spark.sparkContext.statusTracker()
        lake = Lake(spark, settings)
        print(f"{'run':26}{'wall s':>8}{'transform CPU-s':>17}{'jobs':>6}{'gate CPU-s':>12}{'jobs':>6}{'ratio':>7}")
        for name, wanted in (
            ("all days but the last", files[:-1]),
            ("the last day", files[-1:]),
            ("sent again", files[-1:]),
        ):
            for file in wanted:
                shutil.copy(file, folder / file.name)
            if name == "sent again":
                text = (folder / wanted[0].name).read_bytes().rstrip(b"\n").rpartition(b"\n")[0]
                (folder / wanted[0].name).write_bytes(text + b"\n")  # without its last line
            land(settings, [contract], Request(root=str(days))).raise_if_refused()
            _run(lake, contract, name, Meter(lambda: len(tracker.getJobIdsForGroup(None))))


def _run(lake: Lake, contract: Any, name: str, meter: Meter) -> None:
    started = time.perf_counter()
    with (
        patch.object(silver, "count", meter.metered("counting", silver.count)),
        patch.object(silver._SilverWork, "gate", meter.metered("judging", silver._SilverWork.gate)),
        patch.object(silver.SilverJob, "record", meter.metered("records", silver.SilverJob.record)),
        patch.object(silver, "refusals", meter.metered("first rows", silver.refusals)),
        patch.object(engine, "write_records", meter.metered("ops", engine.write_records)),
        meter.part("all"),
    ):
        result = engine.run_waiting(lake, [contract], [contract.name], None, lambda _: None)
    if result.errors or result.notes:
        sys.exit(str(result.errors or result.notes))
    parts = [part for part in meter.cpu if part != "all"]
    cpu, jobs = sum(meter.cpu[part] for part in parts), sum(meter.jobs[part] for part in parts)
    rest, others = meter.cpu["all"] - cpu, meter.jobs["all"] - jobs
    wall = time.perf_counter() - started
    print(f"{name:26}{wall:8.1f}{rest:17.1f}{others:6}{cpu:12.1f}{jobs:6}{cpu / rest:7.2f}", flush=True)
    print(
        "    " + ", ".join(f"{part} {meter.cpu[part]:.1f} CPU-s, {meter.jobs[part]} jobs" for part in parts), flush=True
    )


if __name__ == "__main__":
    main()
