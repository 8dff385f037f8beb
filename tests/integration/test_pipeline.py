"""The samples of both domains through the whole way, with everything that is wrong in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import typer
from pyspark.sql import SparkSession
from tests.integration.pipeline import (
    all_tables,
    branches,
    fingerprints,
    heads,
    land_files,
    quarantine,
    rebuild,
    run,
    unpublished,
)
from typer.testing import CliRunner

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.marts import mart_names
from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.errors import BatchesHeld, ContractError, GateFailed, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.engine.gold import Marts, run_gold
from lakehouse.engine.publish import Lake, Target, publish
from lakehouse.engine.tables import TableSpec, silver_spec
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Head, Stamp, read_head
from lakehouse.samples.make import make_samples
from lakehouse.samples.plan import EPOCH, Options, days

if TYPE_CHECKING:
    from tests.servers import NewLake

CONTRACTS = load_contracts(PROJECT_ROOT / "include" / "contracts")
CATALOGUE, CUSTOMERS, SALES = (CONTRACTS[f] for f in ("crm.catalogue", "crm.customers", "retail.sales"))
ALL = list(CONTRACTS.values())
MARTS = mart_names(PROJECT_ROOT / "include" / "dbt")


@pytest.fixture(scope="module")
def sources(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Path]:
    """The samples' files at both revisions, and the change table."""
    owner = servers.connections["crm_owner"].get_secret_value()
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS crm.customer_changes, crm.sample_days")
    roots = {revision: tmp_path_factory.mktemp(f"revision-{revision}") for revision in (1, 2)}
    for revision, root in roots.items():
        make_samples(Options(size=0.02, revision=revision), days(EPOCH, 14), root, crm_dsn=owner)
    return roots


@pytest.fixture(scope="module")
def final(new_lake: NewLake, sources: Mapping[int, Path]) -> Lake:
    """A lake that saw only what the sources said in the end."""
    lake = new_lake()
    land_files(lake, ALL, sources[2])
    run(lake, ALL)
    return lake


@pytest.fixture(scope="module")
def grown(new_lake: NewLake, sources: Mapping[int, Path]) -> Lake:
    """A lake that took everything as it came, in passes of nine batches. The tests below go on with it in turn."""
    lake = new_lake()
    land_files(lake, ALL, sources[1])
    run(lake, ALL, max_batches=9)
    return lake


def account(lake: Lake, contract: Contract) -> dict[str, dict[str, Any]]:
    found = accounts(lake.catalog, ObjectStore.open(lake.settings), contract)
    assert [problem for each in found for problem in each.problems] == []
    return {each.table.name: each.to_json() for each in found}


def count(lake: Lake, table: TableName, condition: str = "true") -> int:
    return lake.table(table).where(condition).count()


def test_every_row_is_accounted_for(grown: Lake, sources: Mapping[int, Path]) -> None:
    """The identity, counted from the files and the tables, and as the account tells it."""
    lines = sum(len(path.read_bytes().splitlines()) - 1 for path in (sources[1] / "retail").rglob("*.csv"))
    bronze, fact = SALES.bronze_table, SALES.silver_table("fact_sales_line")
    refused, broken = count(grown, TableName("quarantine", fact.name)), f"{names.REJECTED} IS NOT NULL"
    assert count(grown, bronze) == lines == count(grown, fact) + refused + count(grown, bronze, broken)
    told = account(grown, SALES)
    assert told[fact.name]["received"] == lines and told[fact.name]["quarantined"] == refused > 0
    assert told[fact.name]["rejected"] == count(grown, bronze, broken) > 0
    without = told["dim_customer"]["without_key"]
    assert without == count(grown, bronze, f"{names.REJECTED} IS NULL AND CustomerID IS NULL") > 0
    told = account(grown, CATALOGUE)["dim_catalogue_product"]
    assert told["held"] > 0 and told["rejected"] == 0
    assert account(grown, CUSTOMERS)["dim_crm_customer"]["quarantined"] > 0


def test_quarantine_keeps_the_row_as_it_came(grown: Lake) -> None:
    rows = grown.table(TableName("quarantine", "fact_sales_line")).where("Description = 'QUARANTINE ME'").collect()
    rules = {(row.Quantity, row.UnitPrice, row.InvoiceDate[:10]): tuple(row[names.RULES]) for row in rows}
    found = {key: rule for key, rule in rules.items() if key[2] in ("2024-03-29", "2024-02-30")}
    assert found == {
        ("12x", "1.25", "2024-03-29"): ("quantity_type", "quantity_not_null", "amount_not_null"),
        ("0", "1.25", "2024-03-29"): ("quantity_not_zero",),
        ("3", "1,25", "2024-03-29"): ("unit_price_type", "unit_price_not_null", "amount_not_null"),
        ("2", "1.25", "2024-02-30"): (
            *("invoice_at_type", "sales_date_type", "invoice_at_not_null", "sales_date_not_null"),
        ),
    }
    bronze = grown.table(SALES.bronze_table)
    same = [*SALES.source.columns, names.BATCH, names.FILE, names.RECORD, names.EXTRA]
    for row in rows:
        came = bronze.where(f"{names.BATCH} = {row[names.BATCH]} AND {names.RECORD} = {row[names.RECORD]}").collect()
        assert [tuple(each[c] for c in same) for each in came] == [tuple(row[c] for c in same)]


def test_nothing_pending_changes_nothing(grown: Lake) -> None:
    tables = all_tables(ALL)
    before = heads(grown, tables)
    assert run(grown, ALL) == []
    assert heads(grown, tables) == before and branches(grown, tables) == []


def test_a_changed_contract_is_refused_until_the_table_is_made_anew(grown: Lake, sources: Mapping[int, Path]) -> None:
    """The corrections land; the table is neither mixed nor silently made anew."""
    land_files(grown, ALL, sources[2])
    changed = CATALOGUE.model_dump(mode="json", exclude_defaults=True)
    changed["tables"]["dim_catalogue_product"]["columns"]["category"]["history"] = 1
    before = fingerprints(grown, [CATALOGUE])
    with pytest.raises(ContractError) as raised:
        run(grown, [Contract.model_validate(changed)])
    assert "lakehouse rebuild silver.dim_catalogue_product" in raised.value.todo
    assert "history of the column category: 2 → 1" in raised.value.what  # the contract before was read back
    assert fingerprints(grown, [CATALOGUE]) == before


def test_corrected_days_give_what_only_the_end_would_have_given(grown: Lake, final: Lake) -> None:
    assert fingerprints(grown, [CATALOGUE, SALES]) != fingerprints(final, [CATALOGUE, SALES])
    run(grown, ALL)
    assert fingerprints(grown, ALL) == fingerprints(final, ALL)
    assert quarantine(grown, ALL) == quarantine(final, ALL)
    told = account(grown, CATALOGUE)["dim_catalogue_product"]
    assert told["held"] == 0 and told["superseded"] > 0  # the line that could not be read was sent again
    assert account(grown, SALES)["fact_sales_line"]["superseded"] > 0


def test_a_rebuild_gives_the_same(grown: Lake, final: Lake) -> None:
    for contract in (CATALOGUE, CUSTOMERS):
        for name in contract.tables:
            rebuild(grown, contract, name)
    assert fingerprints(grown, ALL) == fingerprints(final, ALL)
    assert quarantine(grown, ALL) == quarantine(final, ALL)


def environment(lake: Lake, **more: str) -> dict[str, str]:
    """What a process needs to work on the same lake."""
    mine = lake.settings
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")},
        "LAKEHOUSE_HOME": str(mine.home),
        "LAKEHOUSE_CACHE": str(mine.cache),
        "LAKEHOUSE_CATALOG_DATABASE": mine.catalog_database,
        "LAKEHOUSE_LANDING_BUCKET": mine.landing_bucket,
        "LAKEHOUSE_WAREHOUSE_BUCKET": mine.warehouse_bucket,
        "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1",
        **more,
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lakehouse.cli.main", *arguments]


def lakehouse(lake: Lake, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(lake, **more), capture_output=True, text=True, timeout=180, check=False
    )


def test_two_runs_of_everything_at_once(new_lake: NewLake, sources: Mapping[int, Path], final: Lake) -> None:
    """Each takes what the other has not taken, or says that it was not first; nothing is there twice."""
    lake = new_lake()
    land_files(lake, ALL, sources[2])
    told = {"env": environment(lake), "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command("run"), **told) for _ in range(2)]
    said = [each.communicate(timeout=300)[1] for each in both]
    for process, text in zip(both, said, strict=True):
        assert process.returncode in (0, BatchesHeld.exit_code, TransientError.exit_code), text
        assert "Traceback" not in text
    run(lake, ALL)
    assert fingerprints(lake, ALL) == fingerprints(final, ALL)
    assert quarantine(lake, ALL) == quarantine(final, ALL)
    assert all(account(lake, each) for each in ALL)
    assert lake.spark.table("gold.sales_star").count() == count(lake, SALES.silver_table("fact_sales_line"))
    assert unpublished(lake, all_tables(ALL)) == []


@dataclass(frozen=True)
class Poison:
    """Publishes a line of the facts a second time, as a broken job would."""

    lake: Lake

    def specs(self) -> Sequence[TableSpec]:
        return [silver_spec(SALES, "fact_sales_line")]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _Poisoned:
        return _Poisoned(self.lake, attempt, heads)


@dataclass(frozen=True)
class _Poisoned:
    lake: Lake
    attempt: str
    heads: Mapping[TableName, Head]

    def stamps(self) -> Mapping[TableName, Stamp]:
        stamps = {table: head.stamp for table, head in self.heads.items()}
        return {t: Stamp(self.attempt, s.fingerprint, s.inputs, counts=s.counts) for t, s in stamps.items() if s}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        for target in targets.values():
            target.append(self.lake.table(target.table).limit(1))

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """Nothing looks."""


@pytest.fixture
def marts(grown: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Marts]:
    """The marts of the lake; dbt takes whichever session PySpark says was made first."""
    monkeypatch.setattr(SparkSession, "_instantiatedSession", grown.spark)
    yield Marts(grown, ALL)


def test_marts_are_published_together_or_not_at_all(grown: Lake, marts: Marts) -> None:
    assert {report.table for report in run_gold(marts)} == set(MARTS)
    assert count(grown, TableName("gold", "sales_star")) == count(grown, SALES.silver_table("fact_sales_line"))
    before = heads(grown, MARTS)
    assert run_gold(marts) == [] and heads(grown, MARTS) == before
    publish(grown, Poison(grown))
    with pytest.raises(GateFailed, match="unique_sales_star_line_key") as raised:
        run_gold(marts)
    assert "marts.yml" in raised.value.where
    assert heads(grown, MARTS) == before
    rebuild(grown, SALES, "fact_sales_line")
    assert {report.table for report in run_gold(marts)} == set(MARTS)
    after = heads(grown, MARTS)
    assert all(after[mart] != before[mart] for mart in MARTS) and branches(grown, MARTS) == []


def test_reading_commands(grown: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """``tables`` and ``history`` without a JVM, ``sql`` in a process of its own with the reader's role."""
    from lakehouse.cli import history, query

    app = typer.Typer()
    for area in (query, history):
        monkeypatch.setattr(area, "settings", lambda: grown.settings)
        area.register(app)
    listed = CliRunner().invoke(app, ["tables", "--json"], catch_exceptions=False)
    rows = {row["table"]: row for row in json.loads(listed.stdout)}
    silver_tables = {str(contract.silver_table(name)) for contract in ALL for name in contract.tables}
    assert silver_tables | set(map(str, MARTS)) <= rows.keys()
    dim = CUSTOMERS.silver_table("dim_crm_customer")
    assert rows[str(dim)]["rows"] == count(grown, dim)
    assert rows[str(dim)]["consumed"] == {
        "crm.customers": read_head(grown.catalog, dim).consumed("crm.customers").through
    }
    key = grown.table(dim).groupBy("customer_id").count().orderBy("count", ascending=False).first()
    assert key is not None and key["count"] > 1
    told = CliRunner().invoke(app, ["history", str(dim), "--key", key.customer_id, "--json"], catch_exceptions=False)
    versions = json.loads(told.stdout)
    assert len(versions) == key["count"]
    assert [v["effective_to"] for v in versions[:-1]] >= [v["effective_from"] for v in versions[:-1]]


def test_sql_as_of_in_a_process_of_its_own(grown: Lake) -> None:
    fact = SALES.silver_table("fact_sales_line")
    then, before = datetime.now(UTC), count(grown, fact)
    publish(grown, Poison(grown))
    statement = f"SELECT count(*) AS n FROM {fact}; SELECT count(*) AS n FROM {fact} WHERE quantity IS NULL"
    done = lakehouse(grown, "sql", "-e", statement, "--json", "--as-of", then.isoformat())
    assert done.returncode == 0, done.stderr[-2000:]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"n": before}, {"n": 0}]
    assert count(grown, fact) == before + 1


def test_the_sql_of_the_documents_runs(grown: Lake) -> None:
    """Statements without an answer beside them, on the samples; those with one are the worked example's."""
    from lakehouse.engine.query import run_script

    page = (PROJECT_ROOT / "docs" / "querying.md").read_text("utf-8")
    scripts = re.findall(r"^```sql\n((?:(?!```).*\n)*)^```\n(?!\n```text)", page, re.MULTILINE)
    answers = [answer for script in scripts for answer in run_script(grown.spark, script, None, 10)]
    assert len(answers) >= 5 and all(answer.columns for answer in answers)
