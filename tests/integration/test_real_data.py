"""All 305 real days through the whole pipeline, against figures that stand in the data's own README.

The history of both dimensions is compared, version by version, with the reference fold over the files as Python's csv
module reads them. Days that land in random order and groups, or one by one in reverse, give the same tables.
"""

from __future__ import annotations

import csv
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from tests.integration.pipeline import fingerprints, land_files, run
from tests.reference import Observation, Rules, fold
from tests.servers import NewLake
from tests.sessions import compiling
from tests.turns import on_turn

from lakehouse.contracts.derive import compile_column
from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.names import TableName
from lakehouse.core.types import DataType
from lakehouse.engine.publish import Lake
from lakehouse.engine.report import TableReport
from lakehouse.engine.run import run_waiting
from lakehouse.landing.land import Request, land
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.outstanding import outstanding
from lakehouse.ledger.reading import key_history
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table

DATA = Path(__file__).parents[3] / "shared" / "data" / "online-retail" / "by-day"
LONDON = ZoneInfo("Europe/London")
STRING, BOOLEAN = DataType("string"), DataType("boolean")

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data is not at {DATA.name} beside the project"),
    pytest.mark.real_data,
]

ROWS = 541_909
NET = Decimal("9747747.9340")
GROUPS = (3,)
REVERSED = 9
LANDED_AT_ONCE = 10
TWO_COUNTRIES = {"12370", "12394", "12417", "12422", "12429", "12431", "12455", "12457"}


@dataclass(frozen=True)
class Published:
    """The lake after one run over all days."""

    lake: Lake
    contract: Contract

    def column(self, table: str, *columns: str) -> list[tuple[object, ...]]:
        """Rows of some columns, read without Spark."""
        found = self.lake.catalog.load_table(table).scan(selected_fields=columns).to_arrow()
        return list(zip(*[found[column].to_pylist() for column in columns], strict=True))


@pytest.fixture(scope="module")
def new_lake(new_lake: NewLake) -> NewLake:
    """Lakes for more data than other tests have: their shuffles use all cores."""

    def make() -> Lake:
        lake = compiling(new_lake())
        lake.spark.conf.set("spark.sql.shuffle.partitions", "4")
        return lake

    return make


@pytest.fixture(scope="module")
def published(new_lake: NewLake) -> Published:
    lake = new_lake()
    contracts = list(load_contracts(lake.settings.contracts).values())
    retail = next(contract for contract in contracts if contract.name == "retail.sales")
    landed = land(lake.settings, [retail], Request(root=str(DATA)))
    assert len(landed.of("landed")) == 305
    store = ObjectStore.open(lake.settings)
    waiting = [*outstanding(lake.catalog, store, [retail], contracts, lake.settings.dbt), "gold"]
    result = run_waiting(lake, [retail], waiting, None, lambda _: None)
    assert result.errors == []
    assert list(outstanding(lake.catalog, store, [retail], contracts, lake.settings.dbt)) == []
    return Published(lake, retail)


@pytest.fixture(scope="module")
def lines() -> list[dict[str, str]]:
    def read() -> Iterator[dict[str, str]]:
        for path in sorted(DATA.glob("*.csv")):
            with path.open(newline="", encoding="utf-8") as file:
                yield from csv.DictReader(file)

    return list(read())


def test_bronze_holds_every_row(published: Published) -> None:
    assert len(published.column("bronze.retail_sales", "_batch")) == ROWS


def test_every_row_is_accounted_for(published: Published) -> None:
    found = {a.table.name: a for a in accounts(published.lake.catalog, _store(published), published.contract)}
    assert set(found) == {"fact_sales_line", "dim_customer", "dim_product"}
    assert [a.problems for a in found.values()] == [(), (), ()]
    assert all(a.received == ROWS for a in found.values())
    assert found["dim_customer"].without_key == 135_080
    assert found["fact_sales_line"].applied + found["fact_sales_line"].quarantined == ROWS


def test_the_money_is_exact(published: Published) -> None:
    amounts = published.column("silver.fact_sales_line", "quantity", "unit_price", "amount")
    assert sum(quantity * price for quantity, price, _ in amounts) == NET  # type: ignore[operator]
    assert sum(amount for _, _, amount in amounts) == NET  # type: ignore[misc]
    # No real line breaks a rule, so there is nothing to add from quarantine: not even a table of that name.
    assert load_table(published.lake.catalog, TableName("quarantine", "fact_sales_line")) is None


def test_the_marts_hold_the_same_money(published: Published) -> None:
    assert sum(row[0] for row in published.column("gold.daily_sales", "net_amount")) == NET  # type: ignore[misc]
    assert sum(row[0] for row in published.column("gold.product_performance", "net_amount")) == NET  # type: ignore[misc]
    star = published.column("gold.sales_star", "customer_status", "product_status", "customer_key")
    assert len(star) == ROWS
    assert {status for status, _, _ in star} == {"known", "not_stated"}
    assert {status for _, status, _ in star} == {"known"}
    assert sum(key is None for _, _, key in star) == 135_080


def test_lines_are_told_apart(published: Published) -> None:
    rows = published.column("silver.fact_sales_line", "line_kind", "quantity", "unit_price", "occurrence")
    assert sum(price < 0 for _, _, price, _ in rows) == 2  # type: ignore[operator]
    assert {kind for kind, _, price, _ in rows if price < 0} == {"adjustment"}  # type: ignore[operator]
    assert sum(quantity < 0 for _, quantity, _, _ in rows) == 10_624  # type: ignore[operator]
    assert sum(occurrence > 1 for *_, occurrence in rows) == 5_268  # type: ignore[operator]


def test_customers_have_the_versions_of_the_reference(published: Published, lines: list[dict[str, str]]) -> None:
    read = _expressions(published, "dim_customer")
    rules = Rules(history={"country": 2}, kinds={"country": STRING}, ties=(True,), expressions=read)
    observed: dict[str, list[Observation]] = defaultdict(list)
    for line in lines:
        if line["CustomerID"]:
            key = line["CustomerID"].removesuffix(".0")
            observed[key].append(Observation(_at(line), {"country": line["Country"]}, ties=(line["InvoiceNo"],)))
    wanted = _versions(observed, rules, ["country"])
    found = _found(published, "dim_customer", "customer_id", ["country"])
    assert len(wanted) == 4_372
    assert found == wanted
    assert {key for key, versions in wanted.items() if len({v[0] for v in versions}) > 1} == TWO_COUNTRIES


def _expressions(published: Published, table: str) -> dict[str, str]:
    """What the attributes are read from: of lines that differ in nothing else, it orders what is compared."""
    attributes = published.contract.tables[table].attributes
    return {name: compile_column(published.contract, name, column).sql for name, column in attributes.items()}


def test_products_have_the_versions_of_the_reference(published: Published, lines: list[dict[str, str]]) -> None:
    rules = Rules(
        history={"description": 2, "is_product": 1},
        kinds={"description": STRING, "is_product": BOOLEAN},
        ties=(True,),
        expressions=_expressions(published, "dim_product"),
    )
    observed: dict[str, list[Observation]] = defaultdict(list)
    for line in lines:
        code = line["StockCode"].strip()
        values: dict[str, object] = {"is_product": code[:5].isdecimal() and len(code) >= 5}
        is_movement = not line["CustomerID"] and Decimal(line["UnitPrice"]) == 0
        if line["Description"] and not is_movement:
            values["description"] = line["Description"].strip(" ")
        observed[code].append(Observation(_at(line), values, ties=(line["InvoiceNo"].strip(),)))
    wanted = _versions(observed, rules, ["description", "is_product"])
    assert len(wanted) == 4_070
    assert _found(published, "dim_product", "stock_code", ["description", "is_product"]) == wanted


def test_a_customer_who_went_back_and_forth(published: Published) -> None:
    table = published.contract.tables["dim_customer"]
    versions = key_history(published.lake.catalog, table, TableName("silver", "dim_customer"), ["12370"])
    assert [v["country"] for v in versions] == ["Cyprus", "Austria", "Cyprus"]
    assert [v["is_current"] for v in versions] == [False, False, True]
    assert versions[0]["effective_to"] == versions[1]["effective_from"]


@on_turn(0, of=2)
@pytest.mark.parametrize("groups", GROUPS)
def test_any_order_gives_the_same_tables(
    groups: int, published: Published, new_lake: NewLake, tmp_path: Path, chance: random.Random
) -> None:
    """All days in random order, cut into so many runs at random."""
    days = sorted(DATA.glob("*.csv"))
    chance.shuffle(days)
    cuts = [0, *sorted(chance.sample(range(1, len(days)), groups - 1)), len(days)]
    lake = new_lake()
    for number, (low, high) in enumerate(zip(cuts, cuts[1:], strict=False)):
        _take(lake, published.contract, days[low:high], tmp_path / str(number))
    assert fingerprints(lake, [published.contract]) == fingerprints(published.lake, [published.contract])


@on_turn(1, of=2)
def test_days_in_reverse_give_the_same_tables(published: Published, new_lake: NewLake, tmp_path: Path) -> None:
    """The first days, one run each, the last one first: every key that stands in two of them is late."""
    days = sorted(DATA.glob("*.csv"))[:REVERSED]
    lake, in_order = new_lake(), new_lake()
    for day in reversed(days):
        reports = _take(lake, published.contract, [day], tmp_path / day.stem)
    assert {report.table.name: report.late_keys > 0 for report in reports if report.table.name.startswith("dim")} == {
        "dim_customer": True,
        "dim_product": True,
    }
    _take(in_order, published.contract, days, tmp_path / "in-order")
    assert fingerprints(lake, [published.contract]) == fingerprints(in_order, [published.contract])


def _take(lake: Lake, contract: Contract, days: Sequence[Path], root: Path) -> list[TableReport]:
    """Land some days in their order, a few at a time, and run."""
    for first in range(0, len(days), LANDED_AT_ONCE):
        part = root / str(first)
        part.mkdir(parents=True)
        for day in days[first : first + LANDED_AT_ONCE]:
            shutil.copy(day, part)
        land_files(lake, [contract], part)
    return run(lake, [contract])


def _store(published: Published) -> ObjectStore:
    return ObjectStore.open(published.lake.settings)


def _at(line: dict[str, str]) -> datetime:
    return datetime.fromisoformat(line["InvoiceDate"]).replace(tzinfo=LONDON).astimezone(UTC)


Versions = dict[str, list[tuple[object, ...]]]


def _versions(observed: dict[str, list[Observation]], rules: Rules, columns: list[str]) -> Versions:
    names = [*columns, "effective_from", "effective_to", "is_current"]
    return {key: [tuple(v.get(n) for n in names) for v in fold(each, rules)] for key, each in observed.items()}


def _found(published: Published, table: str, key: str, columns: list[str]) -> Versions:
    found: Versions = defaultdict(list)
    rows = published.column(f"silver.{table}", key, *columns, "effective_from", "effective_to", "is_current")
    for row in sorted(rows, key=lambda row: (row[0], row[-3])):  # type: ignore[arg-type, return-value]
        found[str(row[0])].append(tuple(row[1:]))
    return dict(found)
