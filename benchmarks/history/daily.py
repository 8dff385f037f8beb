"""Thirty daily batches on one table: what day 30's merge and scan cost, against day 1's.

    python daily.py FOLDER CUSTOMERS DAYS       prints a figure for each day as JSON lines, the base first

One process, so that all days are equally warm: day 1 is run twice before it counts, from the same base.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import customers
import psutil
from place import Place
from pointer import Pointer
from process import tree_cpu_seconds
from typed_files import TypedSilver, contract, land_stub, table_of

from lakehouse.core.settings import load_settings
from lakehouse.engine.publish import Lake
from lakehouse.engine.session import session
from lakehouse.engine.silver import run_silver

CHANGED_SHARE = 0.005
SCANS = 3
WARM_UPS = 2


def generate(place: Place, count: int, days: int) -> dict[int, Path]:
    """The base and each day's changes; number of the batch to path."""
    files = {number: place.data(f"{number:03}") for number in range(1, days + 2)}
    day = customers.base(count)
    for number, path in files.items():
        changed = day
        if number > 1:
            changed, day = customers.following(day, CHANGED_SHARE, 0)
        if not path.exists():
            customers.write(changed, path)
    return files


def costs(work: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of this process's tree, and wall seconds."""
    tree, started = psutil.Process(), time.perf_counter()
    before = tree_cpu_seconds(tree)
    work()
    return {"cpu_seconds": tree_cpu_seconds(tree) - before, "wall_seconds": time.perf_counter() - started}


@dataclass(frozen=True)
class Daily:
    """The table that grows day by day."""

    lake: Lake
    files: dict[int, Path]

    def merge(self, through: int) -> dict[str, float]:
        """Take every batch up to a number."""
        found = contract("delta")
        return costs(lambda: run_silver(TypedSilver(self.lake, found, table_of(found), through, files=self.files)))

    def scan(self) -> dict[str, float]:
        """Read every column of every open version, several times; the median."""
        measured = [costs(self._read) for _ in range(SCANS)]
        return {name: statistics.median(one[name] for one in measured) for name in measured[0]}

    def files_now(self) -> dict[str, int]:
        """Data and delete files of main, and their bytes."""
        rows = self.lake.spark.sql(
            f"SELECT content, count(*) AS n, sum(file_size_in_bytes) AS bytes FROM {self._table}.files GROUP BY content"
        ).collect()
        return {f"{what}_{row['content']}": row[what] for row in rows for what in ("n", "bytes")}

    def _read(self) -> None:
        rows = self.lake.spark.table(self._table).where("is_current")
        rows.selectExpr("sum(CAST(xxhash64(*) AS decimal(38,0))) AS s").collect()

    @property
    def _table(self) -> str:
        return f"lakehouse.silver.{table_of(contract('delta'))}"


def measure(place: Place, count: int, days: int, say: Callable[[Any], None]) -> None:
    """The base, then each day: its merge, its scan, its files."""
    settings = load_settings(place.home)
    files = generate(place, count, days)
    land_stub(settings, contract("delta"), through=days + 1)
    pointer = Pointer(settings, "silver", table_of(contract("delta")), place.store("daily") / "base.txt")
    with session(settings, "daily batches") as spark:
        daily = Daily(Lake(spark, settings), files)
        spark.sql(f"DROP TABLE IF EXISTS {daily._table}")
        say({"day": 0, "merge": daily.merge(1), "scan": daily.scan(), "files": daily.files_now()})
        pointer.remember()
        for _ in range(WARM_UPS):
            daily.merge(2)
            daily.scan()
            pointer.restore()
        for day in range(1, days + 1):
            say({"day": day, "merge": daily.merge(day + 1), "scan": daily.scan(), "files": daily.files_now()})


def main() -> None:
    folder, count, days = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    measure(Place(Path(folder)), int(count), int(days), lambda line: print(json.dumps(line), file=answers, flush=True))


if __name__ == "__main__":
    main()
