"""What history costs, here and elsewhere. Each part is a command of its own; `show` prints all that was measured.

.venv/bin/python benchmarks/history warm --customers 2000000
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from contest import CONTESTANTS, Contest, OutputsDiffer, cold, prepare, warm
from days import Days, compare, dbt_processes, dbt_warm, engine_in_one_run, one_by_one
from place import HERE, KINDS, open_place, peers_python, servers
from process import CommandFailed, run_cold
from results import Results, show
from rich.console import Console

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

Work = Annotated[Path, typer.Option(help="Where data, servers and results are kept from one command to the next.")]
Customers = Annotated[int, typer.Option(min=1000, help="Size of the base.")]
Repetitions = Annotated[int, typer.Option(min=1)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget what this part measured before; else it is added.")]
Only = Annotated[list[str] | None, typer.Option("--only", help=f"Contestants: {', '.join(CONTESTANTS)}.")]
DEFAULT_WORK = Path(tempfile.gettempdir()) / "lakehouse-history"


def _results(work: Path) -> Results:
    return Results(work / "results.json")


def _say(text: str) -> None:
    console.print(text, highlight=False)


def _contest(work: Path, customers: int, only: list[str] | None) -> Contest:
    place = open_place(work, f"customers-{customers}")
    return Contest(place, customers, peers_python(work), tuple(only or CONTESTANTS))


@app.command("warm")
def warm_command(
    customers: Customers = 2_000_000,
    repetitions: Repetitions = 5,
    only: Only = None,
    fresh: Fresh = False,
    work: Work = DEFAULT_WORK,
) -> None:
    """Day 2 as a delta and as a snapshot, every contestant's process kept alive; digests are compared first."""
    contest = _contest(work, customers, only)
    with servers(contest.place):
        loads = prepare(contest, _say)
        found = warm(contest, repetitions, _say)
    _results(work).add("warm", {"customers": customers, "loads": loads, **found}, fresh=fresh)
    show_command(work)


@app.command("cold")
def cold_command(
    customers: Customers = 2_000_000,
    repetitions: Repetitions = 5,
    only: Only = None,
    fresh: Fresh = False,
    work: Work = DEFAULT_WORK,
) -> None:
    """The same, each command in a process of its own. Few repetitions at a time: sessions add up."""
    contest = _contest(work, customers, only)
    with servers(contest.place):
        prepare(contest, _say)
        found = cold(contest, repetitions, _say)
    _results(work).add("cold", {"customers": customers, **found}, fresh=fresh)
    show_command(work)


@app.command("bronze")
def bronze_command(customers: Customers = 2_000_000, work: Work = DEFAULT_WORK) -> None:
    """The whole way from a landed Parquet file through bronze, cold; compared with `warm` of this size, if it ran."""
    contest = _contest(work, customers, ["engine", "delta-rs"])
    contest.generate()
    place = open_place(work, f"whole-way-{customers}")
    place.data("base").parent.mkdir(exist_ok=True)
    for name in ("base", *KINDS):
        place.data(name).unlink(missing_ok=True)
        place.data(name).hardlink_to(contest.place.data(name))
    program = [sys.executable, str(HERE / "whole_way.py"), str(place.folder)]
    kinds: dict[str, Any] = {}
    with servers(place):
        for kind in KINDS:
            steps: dict[str, Any] = {}
            kinds[kind] = steps
            for day in (1, 2):
                _say(f"day {day}, {kind}")
                steps[f"day {day}, landing"] = vars(run_cold([*program, "land", kind, str(day)], place.log("land")))
                steps[f"day {day}, run"] = vars(run_cold([*program, "run", kind], place.log("run")))
            run_cold([*program, "export", kind], place.log("export"))
    digests = {kind: Contest(place, customers, contest.peers).digest("whole-way", kind) for kind in KINDS}
    same_size = [old for old in _results(work).read().get("warm", []) if old["customers"] == customers]
    expected = [one for old in same_size for tables in old["digests"].values() for one in tables.values()]
    if len({json.dumps(one) for one in [*expected, *digests.values()]}) > 1:
        raise OutputsDiffer(f"from the landed file: {digests}, in the contest: {expected}")
    _results(work).add("bronze", {"customers": customers, "kinds": kinds, "digests": digests})
    show_command(work)


@app.command("days")
def days_command(
    data: Annotated[Path, typer.Option(help="Folder of the daily files of the real data.")],
    days: Annotated[int, typer.Option(min=2)] = 305,
    sample: Annotated[int, typer.Option(min=1, help="Days that dbt is run for in a process each.")] = 10,
    step: Annotated[list[str] | None, typer.Option(help="engine, warm, processes or compare; default: all.")] = None,
    work: Work = DEFAULT_WORK,
) -> None:
    """The real days: this engine in one run, dbt day by day, both again shuffled, and the keys that are wrong."""
    todo = Days(work, data, days, peers_python(work))
    results = _results(work)
    found: dict[str, Any] = next(
        (old for old in results.read().get("days", [])[::-1] if old["days"] == days), {"days": days}
    )
    orders = ("in-order", "shuffled")
    parts: dict[str, Callable[[], Any]] = {
        "engine": lambda: {name: engine_in_one_run(todo, name, _say) for name in orders},
        "warm": lambda: {name: dbt_warm(todo, name, _say) for name in orders},
        "processes": lambda: dbt_processes(todo, sample, _say),
        "compare": lambda: compare(todo),
    }
    if unknown := set(step or ()) - set(parts):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(parts)}", param_hint="--step")
    for name in step or parts:
        found[name] = parts[name]()
        results.add("days", found, fresh=True)
    show_command(work)


@app.command("reverse")
def reverse_command(
    data: Annotated[Path, typer.Option(help="Folder of the daily files of the real data.")],
    days: Annotated[int, typer.Option(min=2)] = 305,
    minutes: Annotated[float, typer.Option(help="Stop after this time; the next call goes on.")] = 9,
    work: Work = DEFAULT_WORK,
) -> None:
    """The days landed and run one by one, the last first. Needs the days in order first (`days --step engine`)."""
    found = one_by_one(Days(work, data, days, peers_python(work)), minutes * 60, _say)
    _results(work).add("reverse", found, fresh=found["new"] == found["days"])
    show_command(work)


@app.command("daily")
def daily_command(
    customers: Customers = 500_000, days: Annotated[int, typer.Option(min=2)] = 30, work: Work = DEFAULT_WORK
) -> None:
    """Daily batches of 0.5%: merge and scan of the last day against the first."""
    place = open_place(work, f"daily-{customers}")
    program = [sys.executable, str(HERE / "daily.py"), str(place.folder), str(customers), str(days)]
    measured = []
    with servers(place), place.log("daily").open("a") as log:
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            measured.append(json.loads(line))
            _say(f"day {measured[-1]['day']}: merge {measured[-1]['merge']['cpu_seconds']:.2f} CPU s")
        if process.wait():
            raise CommandFailed(f"the daily batches ended with {process.returncode}; see {place.log('daily')}")
    _results(work).add("daily", {"customers": customers, "days": measured})
    show_command(work)


@app.command("memory")
def memory_command(customers: Customers = 10_000_000, work: Work = DEFAULT_WORK) -> None:
    """Peak memory of the process tree: the first load and day 2, each in a process of its own."""
    contest = _contest(work, customers, ["engine"])
    _say("generating customers")
    contest.generate()
    command, log = contest.command("engine"), contest.place.log("memory")
    steps = {}
    with servers(contest.place):
        for step in (["load"], *(["apply", kind] for kind in KINDS)):
            _say(" ".join(step))
            steps[" ".join(step)] = vars(run_cold([*command, *step], log, memory=True))
    _results(work).add("memory", {"customers": customers, "steps": steps})
    show_command(work)


@app.command("show")
def show_command(work: Work = DEFAULT_WORK) -> None:
    """All that was measured, as tables; the raw figures are in results.json."""
    show(_results(work), console)


def main() -> None:
    from lakehouse.core.errors import LakehouseError

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and workers are stopped
    try:
        app()
    except LakehouseError as error:
        console.print(str(error), style="red")
        sys.exit(error.exit_code)
    except (CommandFailed, OutputsDiffer, RuntimeError, subprocess.CalledProcessError) as error:
        console.print(str(error), style="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
