"""All real days, from files to marts, each step in a process of its own on a fresh local stack.

    .venv/bin/python benchmarks/real_days.py --data ../shared/data/online-retail/by-day

Goals: landing at most 15 s; one cold run at most 120 s wall and 4 GB peak memory on 2 cores; an idle run at most 3 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

LAKEHOUSE = str(Path(sys.executable).with_name("lakehouse"))
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Measured:
    """One command as a whole process tree. Memory is the greatest sum of proportional set sizes seen."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


def measure(arguments: list[str], environment: dict[str, str]) -> Measured:
    """Run a command; sample its tree, since a JVM that nobody waits for is missing from the parent's accounts."""
    started = time.perf_counter()
    process = psutil.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)
    cpu: dict[int, float] = {}
    peak = 0
    while process.poll() is None:
        peak = max(peak, _sample(process, cpu))
        time.sleep(POLL_SECONDS)
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {process.returncode}")
    return Measured(time.perf_counter() - started, sum(cpu.values()), peak, output)


def _sample(process: psutil.Process, cpu: dict[int, float]) -> int:
    total = 0
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for each in tree:
        try:
            times = each.cpu_times()
            cpu[each.pid] = times.user + times.system
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the daily files")
    parser.add_argument("--keep", help="use this LAKEHOUSE_HOME and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakehouse-benchmark-", ignore_cleanup_errors=True) as scratch:
        os.chmod(scratch, 0o711)  # noqa: S103 - PostgreSQL runs as another account when started by root
        environment = {**os.environ, "LAKEHOUSE_HOME": options.keep or scratch}
        subprocess.run([LAKEHOUSE, "up"], env=environment, check=True)
        try:
            _steps(Path(options.data).resolve(), environment)
        finally:
            subprocess.run([LAKEHOUSE, "down"], env=environment, check=True)


def _steps(data: Path, environment: dict[str, str]) -> None:
    steps = {
        "land": [LAKEHOUSE, "land", "retail.sales", "--root", str(data), "--json"],
        "run, cold": [LAKEHOUSE, "run", "--json"],
        "run, nothing pending": [LAKEHOUSE, "run", "--json"],
    }
    print(f"{'step':24}{'wall s':>9}{'cpu s':>9}{'peak MB':>9}")
    for name, arguments in steps.items():
        measured = measure(arguments, environment)
        peak = measured.peak_bytes / 1e6
        print(f"{name:24}{measured.wall_seconds:9.1f}{measured.cpu_seconds:9.1f}{peak:9.0f}", flush=True)
        if name == "run, cold":
            result = json.loads(measured.output)
            inside = sum(table["seconds"] for table in result["tables"])
            print(f"    {'start-up and rest':32}{result['seconds'] - inside:7.1f} s")
            for table in result["tables"]:
                print(f"    {table['table']:32}{table['seconds']:7.1f} s")


if __name__ == "__main__":
    main()
