"""What a part took: wall seconds, CPU seconds of this process and of the servers, and the most memory held."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """One run of a part. ``peak_bytes`` is the most that this process held while it ran."""

    wall_seconds: float
    cpu_seconds: float
    server_cpu_seconds: float
    peak_bytes: int


def measured(act: Callable[[], object], servers: Callable[[], Iterable[psutil.Process]]) -> Cost:
    """Run a part. What earlier parts have written is on the disk before it begins."""
    os.sync()
    _CLEAR.write_text("5")  # forgets the peak so far
    before, began, used = _cpu(servers()), time.perf_counter(), time.process_time()
    act()
    wall, mine = time.perf_counter() - began, time.process_time() - used
    return Cost(wall, mine, _cpu(servers()) - before, _peak())


def _cpu(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def _peak() -> int:
    (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
