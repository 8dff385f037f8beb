"""A table goes back, or is dropped and comes back; the pipeline goes on, and what was undone stays out."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.pipeline import all_tables, branches, fingerprints, heads, land_files, quarantine, run
from tests.integration.test_pipeline import lakehouse
from tests.integration.test_pipeline_order import KINDS, UNITS, make_content, write
from tests.integration.test_star import ALL, content, expected_star, marts, take

from lakehouse.core.errors import ConcurrentCommit, LakehouseError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.engine.dropped import Dropped, Warehouse
from lakehouse.engine.gold import Marts, run_gold
from lakehouse.engine.publish import Lake
from lakehouse.engine.travel import Tagging, roll_back, tag_table
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.decisions import Decision, append_decision, read_decisions
from lakehouse.ledger.outstanding import dataset_is_current, gold_is_current
from lakehouse.ledger.rollback import plan_rollback
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table, read_head
from lakehouse.samples.make import make_samples
from lakehouse.samples.plan import EPOCH, Options, days

if TYPE_CHECKING:
    from tests.servers import NewLake

KIND = "slice"
SOURCE = KINDS[KIND]
DIMENSION, FACT = (SOURCE.silver_table(name) for name in ("dim_fed", "fact_fed"))
State = tuple[dict[str, str], dict[str, str]]


def now() -> datetime:
    return datetime.now(UTC)


class Feed:
    """A lake, and the days that land in it."""

    def __init__(self, lake: Lake, root: Path, seed: int) -> None:
        self.lake, self.root = lake, root
        self.content = make_content(random.Random(seed), KIND)  # noqa: S311 - a seed, not a secret

    @property
    def store(self) -> ObjectStore:
        return ObjectStore.open(self.lake.settings)

    def take(self, *places: int) -> State:
        """Land some days, each a batch, and run."""
        for place in places:
            write(self.root, KIND, UNITS[place], self.content[UNITS[place]])
            land_files(self.lake, [SOURCE], self.root)
        return self.run()

    def run(self) -> State:
        """Everything that is pending. All must be accounted for, and nothing pending after."""
        run(self.lake, [SOURCE])
        found = accounts(self.lake.catalog, self.store, SOURCE)
        assert [problem for each in found for problem in each.problems] == []
        assert dataset_is_current(self.lake.catalog, self.store, SOURCE)
        return self.state()

    def state(self) -> State:
        """The content of all tables, and of their quarantines."""
        return fingerprints(self.lake, [SOURCE]), quarantine(self.lake, [SOURCE])

    def head(self, table: TableName) -> int:
        return read_head(self.lake.catalog, table).snapshot_id or 0

    def back(self, to: object, *tables: TableName) -> dict[TableName, str]:
        """Roll tables back, each by itself; returns the tags of what they were."""
        kept: dict[TableName, str] = {}
        for table in tables or (DIMENSION,):
            plan = plan_rollback(self.lake.catalog, self.store, table, str(to))
            kept |= roll_back(self.lake.settings, self.lake.catalog, self.store, plan, "a test", "tests", now())
        return kept

    def release(self, *batches: int) -> None:
        append_decision(self.store, Decision(SOURCE.name, 0, "release", batches, "it was right", "tests", now()))


@pytest.fixture
def feed(lake: Lake, tmp_path: Path, chance: random.Random) -> Feed:
    return Feed(lake, tmp_path / "sent", chance.randint(0, 10**6))


def same_days(feed: Feed, new_lake: NewLake, tmp_path: Path, *places: int) -> State:
    """What a lake says to which only these days were ever sent."""
    other = Feed(new_lake(), tmp_path / "only", 0)
    other.content = feed.content
    return other.take(*places)


def test_what_was_undone_stays_out_until_it_is_released(feed: Feed, new_lake: NewLake, tmp_path: Path) -> None:
    before = feed.take(0, 1)
    moments = {table: feed.head(table) for table in (DIMENSION, FACT)}
    with_bad = feed.take(2)
    assert with_bad != before
    for table, moment in moments.items():
        feed.back(moment, table)
    assert feed.state() == before  # at once, and without Spark
    assert feed.run() == before  # what is held is not taken
    without = feed.take(3)
    assert without == same_days(feed, new_lake, tmp_path, 0, 1, 3)
    assert feed.run() == without
    feed.release(3)
    whole = feed.run()
    assert whole == same_days(feed, new_lake, tmp_path / "all", 0, 1, 2, 3)
    assert feed.run() == whole and branches(feed.lake, all_tables([SOURCE]))  # the tags of what was left
    assert all(name.startswith("before-rollback-") for name in branches(feed.lake, all_tables([SOURCE])))


def test_a_day_that_lands_anew_takes_the_place_of_what_was_undone(
    feed: Feed, new_lake: NewLake, tmp_path: Path
) -> None:
    feed.take(0)
    moment = feed.head(DIMENSION)
    right = feed.content[UNITS[1]]
    feed.content[UNITS[1]] = right[:3]  # truncated
    feed.take(1)
    feed.back(moment)
    feed.content[UNITS[1]] = right
    assert feed.take(1) == same_days(feed, new_lake, tmp_path, 0, 1)


def test_a_rollback_that_is_taken_back_leaves_nothing_behind(feed: Feed) -> None:
    feed.take(0)
    moment = feed.head(DIMENSION)
    whole = feed.take(1, 2)
    first = feed.back(moment)
    feed.run()  # the hole is published, too
    feed.back(first[DIMENSION])
    assert feed.state() == whole
    assert feed.run() == whole
    assert [said.action for said in read_decisions(feed.store, SOURCE.name)] == ["rollback", "release"]


def test_bronze_reads_again_what_it_lost(feed: Feed) -> None:
    feed.take(0)
    moment, bronze = feed.head(SOURCE.bronze_table), SOURCE.bronze_table
    whole = feed.take(1, 2)
    rows = feed.lake.table(bronze).count()
    feed.back(moment, bronze)
    assert feed.lake.table(bronze).count() < rows
    run(feed.lake, [SOURCE], max_batches=1)
    assert feed.run() == whole and feed.lake.table(bronze).count() == rows


@pytest.mark.parametrize("point", ["decide.after_log", "rollback.before_swap", "rollback.after_swap"])
def test_whoever_is_killed_on_the_way_has_lost_nothing(feed: Feed, point: str) -> None:
    """The next run brings the table to what was decided, whether ``main`` was moved or not; so does a second try."""
    before = feed.take(0)
    moment = feed.head(DIMENSION)
    whole = feed.take(1)
    command = ("rollback", str(DIMENSION), "--to", str(moment), "--yes")
    killed = lakehouse(feed.lake, *command, LAKEHOUSE_FAILPOINTS=f"{point}=kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read_decisions(feed.store, SOURCE.name)) == 1
    after = feed.run()
    assert after[0]["dim_fed"] == before[0]["dim_fed"]
    assert after[0]["fact_fed"] == whole[0]["fact_fed"]
    again = lakehouse(feed.lake, *command)
    assert again.returncode == 0, again.stderr
    assert len(read_decisions(feed.store, SOURCE.name)) == 1
    assert feed.run()[0]["dim_fed"] == before[0]["dim_fed"]
    feed.release(2)
    assert feed.run() == whole


def both(first: Any, second: Any, path: Path) -> list[LakehouseError]:
    """Run the first until it pauses at a failpoint, then the second beside it, which has to wait; and let both end."""
    failed: list[LakehouseError] = []

    def kept(act: Any) -> Thread:
        def work() -> None:
            try:
                act()
            except LakehouseError as error:
                failed.append(error)

        thread = Thread(target=work)
        thread.start()
        return thread

    one = kept(first)
    while one.is_alive() and not path.exists():
        one.join(0.02)
    other = kept(second)
    other.join(2)
    assert other.is_alive(), "it waits for the lock"
    path.unlink()
    one.join(120)
    other.join(120)
    return failed


def test_a_run_that_is_under_way_comes_first(feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rollback was planned for is not what stands then: it does nothing, and says so."""
    feed.take(0)
    moment, before = feed.head(DIMENSION), feed.take(1)
    write(feed.root, KIND, UNITS[2], feed.content[UNITS[2]])
    land_files(feed.lake, [SOURCE], feed.root)
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"publish.branched@{DIMENSION}=pause:{tmp_path / 'paused'}")
    plan = plan_rollback(feed.lake.catalog, feed.store, DIMENSION, str(moment))
    arguments = (feed.lake.settings, feed.lake.catalog, feed.store, plan, "a test", "tests", now())
    [error] = both(lambda: run(feed.lake, [SOURCE]), lambda: roll_back(*arguments), tmp_path / "paused")
    assert isinstance(error, ConcurrentCommit) and "changed since the rollback was planned" in error.what
    assert read_decisions(feed.store, SOURCE.name) == []
    monkeypatch.delenv("LAKEHOUSE_FAILPOINTS")
    assert feed.run() != before


def test_a_run_that_comes_second_goes_on_from_there(
    feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = feed.take(0)
    moment = feed.head(DIMENSION)
    feed.take(1)
    write(feed.root, KIND, UNITS[1], feed.content[UNITS[1]][:5])
    land_files(feed.lake, [SOURCE], feed.root)
    append_decision(feed.store, Decision(SOURCE.name, 0, "hold", (3,), "a test", "tests", now()))
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"rollback.before_swap@{DIMENSION}=pause:{tmp_path / 'paused'}")
    assert both(lambda: feed.back(moment), lambda: run(feed.lake, [SOURCE]), tmp_path / "paused") == []
    monkeypatch.delenv("LAKEHOUSE_FAILPOINTS")
    assert feed.run()[0]["dim_fed"] == before[0]["dim_fed"]


def test_marts_follow(lake: Lake, tmp_path: Path) -> None:
    make_samples(Options(size=0.05, is_clean=True), days(EPOCH, 3), tmp_path / "made", crm_dsn="", domains=("retail",))
    folder = tmp_path / "retail" / "sales"
    folder.mkdir(parents=True)
    made = sorted((tmp_path / "made" / "retail" / "sales").glob("*.csv*"))
    fact = TableName("silver", "fact_sales_line")
    for path in made[:-1]:
        (folder / path.name).write_bytes(path.read_bytes())
    take(lake, tmp_path)
    run_gold(Marts(lake, ALL))
    before, moment = content(lake, str(fact)), read_head(lake.catalog, fact).snapshot_id
    (folder / made[-1].name).write_bytes(made[-1].read_bytes())
    take(lake, tmp_path)
    run_gold(Marts(lake, ALL))
    whole, store = marts(lake), ObjectStore.open(lake.settings)
    plan = plan_rollback(lake.catalog, store, fact, str(moment))
    kept = roll_back(lake.settings, lake.catalog, store, plan, "a test", "tests", now())
    assert not gold_is_current(lake.catalog, ALL, lake.settings.dbt)
    take(lake, tmp_path)
    run_gold(Marts(lake, ALL))
    assert marts(lake)["gold.sales_star"] == expected_star(lake) != whole["gold.sales_star"]
    assert marts(lake)["gold.sales_star"].total() == len(before)
    plan = plan_rollback(lake.catalog, store, fact, kept[fact])
    roll_back(lake.settings, lake.catalog, store, plan, "a test", "tests", now())
    take(lake, tmp_path)
    run_gold(Marts(lake, ALL))
    assert marts(lake) == whole and gold_is_current(lake.catalog, ALL, lake.settings.dbt)


def drop(lake: Lake, tables: Iterable[TableName], how: str = "") -> None:
    for table in tables:
        lake.spark.sql(f"DROP TABLE lakehouse.{table} {how}")


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_dropped_table_is_back_as_it_was(feed: Feed, new_lake: NewLake, tmp_path: Path, is_listed: bool) -> None:
    """By what the warehouse lists, or by the name of its metadata file alone."""
    whole = feed.take(0, 1)
    tables = [DIMENSION, SOURCE.bronze_table, TableName("quarantine", "dim_fed")]
    found = {table: load_table(feed.lake.catalog, table) for table in tables}
    pointers = {table: loaded.metadata_location for table, loaded in found.items() if loaded}
    there = list(pointers)
    was = heads(feed.lake, there)
    warehouse = Warehouse.open(feed.lake.settings, feed.lake.catalog)
    assert warehouse.dropped() == []
    drop(feed.lake, there)
    assert {each.table: each.metadata_location for each in warehouse.dropped()} == pointers
    if not is_listed:
        warehouse = replace(warehouse, store=Unlisted(warehouse.store))  # type: ignore[arg-type]
    for table in there:
        warehouse.bring_back(warehouse.check(warehouse.choose(table, None if is_listed else pointers[table])))
    assert heads(feed.lake, there) == was and feed.run() == whole
    assert feed.take(2) == same_days(feed, new_lake, tmp_path, 0, 1, 2)


class Unlisted:
    """A bucket whose folders of metadata nobody may list."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def in_bucket(self, _: str) -> Unlisted:
        return self

    def list_after(self, prefix: str) -> Any:
        return (each for each in self._store.list_after(prefix) if "/metadata/" not in each.key)

    def folders(self, prefix: str) -> Any:
        raise AssertionError(f"{prefix} is listed")


def test_a_purged_table_is_made_anew(feed: Feed) -> None:
    whole = feed.take(0, 1)
    drop(feed.lake, [DIMENSION, FACT], "PURGE")
    warehouse = Warehouse.open(feed.lake.settings, feed.lake.catalog)
    assert [each.table for each in warehouse.dropped()] == []
    with pytest.raises(SettingsError, match="comes back from a backup"):
        warehouse.choose(DIMENSION, None)
    assert feed.run() == whole


def test_a_table_that_was_made_anew_is_not_lost_for_the_former_one(feed: Feed) -> None:
    whole = feed.take(0, 1)
    was = feed.head(DIMENSION)
    drop(feed.lake, [DIMENSION])
    assert feed.run() == whole and feed.head(DIMENSION) != was
    warehouse = Warehouse.open(feed.lake.settings, feed.lake.catalog)
    [found] = warehouse.dropped()
    assert isinstance(found, Dropped) and found.is_replaced and found.snapshot_id == was
    with pytest.raises(SettingsError, match="drop it first"):
        warehouse.choose(DIMENSION, None)


def test_a_tag_keeps_its_snapshot_from_expiry_and_can_be_gone_back_to(feed: Feed) -> None:
    before = feed.take(0)
    moment = feed.head(DIMENSION)
    tag_table(feed.lake.settings, feed.lake.catalog, DIMENSION, lambda _: Tagging({"mine": moment}), now())
    feed.take(1)
    feed.take(2)
    feed.lake.spark.sql(
        f"CALL lakehouse.system.expire_snapshots(table => '{DIMENSION}', retain_last => 1, "
        "older_than => TIMESTAMP '2099-01-01 00:00:00')"
    )
    table = load_table(feed.lake.catalog, DIMENSION)
    assert table is not None and len(table.metadata.snapshots) < 4 and table.metadata.refs["mine"].snapshot_id == moment
    tagged = feed.lake.spark.sql(f"SELECT count(*) AS n FROM lakehouse.{DIMENSION} VERSION AS OF 'mine'").collect()
    feed.back("mine")
    assert feed.lake.table(DIMENSION).count() == tagged[0].n
    assert feed.run()[0]["dim_fed"] == before[0]["dim_fed"]
