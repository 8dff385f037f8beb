"""The Lakehouse page on a real lake: PostgreSQL, an S3 server, and tables that a run made. One run for all tests."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from fastapi.testclient import TestClient
from tests.integration.pipeline import land_files
from tests.integration.test_quality import DAYS, GOOD, contract, run, write

from lakehouse.contracts.index import compile_index
from lakehouse.contracts.model import Contract
from lakehouse.core.clock import SystemClock
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.ledger.store import ObjectStore
from lakehouse.page.app import make_app
from lakehouse.page.declared import Declarations
from lakehouse.page.links import no_dags
from lakehouse.page.overview import Choice, Overview, Row
from lakehouse.page.refresh import Refresher
from lakehouse.page.servers import BackupPlace, Servers
from lakehouse.page.view import LakeView

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from tests.servers import NewLake

    from lakehouse.engine.publish import Lake

SOURCE, FACT, SHOP = "test.lines", "silver.fact_line", "silver.dim_shop"
BAD = [*GOOD, ("s9", "no mail", "-5")]
HELD = [("s1", "", "1"), ("s2", "", "2")]


@dataclass
class Filled:
    """A lake after one run, and where its contract is."""

    lake: Lake
    contracts: Path

    @property
    def settings(self) -> Settings:
        return self.lake.settings


def checked_contract() -> Contract:
    """The contract of the tests of quality, with classes as the check wants them: only the mail address is personal."""
    said = contract({"kind": "completeness", "column": "mail", "min_share": 0.75}).dump()
    for name in ("shop", "pieces"):
        del said["source"]["columns"][name]["classification"]
    said["tables"]["dim_shop"]["columns"]["name"]["classification"] = "pii"
    # A key that is read from the mail address is as personal as that.
    said["tables"]["dim_shop"]["columns"]["shop"]["declassified"] = (
        "Only whether there is a mail address decides about it."
    )
    return Contract.model_validate(said)


@pytest.fixture(scope="module")
def filled(new_lake: NewLake, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Three days: a good one, one with a row that is refused, one that a rule holds back. The fact has a tag."""
    lake, folder = new_lake(), tmp_path_factory.mktemp("page")
    mine, contracts = checked_contract(), folder / "contracts"
    (contracts / "test").mkdir(parents=True)
    (contracts / "test" / "lines.yaml").write_text(yaml.safe_dump(mine.dump(), sort_keys=False))
    compile_index(contracts)
    for day, rows in zip(DAYS, (GOOD, BAD, HELD), strict=True):
        write(folder / "source", day, rows)
    land_files(lake, [mine], folder / "source")
    result = run(lake, mine)
    assert (result.errors, result.notes) == ([], [])
    lake.spark.sql("ALTER TABLE lakehouse.silver.fact_line CREATE TAG audited")
    return Filled(lake, contracts)


@dataclass
class Counting:
    """The real servers, with what is asked of them counted."""

    servers: Servers
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def store(self) -> ObjectStore:
        return self.servers.store

    @property
    def backups(self) -> BackupPlace | None:
        return self.servers.backups

    def pointers(self) -> Mapping[TableName, str]:
        self.requests["pointers"] += 1
        return self.servers.pointers()

    def table(self, name: TableName, location: str) -> Table:
        self.requests[str(name)] += 1
        return self.servers.table(name, location)

    def close(self) -> None:
        self.servers.close()


def view_of(filled: Filled, settings: Settings | None = None) -> tuple[LakeView, Counting]:
    lake = Counting(Servers.open(settings or filled.settings))
    declared = Declarations(filled.contracts, filled.settings.dbt)
    return LakeView(Refresher(lambda: lake, declared, SystemClock()), fresh_seconds=-1, wait_seconds=60), lake


def by_name(found: Overview) -> dict[str, Row]:
    return {str(row.name): row for row in found.rows}


def test_the_overview_tells_what_the_run_did(filled: Filled) -> None:
    view, _ = view_of(filled)
    found = view.overview(Choice())
    assert found.problems == ()
    rows = by_name(found)
    fact = rows[FACT]
    assert fact.facts is not None and fact.batch is not None
    assert (fact.facts.summary.rows, fact.facts.tags, fact.held) == (8, ("audited",), 1)
    assert fact.facts.summary.files >= 1 and fact.facts.summary.bytes > 1000
    assert (fact.batch.number, fact.batch.unit, fact.batch.waiting) == (2, DAYS[1], 0)  # the third is held
    assert fact.freshness.state == "fresh" and fact.freshness.age is not None
    assert fact.freshness.age < timedelta(minutes=10)
    assert [(unit.unit, unit.good, unit.refused, unit.state) for unit in fact.quality] == [
        (DAYS[0], 4, 0, "taken"),
        (DAYS[1], 4, 1, "taken"),
        (DAYS[2], 2, 0, "held"),
    ]
    assert rows["bronze.test_lines"].facts is not None and rows["bronze.test_lines"].held == 0
    assert {"quarantine.fact_line", SHOP, "ops.runs", "ops.batches", "ops.quality_results"} <= rows.keys()
    assert found.totals["held"] == 1


def test_a_tables_page_tells_its_schema_rules_commits_and_contract(filled: Filled) -> None:
    view, _ = view_of(filled)
    found = view.detail(TableName.parse(FACT))
    assert found is not None and found.problems == ()
    columns = {column.name: column for column in found.columns}
    assert (columns["pieces"].type, columns["shop"].roles, columns["mail"].classification) == ("int", ("key",), "pii")
    assert columns["_batch"].description and columns["_batch"].is_system
    rules = {rule.name: rule.last for rule in found.rules}
    last = rules["pieces_range"]
    assert last is not None and (last.checked, last.failed, last.outcome) == (11, 1, "quarantined")
    assert {batch.number: batch.state for batch in found.batches} == {1: "live", 2: "live", 3: "held"}
    newest, *_, first = found.commits
    assert (newest.is_current, newest.rows, newest.refs) == (True, 8, ("audited",))
    assert f"{SOURCE}#1 to #3" in newest.what and "held: #3" in newest.what
    assert first.what == "table created"
    assert [[change.what for change in step.changes] for step in found.contracts] == [["first contract"]]
    assert {each.name for each in found.upstream} == {"bronze.test_lines", SHOP}
    assert found.layout["Format"] == "Iceberg v3"


def test_the_page_asks_as_the_reader_who_can_change_nothing(filled: Filled) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    servers = Servers.open(filled.settings)
    with servers.catalog.engine.connect() as connection:
        assert connection.execute(text("select current_user")).scalar() == filled.settings.reader_user
    for statement in (
        "delete from iceberg_tables",
        "set default_transaction_read_only = off; delete from iceberg_tables",
    ):
        with servers.catalog.engine.connect() as connection, pytest.raises(DBAPIError, match=r"read-only|permission"):
            connection.execute(text(statement))
    assert servers.pointers()


def test_looking_again_reads_only_what_changed(filled: Filled) -> None:
    view, lake = view_of(filled)
    view.overview(Choice())
    assert set(lake.requests.values()) <= {1, 2}  # the tables of records are read for what is in them, too
    lake.requests.clear()
    opened = {name: cache.opened for name, cache in view.refresher._records.items()}
    assert sum(opened.values()) >= 2
    view.overview(Choice())
    assert lake.requests == {"pointers": 1}
    assert {name: cache.opened for name, cache in view.refresher._records.items()} == opened
    filled.lake.spark.sql("ALTER TABLE lakehouse.silver.dim_shop CREATE TAG looked_at")
    lake.requests.clear()
    assert by_name(view.overview(Choice()))[SHOP].facts.tags == ("looked_at",)  # type: ignore[union-attr]
    assert lake.requests == {"pointers": 1, SHOP: 1}


def closed_port() -> int:
    """A port on which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


AWAY: dict[str, Callable[[int], dict[str, object]]] = {
    "catalog": lambda port: {"postgres_port": port},
    "S3": lambda port: {"s3_endpoint": f"http://127.0.0.1:{port}"},
}


@pytest.mark.parametrize("server", AWAY)
def test_a_server_that_is_away_leaves_what_is_known_in_time(filled: Filled, server: str) -> None:
    view, _ = view_of(filled)
    before = by_name(view.overview(Choice()))
    away = filled.settings.model_copy(update=AWAY[server](closed_port()))
    view.refresher.forget_servers()
    view.refresher.open_lake = lambda: Servers.open(away)
    view.wait_seconds = 4
    began = time.monotonic()
    found = view.overview(Choice())
    assert time.monotonic() - began < 10
    assert by_name(found)[FACT].facts == before[FACT].facts
    assert by_name(found)[FACT].quality == before[FACT].quality
    view.wait_seconds = 60
    problems = view.overview(Choice()).problems
    assert problems and all(problem.todo for problem in problems)
    assert server in " ".join(problem.what for problem in problems)
    secret = filled.settings.reader_password.get_secret_value()
    assert secret not in str(problems)


@pytest.mark.parametrize("server", AWAY)
def test_a_first_look_with_a_server_away_says_so(filled: Filled, server: str) -> None:
    away = filled.settings.model_copy(update=AWAY[server](closed_port()))
    declared = Declarations(filled.contracts, filled.settings.dbt)
    view = LakeView(Refresher(lambda: Servers.open(away), declared, SystemClock()), wait_seconds=60)
    client = TestClient(make_app(lambda: view, [], lambda: no_dags))
    for path in ("/", f"/tables/{FACT}"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert 'role="alert"' in answer.text and "What to do" in answer.text
        assert "Traceback" not in answer.text and "fact_line" in answer.text


def test_the_pages_are_served(filled: Filled) -> None:
    view, _ = view_of(filled)
    client = TestClient(make_app(lambda: view, [], lambda: no_dags))
    page = client.get("/")
    assert page.status_code == 200 and "fact_line" in page.text
    for name in by_name(view.overview(Choice())):
        assert client.get(f"/tables/{name}").status_code == 200, name
