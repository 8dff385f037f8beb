"""A table goes back, or is dropped and comes back; the pipeline goes on, and what was undone stays out.

Each test is one lake's story, with several claims: lakes and runs cost most of the time.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.feed import BRONZE, DIMENSION, FACT, SOURCE, Feed, go_back, now
from tests.integration.pipeline import all_tables, branches, heads, run
from tests.integration.test_maintain import files, print_of, snapshots, upkeep
from tests.integration.test_pipeline import lakehouse
from tests.integration.test_pipeline_order import UNITS
from tests.integration.test_publish import numbers
from tests.integration.test_publish import run as publish_numbers
from tests.integration.test_star import ALL, content, expected_star, marts, take
from tests.turns import on_turn

from lakehouse.core.errors import ConcurrentCommit, LakehouseError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.engine.dropped import Dropped, Warehouse
from lakehouse.engine.gold import Marts, run_gold
from lakehouse.engine.publish import Lake
from lakehouse.engine.rebuild import prepare_rebuild
from lakehouse.engine.tables import qualified
from lakehouse.engine.travel import UNDO_DAYS, roll_back
from lakehouse.ledger.decisions import Decision, append_decision
from lakehouse.ledger.outstanding import gold_is_current
from lakehouse.ledger.rollback import plan_rollback
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import catalog_tables, load_table, read_head
from lakehouse.samples.make import make_samples
from lakehouse.samples.plan import EPOCH, Options, days

if TYPE_CHECKING:
    from tests.servers import NewLake


@pytest.fixture
def feed(lake: Lake, tmp_path: Path, chance: random.Random) -> Feed:
    return Feed(lake, tmp_path / "sent", chance.randint(0, 10**6))


def both(
    first: Callable[[], Any], second: Callable[[], Any], path: Path, *, waits: bool = True
) -> list[LakehouseError]:
    """Run the first until it pauses at a failpoint, then the second beside it, which has to wait; and let both end."""
    failed: list[LakehouseError] = []

    def started(act: Callable[[], Any]) -> Thread:
        def work() -> None:
            try:
                act()
            except LakehouseError as error:
                failed.append(error)

        thread = Thread(target=work)
        thread.start()
        return thread

    one = started(first)
    while one.is_alive() and not path.exists():
        one.join(0.02)
    other = started(second)
    other.join(2 if waits else 60)
    assert other.is_alive() == waits, "it waits for the lock" if waits else "it does not wait"
    path.unlink()
    one.join(120)
    other.join(120)
    return failed


@on_turn(2, of=3)
def test_what_was_undone_stays_out_whatever_happens(
    feed: Feed, new_lake: NewLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, moments = feed.take(0, 1), {table: feed.head(table) for table in (DIMENSION, FACT)}
    right = feed.content[UNITS[2]]
    feed.content[UNITS[2]] = right[:3]  # truncated
    assert feed.take(2) != before
    for table, at in moments.items():
        feed.back(at, table)
    assert feed.state() == before  # at once, and without Spark
    assert feed.run() == before  # what is held is not taken
    # The day lands anew, and takes the place of what was undone: as if that had never been.
    feed.content[UNITS[2]] = right
    other = Feed(new_lake(), tmp_path / "only", 0)
    other.content = feed.content
    good, moment = feed.take(2), feed.head()
    assert good == other.take(0, 1, 2)
    # Killed before main moved: the next run brings the table to what was decided.
    whole, said = feed.take(3), feed.said()
    command = ("rollback", str(DIMENSION), "--to", str(moment), "--yes")
    killed = lakehouse(feed.lake, *command, LAKEHOUSE_FAILPOINTS="rollback.before_swap=kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert feed.said() == [*said, "rollback"] and feed.state() == whole
    after = feed.run()
    assert (after[0]["dim_fed"], after[0]["fact_fed"]) == (good[0]["dim_fed"], whole[0]["fact_fed"])
    # Said again, and killed after main moved; and once more: nothing is decided twice.
    killed = lakehouse(feed.lake, *command, LAKEHOUSE_FAILPOINTS="rollback.after_swap=kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = lakehouse(feed.lake, *command)
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stderr
    assert feed.said() == [*said, "rollback"] and feed.state() == after
    feed.release(5)
    assert feed.run() == whole  # what was released is back
    # A rollback that is taken back by its tag leaves nothing behind.
    feed.back(feed.back(moment))
    assert feed.said()[len(said) :] == ["rollback", "release", "rollback", "release"]
    assert feed.state() == whole and feed.run() == whole
    assert all(name.startswith("before-rollback-") for name in branches(feed.lake, all_tables([SOURCE])))
    # A run that is under way comes first: what a rollback was planned for is not what stands then.
    feed.land(4)
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"publish.branched@{DIMENSION}=pause:{tmp_path / 'one'}")
    plan, said = plan_rollback(feed.lake.catalog, feed.store, DIMENSION, str(moment)), feed.said()
    arguments = (feed.lake.settings, feed.lake.catalog, feed.store, plan, "a test", "tests", now())
    [error] = both(lambda: run(feed.lake, [SOURCE]), lambda: roll_back(*arguments), tmp_path / "one")
    assert isinstance(error, ConcurrentCommit) and "changed since the rollback was planned" in error.what
    assert feed.said() == said
    # A run that comes second goes on from where the table is then.
    feed.land(5)
    append_decision(feed.store, Decision(SOURCE.name, 0, "hold", (7,), "a test", "tests", now()))
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"rollback.before_swap@{DIMENSION}=pause:{tmp_path / 'two'}")
    assert both(lambda: feed.back(moment), lambda: run(feed.lake, [SOURCE]), tmp_path / "two") == []
    monkeypatch.delenv("LAKEHOUSE_FAILPOINTS")
    assert feed.run()[0]["dim_fed"] == good[0]["dim_fed"]


def drop(lake: Lake, tables: Iterable[TableName], how: str = "") -> None:
    for table in tables:
        lake.spark.sql(f"DROP TABLE lakehouse.{table} {how}")


def test_bronze_comes_first_and_dropped_tables_come_back(
    feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.take(0)
    moment = feed.head(BRONZE)
    whole, rows = feed.take(1), feed.lake.table(BRONZE).count()
    feed.back(moment, BRONZE)
    assert feed.lake.table(BRONZE).count() < rows
    # A table made anew of this would lack what it says that it has.
    with pytest.raises(SettingsError, match="lacks batches that silver.dim_fed has taken"):
        prepare_rebuild(feed.lake, SOURCE, "dim_fed")
    assert [name for name in catalog_tables(feed.lake.catalog) if name.namespace == "ops"] == []
    assert feed.state() == whole and feed.run() == whole
    assert feed.lake.table(BRONZE).count() == rows
    # Bronze goes back while a run makes a table of it: nothing of that is published.
    feed.land(2)
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"publish.branched@{DIMENSION}=pause:{tmp_path / 'paused'}")
    [error] = both(
        lambda: run(feed.lake, [SOURCE]), lambda: feed.back(moment, BRONZE), tmp_path / "paused", waits=False
    )
    monkeypatch.delenv("LAKEHOUSE_FAILPOINTS")
    assert isinstance(error, ConcurrentCommit) and "was rolled back while" in error.what
    assert feed.state() == whole
    whole = feed.run()
    # Dropped tables are listed, and come back as they were; one by the name of its metadata file alone.
    there = [DIMENSION, BRONZE, TableName("quarantine", "dim_fed")]
    pointers = {table: found.metadata_location for table in there if (found := load_table(feed.lake.catalog, table))}
    was, warehouse = heads(feed.lake, there), Warehouse.open(feed.lake.settings, feed.lake.catalog)
    assert warehouse.dropped() == []
    drop(feed.lake, there)
    assert {each.table: each.metadata_location for each in warehouse.dropped()} == pointers
    blind = replace(warehouse, store=Unlisted(warehouse.store))  # type: ignore[arg-type]
    blind.bring_back(blind.check(blind.choose(DIMENSION, pointers[DIMENSION])))
    for table in there[1:]:
        warehouse.bring_back(warehouse.check(warehouse.choose(table, None)))
    assert heads(feed.lake, there) == was and feed.run() == whole
    # One that was purged has nothing left; one that was made anew is not lost for the former one.
    last = feed.head()
    drop(feed.lake, [FACT], "PURGE")
    drop(feed.lake, [DIMENSION])
    assert [each.table for each in warehouse.dropped()] == [DIMENSION]
    with pytest.raises(SettingsError, match="comes back from a backup"):
        warehouse.choose(FACT, None)
    assert feed.run() == whole and feed.head() != last
    [found] = warehouse.dropped()
    assert isinstance(found, Dropped) and found.is_replaced and found.snapshot_id == last
    with pytest.raises(SettingsError, match="drop it first"):
        warehouse.choose(DIMENSION, None)


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


def data_files(lake: Lake, table: TableName) -> set[str]:
    return {file for file in files(lake, table) if file.endswith(".parquet")}


def test_upkeep_keeps_what_a_rollback_left_until_it_can_no_longer_be_taken_back(lake: Lake) -> None:
    """A table goes back to before a compaction; expiry and orphans leave alone what its tag names, for as long."""
    table, moments = TableName("gold", "numbers"), list[int]()
    for upto in range(1, 9):
        publish_numbers(lake, table, upto)
        moments.append(read_head(lake.catalog, table).snapshot_id or 0)
    assert upkeep(lake, table).rewritten.files_after == 1
    compacted = read_head(lake.catalog, table).snapshot_id
    tag = go_back(lake, table, moments[4])[table]
    assert numbers(lake, table) == [1, 2, 3, 4, 5]
    publish_numbers(lake, table, 6)
    whole = f"SELECT count(*) FROM {qualified(table)} VERSION AS OF '{tag}'"
    for days_later in (2, UNDO_DAYS - 1):
        upkeep(lake, table, now() + timedelta(days=days_later), orphans=True)
        assert lake.spark.sql(whole).first()[0] == 8 and numbers(lake, table) == [1, 2, 3, 4, 5, 6]
    assert moments[0] not in snapshots(lake, table) and compacted in snapshots(lake, table)
    # It is still taken back, compaction and all.
    after = read_head(lake.catalog, table).snapshot_id
    go_back(lake, table, tag)
    assert numbers(lake, table) == [1, 2, 3, 4, 5, 6, 7, 8]
    go_back(lake, table, after)
    data, rows = data_files(lake, table), print_of(lake, table)
    upkeep(lake, table, now() + timedelta(days=UNDO_DAYS + 1), orphans=True)
    assert data_files(lake, table) < data and print_of(lake, table) == rows
    assert compacted not in snapshots(lake, table) and branches(lake, [table]) == []
    with pytest.raises(SettingsError):
        plan_rollback(lake.catalog, ObjectStore.open(lake.settings), table, tag)


def test_marts_follow(lake: Lake, tmp_path: Path) -> None:
    """Gold has consumed the bad day; the next run makes it what it would be without, and with it again later."""
    make_samples(Options(size=0.05, is_clean=True), days(EPOCH, 3), tmp_path / "made", crm_dsn="", domains=("retail",))
    folder = tmp_path / "retail" / "sales"
    folder.mkdir(parents=True)
    made = sorted((tmp_path / "made" / "retail" / "sales").glob("*.csv*"))
    fact = TableName("silver", "fact_sales_line")
    for path in made[:-1]:
        (folder / path.name).write_bytes(path.read_bytes())
    take(lake, tmp_path)
    before, moment = content(lake, str(fact)), read_head(lake.catalog, fact).snapshot_id
    (folder / made[-1].name).write_bytes(made[-1].read_bytes())
    take(lake, tmp_path)
    run_gold(Marts(lake, ALL))
    whole = marts(lake)
    assert whole["gold.sales_star"].total() > len(before)
    go_back(lake, fact, moment)
    assert not gold_is_current(lake.catalog, ALL, lake.settings.dbt)
    take(lake, tmp_path)
    run_gold(Marts(lake, ALL))
    assert marts(lake)["gold.sales_star"] == expected_star(lake) != whole["gold.sales_star"]
    assert marts(lake)["gold.sales_star"].total() == len(before)
    assert gold_is_current(lake.catalog, ALL, lake.settings.dbt)
