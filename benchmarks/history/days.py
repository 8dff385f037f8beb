"""The real days: both retail dimensions by this engine in one run, and by a dbt snapshot run for each day.

Then both once more with the days in a random order. Keys are counted as wrong against what the same system makes of
the days in order; that dbt's own in-order tables are right at the grain of days is checked against plain SQL.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from place import HERE, Place, open_place, servers
from process import Usage, run_cold

Say = Callable[[str], None]
TABLES = {"dim_customer": "customer_id", "dim_product": "stock_code"}
SEED = 305


def day_files(data: Path, days: int) -> list[str]:
    """The first so many daily files, in order."""
    return sorted(path.name for path in data.glob("*.csv"))[:days]


@dataclass(frozen=True)
class Days:
    """One part's input: the first days of the real data, in folders of this benchmark."""

    work: Path
    data: Path
    days: int
    peers: Path

    def place(self, name: str) -> Place:
        """The folder of one order of days, with the order and copies of the files."""
        place = open_place(self.work, f"days-{self.days}-{name}")
        files = self.files(place)
        files.mkdir(exist_ok=True)
        for file in day_files(self.data, self.days):
            if not (files / file).exists():  # copied, as landing refuses links that lead elsewhere
                shutil.copyfile(self.data / file, files / file)
        self.order(place).write_text(json.dumps(self._ordered(name)))
        return place

    @staticmethod
    def files(place: Place) -> Path:
        """A folder with just these days, for tools that take a folder."""
        return place.folder / "files"

    @staticmethod
    def order(place: Place) -> Path:
        """The file with the order in which days come."""
        return place.folder / "order.json"

    def _ordered(self, name: str) -> list[str]:
        files = day_files(self.data, self.days)
        if name == "reverse":
            return files[::-1]
        if name == "shuffled":
            random.Random(SEED).shuffle(files)  # noqa: S311 - a seed, not a secret
        return files

    def ours(self, place: Place, *arguments: str) -> list[str]:
        """A command of engine_days."""
        return [sys.executable, str(HERE / "engine_days.py"), str(place.folder), *arguments]

    def theirs(self, *arguments: str) -> dict[str, Any]:
        """What a command of dbt_days answers."""
        program = [str(self.peers), str(HERE / "dbt_days.py"), *arguments]
        ended = subprocess.run(program, check=True, stdout=subprocess.PIPE)
        answer: dict[str, Any] = json.loads(ended.stdout)
        return answer

    def wrong(self, expected: Path, found: Path) -> dict[str, dict[str, int]]:
        """Keys that differ between two folders with both tables."""
        return {
            table: self.theirs("wrong", key, str(expected / f"{table}.parquet"), str(found / f"{table}.parquet"))
            for table, key in TABLES.items()
        }


def engine_in_one_run(days: Days, name: str, say: Say) -> dict[str, Any]:
    """Land all days in an order, then one run in a process of its own."""
    place = days.place(name)
    files = str(days.files(place)), str(days.order(place))
    with servers(place):
        say(f"this engine, days {name}: landing")
        landed = run_cold(days.ours(place, "land", *files), place.log("land"))
        say(f"this engine, days {name}: one run")
        used = run_cold(days.ours(place, "run"), place.log("run"))
        run_cold(days.ours(place, "export"), place.log("export"))
    return {"land": vars(landed), "run": vars(used)}


def dbt_warm(days: Days, name: str, say: Say) -> dict[str, Any]:
    """One process, one dbt run a day."""
    say(f"dbt, days {name}: one process")
    place = days.place(name)
    store = place.store("dbt-duckdb")
    return days.theirs("warm", str(store), str(days.files(place)), str(days.order(place)))


def dbt_processes(days: Days, sample: int, say: Say) -> dict[str, Any]:
    """One process a day, as a scheduler runs it: the first ``sample`` days, measured one by one."""
    place = days.place("in-order")
    store = place.store("dbt-processes")
    days.theirs("project", str(store))
    (store / "history.duckdb").unlink(missing_ok=True)
    measured = []
    for file in day_files(days.data, sample):
        used = _dbt_process(days, store, days.files(place) / file, place.log("dbt"))
        say(f"dbt, a process for {file}: {used.wall_seconds:.1f} s")
        measured.append(vars(used))
    return {"sample": measured, "days": days.days}


def _dbt_process(days: Days, store: Path, file: Path, log: Path) -> Usage:
    arrived = store / "arrived.csv"
    arrived.unlink(missing_ok=True)
    arrived.symlink_to(file)
    told = {"HISTORY_DATABASE": store / "history.duckdb", "HISTORY_FILE": arrived, "DBT_SEND_ANONYMOUS_USAGE_STATS": 0}
    environment = [f"{name}={value}" for name, value in told.items()]
    dbt = [str(days.peers.with_name("dbt")), "--quiet", "snapshot", "--project-dir", str(store)]
    return run_cold(["/usr/bin/env", *environment, *dbt, "--profiles-dir", str(store)], log)


def compare(days: Days) -> dict[str, Any]:
    """Wrong keys: dbt in order against plain SQL; dbt and this engine, days shuffled, against themselves in order."""
    ordered, shuffled = days.place("in-order"), days.place("shuffled")
    plain = ordered.store("plain-sql")
    days.theirs("truth", str(plain), str(days.files(ordered)))
    return {
        "dbt in order against plain SQL": days.wrong(plain, ordered.store("dbt-duckdb")),
        "dbt shuffled": days.wrong(ordered.store("dbt-duckdb"), shuffled.store("dbt-duckdb")),
        "this engine shuffled": days.wrong(ordered.store("engine"), shuffled.store("engine")),
    }


def one_by_one(days: Days, seconds: float, say: Say) -> dict[str, Any]:
    """The days landed and run one by one, the last first; goes on where it was left, compares when it is through."""
    place = days.place("reverse")
    command = days.ours(place, "each", str(days.files(place)), str(days.order(place)), str(seconds))
    with servers(place):
        say("this engine, days in reverse, one by one")
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        done: dict[str, Any] = json.loads(ended.stdout)
        if done["days"] < done["of"]:
            return done
        run_cold(days.ours(place, "export"), place.log("export"))
    return done | {"against in order": days.wrong(days.place("in-order").store("engine"), place.store("engine"))}
