"""All real days through Airflow: from the request of a backfill to published marts, on a fresh local stack.

    .venv/bin/python -m benchmarks.airflow_days --data ../shared/data/online-retail/by-day
        [--reverse] [--days N] [--warm] [--one-more] [--compare]

Goals on 2 cores: at most 12 minutes for 305 days, and a handful of Spark jobs; on a warm Spark (`--warm`), at most 60 s
from the arrival of one more day's file to published marts (`--one-more`: the last day is kept back until then). Prints
one line of JSON: seconds until all days had landed and until the marts were published, the runs that caught up, what a
landing run costs beside its own work, and a fingerprint of each silver table and mart. With `--compare` the command
line lands and takes the same files into a lake of its own, and the fingerprints have to be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.airflow.client import Airflow, wait_for

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.marts import declared_marts
from lakehouse.core.encoding import fingerprint_table
from lakehouse.core.settings import Settings, load_settings
from lakehouse.engine.tables import business_types
from lakehouse.ledger.outstanding import outstanding
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog
from lakehouse.stack import buckets, credentials, down, logins, roles, up

SOURCE, LAND, TRANSFORM, GOLD = "retail.sales", "land_retail_sales", "transform_retail_sales", "build_marts"
LIMIT_SECONDS = 3600.0
ACTIVE_RUNS = 16


def lay(files: list[Path], sources: Path) -> None:
    """Put daily files where the contract looks for them."""
    folder = sources / "retail" / "sales"
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copy(path, folder)


def day_of(path: Path) -> date:
    return date.fromisoformat(path.name[:10])


def is_through(settings: Settings) -> bool:
    """Whether the source and the marts have nothing left to do, by the ledger and not by Airflow."""
    contracts = load_contracts(settings.contracts)
    catalog, store = open_catalog(settings), ObjectStore.open(settings)
    return not list(outstanding(catalog, store, [contracts[SOURCE]], list(contracts.values()), settings.dbt))


def seconds(task: Mapping[str, Any]) -> float:
    """How long a task ran, by Airflow's own account."""
    return float(task.get("duration") or 0)


def measure(settings: Settings, airflow: Airflow, days: list[date], *, backwards: bool) -> dict[str, Any]:
    """Request the backfill, and wait until the marts have it all."""
    airflow.unpause(LAND)
    body = {
        "dag_id": LAND,
        "from_date": f"{days[0]}T00:00:00Z",
        "to_date": f"{days[-1]}T00:00:00Z",
        "max_active_runs": ACTIVE_RUNS,
        "run_backwards": backwards,
    }
    started = time.monotonic()
    number = airflow.ask("POST", "/backfills", json=body)["id"]
    wait_for(lambda: airflow.ask("GET", f"/backfills/{number}")["completed_at"], LIMIT_SECONDS, "the backfill")
    landed = time.monotonic() - started
    wait_for(lambda: is_through(settings), LIMIT_SECONDS, "the marts")
    through = time.monotonic() - started
    airflow.wait_until_idle(TRANSFORM, GOLD, seconds=LIMIT_SECONDS)
    return {"landed_seconds": round(landed, 1), "through_seconds": round(through, 1), **runs_of(airflow, landed)}


def land_one_more(settings: Settings, airflow: Airflow, day: date) -> dict[str, float]:
    """Seconds from the arrival of a day's file, whose landing is triggered at once, to published marts."""
    started = time.monotonic()
    run = airflow.trigger(LAND, first_day=str(day))
    airflow.wait_for_run(LAND, run)
    landed = time.monotonic() - started
    wait_for(lambda: is_through(settings), LIMIT_SECONDS, "the marts")
    through = time.monotonic() - started
    airflow.wait_until_idle(TRANSFORM, GOLD, seconds=LIMIT_SECONDS)
    return {"one_more_landed_seconds": round(landed, 1), "one_more_through_seconds": round(through, 1)}


def runs_of(airflow: Airflow, landed: float) -> dict[str, Any]:
    """What Airflow did: runs that landed, runs that caught up, and the overhead of a landing run."""
    path = "/dags/{}/dagRuns/~/taskInstances"
    tasks = []
    while page := airflow.ask("GET", path.format(LAND), params={"limit": 100, "offset": len(tasks)})["task_instances"]:
        tasks += page
    work = sum(map(seconds, tasks))
    worked = {
        dag: sum(each["state"] == "success" for each in airflow.ask("GET", path.format(dag))["task_instances"])
        for dag in (TRANSFORM, GOLD)
    }
    return {
        "landing_runs": len(tasks),
        "landing_task_seconds": round(work, 1),
        "wall_seconds_per_landing_run": round(landed / max(1, len(tasks)), 2),
        "catch_up_tasks": worked,
    }


def fingerprints(settings: Settings) -> dict[str, str]:
    """The content of each silver table and mart, whatever batches it came in."""
    contract, catalog = load_contracts(settings.contracts)[SOURCE], open_catalog(settings)
    found = {}
    for name, spec in contract.tables.items():
        table = catalog.load_table(("silver", name))
        found[f"silver.{name}"] = fingerprint_table(table.scan().to_arrow(), business_types(spec))
    for mart in declared_marts(settings.dbt):
        rows = catalog.load_table((mart.table.namespace, mart.table.name)).scan().to_arrow()
        found[str(mart.table)] = fingerprint_rows(rows)
    return found


def fingerprint_rows(rows: pa.Table) -> str:
    """A hash of rows in whatever order, by what Python makes of their values."""
    every = sorted(
        hashlib.sha256(repr(row).encode()).digest() for batch in rows.to_batches() for row in batch.to_pylist()
    )
    return hashlib.sha256(b"".join(every)).hexdigest()


def by_the_command_line(settings: Settings) -> dict[str, str]:
    """The same files, landed and taken by the program alone into a lake of its own on the same servers."""
    apart = settings.model_copy(
        update={"catalog_database": "lake_apart", "landing_bucket": "l-apart", "warehouse_bucket": "w-apart"}
    )
    roles.provision(apart, apart.postgres_port, credentials.load_or_create(settings).passwords)
    buckets.create(apart)
    told = {
        "LAKEHOUSE_CATALOG_DATABASE": apart.catalog_database,
        "LAKEHOUSE_LANDING_BUCKET": apart.landing_bucket,
        "LAKEHOUSE_WAREHOUSE_BUCKET": apart.warehouse_bucket,
        "LAKEHOUSE_SPARK_MASTER": "local[*]",
    }
    for words in (("land", SOURCE), ("run", SOURCE)):
        command = [sys.executable, "-m", "lakehouse.cli.main", *words]
        subprocess.run(command, env={**os.environ, **told}, check=True, stdout=sys.stderr)
    return fingerprints(apart)


def main() -> None:
    """Measure once, on a stack of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--days", type=int)
    parser.add_argument("--reverse", action="store_true", help="the backfill begins with the last day")
    parser.add_argument("--warm", action="store_true", help="jobs run on a Spark Connect server")
    parser.add_argument("--one-more", action="store_true", help="the last day arrives when all others are published")
    parser.add_argument("--compare", action="store_true", help="with what the command line makes of the same files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakehouse-airflow-days-") as folder:
        place = Path(folder)
        place.chmod(0o711)
        sources = place / "sources"
        files = sorted(given.data.glob("*.csv*"))[: given.days]
        later = files.pop() if given.one_more else None
        lay(files, sources)
        os.environ |= {"LAKEHOUSE_HOME": str(place / "home"), "LAKEHOUSE_SOURCES": str(sources)}
        try:
            started = time.monotonic()
            up(load_settings(), spark=given.warm, with_airflow=True)
            settings = load_settings()
            admin = logins(settings)[0]
            found = {"files": len(files), "up_seconds": round(time.monotonic() - started, 1)}
            airflow = Airflow(settings.airflow_url, admin.user, admin.password)
            found |= measure(settings, airflow, list(map(day_of, files)), backwards=given.reverse)
            if later:
                lay([later], sources)
                found |= land_one_more(settings, airflow, day_of(later))
            made = fingerprints(settings)
            if given.compare:
                found["is_that_of_the_command_line"] = by_the_command_line(settings) == made
            print(json.dumps({**found, "fingerprints": made}))
        finally:
            down(load_settings())


if __name__ == "__main__":
    main()
