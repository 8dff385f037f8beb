"""What the Lakehouse page knows, and how little it asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.page_lake import (
    NOW,
    Clock,
    FakeLake,
    consumed,
    decide,
    iceberg,
    land,
    read,
    refresher,
    snapshot,
)

from lakehouse.contracts.marts import mart_inputs
from lakehouse.contracts.model import Freshness as Wanted
from lakehouse.core.errors import ContractError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.ledger.holds import holding
from lakehouse.ledger.watermark import Consumed, Stamp
from lakehouse.page.commits import commits_of
from lakehouse.page.detail import detail, read_table
from lakehouse.page.freshness import of_batch
from lakehouse.page.known import Known
from lakehouse.page.overview import PAGE_ROWS, Choice, Overview, Row, overview
from lakehouse.page.parallel import WORKERS
from lakehouse.page.records import FileCache, UnitQuality, quality_of
from lakehouse.page.view import LakeView

SALES, CATALOGUE = "retail.sales", "crm.catalogue"
FACT = "silver.fact_sales_line"
DAY = date(2024, 4, 9)


@pytest.fixture
def lake() -> FakeLake:
    return FakeLake()


def rows(known: Known, clock: datetime = NOW, **choice: Any) -> dict[str, Row]:
    return {str(row.name): row for row in overview(known, Choice(**choice), clock).rows}


def fill(lake: FakeLake, through: int = 1, **stamp: Any) -> None:
    """One source that landed a batch, and the tables that took it."""
    land(lake.memory, SALES, DAY, NOW - timedelta(hours=2))
    lake.publish("bronze.retail_sales", snapshot(consumed(SALES, through), rows=100))
    lake.publish(FACT, snapshot(consumed(SALES, through, **stamp), rows=90), tags={"audited": 0})


def test_a_table_is_shown_with_all_that_is_known_of_it(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    row = rows(read(refresher(lake, contracts)))[FACT]
    assert row.facts is not None and row.batch is not None
    assert (row.facts.summary.rows, row.facts.summary.files, row.facts.summary.bytes) == (90, 2, 4096)
    assert (row.layer, row.kind, row.facts.tags, row.facts.summary.snapshots) == ("silver", "fact", ("audited",), 1)
    assert (row.batch.number, row.batch.unit, row.batch.waiting, row.held) == (1, DAY, 0, 0)
    assert (row.freshness.state, row.freshness.age) == ("fresh", timedelta(hours=2))
    assert row.description.startswith("One row")


def test_tables_that_contracts_and_marts_promise_are_shown_before_they_are_there(
    lake: FakeLake, contracts: Path
) -> None:
    found = rows(read(refresher(lake, contracts)))
    assert {"bronze.crm_catalogue", "silver.dim_customer", "gold.sales_star"} <= found.keys()
    assert {row.freshness.state for row in found.values()} == {"never"}
    assert all(row.facts is None for row in found.values())


def test_what_landed_and_is_not_taken_is_waiting(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    land(lake.memory, SALES, DAY + timedelta(days=1), NOW)
    row = rows(read(refresher(lake, contracts)))[FACT]
    assert row.batch is not None
    assert (row.batch.number, row.batch.waiting, row.waiting) == (1, 1, 1)


def test_five_hundred_tables_cost_one_query_and_then_only_what_changed(lake: FakeLake, contracts: Path) -> None:
    names = [f"silver.fact_{number}" for number in range(497)]
    for name in names:
        lake.publish(name, snapshot(Stamp("a"), rows=1))
    fill(lake)
    lake.memory.requests.clear()
    sources = 3
    reader = refresher(lake, contracts)
    known = read(reader)
    assert len(known.tables) == 499
    assert lake.requests == {"pointers": 1, "metadata": 499}
    assert lake.memory.requests == {"list": 2 * sources, "get": 1}
    lake.requests.clear()
    lake.memory.requests.clear()
    known = read(reader, known)  # nothing happened
    assert lake.requests == {"pointers": 1}
    assert lake.memory.requests == {"list": 2 * sources}
    lake.requests.clear()
    lake.memory.requests.clear()
    for name in names[:3]:
        lake.publish(name, snapshot(Stamp("a"), rows=1), snapshot(Stamp("b"), rows=7))
    known = read(reader, known)
    assert lake.requests == {"pointers": 1, "metadata": 3}
    assert rows(known, text="fact_2")["silver.fact_2"].facts.summary.rows == 7  # type: ignore[union-attr]
    lake.requests.clear()
    overview(known, Choice(), NOW)
    assert not lake.requests


def test_a_table_that_was_dropped_is_gone(lake: FakeLake, contracts: Path) -> None:
    lake.publish("ops.scratch", snapshot(rows=1))
    reader = refresher(lake, contracts)
    known = read(reader)
    assert "ops.scratch" in rows(known)
    del lake.places[TableName("ops", "scratch")]
    assert "ops.scratch" not in rows(read(reader, known))


@pytest.mark.parametrize(
    ("hours", "state"), [(0, "fresh"), (24, "fresh"), (24.1, "due"), (36, "due"), (36.1, "late"), (-5, "fresh")]
)
def test_freshness_is_the_age_of_the_newest_batch_against_the_contract(hours: float, state: str) -> None:
    found = of_batch(Wanted(expected_every="1d", warn_after="36h"), NOW - timedelta(hours=hours), NOW)
    assert found.state == state
    assert found.age is not None and found.age >= timedelta()


def test_a_mart_is_due_once_a_table_behind_it_was_published_anew(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    upstream = {FACT: "a1", "silver.dim_customer": "", "silver.dim_elsewhere": "gone"}
    star = Stamp("m1", "p" * 32, {}, upstream)
    lake.publish("gold.sales_star", snapshot(star, rows=5))
    lake.publish("gold.daily_sales", snapshot(star, rows=5))
    reader = refresher(lake, contracts)
    known = read(reader)
    assert {name: rows(known)[name].freshness.state for name in ("gold.sales_star", "gold.daily_sales")} == {
        "gold.sales_star": "fresh",
        "gold.daily_sales": "fresh",
    }
    lake.publish(FACT, snapshot(consumed(SALES, 1, attempt="a2"), rows=91))
    found = rows(read(reader, known))["gold.daily_sales"].freshness  # through the star
    assert (found.state, FACT in found.words) == ("due", True)


def test_held_batches_are_counted_where_they_are_missing(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    land(lake.memory, SALES, DAY + timedelta(days=1))
    land(lake.memory, SALES, DAY + timedelta(days=2))
    land(lake.memory, SALES, DAY + timedelta(days=3))
    held = Stamp("a2", "f" * 32, consumed(SALES, 4).inputs, held={2: "too many rows were refused"})
    lake.publish(FACT, snapshot(held, rows=90))
    decide(lake.memory, SALES, "hold", 3)
    decide(lake.memory, SALES, "discard", 4)
    found = rows(read(refresher(lake, contracts)))
    assert found[FACT].batch is not None and found[FACT].batch.number == 4  # by the stamp; the decisions are newer
    assert {hold.batch: hold.state for hold in found[FACT].holds} == {2: "held", 3: "held", 4: "discarded"}
    assert {name: found[name].held for name in (FACT, "silver.dim_customer", "bronze.retail_sales")} == {
        FACT: 2,
        "silver.dim_customer": 1,
        "bronze.retail_sales": 1,
    }
    assert overview(read(refresher(lake, contracts)), Choice(), NOW).totals["held"] == 2


def test_freshness_is_that_of_the_newest_batch_that_is_not_held(lake: FakeLake, contracts: Path) -> None:
    for number in range(3):
        land(lake.memory, SALES, DAY + timedelta(days=number), NOW - timedelta(hours=200 - 20 * number))
    inputs = {SALES: Consumed(3, holes=(2,))}
    lake.publish(FACT, snapshot(Stamp("a1", "f" * 32, inputs, held={3: "odd"}), rows=90))
    row = rows(read(refresher(lake, contracts)))[FACT]
    assert row.batch is not None
    assert (row.batch.number, row.freshness.state, row.freshness.age) == (1, "late", timedelta(hours=200))


def test_the_whole_log_is_read_only_where_something_is_held(lake: FakeLake, contracts: Path) -> None:
    for number in range(30):
        land(lake.memory, SALES, DAY - timedelta(days=number))
    lake.publish(FACT, snapshot(consumed(SALES, 30), rows=90))
    lake.memory.requests.clear()
    reader = refresher(lake, contracts)
    known = read(reader)
    assert lake.memory.requests["get"] == 1
    decide(lake.memory, SALES, "hold", 30)
    lake.memory.requests.clear()
    known = read(reader, known)
    assert lake.memory.requests["get"] == 31  # the log, once, and the decision
    lake.memory.requests.clear()
    read(reader, known)
    assert lake.memory.requests["get"] == 0


def test_a_catalog_that_is_away_leaves_what_is_known_and_says_since_when(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    clock = Clock()
    reader = refresher(lake, contracts, clock)
    known = read(reader)
    assert overview(known, Choice(), clock.now()).problems == ()
    lake.is_catalog_away = True
    clock.move(minutes=5)
    known = read(reader, known)
    clock.move(minutes=5)
    known = read(reader, known)
    found = overview(known, Choice(), clock.now())
    [problem] = found.problems
    assert (problem.what, problem.since) == ("the catalog cannot be reached", NOW + timedelta(minutes=5))
    assert problem.todo and found.read_at == NOW
    assert {str(row.name): row for row in found.rows}[FACT].facts is not None
    lake.is_catalog_away = False
    assert overview(read(reader, known), Choice(), clock.now()).problems == ()


def test_s3_that_is_away_leaves_the_tables_and_the_batches(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    reader = refresher(lake, contracts)
    known = read(reader)
    lake.memory.is_away = True
    lake.publish(FACT, snapshot(consumed(SALES, 1), rows=95))
    known = read(reader, known)
    row = rows(known)[FACT]
    assert row.facts is not None and row.facts.summary.rows == 90
    assert row.batch is not None and row.batch.number == 1
    assert {problem.part for problem in known.problems.values()} == {"tables", "batches"}
    assert known.unread == 1


def test_a_server_that_is_away_is_not_asked_for_every_table(lake: FakeLake, contracts: Path) -> None:
    for number in range(200):
        lake.publish(f"silver.fact_{number}", snapshot(rows=1))
    lake.memory.is_away = True
    known = read(refresher(lake, contracts))
    assert lake.requests["metadata"] <= 2 * WORKERS
    assert [problem.what for problem in known.problems.values()] == [
        "the warehouse cannot be reached",
        "the S3 server does not answer",
    ]


def test_one_damaged_table_is_said_to_be_and_the_others_are_shown(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    lake.places[TableName("silver", "dim_product")] = "s3://warehouse/gone.metadata.json"
    found = rows(read(refresher(lake, contracts)))
    assert found["silver.dim_product"].note == "a metadata file is missing"
    assert found["silver.dim_product"].needs_a_look
    assert found[FACT].facts is not None


def test_without_servers_the_page_says_what_to_do(contracts: Path) -> None:
    def nobody() -> Any:
        raise SettingsError("the lakehouse has no servers yet", todo="run `lakehouse up`")

    reader = refresher(FakeLake(), contracts)
    reader.open_lake = nobody
    found = overview(read(reader), Choice(), NOW)
    assert [(problem.what, problem.todo) for problem in found.problems] == [
        ("the lakehouse has no servers yet", "run `lakehouse up`")
    ]


def test_servers_are_signed_in_to_again_after_a_failure_only(lake: FakeLake, contracts: Path) -> None:
    signed_in = []

    def sign_in() -> FakeLake:
        signed_in.append(len(signed_in))
        return lake

    reader = refresher(lake, contracts)
    reader.open_lake = sign_in
    known = read(reader, read(reader))
    assert len(signed_in) == 1
    lake.is_catalog_away = True
    known = read(reader, known)
    lake.is_catalog_away = False
    assert not read(reader, known).problems
    assert len(signed_in) == 2
    assert lake.requests["close"] == 1


def test_an_index_that_is_missing_is_a_problem_and_not_the_end(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    reader = refresher(lake, contracts)
    (contracts / "index.json").unlink()
    known = read(reader)
    [problem] = known.problems.values()
    assert "lakehouse contract compile" in problem.todo
    assert rows(known)[FACT].facts is not None


def test_an_error_that_nobody_thought_of_is_a_problem_and_not_the_end(
    lake: FakeLake, contracts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(lake)
    lake.made = {place: object() for place in lake.made}  # type: ignore[misc]
    known = read(refresher(lake, contracts))
    assert "tables could not be read: AttributeError" in known.problems["tables"].what
    assert "Traceback" not in known.problems["tables"].what
    assert "could not read its tables" in caplog.text


# -- what is chosen


def many(contracts: Path) -> Known:
    lake = FakeLake()
    for number in range(250):
        lake.publish(f"silver.fact_{number:03}", snapshot(rows=number))
    return read(refresher(lake, contracts))


def test_rows_are_sorted_chosen_and_paged(contracts: Path) -> None:
    known = many(contracts)

    def page(**query: str) -> Overview:
        return overview(known, Choice.of(query), NOW)

    biggest = page(sort="-rows")
    assert [row.name.name for row in biggest.rows[:2]] == ["fact_249", "fact_248"]
    assert len(biggest.rows) == PAGE_ROWS and biggest.pages == -(-biggest.found // PAGE_ROWS)
    last = page(sort="-rows", page="99")
    assert last.rows[-1].facts is None  # what is not there comes last, whichever way
    assert page(sort="rows", page="99").rows[-1].facts is None
    assert {row.layer for row in page(layer="gold").rows} == {"gold"}
    assert [row.name.name for row in page(q="FACT_001").rows] == ["fact_001"]
    assert page(q="no such table").rows == ()
    assert {row.freshness.state for row in page(state="never").rows} == {"never"}


@pytest.mark.parametrize(
    "query",
    [{"layer": "<b>"}, {"sort": "--rows"}, {"page": "-1"}, {"page": "9" * 40}, {"state": "x"}, {"page": "²"}],
)
def test_a_query_that_says_nonsense_is_passed_over(query: dict[str, str]) -> None:
    assert Choice.of(query) == Choice(is_descending=query.get("sort", "").startswith("-"))


# -- a table's page


def test_a_tables_page_tells_columns_rules_commits_batches_and_neighbours(lake: FakeLake, contracts: Path) -> None:
    for day in range(3):
        land(lake.memory, SALES, DAY + timedelta(days=day))
    land(lake.memory, SALES, DAY)  # again: takes the place of the first
    lake.publish(
        FACT,
        snapshot(Stamp("a0"), at=NOW - timedelta(days=2)),
        snapshot(consumed(SALES, 2), rows=50, at=NOW - timedelta(days=1)),
        snapshot(consumed(SALES, 4, held={3: "odd"}), rows=80),
        columns={"invoice_no": "string", "stock_code": "string", "_batch": "long"},
        tags={"audited": 1},
    )
    reader = refresher(lake, contracts)
    known = read(reader)
    name = TableName.parse(FACT)
    found = detail(known, name, read_table(reader, known, name, None), None, NOW)
    assert [(commit.what, commit.rows, commit.change) for commit in found.commits] == [
        ("retail.sales#3 to #4; held: #3", 80, 30),
        ("retail.sales#1 to #2", 50, 50),
        ("table created", 0, None),
    ]
    assert [commit.refs for commit in found.commits] == [(), ("audited",), ()]
    assert {batch.number: batch.state for batch in found.batches} == {1: "superseded", 2: "live", 3: "held", 4: "live"}
    columns = {column.name: column for column in found.columns}
    assert columns["invoice_no"].roles == ("key",)
    assert columns["_batch"].description == "About _batch." and columns["_batch"].is_system
    assert columns["quantity"].is_missing and not columns["invoice_no"].is_missing
    unread = detail(known, name, None, None, NOW)
    assert unread.columns and not any(column.is_missing for column in unread.columns)  # nobody looked
    assert found.rules and {rule.name for rule in found.rules} >= {"quantity_type"}
    assert [each.name for each in found.upstream if each.how == "typed and checked"] == ["bronze.retail_sales"]
    assert [each.name for each in found.downstream] == ["gold.sales_star"]
    assert found.layout["Owner"] and found.layout["Format"] == "Iceberg v2"
    assert found.problems == ()


def test_a_tables_page_reads_its_metadata_once(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    reader = refresher(lake, contracts)
    known, name = read(reader), TableName.parse(FACT)
    first = read_table(reader, known, name, None)
    lake.requests.clear()
    lake.memory.requests.clear()
    read_table(reader, known, name, first)
    assert not lake.requests and not lake.memory.requests


def test_logs_that_cannot_be_read_leave_the_rest_of_a_tables_page(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    reader = refresher(lake, contracts)
    known, name = read(reader), TableName.parse(FACT)
    table = lake.made[lake.places[name]]
    lake.memory.is_away = True
    lake.table = lambda *_: table  # type: ignore[method-assign]
    found = detail(known, name, read_table(reader, known, name, None), None, NOW)
    assert found.commits and not found.batches
    assert [problem.part for problem in found.problems] == ["batches"]


def test_commits_say_when_a_table_was_set_back_or_maintained(lake: FakeLake) -> None:
    table = iceberg(FACT, [snapshot(Stamp("a")), snapshot(consumed(SALES, 1), rows=3), snapshot(rows=3)])
    [first, second, third] = table.metadata.snapshot_log
    table.metadata.snapshot_log.append(second)
    said = [commit.what for commit in commits_of(table)]
    assert said[0] == "set back to an earlier snapshot"
    assert said[1] == "no new data (append)"
    assert said[2] == "retail.sales#1"


def test_holding_stamps_end_where_nothing_was_held() -> None:
    stamps = [consumed(SALES, 1, held={1: "old"}), consumed(SALES, 2), consumed(SALES, 3, held={3: "odd"})]
    table = iceberg(FACT, [snapshot(stamp, rows=1) for stamp in stamps])
    assert [stamp.held for _, stamp in holding(table)] == [{3: "odd"}]


# -- quality


def result(table: str, batch: int, unit: date, good: int, refused: int, hour: int = 0, **more: Any) -> dict[str, Any]:
    at = datetime(2024, 4, 1, hour, tzinfo=UTC)
    counts = {"good": good, "quarantined": refused, "rejected": 0}
    return {
        "table": table,
        "source": SALES,
        "batch": batch,
        "unit": unit,
        "ended_at": at,
        "state": "taken",
        **counts,
        **more,
    }


def test_quality_by_unit_goes_by_the_last_run_and_the_batch_that_counts() -> None:
    first, second = date(2024, 3, 1), date(2024, 3, 2)
    found = quality_of(
        [
            result("t", 1, first, 5, 5, hour=1, state="held"),
            result("t", 1, first, 8, 2, hour=2),  # judged again
            result("t", 2, second, 1, 1),
            result("t", 3, second, 9, 1),  # landed again
            result("u", 1, first, 3, 0),
        ],
        frozenset(),
    )
    assert found["t"] == (UnitQuality(first, 8, 2, "taken"), UnitQuality(second, 9, 1, "taken"))
    assert [unit.share for unit in found["u"]] == [1.0]


def test_batches_of_a_feed_are_added_up() -> None:
    day = date(2024, 3, 1)
    rows = [result("t", 1, day, 5, 5), result("t", 2, day, 10, 0)]
    assert quality_of(rows, frozenset({SALES}))["t"] == (UnitQuality(day, 15, 5, "taken"),)


def test_a_unit_without_rows_has_no_share() -> None:
    assert UnitQuality(date(2024, 3, 1), 0, 0, "taken").share is None


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Any]:
    """A table of records in a catalog that needs no server."""
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("lakehouse", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    catalog.create_namespace("ops")
    kinds = [("ended_at", pa.timestamp("us", "UTC")), ("table", pa.string()), ("good", pa.int64())]
    yield catalog.create_table("ops.batches", schema=pa.schema(kinds))
    catalog.close()


def test_files_of_records_are_read_once_each(records: Any) -> None:
    def run(day: int) -> None:
        at = datetime(2024, 4, day, tzinfo=UTC)
        rows = [
            {"ended_at": at, "table": FACT, "good": day},
            {"ended_at": at, "table": "silver.dim_product", "good": 0},
        ]
        records.append(pa.Table.from_pylist(rows, records.schema().as_arrow()))

    cache = FileCache(("ended_at", "table", "good"))
    since = datetime(2024, 4, 2, 12, tzinfo=UTC)
    assert cache.read(records, since).num_rows == 0
    for day in (1, 2, 3):
        run(day)
    assert cache.read(records, since)["good"].to_pylist() == [3, 0]
    opened = cache.opened
    run(4)
    assert sorted(cache.read(records, since)["good"].to_pylist()) == [0, 0, 3, 4]
    assert cache.opened == opened + 1
    cache.read(records, since)
    assert cache.opened == opened + 1


# -- in time


class Slow(FakeLake):
    """A lake whose catalog answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = threading.Event()

    def pointers(self) -> Any:
        self.answer.wait(20)
        return super().pointers()


def test_nobody_waits_for_a_server_that_hangs_and_only_one_asks_it(contracts: Path) -> None:
    lake = Slow()
    lake.publish("ops.runs", snapshot(rows=1))
    view = LakeView(refresher(lake, contracts), wait_seconds=0.2)
    began = time.monotonic()
    threads = [threading.Thread(target=view.overview, args=(Choice(),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 5
    found = view.overview(Choice())
    assert "ops.runs" not in {str(row.name) for row in found.rows}
    lake.answer.set()
    view.wait_seconds = 10
    assert "ops.runs" in {str(row.name) for row in view.overview(Choice()).rows}
    assert lake.requests["pointers"] == 1


def test_what_is_young_enough_is_not_read_again(lake: FakeLake, contracts: Path) -> None:
    clock = Clock()
    view = LakeView(refresher(lake, contracts, clock), clock, wait_seconds=10)
    for _ in range(3):
        view.overview(Choice())
    assert lake.requests["pointers"] == 1
    clock.move(seconds=11)
    view.overview(Choice())
    assert lake.requests["pointers"] == 2


def test_a_refresh_that_hangs_is_given_up(contracts: Path) -> None:
    clock, lake = Clock(), Slow()
    lake.publish("ops.runs", snapshot(rows=1))
    view = LakeView(refresher(lake, contracts, clock), clock, wait_seconds=0.1)
    view.overview(Choice())
    clock.move(seconds=100)
    free = FakeLake()
    free.publish("ops.batches_of_another", snapshot(rows=1))
    view.refresher.open_lake = lambda: free
    view.wait_seconds = 10
    assert "ops.batches_of_another" in {str(row.name) for row in view.overview(Choice()).rows}
    lake.answer.set()  # it comes back, and shows nothing any more
    time.sleep(0.2)
    assert "ops.runs" not in {str(row.name) for row in view.overview(Choice()).rows}


def test_a_table_page_that_is_late_shows_what_is_known(lake: FakeLake, contracts: Path) -> None:
    fill(lake)
    view = LakeView(refresher(lake, contracts), wait_seconds=10)
    view.overview(Choice())
    waiting = threading.Event()
    table = lake.table
    lake.table = lambda *asked: (waiting.wait(20), table(*asked))[1]  # type: ignore[method-assign]
    view.wait_seconds = 0.2
    found = view.detail(TableName.parse(FACT))
    waiting.set()
    assert found is not None and found.row.facts is not None and not found.commits
    assert "was not read" in found.problems[0].what


def test_no_page_for_a_table_that_nobody_knows(lake: FakeLake, contracts: Path) -> None:
    view = LakeView(refresher(lake, contracts), wait_seconds=10)
    assert view.detail(TableName("silver", "dim_nowhere")) is None
    promised = view.detail(TableName("silver", "dim_customer"))
    assert promised is not None and promised.row.freshness.state == "never"


# -- what stands below


def test_the_reader_stands_in_for_the_owner_and_never_the_other_way() -> None:
    settings = Settings(catalog_password="owner's", reader_password="reader's")  # type: ignore[arg-type]
    reader = settings.as_reader()
    assert (reader.catalog_user, reader.catalog_password.get_secret_value()) == ("lakehouse_reader", "reader's")
    with pytest.raises(SettingsError, match="LAKEHOUSE_READER_PASSWORD"):
        Settings(catalog_password="owner's").as_reader()  # type: ignore[arg-type]


def test_marts_know_what_they_are_made_of() -> None:
    found = mart_inputs(PROJECT_ROOT / "include" / "dbt")
    assert found["daily_sales"] == ("gold.sales_star",)
    assert found["sales_star"] == (
        "silver.dim_catalogue_product",
        "silver.dim_crm_customer",
        "silver.dim_customer",
        "silver.dim_product",
        FACT,
    )


def test_a_model_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    marts = tmp_path / "models" / "marts"
    marts.mkdir(parents=True)
    (marts / "marts.yml").write_text("models: [{name: broken}]")
    (marts / "broken.sql").write_text("select {{ ref('x' }}")
    with pytest.raises(ContractError, match=r"broken\.sql"):
        mart_inputs(tmp_path)
