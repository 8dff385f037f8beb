"""How long a lost catalog takes to come back: ``python -m benchmarks.recovery.catalog [--tables 200] [--commits 3]``.

A fresh local stack gets as many real Iceberg tables, written by PyIceberg. Then the catalog's own tables are dropped,
and ``lakehouse undrop --all`` runs as a program: wall and CPU seconds, start-up included. Prints one line of JSON, once
every table has the rows that it had.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse.core.settings import Settings, load_settings
from lakehouse.ledger.watermark import open_catalog
from lakehouse.stack import down, up

THREADS = 4


def make_tables(catalog: Any, count: int, commits: int) -> list[str]:
    """Real tables, each with so many commits; their names."""
    catalog.create_tables()
    catalog.create_namespace("silver")
    names = [f"silver.dim_{number}" for number in range(count)]

    def make(number: int) -> None:
        rows = pa.table({"id": [number, number + 1, number + 2]})
        table = catalog.create_table(names[number], rows.schema)
        for _ in range(commits):
            table.append(rows)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(make, range(count)))
    return names


def contents(catalog: Any, names: list[str]) -> dict[str, list[int]]:
    """The rows of every table."""

    def read(name: str) -> list[int]:
        return sorted(catalog.load_table(name).scan().to_arrow()["id"].to_pylist())

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(read, names), strict=True))


def lose(catalog: Any) -> None:
    """The catalog knows nothing any more."""
    catalog.destroy_tables()


def measure(settings: Settings, count: int, commits: int) -> dict[str, Any]:
    """Make, lose and bring back."""
    catalog = open_catalog(settings)
    names = make_tables(catalog, count, commits)
    before = contents(catalog, names)
    lose(catalog)
    began, cpu = time.monotonic(), _cpu_of_children()
    command = [sys.executable, "-m", "lakehouse.cli.main", "undrop", "--all", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.monotonic() - began
    told = json.loads(done.stdout)
    assert sorted(told["back"]) == sorted(names)
    assert contents(open_catalog(settings), names) == before
    return {
        "tables": count,
        "commits": commits,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(_cpu_of_children() - cpu, 1),
    }


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run it on a stack of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--commits", type=int, default=3)
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="lakehouse-catalog-"))
    os.chmod(home, 0o711)  # noqa: S103 - PostgreSQL's account must enter
    os.environ["LAKEHOUSE_HOME"] = str(home)
    try:
        up(load_settings())
        print(json.dumps(measure(load_settings(), given.tables, given.commits)))
    finally:
        down(load_settings())
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
