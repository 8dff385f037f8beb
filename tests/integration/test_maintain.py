"""Upkeep on real servers: no row changes, no writer fails, nothing goes that somebody needs, wherever it breaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import pytest
from tests.integration.feed import DIMENSION, FACT, SOURCE, Feed
from tests.integration.pipeline import all_tables, heads
from tests.integration.test_publish import Numbers, numbers, run
from tests.killing import wait_until_no_locks
from tests.recovery.world import content
from typer.testing import CliRunner

from lakehouse.contracts.model import Upkeep
from lakehouse.core.errors import GateFailed, IntegrityError, TableBusy
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG
from lakehouse.core.types import DataType
from lakehouse.engine import compact
from lakehouse.engine.compact import rewrite
from lakehouse.engine.dropped import Warehouse
from lakehouse.engine.encoding import content_fingerprint
from lakehouse.engine.fork import make_fork
from lakehouse.engine.leftovers import Leftovers
from lakehouse.engine.lock import table_locks
from lakehouse.engine.maintain import Report, look, maintain
from lakehouse.engine.orphans import ORPHAN_DAYS
from lakehouse.engine.plan import plan as table_plans
from lakehouse.engine.pointer import UPKEEP_PREFIX, fork_name
from lakehouse.engine.publish import Lake, publish
from lakehouse.engine.tables import qualified
from lakehouse.engine.upkeep import Budget, Care, House, Needs
from lakehouse.ledger.layout import Layout, Manifests
from lakehouse.ledger.references import references
from lakehouse.ledger.retention_lock import keeping_files
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table, read_head

if TYPE_CHECKING:
    from tests.servers import NewLake

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=30)
DAY = Upkeep(keep_snapshots="24h", min_snapshots=1)
N = {"n": DataType("long")}
DAILY = Care(DAY)


@pytest.fixture(scope="module")
def shared(new_lake: NewLake) -> Lake:
    return new_lake()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> TableName:
    return TableName("ops", "m_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[-50:].lower())


def house(lake: Lake, table: TableName, at: datetime = NOW, care: Care = DAILY, *, orphans: bool = False) -> House:
    made = House(lake.settings, lake.catalog, at, looks_for_orphans=orphans)
    made.__dict__["cares"] = {table: care}
    return made


def small_files(lake: Lake, table: TableName, count: int = 12) -> None:
    for upto in range(1, count + 1):
        run(lake, table, upto)


def upkeep(lake: Lake, table: TableName, at: datetime = NOW, budget: int = 10_000, **given: Any) -> Report:
    """All steps on one table."""
    keeper = house(lake, table, at, **given)
    done = maintain(keeper, look(keeper, [table], lambda _: None), Budget(budget), lambda _: None, lake)
    assert done.errors == []
    return done.reports[0] if done.reports else Report(table)


def layout(lake: Lake, table: TableName) -> Layout:
    loaded = load_table(lake.catalog, table)
    assert loaded is not None
    return Manifests(loaded.io).layout(loaded, loaded.current_snapshot())


def snapshots(lake: Lake, table: TableName) -> set[int]:
    loaded = load_table(lake.catalog, table)
    assert loaded is not None
    return {snapshot.snapshot_id for snapshot in loaded.metadata.snapshots}


def print_of(lake: Lake, table: TableName) -> str:
    return content_fingerprint(lake.table(table), N)


def lineage(lake: Lake, table: TableName) -> list[Any]:
    rows = lake.spark.sql(f"SELECT n, _row_id, _last_updated_sequence_number FROM {qualified(table)} ORDER BY n")
    return [tuple(row) for row in rows.collect()]


def place_of(lake: Lake, table: TableName) -> tuple[ObjectStore, str]:
    loaded = load_table(lake.catalog, table)
    assert loaded is not None
    place = urlparse(loaded.location())
    return ObjectStore.open(lake.settings, place.netloc), place.path.strip("/") + "/"


def files(lake: Lake, table: TableName) -> set[str]:
    store, prefix = place_of(lake, table)
    return {file.key for file in store.list_after(prefix)}


def test_small_files_become_one_and_nothing_else_changes(shared: Lake, table: TableName) -> None:
    small_files(shared, table)
    before, rows, stamp = print_of(shared, table), lineage(shared, table), read_head(shared.catalog, table).stamp
    assert len(layout(shared, table).files) == 12
    report = upkeep(shared, table)
    assert (report.rewritten.files_before, report.rewritten.files_after, report.rewritten.steps) == (12, 1, 1)
    assert report.cost_before > 1.15 > 1.01 > report.cost_after
    assert (print_of(shared, table), lineage(shared, table)) == (before, rows)
    head = read_head(shared.catalog, table)
    loaded = load_table(shared.catalog, table)
    assert loaded is not None and loaded.current_snapshot() is not None
    assert head.stamp == stamp and "gc.enabled" not in loaded.properties
    assert "lakehouse.stamp" in loaded.current_snapshot().summary.additional_properties
    assert load_table(shared.catalog, fork_name(table, UPKEEP_PREFIX)) is None
    assert upkeep(shared, table).rewritten.steps == 0, "a second time nothing is to be done"
    run(shared, table, 13)
    assert numbers(shared, table) == list(range(1, 14))


def test_deleted_rows_and_their_vectors_go(shared: Lake, table: TableName) -> None:
    run(shared, table, 50_000)
    shared.spark.sql(f"DELETE FROM {qualified(table)} WHERE n % 2 = 0")
    before = print_of(shared, table)
    assert sum(file.deleted for file in layout(shared, table).files) == 25_000
    report = upkeep(shared, table, care=Care(Upkeep(max_scan_cost=1.001, max_deleted_share=0.3)))
    assert report.rewritten.steps in (0, 1)
    assert print_of(shared, table) == before


def test_worn_files_are_rewritten(shared: Lake, table: TableName) -> None:
    small_files(shared, table, 10)
    shared.spark.sql(f"DELETE FROM {qualified(table)} WHERE n <= 5")
    before = print_of(shared, table)
    upkeep(shared, table)
    found = layout(shared, table)
    assert (sum(file.deleted for file in found.files), found.live_rows) == (0, 5)
    assert print_of(shared, table) == before


def test_it_sorts_where_the_contract_says(shared: Lake, table: TableName) -> None:
    small_files(shared, table)
    shared.spark.sql(f"ALTER TABLE {qualified(table)} WRITE LOCALLY ORDERED BY n DESC")
    before = print_of(shared, table)
    assert upkeep(shared, table, care=Care(DAY, is_sorted=True)).rewritten.files_after == 1
    assert [row.n for row in shared.table(table).collect()] == list(range(12, 0, -1))
    assert print_of(shared, table) == before


def test_many_manifests_are_written_anew(shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.ledger.compaction.MOST_MANIFESTS", 3)
    small_files(shared, table, 6)
    before, rows = print_of(shared, table), lineage(shared, table)
    upkeep(shared, table)
    assert len(layout(shared, table).manifest_bytes) <= 3
    assert (print_of(shared, table), lineage(shared, table)) == (before, rows)


def test_much_is_done_in_steps(shared: Lake, table: TableName) -> None:
    small_files(shared, table)
    before = print_of(shared, table)

    def four(needs: Needs) -> Needs:
        return replace(needs, compaction=needs.compaction and replace(needs.compaction, step_files=4))

    done = rewrite(shared, house(shared, table), table, four)
    assert done.steps > 1 and done.gave_way == ""
    assert len(layout(shared, table).files) < 8 and print_of(shared, table) == before


def test_statistics_are_counted_where_the_contract_asks(shared: Lake, table: TableName) -> None:
    small_files(shared, table, 3)
    care = Care(Upkeep(statistics=True), counted=("n", "not_there"))
    assert upkeep(shared, table, care=care).is_counted
    loaded = load_table(shared.catalog, table)
    assert loaded is not None
    assert [each.snapshot_id for each in loaded.metadata.statistics] == [loaded.metadata.current_snapshot_id]
    assert not upkeep(shared, table, care=care).is_counted
    run(shared, table, 4)
    assert not upkeep(shared, table, care=care).is_counted, "few rows are new"


def test_a_writer_that_comes_meanwhile_wins(shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch) -> None:
    """It publishes while the fork is being written; then upkeep begins anew."""
    small_files(shared, table)
    said, upto = compact._say, [12]

    def meanwhile(*given: Any) -> None:
        said(*given)
        if upto[0] < 14:
            upto[0] += 1
            run(shared, table, upto[0])

    monkeypatch.setattr(compact, "_say", meanwhile)
    report = upkeep(shared, table)
    assert numbers(shared, table) == list(range(1, 15))
    assert report.rewritten.steps == 1 and report.postponed == []
    assert len(layout(shared, table).files) == 1


def test_it_gives_way_to_a_busy_table(shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(shared, table)
    said, upto = compact._say, [12]

    def always(*given: Any) -> None:
        said(*given)
        upto[0] += 1
        run(shared, table, upto[0])

    monkeypatch.setattr(compact, "_say", always)
    report = upkeep(shared, table)
    assert "writers were faster 3 times" in report.rewritten.gave_way
    assert numbers(shared, table) == list(range(1, 16))
    assert load_table(shared.catalog, fork_name(table, UPKEEP_PREFIX)) is None


def test_a_writer_that_is_in_the_middle_does_not_fail_for_it(
    shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the lock and has its branch: upkeep computes beside it, and does not enter."""
    small_files(shared, table)
    monkeypatch.setattr(compact, "WAIT_SECONDS", 0.2)
    reports = []

    def at_gate() -> None:
        reports.append(upkeep(shared, table))

    publish(shared, Numbers(shared, (table,), 13, at_gate))
    assert "writers were faster" in reports[0].rewritten.gave_way
    assert numbers(shared, table) == list(range(1, 14))
    assert upkeep(shared, table).rewritten.files_after == 1


PARKED = """
import json
import sys
import threading
from datetime import UTC, datetime
from lakehouse.contracts.model import Upkeep
from lakehouse.core.names import TableName
from lakehouse.core.settings import load_settings
from lakehouse.engine.compact import rewrite
from lakehouse.engine.publish import Lake
from lakehouse.engine.session import session
from lakehouse.engine.upkeep import Care, House

settings = load_settings().model_copy(update=json.loads(sys.argv[1]))
with session(settings, "upkeep that is killed") as spark:
    def compact(name):
        lake = Lake(spark, settings)
        house = House(settings, lake.catalog, datetime.now(UTC), looks_for_orphans=False)
        house.__dict__["cares"] = {name: Care(Upkeep(keep_snapshots="24h", min_snapshots=1))}
        print(name, rewrite(lake, house, name, lambda needs: needs), flush=True)
    working = [threading.Thread(target=compact, args=[TableName.parse(name)]) for name in sys.argv[2:]]
    for each in working:
        each.start()
    for each in working:
        each.join()
"""


def in_many_files(lake: Lake, table: TableName) -> None:
    """Two commits of six small files each."""
    lake.spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {CATALOG}.{table.namespace}")
    lake.spark.sql(f"CREATE TABLE {qualified(table)} (n bigint) USING iceberg TBLPROPERTIES ('format-version'='3')")
    for start in (0, 100):
        rows = f"SELECT /*+ REPARTITION(6) */ id FROM range({start}, {start + 100})"
        lake.spark.sql(f"INSERT INTO {qualified(table)} {rows}")
    assert len(layout(lake, table).files) == 12


def parked_and_killed(lake: Lake, tables: Mapping[str, TableName], folder: Path) -> None:
    """Another process compacts all of them; each stops at its own failpoint, and then SIGKILL ends it with its JVM."""
    here = {name: getattr(lake.settings, name) for name in ("catalog_database", "landing_bucket", "warehouse_bucket")}
    conf = {"spark_conf": {"spark.driver.memory": "1g", "spark.sql.shuffle.partitions": "1"}}
    around = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "SPARK_"))}
    armed = ",".join(f"maintain.{point}@{name}=park:{folder / point}" for point, name in tables.items())
    told = {"LAKEHOUSE_HOME": str(lake.settings.home), "LAKEHOUSE_FAILPOINTS": armed}
    cache = {name: os.environ[name] for name in ("LAKEHOUSE_CACHE",) if name in os.environ}
    words = [sys.executable, "-c", PARKED, json.dumps(here | conf), *map(str, tables.values())]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            words, env={**around, **cache, **told}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + 240
        while not all((folder / point).exists() for point in tables):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-4000:]
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    wait_until_no_locks(lake.settings)


def test_killed_anywhere_in_a_compaction_the_next_run_completes_it(shared: Lake, tmp_path: Path) -> None:
    """No row and no snapshot is lost; `doctor --fix` takes the fork away, and so does the next run by itself."""
    points = ("forked", "rewritten", "before_entering", "entered")
    tables = {point: TableName("ops", f"m_killed_{point}") for point in points}
    for name in tables.values():
        in_many_files(shared, name)
    before = {name: read_snapshots(shared, name) for name in tables.values()}
    parked_and_killed(shared, tables, tmp_path)
    for point, name in tables.items():
        after, fork = read_snapshots(shared, name), fork_name(name, UPKEEP_PREFIX)
        assert before[name].items() <= after.items() and len(layout(shared, name).files) in (1, 12)
        assert (len(after) > len(before[name])) == (point == "entered")
        assert print_of(shared, name) == print_of(shared, tables["forked"])
        assert load_table(shared.catalog, fork) is not None
        if point in ("rewritten", "entered"):
            leftovers = Leftovers(shared.settings, datetime.now(UTC))
            mine = [each for each in leftovers.find() if each.name == str(fork) or each.where == str(fork)]
            assert {removal.left for removal in leftovers.remove(mine)} == {""}
            assert load_table(shared.catalog, fork) is None
        upkeep(shared, name)
        assert load_table(shared.catalog, fork) is None and len(layout(shared, name).files) == 1
        assert before[name].items() <= read_snapshots(shared, name).items()
        upkeep(shared, name, LATER, orphans=True)
        loaded = load_table(shared.catalog, name)
        assert loaded is not None
        needed = {urlparse(each).path.lstrip("/") for each in references(loaded)}
        assert files(shared, name) <= needed, "what the dead run wrote is gone"
        assert numbers(shared, name) == list(range(200))


def read_snapshots(lake: Lake, table: TableName) -> dict[int, str]:
    """What each snapshot of a table says."""
    loaded = load_table(lake.catalog, table)
    assert loaded is not None
    return {each.snapshot_id: content(loaded, each.snapshot_id) for each in loaded.metadata.snapshots}


KILLED = """
import json
import sys
from datetime import UTC, datetime, timedelta
from lakehouse.contracts.model import Upkeep
from lakehouse.core.names import TableName
from lakehouse.core.settings import load_settings
from lakehouse.engine.upkeep import Budget, Care, House
from lakehouse.ledger.watermark import open_catalog

settings = load_settings().model_copy(update=json.loads(sys.argv[2]))
name = TableName.parse(sys.argv[1])
house = House(settings, open_catalog(settings), datetime.now(UTC) + timedelta(days=30), looks_for_orphans=False)
house.__dict__["cares"] = {name: Care(Upkeep(keep_snapshots="24h", min_snapshots=1))}
print(house.expire(name, Budget()))
"""


def test_old_snapshots_go_with_their_files(shared: Lake, table: TableName) -> None:
    small_files(shared, table)
    loaded = load_table(shared.catalog, table)
    assert loaded is not None
    tagged = [s.snapshot_id for s in loaded.metadata.snapshots][3]
    shared.spark.sql(f"ALTER TABLE {qualified(table)} CREATE TAG keep AS OF VERSION {tagged}")
    before, stamp = print_of(shared, table), read_head(shared.catalog, table).stamp
    then = shared.spark.sql(f"SELECT count(*) FROM {qualified(table)} VERSION AS OF 'keep'").first()
    upkeep(shared, table)
    all_files = files(shared, table)
    report = upkeep(shared, table, LATER)
    assert report.expired.snapshots > 5 and report.expired.files > 5
    assert len(all_files - files(shared, table)) == report.expired.files
    assert tagged in snapshots(shared, table) and len(snapshots(shared, table)) <= 6
    assert shared.spark.sql(f"SELECT count(*) FROM {qualified(table)} VERSION AS OF 'keep'").first() == then
    assert (print_of(shared, table), read_head(shared.catalog, table).stamp) == (before, stamp)
    loaded = load_table(shared.catalog, table)
    assert loaded is not None
    needed = {urlparse(each).path.lstrip("/") for each in references(loaded)}
    left = {key for key in files(shared, table) if not key.endswith(".metadata.json")}
    assert left - needed == set(), "no file is left that nothing refers to"
    run(shared, table, 13)
    assert numbers(shared, table) == list(range(1, 14))


def test_iceberg_reads_and_expires_what_was_expired(shared: Lake, table: TableName) -> None:
    """The metadata is as Iceberg would have written it: its own expiry goes on from there."""
    small_files(shared, table, 5)
    upkeep(shared, table, LATER)
    run(shared, table, 6)
    shared.spark.sql(
        f"CALL lakehouse.system.expire_snapshots(table => '{table}', older_than => TIMESTAMP '2100-01-01 00:00:00')"
    )
    assert numbers(shared, table) == [1, 2, 3, 4, 5, 6]


def test_killed_between_commit_and_deletion(shared: Lake, table: TableName) -> None:
    """The table is whole, and what was left goes as orphans."""
    small_files(shared, table, 6)
    upkeep(shared, table)
    before, all_files = print_of(shared, table), files(shared, table)
    here = {name: getattr(shared.settings, name) for name in ("catalog_database", "landing_bucket", "warehouse_bucket")}
    around = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    armed = {"LAKEHOUSE_HOME": str(shared.settings.home), "LAKEHOUSE_FAILPOINTS": "maintain.expired=kill"}
    words = [sys.executable, "-c", KILLED, str(table), json.dumps(here)]
    died = subprocess.run(words, env={**around, **armed}, check=False)
    assert died.returncode == -signal.SIGKILL
    assert all_files < files(shared, table) and print_of(shared, table) == before
    report = upkeep(shared, table, LATER, orphans=True)
    assert report.orphans.files > 5 and print_of(shared, table) == before


def test_no_more_files_go_than_may(shared: Lake, table: TableName) -> None:
    small_files(shared, table)
    upkeep(shared, table)
    whole = len(house(shared, table, LATER).needs(table).expired)
    before = files(shared, table)
    report = upkeep(shared, table, LATER, budget=whole // 2)
    assert 0 < report.expired.files <= whole // 2
    assert len(before - files(shared, table)) == report.expired.files
    assert any("left for the next run" in each for each in report.postponed)
    again = upkeep(shared, table, LATER, budget=0)
    assert (again.expired.files, again.orphans.files) == (0, 0)
    assert numbers(shared, table) == list(range(1, 13))


def test_nothing_is_deleted_while_a_backup_copies(shared: Lake, table: TableName) -> None:
    small_files(shared, table)
    before = files(shared, table)
    with keeping_files(shared.settings), keeping_files(shared.settings):
        report = upkeep(shared, table, LATER, orphans=True)
    assert report.rewritten.files_after == 1 and report.expired.snapshots == 0
    assert [each for each in report.postponed if "backup" in each] and before <= files(shared, table)
    assert upkeep(shared, table, LATER).expired.snapshots > 0


def test_nothing_expires_under_a_writer(shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch) -> None:
    small_files(shared, table, 4)
    monkeypatch.setattr("lakehouse.engine.upkeep.WAIT_SECONDS", 0.1)
    with table_locks(shared.settings, [table]), pytest.raises(TableBusy):
        house(shared, table, LATER).expire(table, Budget())
    assert house(shared, table, LATER).expire(table, Budget()).snapshots > 0


def test_orphans_go_and_attempts_and_forks_keep_their_files(shared: Lake, table: TableName) -> None:
    def refuse() -> None:
        raise GateFailed("rule x failed")

    run(shared, table, 3)
    fork = make_fork(shared, table, UPKEEP_PREFIX)
    run(shared, fork.name, 5)
    with pytest.raises(GateFailed):
        run(shared, table, 4, refuse)
    store, prefix = place_of(shared, table)
    before = files(shared, table)
    dead = [f"{prefix}data/dead-{number}.parquet" for number in range(4)]
    assert all(store.put_if_absent(key, b"written and never committed") for key in dead)
    assert house(shared, table, NOW, orphans=True).remove_orphans(table, Budget()).files == 0, "they are young"
    old = house(shared, table, NOW + timedelta(days=ORPHAN_DAYS + 1), orphans=True)
    with table_locks(shared.settings, [fork.name]), pytest.raises(TableBusy), pytest.MonkeyPatch.context() as patch:
        patch.setattr("lakehouse.engine.upkeep.WAIT_SECONDS", 0.1)
        old.remove_orphans(table, Budget())
    removed = old.remove_orphans(table, Budget(3))
    assert (removed.files, removed.left) == (3, 1)
    assert old.remove_orphans(table, Budget()).files == 1
    assert files(shared, table) == before
    assert (numbers(shared, table), numbers(shared, fork.name)) == ([1, 2, 3], [1, 2, 3, 4, 5])


def test_former_metadata_files_go_and_a_dropped_table_still_comes_back(shared: Lake, table: TableName) -> None:
    """What the log of the present one names stays, whatever its age."""
    run(shared, table, 1)
    shared.spark.sql(f"ALTER TABLE {qualified(table)} SET TBLPROPERTIES ('write.metadata.previous-versions-max'='2')")
    for upto in range(2, 6):
        run(shared, table, upto)

    def metadata() -> set[str]:
        return {key for key in files(shared, table) if key.endswith(".metadata.json")}

    before = metadata()
    assert len(before) > 8
    soon, late = (house(shared, table, NOW + timedelta(days=days), orphans=True) for days in (2, 30))
    assert soon.remove_orphans(table, Budget()).files == 0 and metadata() == before
    assert late.remove_orphans(table, Budget()).files > 0
    loaded = load_table(shared.catalog, table)
    assert loaded is not None
    logged = {entry.metadata_file for entry in loaded.metadata.metadata_log} | {loaded.metadata_location}
    assert metadata() == {urlparse(each).path.lstrip("/") for each in logged} and len(logged) == 3
    shared.spark.sql(f"DROP TABLE {qualified(table)}")
    warehouse = Warehouse.open(shared.settings, shared.catalog)
    warehouse.bring_back(warehouse.check(warehouse.choose(table, None)))
    assert numbers(shared, table) == [1, 2, 3, 4, 5]


def test_a_pipeline_sees_nothing_of_it(new_lake: NewLake, tmp_path: Path) -> None:
    """Bronze and silver with closed versions are compacted and expired; nothing is pending, and the next day fits."""
    feed = Feed(new_lake(), tmp_path, 7)
    feed.take(0, 1)
    feed.take(2)
    before, lake = feed.take(3), feed.lake
    tables = all_tables([SOURCE])
    stamps = {table: read_head(lake.catalog, table).stamp for table in tables}
    care = Care(Upkeep(max_scan_cost=1.0001, max_deleted_share=0.0001, keep_snapshots="1h", min_snapshots=1))
    keeper = House(lake.settings, lake.catalog, NOW + timedelta(days=4))
    keeper.__dict__["cares"] = dict.fromkeys(tables, care)
    done = maintain(keeper, look(keeper, keeper.tables([]), lambda _: None), Budget(), lambda _: None, lake)
    assert done.errors == [] and {report.table for report in done.reports} >= {SOURCE.bronze_table, DIMENSION, FACT}
    assert sum(report.rewritten.steps for report in done.reports) > 1
    assert sum(report.expired.snapshots for report in done.reports) > 5
    assert {table: read_head(lake.catalog, table).stamp for table in tables} == stamps
    assert table_plans(lake.catalog, feed.store, [SOURCE]) == []
    heads_before = heads(lake, tables)
    assert (feed.run(), heads(lake, tables)) == (before, heads_before), "nothing is pending, and nothing was done"
    other = Feed(new_lake(), tmp_path / "other", 7)
    assert feed.take(4) == other.take(0, 1, 2, 3, 4)


def test_a_catalog_that_was_set_back_loses_no_file(shared: Lake, table: TableName) -> None:
    run(shared, table, 2)
    loaded = load_table(shared.catalog, table)
    assert loaded is not None
    run(shared, table, 3)
    now = load_table(shared.catalog, table)
    assert now is not None
    move(shared, table, loaded.metadata_location)
    assert numbers(shared, table) == [1, 2]
    before = files(shared, table)
    late = house(shared, table, NOW + timedelta(days=ORPHAN_DAYS + 1), orphans=True)
    assert late.remove_orphans(table, Budget()).files == 0 and files(shared, table) == before
    move(shared, table, now.metadata_location)
    assert numbers(shared, table) == [1, 2, 3]


def move(lake: Lake, table: TableName, location: str) -> None:
    """Set the catalog to another metadata file, as a restore of its database does."""
    from sqlalchemy import text

    with lake.catalog.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE iceberg_tables SET metadata_location = :at WHERE table_namespace = :ns AND table_name = :name"
            ),
            {"at": location, "ns": table.namespace, "name": table.name},
        )


def test_the_command_shows_first_and_changes_nothing(
    shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lakehouse.cli import maintain as command
    from lakehouse.cli.main import app

    small_files(shared, table)
    loaded = load_table(shared.catalog, table)
    assert loaded is not None
    before = (files(shared, table), loaded.metadata_location)
    monkeypatch.setattr(command, "settings", lambda: shared.settings)

    def told(*options: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(CliRunner().invoke(app, ["maintain", *options, "--json"]).stdout)
        return found

    said = told(str(table), "--dry-run")
    again = load_table(shared.catalog, table)
    assert again is not None
    assert (files(shared, table), again.metadata_location) == before
    (needs,) = said["needs"]
    assert (needs["table"], needs["compaction"]["files"], said["done"]) == (str(table), 12, None)
    assert "compact 12 files" in CliRunner().invoke(app, ["maintain", str(table), "--dry-run"]).stdout
    with monkeypatch.context() as patch:
        patch.setattr("lakehouse.engine.maintain.session", _in(shared))
        (report,) = told(str(table))["done"]
    assert (report["table"], report["rewritten"]["files_after"]) == (str(table), 1)
    assert told(str(table))["needs"] == []


def _in(lake: Lake) -> Callable[..., Any]:
    from contextlib import nullcontext

    return lambda *_, **__: nullcontext(lake.spark)


def test_a_compaction_that_lost_rows_does_not_enter(
    shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files(shared, table)
    said = compact._say

    def losing(lake: Lake, fork: Any, statements: Any) -> None:
        said(lake, fork, statements)
        lake.spark.sql(f"DELETE FROM {qualified(fork.name)} WHERE n = 3")

    monkeypatch.setattr(compact, "_say", losing)
    with pytest.raises(IntegrityError, match="12 rows became 11"):
        rewrite(shared, house(shared, table), table, lambda needs: needs)
    assert numbers(shared, table) == list(range(1, 13))


def test_one_of_two_upkeeps_leaves_the_table_to_the_other(shared: Lake, table: TableName) -> None:
    small_files(shared, table)
    with table_locks(shared.settings, [fork_name(table, UPKEEP_PREFIX)]):
        report = upkeep(shared, table)
    assert report.rewritten.steps == 0 and report.rewritten.gave_way
    assert upkeep(shared, table).rewritten.files_after == 1
