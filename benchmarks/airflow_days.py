"""All real days through Airflow: from the request of a backfill to published marts, on a fresh local stack.

    .venv/bin/python -m benchmarks.airflow_days --data ../shared/data/online-retail/by-day [--reverse] [--days N]

Goal on 2 cores: at most 12 minutes for 305 days, and a handful of Spark jobs. Prints one line of JSON: seconds until
all days had landed and until the marts were published, the runs that caught up, what a landing run costs beside its
own work, and a fingerprint of each table to compare with another run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from tests.airflow.client import Airflow, wait_for

from lakehouse.contracts.load import load_contracts
from lakehouse.core.encoding import fingerprint_table
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings, load_settings
from lakehouse.engine.tables import business_types
from lakehouse.ledger.outstanding import outstanding
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table, open_catalog
from lakehouse.stack import down, logins, up

SOURCE, LAND, TRANSFORM, GOLD = "retail.sales", "land_retail_sales", "transform_retail_sales", "build_marts"
LIMIT_SECONDS = 3600.0
ACTIVE_RUNS = 16


def sources_of(data: Path, place: Path, days: int | None) -> list[date]:
    """Lay the daily files where the contract looks for them; returns their days."""
    folder = place / "sources" / "retail" / "sales"
    folder.mkdir(parents=True)
    paths = sorted(data.glob("*.csv*"))[:days]
    for path in paths:
        (folder / path.name).write_bytes(path.read_bytes())
    return [date.fromisoformat(path.name[:10]) for path in paths]


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
    """The content of each silver table, whatever batches it came in."""
    contract, catalog = load_contracts(settings.contracts)[SOURCE], open_catalog(settings)
    tables = {name: load_table(catalog, TableName("silver", name)) for name in contract.tables}
    return {
        name: fingerprint_table(table.scan().to_arrow(), business_types(contract.tables[name]))
        for name, table in tables.items()
        if table is not None
    }


def main() -> None:
    """Measure once, on a stack of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--days", type=int)
    parser.add_argument("--reverse", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakehouse-airflow-days-") as folder:
        place = Path(folder)
        place.chmod(0o711)
        days = sources_of(given.data, place, given.days)
        os.environ |= {"LAKEHOUSE_HOME": str(place / "home"), "LAKEHOUSE_SOURCES": str(place / "sources")}
        try:
            started = time.monotonic()
            up(load_settings(), with_airflow=True)
            settings = load_settings()
            admin = logins(settings)[0]
            found = {"files": len(days), "up_seconds": round(time.monotonic() - started, 1)}
            airflow = Airflow(settings.airflow_url, admin.user, admin.password)
            found |= measure(settings, airflow, days, backwards=given.reverse)
            json.dump({**found, "fingerprints": fingerprints(settings)}, sys.stdout)
            print()
        finally:
            down(load_settings())


if __name__ == "__main__":
    main()
