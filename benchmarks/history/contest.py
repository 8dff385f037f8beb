"""Day 2 of two million customers, every contestant in turn, again and again; outputs are compared before any time is.

Warm: each contestant's process lives through all repetitions, and its tree's CPU seconds are read around a command.
Cold: each command is a process of its own, measured from start to end with everything that it started.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import customers
import psutil
from place import HERE, KINDS, Place
from process import run_cold, tree_cpu_seconds

OURS = ("engine", "usual-merge")
CONTESTANTS = ("engine", "usual-merge", "delta-rs", "dbt-duckdb", "pyarrow-floor")
KEEPS_HISTORY = CONTESTANTS[:4]
# A JVM goes on compiling for a few runs after the first; what the first runs cost, `cold` tells.
WARM_UPS = 3
Say = Callable[[str], None]


class OutputsDiffer(Exception):
    """The contestants' tables are not equal, so their times say nothing."""


@dataclass(frozen=True)
class Contest:
    """One size of the contest: its folder, and the peers' interpreter."""

    place: Place
    customers: int
    peers: Path
    names: Sequence[str] = CONTESTANTS

    def command(self, name: str) -> list[str]:
        """The program of a contestant."""
        python = sys.executable if name in OURS else str(self.peers)
        return [python, str(HERE / "worker.py"), name, str(self.place.folder)]

    def generate(self) -> None:
        """Write the input files that are missing."""
        if not all(self.place.data(name).exists() for name in ("base", *KINDS)):
            first = customers.base(self.customers)
            changed, everybody = customers.following(first, changed_share=0.01, added_share=0.002)
            days = {"delta": changed, "snapshot": everybody, "base": first}
            for name, day in days.items():
                customers.write(day, self.place.data(name))

    def digest(self, name: str, kind: str) -> dict[str, Any]:
        """What a contestant exported."""
        program = [str(self.peers), str(HERE / "digest.py"), str(self.place.export(name, kind))]
        found: dict[str, Any] = json.loads(subprocess.run(program, check=True, capture_output=True).stdout)
        return found


@dataclass
class Live:
    """A contestant's process that waits for commands."""

    process: psutil.Popen
    log: Path
    _tree: psutil.Process = field(init=False)

    def __post_init__(self) -> None:
        self._tree = psutil.Process(self.process.pid)

    def do(self, command: str, *arguments: str) -> dict[str, Any]:
        """Have it do something; its answer, with the CPU seconds that its tree used meanwhile."""
        before = tree_cpu_seconds(self._tree)
        self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{command} {' '.join(arguments)} failed; see {self.log}")
        return {"cpu_seconds": tree_cpu_seconds(self._tree) - before, **json.loads(answer)}


@contextmanager
def live(contest: Contest, name: str) -> Iterator[Live]:
    """A contestant's process, which ends with the block."""
    log = contest.place.log(name)
    with log.open("a") as output:
        process = psutil.Popen(
            contest.command(name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True
        )
        try:
            yield Live(process, log)
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


def prepare(contest: Contest, say: Say) -> dict[str, Any]:
    """Make the inputs and every contestant's day 1 where they are missing; returns what each load took."""
    say("generating customers")
    contest.generate()
    taken = {}
    for name in contest.names:
        done = contest.place.store(name) / "loaded.json"
        if not done.exists():
            say(f"{name}: day 1")
            with live(contest, name) as worker:
                done.write_text(json.dumps(worker.do("load")))
        taken[name] = json.loads(done.read_text())
    return taken


def compare(contest: Contest, workers: Mapping[str, Live], say: Say) -> dict[str, dict[str, Any]]:
    """Have everybody bring day 2 in once, and compare the tables. Raises OutputsDiffer."""
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        digests = {}
        for name, worker in workers.items():
            say(f"{name}: {kind}, to be compared")
            worker.do("reset", kind)
            worker.do("apply", kind)
            if name in KEEPS_HISTORY:
                worker.do("export", kind)
                digests[name] = contest.digest(name, kind)
        if len({json.dumps(each) for each in digests.values()}) > 1:
            raise OutputsDiffer(f"{kind}: {json.dumps(digests, indent=1)}")
        found[kind] = digests
    return found


def warm(contest: Contest, repetitions: int, say: Say) -> dict[str, Any]:
    """Everybody in turn, each kind in turn, after a run of each that is compared and warm-ups that do not count."""
    runs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        workers = {name: stack.enter_context(live(contest, name)) for name in contest.names}
        digests = compare(contest, workers, say)
        for repetition in range(-WARM_UPS, repetitions):
            for kind in KINDS:
                for name in _turn(contest.names, repetition):
                    workers[name].do("reset", kind)
                    run = {"repetition": repetition, "kind": kind, "contestant": name} | workers[name].do("apply", kind)
                    say(f"{name}: {kind}, {run['cpu_seconds']:.1f} CPU s{'' if counts(run) else ', a warm-up'}")
                    runs.append(run)
    return {"digests": digests, "warm_ups": [r for r in runs if not counts(r)], "runs": [r for r in runs if counts(r)]}


def counts(run: Mapping[str, Any]) -> bool:
    """Whether a run is one that is measured."""
    return int(run["repetition"]) >= 0


def cold(contest: Contest, repetitions: int, say: Say) -> dict[str, Any]:
    """Everybody in turn, each time in a new process, its start and the JVM's included."""
    runs: list[dict[str, Any]] = []
    for repetition in range(repetitions):
        for kind in KINDS:
            for name in _turn(contest.names, repetition):
                log = contest.place.log(f"{name}-cold")
                run_cold([*contest.command(name), "reset", kind], log)
                used = run_cold([*contest.command(name), "apply", kind], log)
                say(f"{name}: {kind}, cold, {used.cpu_seconds:.1f} CPU s")
                figures = {"wall_seconds": used.wall_seconds, "cpu_seconds": used.cpu_seconds}
                runs.append({"repetition": repetition, "kind": kind, "contestant": name} | figures)
    return {"runs": runs}


def _turn(names: Sequence[str], repetition: int) -> list[str]:
    """Each repetition starts with another one, so that nobody always follows the same neighbour."""
    start = repetition % len(names)
    return [*names[start:], *names[:start]]
