"""A rollback and an undrop from the command to the end of the process: medians, and whether they keep their bounds.

    .venv/bin/python benchmarks/recovery/travel.py --rounds 5

On a fresh local stack. Tables are of few and of many publications, each publication a data file and a batch; other
tables stand beside them in the catalog. A rollback goes to the middle of the history and is then taken back, so that
every round starts from the same. Nothing here needs a JVM, and PyIceberg writes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakehouse.core.names import TableName
from lakehouse.core.settings import load_settings
from lakehouse.ledger.log import Batch, append
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import ATTEMPT_PROPERTY, STAMP_PROPERTY, Consumed, Stamp, open_catalog, read_head

if TYPE_CHECKING:
    from pyiceberg.table import Table

LAKEHOUSE = Path(sys.executable).with_name("lakehouse")
SOURCE, TABLE = "crm.customers", TableName("silver", "dim_crm_customer")
BOUND_SECONDS = {"rollback": 10.0, "undrop": 60.0}
SCHEMA = pa.schema([("id", pa.int64()), ("city", pa.string())])
ROWS = 1_000


@dataclass(frozen=True)
class Cost:
    """What a process took from its start to its end."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Lake:
    """The stack that is measured, and how its program is started."""

    catalog: Any
    store: ObjectStore
    warehouse: str
    environment: Mapping[str, str]

    def create(self, table: TableName) -> Table:
        """An empty table in a place of its own, as Spark's catalog chooses them."""
        self.catalog.create_namespace_if_not_exists(table.namespace)
        place = f"{self.warehouse}/{table.namespace}/{table.name}-{uuid.uuid4().hex}"
        return self.catalog.create_table(str(table), schema=SCHEMA, location=place)

    def say(self, *words: object) -> tuple[Cost, str]:
        """Run a command as a person does; what it took and what it printed."""
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [LAKEHOUSE, *map(str, words)], env=self.environment, check=True, capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Cost(time.perf_counter() - began, used), done.stdout


def publish(table: Table, number: int) -> int:
    """One publication that has consumed one batch more; returns its snapshot."""
    stamp = Stamp(f"a{number}", inputs={SOURCE: Consumed(number)}).to_json()
    rows = pa.table({"id": range(ROWS), "city": [f"city {number}"] * ROWS}, SCHEMA)
    table.append(rows, snapshot_properties={STAMP_PROPERTY: stamp, ATTEMPT_PROPERTY: f"a{number}"})
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return snapshot.snapshot_id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--publications", type=int, nargs="+", default=[5, 300])
    parser.add_argument("--tables", type=int, default=200, help="other tables in the catalog")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakehouse-benchmark-", ignore_cleanup_errors=True) as scratch:
        os.chmod(scratch, 0o711)  # noqa: S103 - PostgreSQL runs as another account when started by root
        os.environ |= {"LAKEHOUSE_HOME": scratch, "PYTHONPYCACHEPREFIX": f"{scratch}/pyc"}
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            subprocess.run([LAKEHOUSE, "up"], check=True, stdout=subprocess.DEVNULL)
            report(measure(options.rounds, options.publications, options.tables))
        finally:
            subprocess.run([LAKEHOUSE, "down"], check=True)


def measure(rounds: int, publications: list[int], tables: int) -> dict[tuple[str, int], list[Cost]]:
    """Costs of every round, by command and number of publications."""
    settings = load_settings()
    lake = Lake(open_catalog(settings), ObjectStore.open(settings), settings.warehouse, dict(os.environ))
    lake.catalog.create_tables()
    for number in range(tables):
        publish(lake.create(TableName("gold", f"other_{number}")), 1)
    found: dict[tuple[str, int], list[Cost]] = {}
    landed = 0
    for count in sorted(publications):
        heads = []
        if landed:
            lake.catalog.drop_table(str(TABLE))
        table = lake.create(TABLE)
        for number in range(1, count + 1):
            if number > landed:
                day = date(2024, 1, 1) + timedelta(days=number)
                append(lake.store, Batch(SOURCE, 0, day, "slice", (), None, None, datetime.now(UTC)))
                landed = number
            heads.append(publish(table, number))
        for _ in range(rounds):
            for what, cost in one_round(lake, heads).items():
                found.setdefault((what, count), []).append(cost)
                print(
                    f"{what:22} {count:5} publications {cost.seconds:6.2f} s {cost.cpu_seconds:5.2f} CPU-s", flush=True
                )
    return found


def one_round(lake: Lake, heads: list[int]) -> dict[str, Cost]:
    """Back, and back again; dropped, and there again. Each is checked."""
    middle, last = heads[len(heads) // 2], heads[-1]
    back, said = lake.say("rollback", TABLE, "--to", middle, "--yes", "--json")
    _require(lambda: read_head(lake.catalog, TABLE).snapshot_id == middle)
    again, _ = lake.say("rollback", TABLE, "--to", json.loads(said)["kept"][str(TABLE)], "--yes")
    _require(lambda: read_head(lake.catalog, TABLE).snapshot_id == last)
    lake.catalog.drop_table(str(TABLE))
    listed, said = lake.say("dropped", "--json")
    newest = json.loads(said)[0]
    _require(lambda: (newest["table"], newest["snapshot_id"]) == (str(TABLE), last))
    undrop, _ = lake.say("undrop", TABLE)
    _require(lambda: read_head(lake.catalog, TABLE).snapshot_id == last)
    return {"rollback": back, "rollback, taken back": again, "dropped": listed, "undrop": undrop}


def _require(holds: Callable[[], bool]) -> None:
    if not holds():
        raise SystemExit("the command did not do what it is measured for")


def report(found: Mapping[tuple[str, int], list[Cost]]) -> None:
    """Medians as a table; ends with 1 where one is over its bound."""
    late = False
    print("\n| command | publications | median s | slowest s | median CPU s | bound s |\n|---|---|---|---|---|---|")
    for (what, count), costs in sorted(found.items()):
        bound = BOUND_SECONDS.get(what.partition(",")[0])
        seconds = [cost.seconds for cost in costs]
        median, used = statistics.median(seconds), statistics.median(cost.cpu_seconds for cost in costs)
        late |= bound is not None and median > bound
        print(f"| {what} | {count} | {median:.2f} | {max(seconds):.2f} | {used:.2f} | {bound or '-'} |")
    if late:
        raise SystemExit("a command is slower than it may be")


if __name__ == "__main__":
    main()
