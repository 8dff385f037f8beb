"""All real days, landed and run one by one, the last day first: are the tables those of one run in order?

    .venv/bin/python benchmarks/reverse_days.py --data ../shared/data/online-retail/by-day --home DIR [--days N]

Every day but the first to arrive is late for every key that it has. With ``--days`` it takes that many days more and
stops; the next call with the same home goes on. When all days are there, the content fingerprints of all silver tables
are compared with those of a single run. It fails if they differ.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.settings import Settings, load_settings
from lakehouse.core.types import DataType
from lakehouse.engine.encoding import content_fingerprint
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import run_dataset
from lakehouse.engine.session import session
from lakehouse.engine.tables import business_types
from lakehouse.landing.land import Request, land
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.stack import buckets, credentials, down, roles, up

SOURCE = "retail.sales"
REPORTED_DAYS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of the daily files")
    parser.add_argument("--home", required=True, type=Path, help="LAKEHOUSE_HOME of this benchmark; it is kept")
    parser.add_argument("--days", type=int, help="take so many more days, and stop")
    options = parser.parse_args()
    options.home.mkdir(parents=True, exist_ok=True)
    options.home.chmod(0o711)  # PostgreSQL runs as another account when started by root
    os.environ["LAKEHOUSE_HOME"] = str(options.home.resolve())
    with servers() as settings:
        sys.exit(compare(settings, options.data.resolve(), options.days))


@contextmanager
def servers() -> Iterator[Settings]:
    """The local servers of the home, stopped at the end."""
    settings = load_settings()
    try:
        up(settings)
        yield load_settings()
    finally:
        down(settings)


def compare(settings: Settings, data: Path, limit: int | None) -> int:
    """Take days in reverse; with all of them, compare. The exit code: 0 unless tables differ."""
    contract = next(c for c in load_contracts(settings.contracts).values() if c.name == SOURCE)
    days = sorted(data.glob("*.csv"))
    reverse, in_order = place(settings, "reverse"), place(settings, "in_order")
    done = len(read_log(ObjectStore.open(reverse), SOURCE))
    found = run_days(reverse, contract, days[::-1][done:][:limit])
    done = len(read_log(ObjectStore.open(reverse), SOURCE))
    print(f"{done} of {len(days)} days have been taken in reverse")
    if done < len(days):
        return 0
    wanted = run_days(in_order, contract, days, one_run=True)
    for table, fingerprint in wanted.items():
        print(f"{table:24}{'equal' if found[table] == fingerprint else 'DIFFERENT'}")
    return int(found != wanted)


def place(settings: Settings, name: str) -> Settings:
    """A catalog database and buckets of their own, made where they are missing."""
    mine = settings.model_copy(
        update={
            "catalog_database": f"lake_{name}",
            "landing_bucket": f"landing-{name.replace('_', '-')}",
            "warehouse_bucket": f"warehouse-{name.replace('_', '-')}",
        }
    )
    roles.provision(mine, mine.postgres_port, credentials.load_or_create(settings).passwords)
    buckets.create(mine)
    return mine


def run_days(settings: Settings, contract: Contract, days: list[Path], *, one_run: bool = False) -> dict[str, str]:
    """Land and run days, each by itself or all at once: the content of all silver tables at the end."""
    with session(settings, "reverse days") as spark:
        lake = Lake(spark, settings)
        started, cpu = time.perf_counter(), cpu_seconds()
        groups = [days] if one_run else [[day] for day in days]
        for number, group in enumerate(groups, 1):
            land_days(settings, contract, group)
            run_dataset(lake, contract, None, lambda _: None)
            if number % REPORTED_DAYS == 0 or number == len(groups):
                took = f"{time.perf_counter() - started:8.1f} s wall, {cpu_seconds() - cpu:8.1f} s CPU"
                print(f"{number:4} of {len(groups)} runs, {len(days)} days: {took}", flush=True)
        return fingerprints(lake, contract)


def land_days(settings: Settings, contract: Contract, days: list[Path]) -> None:
    """Land these files alone."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-days-") as root:
        for day in days:
            shutil.copy(day, root)
        land(settings, [contract], Request(root=root)).raise_if_refused()


def fingerprints(lake: Lake, contract: Contract) -> dict[str, str]:
    """The content of every silver table: business columns and keys, whatever batch they came in."""
    found = {}
    for name, table in contract.tables.items():
        keys = [names.KEY, *([names.VERSION_KEY] if table.kind == "dimension" else [])]
        columns = business_types(table) | dict.fromkeys(keys, DataType("string"))
        found[name] = content_fingerprint(lake.table(contract.silver_table(name)), columns)
    return found


def cpu_seconds() -> float:
    """CPU time of this process and all below it, those that have ended included."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
