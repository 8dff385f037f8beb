"""The star join on a real lake: whatever arrives in which order, it says what a plain resolution says of silver.

Each run must also write exactly the rows that differ from what was there before: no more, no less.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.integration.pipeline import land_files, run
from tests.reference_star import Version, resolve
from tests.turns import on_turn

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.marts import declared_marts
from lakehouse.contracts.model import Contract
from lakehouse.core.names import TableName
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.engine.dbt_build import MartsBroken
from lakehouse.engine.gold import Marts, run_gold
from lakehouse.engine.publish import Lake, Target, publish
from lakehouse.engine.tables import TableSpec, silver_spec
from lakehouse.ledger.watermark import STAMP_PROPERTY, Head, Stamp, ancestors, summary_of
from lakehouse.samples.make import make_samples
from lakehouse.samples.plan import EPOCH, Options, days

if TYPE_CHECKING:
    from tests.servers import NewLake

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
FIRST_VERSION = dict.fromkeys([dimension for _, dimension, _ in MEMBERS.values()], "first_version")
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


def arrive(chance: random.Random, root: Path, dsn: str, fewest: int = 0) -> None:
    """What comes between two runs: some days and snapshots, new or again with other content, and some changes."""
    made = {"retail/sales": (sales, "csv"), "crm/catalogue": (catalogue, "jsonl")}
    for folder, (content, kind) in made.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for unit in chance.sample(UNITS, chance.randint(fewest, max(fewest, 3))):
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


def expected_star(lake: Lake, before_first: Mapping[str, str] = FIRST_VERSION) -> Counter[tuple[Any, ...]]:
    """The star as the reference resolves it from silver. ``before_first`` is by dimension."""
    histories: dict[str, Mapping[str, list[Version]]] = {}
    for _, dimension, _ in MEMBERS.values():
        found: dict[str, list[Version]] = defaultdict(list)
        for version in sorted(content(lake, f"silver.{dimension}"), key=lambda v: v["effective_from"]):
            found[version["_key"]].append(version)
        histories[dimension] = found
    star = next(m for m in MARTS if m.table.name == "sales_star")
    expected: Counter[tuple[Any, ...]] = Counter()
    for line in content(lake, "silver.fact_sales_line"):
        row = line | {"line_key": line["_key"]}
        for member, (key, dimension, columns) in MEMBERS.items():
            versions = histories[dimension].get(line[key], [])
            version, status = resolve(line[key], line["invoice_at"], versions, before_first[dimension])
            row[f"{member}_status"] = status
            row[f"{member}_version_key"] = version["_version_key"] if version else None
            row |= {ours: version[theirs] if version else None for ours, theirs in columns.items()}
        expected[tuple(row[column] for column in star.columns)] += 1
    return expected


def run_and_check(lake: Lake) -> dict[str, tuple[int, int]]:
    """Run what is pending. Returns what was written to each mart: exactly the difference between before and after."""
    run(lake, ALL)
    return gold_and_check(lake)


def gold_and_check(lake: Lake) -> dict[str, tuple[int, int]]:
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


@on_turn(1, of=3)
def test_the_star_is_a_plain_resolution_whatever_arrives_in_which_order(
    new_lake: NewLake, feed: str, tmp_path: Path, chance: random.Random
) -> None:
    lake, seen = new_lake(), set()
    for fewest in (1, 0, len(UNITS)):  # all days at last, so that no status is missing by chance
        arrive(chance, tmp_path, feed, fewest)
        land_files(lake, ALL, tmp_path)
        run_and_check(lake)
        seen |= statuses(lake)
    assert seen == {"known", "unknown", "deleted", "not_stated"}
    made = marts(lake)
    assert len(run_gold(Marts(lake, ALL, whole=True))) == len(MARTS)
    assert marts(lake) == made


STAR = TableName("gold", "sales_star")
ROOM_BYTES = 64 * 1024
"""What the footers and columns of one small file take, whatever is in it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def days_made(folder: Path) -> list[Path]:
    """The files of some days, none of them in the sources' folder yet."""
    make_samples(Options(size=0.2, is_clean=True), days(EPOCH, 6), folder / "made", crm_dsn="", domains=("retail",))
    (folder / "retail" / "sales").mkdir(parents=True)
    return sorted((folder / "made" / "retail" / "sales").glob("*.csv*"))


@pytest.fixture(scope="module")
def worked(new_lake: NewLake, folder: Path, days_made: list[Path]) -> Lake:
    """A lake with all days but the last. The tests below go on with it in turn."""
    lake = new_lake()
    for path in days_made[:-1]:
        (folder / "retail" / "sales" / path.name).write_bytes(path.read_bytes())
    take(lake, folder)
    assert run_gold(Marts(lake, ALL))
    return lake


def take(lake: Lake, folder: Path) -> None:
    sources = [c for c in ALL if c.name in ("retail.sales", "crm.catalogue") and (folder / c.domain).is_dir()]
    land_files(lake, sources, folder)
    run(lake, sources)


def unit_of(path: Path) -> date:
    return date.fromisoformat(path.name[:10])


def star_bytes(lake: Lake) -> int:
    """The size of the star's live data files."""
    files = lake.spark.sql("SELECT sum(file_size_in_bytes) FROM lakehouse.gold.sales_star.data_files")
    return int(files.collect()[0][0])


def bytes_written(lake: Lake, before: int) -> int:
    """What a run that replaced no file added to the star."""
    return star_bytes(lake) - before


def test_one_more_day_writes_that_day(worked: Lake, folder: Path, days_made: list[Path]) -> None:
    before, size = len(content(worked, str(STAR))), star_bytes(worked)
    last = days_made[-1]
    (folder / "retail" / "sales" / last.name).write_bytes(last.read_bytes())
    take(worked, folder)
    added, removed = gold_and_check(worked)[str(STAR)]
    lines = sum(row["_unit"] == unit_of(last) for row in content(worked, "silver.fact_sales_line"))
    assert added - removed == lines > 0 and added < 2 * lines < before
    assert bytes_written(worked, size) <= 2.5 * size * added / before + ROOM_BYTES


def test_a_late_member_heals_its_own_lines(worked: Lake, folder: Path) -> None:
    lines = Counter(row["stock_code"] for row in content(worked, str(STAR)))
    code, count = lines.most_common(1)[0]
    size = star_bytes(worked)
    path = folder / "crm" / "catalogue" / f"{EPOCH - timedelta(days=30)}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"sku": code, "name": "found", "category": "late", "list_price": "1.00"}) + "\n")
    take(worked, folder)
    assert gold_and_check(worked)[str(STAR)] == (count, count)
    healed = [row for row in content(worked, str(STAR)) if row["catalogue_status"] == "known"]
    assert len(healed) == count and {row["stock_code"] for row in healed} == {code}
    assert bytes_written(worked, size) <= 2.5 * size * count / lines.total() + ROOM_BYTES


def test_a_restated_day_replaces_its_lines(worked: Lake, folder: Path, days_made: list[Path]) -> None:
    path = folder / "retail" / "sales" / days_made[1].name
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines[:-5], lines[0]]))  # five lines less, and one a second time
    take(worked, folder)
    added, removed = gold_and_check(worked)[str(STAR)]
    assert removed - added == 4 and 1 <= added < len(lines) / 2


@dataclass(frozen=True)
class Removal:
    """Publishes a dimension without some versions, and changes no other row."""

    lake: Lake
    table: str
    condition: str

    def specs(self) -> Sequence[TableSpec]:
        return [silver_spec(CONTRACTS["retail.sales"], self.table)]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _Removed:
        return _Removed(attempt, self.condition, heads)


@dataclass(frozen=True)
class _Removed:
    attempt: str
    condition: str
    heads: Mapping[TableName, Head]

    def stamps(self) -> Mapping[TableName, Stamp]:
        return {table: replace(head.stamp, attempt=self.attempt) for table, head in self.heads.items() if head.stamp}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        for target in targets.values():
            target.delete(self.condition)
            target.append_nothing()

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """Nothing looks."""


def test_the_contract_says_what_holds_before_the_first_version(worked: Lake, folder: Path) -> None:
    """A product is renamed on the last day; then its first version goes, and nothing else of it is written again."""
    path = max((folder / "retail" / "sales").glob("*.csv*"))
    rows = [row for row in content(worked, str(STAR)) if row["line_kind"] == "sale" and row["customer_id"]]
    sold = {row["stock_code"]: row["description"] for row in rows if row["_unit"] == unit_of(path)}
    code = next(r["stock_code"] for r in rows if r["_unit"] < unit_of(path) and r["stock_code"] in sold)
    text = sold[code].strip()
    path.write_text(path.read_text().replace(text, f"{text} RENAMED"))
    take(worked, folder)
    gold_and_check(worked)
    versions = [v for v in content(worked, "silver.dim_product") if v["stock_code"] == code]
    first = min(versions, key=lambda version: version["effective_from"])
    assert len(versions) > 1
    publish(worked, Removal(worked, "dim_product", f"_version_key = '{first['_version_key']}'"))
    added, removed = gold_and_check(worked)[str(STAR)]
    assert added == removed > 0

    said = CONTRACTS["retail.sales"].model_dump(mode="json", exclude_defaults=True)
    said["tables"]["fact_sales_line"]["references"][1]["before_first"] = "unknown"
    contracts = [Contract.model_validate(said) if c.name == "retail.sales" else c for c in ALL]
    run_gold(Marts(worked, contracts))
    assert marts(worked)[str(STAR)] == expected_star(worked, FIRST_VERSION | {"dim_product": "unknown"})
    unknown = [row for row in content(worked, str(STAR)) if row["product_status"] == "unknown"]
    assert len(unknown) == added and {row["stock_code"] for row in unknown} == {code}


def test_a_rolled_back_table_makes_the_marts_anew(worked: Lake) -> None:
    assert run_gold(Marts(worked, ALL))  # as the contracts say
    before = marts(worked)
    table = worked.catalog.load_table("silver.fact_sales_line")
    stamped = [s.snapshot_id for s in ancestors(table) if STAMP_PROPERTY in summary_of(s)]
    worked.spark.sql(f"CALL lakehouse.system.rollback_to_snapshot('silver.fact_sales_line', {stamped[1]})")
    written = {r.table: r.rows_added for r in run_gold(Marts(worked, ALL))}
    after = marts(worked)[str(STAR)]
    assert after == expected_star(worked) != before[str(STAR)]
    assert written[STAR] == after.total()


def test_a_table_that_changed_by_forgets_is_refused(worked: Lake, tmp_path: Path) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(PROJECT_ROOT / "include" / "dbt", project)
    path = project / "models" / "marts" / "marts.yml"
    path.write_text(path.read_text().replace("          dim_product: product_key\n", ""))
    lake = Lake(worked.spark, worked.settings.model_copy(update={"dbt": project}))
    files = sorted(project.rglob("*"))
    before, ansi = marts(worked), worked.spark.conf.get("spark.sql.ansi.enabled")
    with pytest.raises(MartsBroken, match="changed_by of mart sales_star names .*; its SQL reads .*dim_product"):
        run_gold(Marts(lake, ALL))
    assert marts(worked) == before
    assert worked.spark.conf.get("spark.sql.ansi.enabled") == ansi == "true"
    assert sorted(project.rglob("*")) == files, "other lakes may use the project at the same time"
