"""The star join on a real lake: whatever arrives in which order, it says what a plain resolution says of silver.

Each run must also write exactly the rows that differ from what was there before: no more, no less.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.integration.pipeline import land_files, run
from tests.reference_star import Version, resolve

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.marts import declared_marts
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.engine.gold import Marts, run_gold
from lakehouse.samples.make import make_samples
from lakehouse.samples.plan import Options

if TYPE_CHECKING:
    from tests.integration.conftest import NewLake

    from lakehouse.engine.publish import Lake

CONTRACTS = load_contracts(PROJECT_ROOT / "include" / "contracts")
ALL = list(CONTRACTS.values())
MARTS = declared_marts(PROJECT_ROOT / "include" / "dbt")
UNITS = [date(2024, 3, 28) + timedelta(days=day) for day in range(8)]
CUSTOMERS = [f"{number}" for number in range(15000, 15060)]
CODES = [f"{number}" for number in range(20000, 20040)]
MEMBERS = {
    "customer": ("customer_key", "dim_customer", {"customer_country": "country"}),
    "product": ("product_key", "dim_product", {"product_description": "description"}),
    "crm": ("customer_key", "dim_crm_customer", {"crm_segment": "segment"}),
    "catalogue": (
        *("product_key", "dim_catalogue_product"),
        {"catalogue_category": "category", "list_price": "list_price"},
    ),
}
"""For each member of the star: its key, its dimension, and the star's columns with those of the dimension."""
Rows = list[dict[str, Any]]


def sales(chance: random.Random, unit: date) -> str:
    """A day's file: lines of members that other sources may not know yet, and some without a customer."""
    lines = ["InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"]
    for number in range(chance.randint(40, 160)):
        at = datetime.combine(unit, time(chance.randint(6, 20), chance.choice([0, 30])))
        code, customer = chance.choice(CODES), chance.choice([*CUSTOMERS, *CUSTOMERS, ""])
        text, country = f"thing {chance.choice('ab')}", chance.choice(["Eire", "Norway"])
        lines.append(
            f"{number},{code},{text},{chance.randint(1, 9)},{at},{chance.randint(1, 5)}.5,{customer},{country}"
        )
    return "\n".join(lines) + "\n"


def catalogue(chance: random.Random, unit: date) -> str:
    """A full snapshot that some articles are missing in: they are deleted, and come back."""
    listed = [code for code in CODES if chance.random() < 0.7]
    rows = [
        {"sku": code, "name": code, "category": chance.choice("xy"), "list_price": chance.choice(["1.00", "2.50"])}
        for code in listed
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def crm_changes(chance: random.Random, count: int) -> list[tuple[Any, ...]]:
    """Changes of any time, so that versions move their bounds, are cut in two, deleted and begun anew."""
    return [
        (
            chance.choice("IUUUD"),
            datetime.combine(chance.choice(UNITS), time(chance.randint(0, 23)), UTC),
            chance.choice(CUSTOMERS[:40]),
            chance.choice(["gold", "silver", None]),
            f"{chance.choice('pqr')} street",
        )
        for _ in range(count)
    ]


def arrive(chance: random.Random, root: Path, dsn: str) -> None:
    """What comes between two runs: some days and snapshots, new or again with other content, and some changes."""
    made = {"retail/sales": (sales, "csv"), "crm/catalogue": (catalogue, "jsonl")}
    for folder, (content, kind) in made.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for unit in chance.sample(UNITS, chance.randint(0, 3)):
            path = root / folder / f"{unit}.{kind}"
            path.write_text(content(chance, unit))
    for path in chance.sample(sorted((root / "retail/sales").glob("*.csv")), 1) if chance.random() < 0.6 else []:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: max(2, len(lines) * 2 // 3)]))  # restated with fewer lines
    insert = (
        "INSERT INTO crm.customer_changes (operation, changed_at, customer_id, segment, street) "
        "VALUES (%s, %s, %s, %s, %s)"
    )
    with psycopg.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany(insert, crm_changes(chance, chance.choice([0, 5, 25])))


def content(lake: Lake, table: str) -> Rows:
    """The rows of a table as it is."""
    return [row.asDict() for row in lake.spark.table(f"lakehouse.{table}").collect()]


def marts(lake: Lake) -> dict[str, Counter[tuple[Any, ...]]]:
    """The rows of every mart, with how often each is there."""
    return {str(m.table): Counter(tuple(r[c] for c in m.columns) for r in content(lake, str(m.table))) for m in MARTS}


def expected_star(lake: Lake) -> Counter[tuple[Any, ...]]:
    """The star as the reference resolves it from silver."""
    histories: dict[str, Mapping[str, list[Version]]] = {}
    for member, (_, dimension, _) in MEMBERS.items():
        found: dict[str, list[Version]] = defaultdict(list)
        for version in sorted(content(lake, f"silver.{dimension}"), key=lambda v: v["effective_from"]):
            found[version["_key"]].append(version)
        histories[member] = found
    star = next(m for m in MARTS if m.table.name == "sales_star")
    expected: Counter[tuple[Any, ...]] = Counter()
    for line in content(lake, "silver.fact_sales_line"):
        row = line | {"line_key": line["_key"]}
        for member, (key, _, columns) in MEMBERS.items():
            version, status = resolve(line[key], line["invoice_at"], histories[member].get(line[key], []))
            row[f"{member}_status"] = status
            row[f"{member}_version_key"] = version["_version_key"] if version else None
            row |= {ours: version[theirs] if version else None for ours, theirs in columns.items()}
        expected[tuple(row[column] for column in star.columns)] += 1
    return expected


def run_and_check(lake: Lake) -> dict[str, tuple[int, int]]:
    """Run what is pending. Returns what was written to each mart: exactly the difference between before and after."""
    run(lake, ALL)
    present = lake.catalog.table_exists("gold.sales_star")
    before = marts(lake) if present else {str(m.table): Counter() for m in MARTS}
    written = {str(r.table): (r.rows_added, r.rows_removed) for r in run_gold(Marts(lake, ALL))}
    after = marts(lake)
    differs = {name: ((after[name] - before[name]).total(), (before[name] - after[name]).total()) for name in after}
    assert written in (differs, {})
    assert after["gold.sales_star"] == expected_star(lake)
    return differs


def statuses(lake: Lake) -> set[str]:
    columns = [f"{member}_status" for member in MEMBERS]
    return {row[column] for row in content(lake, "gold.sales_star") for column in columns}


@pytest.fixture
def feed(change_table: str, tmp_path: Path) -> str:
    """The change table, empty."""
    make_samples(Options(size=0.01), [], tmp_path / "unused", crm_dsn=change_table, domains=("crm",))
    with psycopg.connect(change_table, autocommit=True) as connection:
        connection.execute("DELETE FROM crm.customer_changes")
    return change_table


def test_the_star_is_a_plain_resolution_whatever_arrives_in_which_order(
    new_lake: NewLake, feed: str, tmp_path: Path, chance: random.Random
) -> None:
    lake, seen = new_lake(), set()
    for _ in range(5):
        arrive(chance, tmp_path, feed)
        land_files(lake, ALL, tmp_path)
        run_and_check(lake)
        seen |= statuses(lake)
    assert seen == {"known", "unknown", "deleted", "not_stated"}
    made = marts(lake)
    assert len(run_gold(Marts(lake, ALL, whole=True))) == len(MARTS)
    assert marts(lake) == made
