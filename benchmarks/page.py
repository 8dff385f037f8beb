"""How long the Lakehouse page takes with many tables: ``python -m benchmarks.page [--tables 500] [--commits 5]``.

A fresh local stack gets as many real Iceberg tables (PostgreSQL and S3, written by PyIceberg), four silver tables and a
bronze one for each contract. Prints one line of JSON: seconds that somebody waits for the first look, for the moment at
which every table is known, for a look when nothing changed, for one after a table changed, and for a table's own page.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pyarrow as pa
from fastapi.testclient import TestClient
from pyiceberg.catalog.sql import SqlCatalog
from rich.progress import track

from lakehouse.contracts import index
from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.clock import SystemClock
from lakehouse.core.settings import PROJECT_ROOT, Settings, load_settings
from lakehouse.ledger.watermark import open_catalog
from lakehouse.page.app import make_app
from lakehouse.page.declared import Declarations
from lakehouse.page.links import no_dags
from lakehouse.page.overview import Choice
from lakehouse.page.refresh import Refresher
from lakehouse.page.servers import Servers
from lakehouse.page.view import LakeView
from lakehouse.stack import down, up

TABLES_OF_A_CONTRACT = 4
LOOKS = 20


def make_contracts(count: int, folder: Path) -> Mapping[str, Contract]:
    """Contracts in the index only, each with four silver tables."""
    model = load_contracts(PROJECT_ROOT / "include" / "contracts")["crm.catalogue"]
    table = model.tables["dim_catalogue_product"]
    found = {
        f"crm.d{number}": model.model_copy(
            update={
                "dataset": f"d{number}",
                "tables": {f"dim_{number}_{letter}": table for letter in range(TABLES_OF_A_CONTRACT)},
            }
        )
        for number in range(count)
    }
    folder.mkdir(parents=True)
    built = index.build_index(found, {}, {})
    (folder / index.INDEX_NAME).write_text(json.dumps({"format": 2, **asdict(replace(built, files={}))}))
    return found


def make_tables(catalog: SqlCatalog, contracts: Mapping[str, Contract], commits: int) -> list[str]:
    """Real tables of one small column, each with so many commits; their names."""
    rows = pa.table({"number": [1, 2, 3]})
    names = [f"bronze.crm_{contract.dataset}" for contract in contracts.values()]
    names += [f"silver.{name}" for contract in contracts.values() for name in contract.tables]
    for namespace in ("bronze", "silver"):
        catalog.create_namespace_if_not_exists(namespace)
    for name in track(names, "tables", console=None, disable=not sys.stderr.isatty()):
        table = catalog.create_table(name, schema=rows.schema)
        for _ in range(commits):
            table.append(rows)
    return names


@contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    """Wall and CPU seconds of what is inside."""
    began, used = time.perf_counter(), time.process_time()
    yield
    found[f"{name}_seconds"] = round(time.perf_counter() - began, 3)
    found[f"{name}_cpu_seconds"] = round(time.process_time() - used, 3)


def measure(settings: Settings, catalog: SqlCatalog, contracts: Path, name: str) -> dict[str, float]:
    """Look as a person does, with the page's usual patience."""
    servers = Servers.open(settings)
    view = LakeView(Refresher(lambda: servers, Declarations(contracts, settings.dbt), SystemClock()), fresh_seconds=0)
    client = TestClient(make_app(lambda: view, [], lambda: no_dags))
    found: dict[str, float] = {}

    def look(path: str) -> None:
        assert client.get(path).status_code == 200

    with timed(found, "until_all_is_known"):
        with timed(found, "first_look"):
            look("/")
        while any(row.facts is None for row in view.overview(Choice()).rows):
            time.sleep(0.05)
    each: list[float] = []
    with timed(found, "looks_again"):
        for _ in range(LOOKS):
            began = time.perf_counter()
            look("/")
            each.append(time.perf_counter() - began)
    found["look_again_median_seconds"] = round(statistics.median(each), 3)
    found["look_again_worst_seconds"] = round(max(each), 3)
    catalog.load_table(name).append(pa.table({"number": [4]}))
    with timed(found, "after_a_change"):
        look("/")
    with timed(found, "table_page"):
        look(f"/tables/{name}")
    found["process_mb"] = round(psutil.Process().memory_info().rss / 1e6)
    servers.close()
    return found


def main() -> None:
    """Measure once, on a stack of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--commits", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakehouse-page-") as folder:
        place = Path(folder)
        place.chmod(0o711)
        os.environ["LAKEHOUSE_HOME"] = str(place / "home")
        try:
            up(load_settings())
            settings = load_settings()
            contracts = make_contracts(given.tables // (TABLES_OF_A_CONTRACT + 1), place / "contracts")
            catalog = open_catalog(settings)
            catalog.create_tables()
            names = make_tables(catalog, contracts, given.commits)
            found = measure(settings, catalog, place / "contracts", names[-1])
            print(json.dumps({"tables": len(names), "commits": given.commits, **found}))
        finally:
            down(load_settings())


if __name__ == "__main__":
    main()
