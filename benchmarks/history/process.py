"""Measuring processes with all that they start: CPU seconds, wall seconds, and the most memory held at one time.

A program that is run through this file is a *cold* measurement. The program's process becomes the parent of every
orphan below it (Linux only) and waits for all of them, so that a JVM which outlives its Python is counted whole.

    python process.py USAGE.json MEMORY(0|1) COMMAND [ARG ...]
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_SUBREAPER = 36
_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Usage:
    """What a process tree used. Memory is 0 where it was not sampled; ``rss`` counts shared pages once per process."""

    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int = 0
    peak_pss_bytes: int = 0


def tree_cpu_seconds(root: psutil.Process) -> float:
    """CPU seconds that a running tree has used so far, its ended and awaited children included."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


class CommandFailed(Exception):
    """A measured command ended with another code than 0."""


def run_cold(arguments: list[str], log: Path, *, memory: bool = False) -> Usage:
    """Run a command to its end, with everything that it starts. Raises CommandFailed; what it said is in ``log``."""
    usage = log.with_suffix(".usage.json")
    usage.unlink(missing_ok=True)
    command = [sys.executable, __file__, str(usage), str(int(memory)), *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            code = process.wait()
        finally:
            process.terminate()  # when we are stopped ourselves; it takes everything below with it
            process.wait()
    if code:
        raise CommandFailed(f"{' '.join(arguments)} ended with {code}; see {log}")
    return Usage(**json.loads(usage.read_text()))


class _Memory:
    """Samples the memory of all processes below this one."""

    def __init__(self) -> None:
        self.peak_rss = self.peak_pss = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            rss = pss = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    held = process.memory_full_info()
                except psutil.Error:
                    continue
                rss, pss = rss + held.rss, pss + held.pss
            self.peak_rss, self.peak_pss = max(self.peak_rss, rss), max(self.peak_pss, pss)


def _stop(*_: object) -> None:
    for process in psutil.Process().children(recursive=True):
        process.kill()
    sys.exit(143)


def _main() -> int:
    usage, is_sampled, *arguments = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become the parent of orphans")
    signal.signal(signal.SIGTERM, _stop)
    memory = _Memory()
    if int(is_sampled):
        memory.start()
    started = time.perf_counter()
    process = subprocess.Popen(arguments)
    cpu, code = 0.0, 0
    while True:
        try:
            pid, status, used = os.wait4(-1, 0)
        except ChildProcessError:
            break
        cpu += used.ru_utime + used.ru_stime
        if pid == process.pid:
            code = process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if int(is_sampled):
        memory.end()
    Path(usage).write_text(json.dumps(asdict(Usage(wall, cpu, memory.peak_rss, memory.peak_pss))))
    return abs(code)


if __name__ == "__main__":
    sys.exit(_main())
