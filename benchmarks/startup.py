"""From the start of a job to its first commit: a stock session, one with the class archive, and the warm server.

    .venv/bin/python benchmarks/startup.py --rounds 5

The job is ``spark_jobs/bronze.py`` with one landed day of 1,500 lines, on a fresh local stack. Each round runs it once
in each way, in turn, so that all have the same company. CPU seconds are those of the job and all that it started; on
the warm server also what the server used meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import psutil
from real_days import LAKEHOUSE

from lakehouse.core.settings import PROJECT_ROOT

WAYS = {
    "stock": {"LAKEHOUSE_SPARK_MASTER": "local[*]"},
    "archive": {"LAKEHOUSE_SPARK_MASTER": "local[*]"},
    "warm": {"LAKEHOUSE_SPARK_MASTER": "connect"},
}
TARGETS = {"archive": 0.45, "warm": 0.25}
WARM_UP = 4
FIRST_DAY = date(2024, 3, 25)
COMMITTED = "committed"


@dataclass(frozen=True)
class Start:
    """What it took until the first commit was there."""

    wall_seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(options.job)
        return
    with tempfile.TemporaryDirectory(prefix="lakehouse-benchmark-", ignore_cleanup_errors=True) as scratch:
        os.chmod(scratch, 0o711)  # noqa: S103 - PostgreSQL runs as another account when started by root
        # Compiled modules are kept, as they are where programs run again and again.
        environment = {**os.environ, "LAKEHOUSE_HOME": scratch, "PYTHONPYCACHEPREFIX": f"{scratch}/pyc"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            up = subprocess.run(
                [LAKEHOUSE, "up", "--spark", "--json"], env=environment, check=True, capture_output=True, text=True
            )
            (server,) = [each["pid"] for each in json.loads(up.stdout)["servers"] if each["kind"] == "connect"]
            _land(len(WAYS) * options.rounds + WARM_UP + 1, environment)
            report(measure(options.rounds, psutil.Process(server), environment))
        finally:
            subprocess.run([LAKEHOUSE, "down"], env=environment, check=True)


def _land(days: int, environment: Mapping[str, str]) -> None:
    """Sundays have no file, so there are some days more."""
    more = days + days // 6 + 2
    last = FIRST_DAY + timedelta(days=more - 1)
    sample = ["sample", "--days", str(more), "--from", FIRST_DAY.isoformat()]
    for arguments in (sample, ["land", "retail.sales", "--from", FIRST_DAY.isoformat(), "--to", last.isoformat()]):
        subprocess.run([LAKEHOUSE, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)


def measure(rounds: int, server: psutil.Process, environment: Mapping[str, str]) -> dict[str, list[Start]]:
    """The first run makes the table, and the next ones warm the server up; none of these counts."""
    for way in ("archive", *["warm"] * WARM_UP):
        start(way, server, environment)
    found: dict[str, list[Start]] = {way: [] for way in WAYS}
    for number in range(rounds):
        order = [*WAYS][number % len(WAYS) :] + [*WAYS][: number % len(WAYS)]
        for way in order:
            found[way].append(start(way, server, environment))
    return found


def start(way: str, server: psutil.Process, environment: Mapping[str, str]) -> Start:
    """Run the job one way, and look at the clocks when it has committed."""
    before, began = cpu(server), time.perf_counter()
    command = [sys.executable, __file__, "--job", way]
    with subprocess.Popen(command, env={**environment, **WAYS[way]}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(COMMITTED):
                break
        else:
            raise SystemExit(f"the job ({way}) ended without a commit")
        wall = time.perf_counter() - began
        used = cpu(psutil.Process(process.pid)) + (cpu(server) - before if way == "warm" else 0.0)
        process.stdout.read()
    assert process.returncode == 0, f"the job ({way}) failed"
    print(f"{way:8} {wall:6.2f} s {used:6.2f} CPU-s", flush=True)
    return Start(wall, used)


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process and all that it started, those that have ended among them."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            total += sum(each.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def report(found: Mapping[str, list[Start]]) -> None:
    """Medians, and the ratio of each way to the stock session of the same round."""
    print(f"\n{'way':8}{'wall s':>9}{'CPU s':>9}{'wall ratio':>12}{'CPU ratio':>12}{'target':>9}")
    for way, starts in found.items():
        pairs = list(zip(starts, found["stock"], strict=True))
        walls = statistics.median(a.wall_seconds / b.wall_seconds for a, b in pairs)
        cpus = statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs)
        wall = statistics.median(each.wall_seconds for each in starts)
        used = statistics.median(each.cpu_seconds for each in starts)
        print(f"{way:8}{wall:9.2f}{used:9.2f}{walls:12.2f}{cpus:12.2f}{TARGETS.get(way, 1):9.2f}")


def job(way: str) -> None:
    """The job itself, in this process; it says when it has committed."""
    sys.path.insert(0, str(PROJECT_ROOT))
    from spark_jobs.bronze import PROGRAM

    from lakehouse.core.settings import load_settings
    from lakehouse.engine import publish
    from lakehouse.engine.publish import Lake

    finish = publish._finish

    def told(*arguments: object) -> object:
        published = finish(*arguments)  # type: ignore[arg-type]
        print(COMMITTED, flush=True)
        return published

    publish._finish = told  # type: ignore[assignment]
    lake = Lake(_stock_session(), load_settings()) if way == "stock" else None
    sys.exit(PROGRAM.run(["retail.sales", "--max-batches", "1"], lake))


def _stock_session() -> object:
    """A session as one would start it: jars in ``spark.jars``, configuration in ``SPARK_CONF_DIR``, no more options."""
    from pyspark.sql import SparkSession

    from lakehouse.core.jars import jar_paths
    from lakehouse.core.settings import load_settings
    from lakehouse.core.spark_conf import session_conf, write_conf

    settings = load_settings()
    conf = session_conf(settings) | {
        "spark.jars": ",".join(map(str, jar_paths(settings.cache))),
        "spark.driver.defaultJavaOptions": "",
    }
    del conf["spark.driver.extraClassPath"]
    folder = Path(settings.home, "spark", "stock")
    Path(conf["spark.local.dir"]).mkdir(parents=True, exist_ok=True)
    os.environ["SPARK_CONF_DIR"] = str(write_conf(folder, conf))
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    return SparkSession.builder.appName("stock").getOrCreate()


if __name__ == "__main__":
    main()
