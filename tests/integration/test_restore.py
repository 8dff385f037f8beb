"""Restores on PostgreSQL and MinIO: killed anywhere, onto another machine, to a moment, undone, and refused."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyiceberg.exceptions import ValidationException
from tests.backup_lake import SmallLake, content_of, with_backups
from tests.integration.pipeline import fingerprints, land_files, run
from tests.integration.test_pipeline_order import KINDS, UNITS, make_content, write
from tests.killing import is_killed
from tests.sessions import small_session

from lakehouse.backup.create import create
from lakehouse.backup.signing import public_key_of
from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import ConcurrentCommit, IntegrityError, SettingsError, TableBusy
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.engine.lock import table_locks
from lakehouse.engine.upkeep import Budget, House
from lakehouse.ledger.kept import is_kept
from lakehouse.ledger.log import read_log
from lakehouse.ledger.references import references
from lakehouse.ledger.retention_lock import restoring
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import catalog_tables, load_table, open_catalog, read_head
from lakehouse.recovery.choose import Wanted
from lakehouse.recovery.restore import Restored, RestorePlan, carry_out, drop, plan_restore, undo
from lakehouse.recovery.target import Target

if TYPE_CHECKING:
    from tests.servers import NewLake

    from lakehouse.engine.publish import Lake

CLOCK = SystemClock()
EVERYTHING = Wanted(everything=True)
POINTS = ("begun", "before_copy", "after_copy", "after_logs", "after_files", "before_swap", "after_swap")
SOURCE = KINDS["slice"]
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def small(new_settings: Callable[[], Settings]) -> SmallLake:
    """Three tables, one of them empty, landed files, and a decision; in PostgreSQL and MinIO."""
    settings = with_backups(new_settings())
    catalog: Any = open_catalog(settings)
    catalog.create_tables()
    made = SmallLake(settings, catalog)
    made.table("silver.dim_shop")
    made.table("silver.dim_shop", 4)
    made.table("gold.sales", 5)
    made.position_deletes("gold.sales", 1, 3)
    made.tables["gold.nothing"] = catalog.create_table("gold.nothing", made.tables["gold.sales"].schema())
    for day in (1, 2, 3):
        made.land(b"id\n%d\n" % day, day)
    made.decide()
    return made


def plan(settings: Settings, what: Wanted = EVERYTHING) -> RestorePlan:
    return plan_restore(settings, CLOCK, what)


def restore(settings: Settings, what: Wanted = EVERYTHING) -> Restored:
    return carry_out(settings, CLOCK, plan(settings, what))


def back_up(lake: SmallLake) -> str:
    return create(lake.settings, CLOCK).id


def landed(settings: Settings) -> list[Any]:
    return read_log(ObjectStore.open(settings), "shop.orders")


def objects(lake: SmallLake) -> dict[str, str]:
    """Every object of the lake's two buckets, by the hash of its bytes."""
    buckets = (lake.settings.warehouse_bucket, lake.settings.landing_bucket)
    stores = [ObjectStore.open(lake.settings, bucket) for bucket in buckets]
    return {
        each.where(found.key): hashlib.sha256(each.get(found.key)).hexdigest()
        for each in stores
        for found in each.list_after("")
    }


def lose_catalog(lake: SmallLake) -> None:
    lake.catalog.destroy_tables()


def test_killed_at_every_point_a_restore_goes_on(small: SmallLake, chance: random.Random) -> None:
    """Both lost: at no point is anything live before all is, and in the end everything is as it was."""
    before, log, stored = small.contents(), landed(small.settings), objects(small)
    back_up(small)
    small.empty()
    lose_catalog(small)
    file = chance.choice([uri for uri in stored if uri.endswith(".parquet")])
    for point in POINTS:
        about = f"@{file}" if "copy" in point else ""
        assert is_killed(f"restore.{point}{about}=kill", lambda: restore(small.settings)), point
        names = catalog_tables(small.catalog)
        assert len(names) == (3 if point == "after_swap" else 0), point
        if point == "after_copy":
            small.s3.delete_object(Bucket=file.split("/")[2], Key=file.split("/", 3)[3])  # or it is not copied again
    assert plan(small.settings).is_empty
    assert small.contents() == before and landed(small.settings) == log
    assert {**objects(small), **stored} == objects(small)
    small.table("silver.dim_shop", 2)
    small.land(b"id\n9\n", 9)
    assert len(landed(small.settings)) == 4


def test_another_machine_has_only_the_backup(
    small: SmallLake, new_settings: Callable[[], Settings], tmp_path: Path
) -> None:
    """Buckets of other names, an empty catalog, the public key: the same content, and none of the old lake's files."""
    before, log = small.contents(), landed(small.settings)
    small.catalog.load_table("gold.sales").manage_snapshots().create_tag(
        small.catalog.load_table("gold.sales").snapshots()[0].snapshot_id, "first"
    ).commit()
    first = content_of_tag(small.catalog, "first")
    back_up(small)
    small.empty()
    lose_catalog(small)
    new = new_settings().model_copy(
        update={
            "backup_bucket": small.settings.backup_bucket,
            "backup_public_key": public_key_of(small.settings),
        }
    )
    done = restore(new)
    catalog: Any = open_catalog(new)
    assert {name: content_of(catalog.load_table(name)) for name in before} == before
    assert content_of_tag(catalog, "first") == first
    assert landed(new) == log
    assert done.verified.files > 10 and set(done.tables) == before.keys()
    table = catalog.load_table("gold.sales")
    assert table.location().startswith(f"s3://{new.warehouse_bucket}/")
    assert "gc.enabled" not in table.properties
    assert plan(new).is_empty


def content_of_tag(catalog: Any, tag: str) -> list[dict[str, Any]]:
    table = catalog.load_table("gold.sales")
    found = table.scan(snapshot_id=table.metadata.refs[tag].snapshot_id).to_arrow().to_pylist()
    return sorted(found, key=json.dumps)


def test_a_moment_between_two_sets_and_back(small: SmallLake) -> None:
    back_up(small)
    small.table("silver.dim_shop", 1)
    wanted, at = small.contents(), datetime.now(UTC)
    small.table("silver.dim_shop", 6)
    small.table("gold.sales", 1)
    back_up(small)
    small.table("silver.dim_shop", 2)
    after, stored = small.contents(), objects(small)
    what = Wanted(everything=True, at=at)
    seen = plan(small.settings, what)
    assert objects(small) == stored and small.contents() == after
    assert seen.copy.files == 2  # metadata as of the moment, of the tables that had changed since
    assert seen.token == plan(small.settings, what).token
    done = carry_out(small.settings, CLOCK, seen)
    assert small.contents() == wanted
    assert set(done.kept) == {"silver.dim_shop", "gold.sales"}
    assert {**objects(small), **stored} == objects(small)  # nothing went
    with pytest.raises(ValidationException, match="Cannot find starting snapshot"):
        small.table("silver.dim_shop", 3)  # whoever has opened the table before is told
    small.tables["silver.dim_shop"] = small.catalog.load_table("silver.dim_shop")
    small.table("silver.dim_shop", 3)  # and it takes rows again
    assert len(small.catalog.load_table("silver.dim_shop").scan().to_arrow()) == 3 + 4 + 1 + 3
    target = Target.of(small.settings)
    assert {str(each.table) for each in undo(target)} == set(done.kept)
    assert small.contents() == after
    assert [each.is_undone for each in target.rows.kept()] == [True, True]
    drop(target, restore=done.id)
    assert target.rows.kept() == [] and {str(each) for each in catalog_tables(small.catalog)} == after.keys()
    with pytest.raises(SettingsError, match="nothing is kept"):
        undo(target)


def test_a_namespace_a_table_and_a_snapshot(small: SmallLake) -> None:
    before = small.contents()
    snapshot = small.catalog.load_table("silver.dim_shop").snapshots()[0].snapshot_id
    back_up(small)
    small.table("silver.dim_shop", 1)
    small.catalog.drop_table("gold.sales")
    small.catalog.drop_table("gold.nothing")
    changed = content_of(small.catalog.load_table("silver.dim_shop"))
    restore(small.settings, Wanted(("gold",)))
    assert small.contents() == {**before, "silver.dim_shop": changed}
    restore(small.settings, Wanted(("silver.dim_shop",), snapshot=snapshot))
    assert len(content_of(small.catalog.load_table("silver.dim_shop"))) == 3
    restore(small.settings, Wanted(("silver.dim_shop",)))
    assert small.contents() == before
    for unknown in (
        Wanted(("silver.nobody",)),
        Wanted(("silver.dim_shop",), snapshot=1),
        Wanted(("gold",), set_id="x"),
    ):
        with pytest.raises(SettingsError):
            plan(small.settings, unknown)


def test_who_else_is_at_it_is_told(small: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    back_up(small)
    small.table("silver.dim_shop", 1)
    before, seen = small.contents(), plan(small.settings)
    monkeypatch.setattr("lakehouse.recovery.target.WAIT_SECONDS", 0)
    with restoring(small.settings), pytest.raises(TableBusy, match="something is being restored"):
        carry_out(small.settings, CLOCK, seen)
    with table_locks(small.settings, [TableName("silver", "dim_shop")]), pytest.raises(TableBusy, match=r"dim_shop"):
        carry_out(small.settings, CLOCK, seen)
    small.table("silver.dim_shop", 2)
    assert plan(small.settings).token != seen.token
    with pytest.raises(ConcurrentCommit, match=r"silver\.dim_shop changed since"):
        carry_out(small.settings, CLOCK, seen)
    assert {**before, "silver.dim_shop": []} == {**small.contents(), "silver.dim_shop": []}


def test_a_damaged_backup_stops_before_the_swap_unless_a_version_is_whole(small: SmallLake) -> None:
    before = small.contents()
    made = create(small.settings, CLOCK)
    files = [entry for entry in made.files().values() if entry.kind in ("data", "landed", "manifest")]
    for entry in files:
        small.s3.put_object(Bucket=small.settings.backup_bucket, Key=entry.copy.key, Body=b"x" * entry.copy.size_bytes)
    small.empty()
    lose_catalog(small)
    restore(small.settings)  # the versions that were stored are still there
    assert small.contents() == before
    small.empty()
    lose_catalog(small)
    lost = files[0].copy
    unlocked = small.settings.model_copy(update={"backup_bucket": f"{small.settings.backup_bucket}-plain"})
    copy_bucket(small, unlocked.backup_bucket)
    with pytest.raises(IntegrityError, match="of the backup are missing or damaged") as raised:
        restore(unlocked)
    assert lost.key in raised.value.where
    assert catalog_tables(small.catalog) == []


def copy_bucket(lake: SmallLake, bucket: str) -> None:
    """The newest versions of all objects of the backup, in a bucket without any others."""
    lake.s3.create_bucket(Bucket=bucket)
    backups = ObjectStore.of_backups(lake.settings)
    for found in list(backups.list_after("")):
        lake.s3.put_object(Bucket=bucket, Key=found.key, Body=backups.get(found.key))


@pytest.fixture
def lake(new_lake: NewLake) -> Lake:
    """An empty lake with Spark, and a bucket for backups."""
    made = new_lake()
    return type(made)(made.spark, with_backups(made.settings))


def day(lake: Lake, folder: Path, chance: random.Random, place: int) -> None:
    """A day lands and runs."""
    write(folder, "slice", UNITS[place], make_content(chance, "slice")[UNITS[place]])
    land_files(lake, [SOURCE], folder)
    run(lake, [SOURCE])


def published(lake: Lake) -> dict[str, int]:
    """How far each table has consumed the source, and that no batch is in bronze twice."""
    bronze = lake.table(SOURCE.bronze_table)
    twice = bronze.groupBy("_batch", "_source_file", "_record").count().where("count > 1")
    assert twice.isEmpty()
    names = [SOURCE.bronze_table, *(SOURCE.silver_table(name) for name in SOURCE.tables)]
    return {str(name): read_head(lake.catalog, name).consumed(SOURCE.name).through for name in names}


def test_a_restored_lake_goes_on_by_itself(
    lake: Lake, new_settings: Callable[[], Settings], tmp_path: Path, chance: random.Random
) -> None:
    """Deletion vectors, a view; everything goes to the set, the next run catches up, and nothing is in twice."""
    day(lake, tmp_path, chance, 0)
    fed = f"{CATALOG}.ops.with_vectors"
    lake.spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {CATALOG}.ops")
    lake.spark.sql(
        f"CREATE TABLE {fed} (n bigint) USING iceberg TBLPROPERTIES ('format-version'='3',"
        " 'write.delete.mode'='merge-on-read')"
    )
    lake.spark.sql(f"INSERT INTO {fed} SELECT id FROM range(0, 1000, 1, 1)")
    lake.spark.sql(f"DELETE FROM {fed} WHERE n % 7 = 0")
    lake.spark.sql(f"CREATE VIEW {CATALOG}.ops.seen AS SELECT count(*) AS rows FROM {fed}")
    then, rows = fingerprints(lake, [SOURCE]), lake.spark.table(f"{CATALOG}.ops.seen").collect()
    create(lake.settings, CLOCK)
    day(lake, tmp_path, chance, 1)
    day(lake, tmp_path, chance, 2)
    now, through = fingerprints(lake, [SOURCE]), published(lake)
    lake.spark.sql(f"DROP VIEW {CATALOG}.ops.seen")
    lake.spark.sql(f"DROP TABLE {fed}")
    assert now != then
    done = restore(lake.settings)
    assert fingerprints(lake, [SOURCE]) == then
    assert lake.spark.table(f"{CATALOG}.ops.seen").collect() == rows
    assert set(published(lake).values()) == {1} and set(through.values()) == {3}
    run(lake, [SOURCE])
    assert fingerprints(lake, [SOURCE]) == now and published(lake) == through
    run(lake, [SOURCE])
    assert fingerprints(lake, [SOURCE]) == now
    upkeep_removes_nothing_that_is_kept(lake, now)
    undo(Target.of(lake.settings), restore=done.id)
    assert fingerprints(lake, [SOURCE]) == now and published(lake) == through

    new = new_settings().model_copy(
        update={name: getattr(lake.settings, name) for name in ("backup_bucket", "backup_signing_key")}
    )
    restore(new)
    session = small_session(lake.spark, new)
    moved = type(lake)(session, new)
    assert fingerprints(moved, [SOURCE]) == then
    assert session.table(f"{CATALOG}.ops.seen").collect() == rows
    run(moved, [SOURCE])  # only what the set has landed
    assert fingerprints(moved, [SOURCE]) == then


def upkeep_removes_nothing_that_is_kept(lake: Lake, now: dict[str, str]) -> None:
    """Half a year later, upkeep of the restored tables leaves the files that the kept ones need."""
    later = House(lake.settings, lake.catalog, CLOCK.now() + timedelta(days=180))
    before = objects_of(lake.settings)
    names = later.tables(())
    assert not [name for name in names if is_kept(name.namespace, name.name)]
    for name in names:
        later.expire(name, Budget())
        later.remove_orphans(name, Budget())
    gone = before - objects_of(lake.settings)
    kept = [name for name in catalog_tables(lake.catalog) if is_kept(name.namespace, name.name)]
    named = {file for name in kept if (found := load_table(lake.catalog, name)) for file in references(found)}
    assert named and not gone & named
    assert fingerprints(lake, [SOURCE]) == now


def objects_of(settings: Settings) -> set[str]:
    warehouse = ObjectStore.open(settings, settings.warehouse_bucket)
    return {warehouse.where(found.key) for found in warehouse.list_after("")}
