"""`lakehouse maintain` and `repair`, killed wherever they can be: nothing is lost, and the next run completes.

No JVM: tables by PyIceberg on PostgreSQL and MinIO. What upkeep does with Spark is killed in tests/integration.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlparse

import pytest
from tests.backup_lake import SmallLake, content_of, with_backups
from tests.killing import is_killed, wait_until_no_locks
from tests.recovery.world import TableState, content, moment

from lakehouse.backup.create import create
from lakehouse.contracts.model import Upkeep
from lakehouse.core.clock import SystemClock
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine.leftovers import Leftovers
from lakehouse.engine.maintain import Report, look, maintain
from lakehouse.engine.upkeep import Budget, Care, House
from lakehouse.ledger.references import references
from lakehouse.ledger.retention_lock import keeping_files
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog
from lakehouse.recovery.fsck import check_from
from lakehouse.recovery.repair import DAMAGED, Repair, plan_repair, repair
from lakehouse.recovery.report import Report as Found

LATER = datetime.now(UTC) + timedelta(days=30)
CARE = Care(Upkeep(keep_snapshots="24h", min_snapshots=1, max_scan_cost=100))
DEAD = 4


@pytest.fixture(scope="module")
def lake(new_settings: Callable[[], Settings]) -> SmallLake:
    """An empty lake in PostgreSQL and MinIO."""
    settings = new_settings()
    catalog: Any = open_catalog(settings)
    catalog.create_tables()
    return SmallLake(settings, catalog)


def worn(lake: SmallLake, name: str) -> Any:
    """A table with a tag, old snapshots whose files nobody else needs, and files that no commit names."""
    for rows in (2, 3, 4):
        lake.table(name, rows)
    lake.tables[name].delete("id = 1")
    table = lake.tables[name]
    table.manage_snapshots().create_tag(table.snapshots()[1].snapshot_id, "kept").commit()
    store, place = warehouse(lake), urlparse(table.location()).path.strip("/")
    for number in range(DEAD):
        store.put(f"{place}/data/dead-{number}.parquet", b"written and never committed")
    return lake.catalog.load_table(name)


def warehouse(lake: SmallLake) -> ObjectStore:
    return ObjectStore.open(lake.settings, lake.settings.warehouse_bucket)


def files(lake: SmallLake, table: Any) -> set[str]:
    return {each.key for each in warehouse(lake).list_after(urlparse(table.location()).path.strip("/") + "/")}


def upkeep(settings: Settings, name: str) -> Report:
    """What `lakehouse maintain` does for one table, in a month."""
    table = TableName.parse(name)
    house = House(settings, open_catalog(settings), LATER)
    house.__dict__["cares"] = {table: CARE}
    done = maintain(house, look(house, [table], lambda _: None), Budget(), lambda _: None)
    assert done.errors == []
    return done.reports[0] if done.reports else Report(table)


def clean(settings: Settings) -> None:
    """What `lakehouse doctor --fix` does, in a month."""
    leftovers = Leftovers(settings, LATER, files=True)
    assert {each.left for each in leftovers.remove(leftovers.find())} <= {""}


def state(lake: SmallLake, name: str) -> TableState:
    """A table with what each of its snapshots says: all of them are read."""
    table = lake.catalog.load_table(name)
    contents = {each.snapshot_id: content(table, each.snapshot_id) for each in table.snapshots()}
    refs = {ref: each.snapshot_id for ref, each in table.metadata.refs.items()}
    return TableState(table.metadata.current_snapshot_id, contents, refs)


@pytest.mark.parametrize("first", [upkeep, clean])
@pytest.mark.parametrize("point", ["before_expiry", "expired", "deleted", "before_orphans"])
def test_upkeep_that_is_killed_takes_nothing_that_is_needed(
    lake: SmallLake, point: str, first: Callable[..., object]
) -> None:
    """Whoever comes first after it, the next run or `doctor --fix`, cleans up; then nothing is left to be done."""
    name = f"silver.killed_at_{point}_{first.__name__}"
    table = worn(lake, name)
    before, all_files = state(lake, name), files(lake, table)
    assert is_killed(f"maintain.{point}@{name}=kill", lambda: upkeep(lake.settings, name))
    wait_until_no_locks(lake.settings)
    after = state(lake, name)
    assert (after.head, after.refs) == (before.head, before.refs)
    assert after.contents.items() <= before.contents.items()
    assert {after.head, after.refs["kept"]} <= after.contents.keys()
    assert (len(after.contents) < len(before.contents)) == (point != "before_expiry")
    assert (files(lake, table) >= all_files) == (point in ("before_expiry", "expired"))
    first(lake.settings, *([name] if first is upkeep else []))
    done = upkeep(lake.settings, name)
    assert done.postponed == [] and upkeep(lake.settings, name) == Report(TableName.parse(name))
    final = state(lake, name)
    assert (final.head, final.refs) == (before.head, before.refs)
    assert final.contents.keys() < before.contents.keys() and final.contents.items() <= before.contents.items()
    needed = {urlparse(each).path.lstrip("/") for each in references(lake.catalog.load_table(name))}
    assert files(lake, table) <= needed, "nothing is left that no snapshot names"
    rows = len(content_of(lake.catalog.load_table(name)))
    lake.tables[name] = lake.catalog.load_table(name)
    assert len(content_of(lake.table(name, 2))) == rows + 2


@pytest.fixture(scope="module")
def backed_up(new_settings: Callable[[], Settings]) -> SmallLake:
    """Two tables, landed files, a decision, and a set with all of it."""
    settings = with_backups(new_settings(), lock_days=1)
    catalog: Any = open_catalog(settings)
    catalog.create_tables()
    made = SmallLake(settings, catalog)
    made.table("silver.dim_shop", 4)
    made.table("silver.dim_shop", 2)
    made.table("gold.sales", 6)
    made.position_deletes("gold.sales", 1, 3)
    made.land(b"id\n1\n")
    made.decide()
    create(settings, SystemClock())
    return made


def hurt(lake: SmallLake) -> dict[str, bytes | None]:
    """A lost data file, a manifest that is cut, a landed file of other bytes; what each is now."""
    table = lake.catalog.load_table("gold.sales")
    [task] = table.scan().plan_files()
    manifest = lake.catalog.load_table("silver.dim_shop").current_snapshot().manifests(table.io)[0].manifest_path
    [landed] = ObjectStore.open(lake.settings).list_after("objects/")
    return {
        task.file.file_path: None,
        manifest: body(lake, manifest)[:100],
        f"s3://{lake.settings.landing_bucket}/{landed.key}": b"id\n7\n",
    }


def body(lake: SmallLake, uri: str) -> bytes:
    place = urlparse(uri)
    return ObjectStore.open(lake.settings, place.netloc).get(place.path.lstrip("/"))


def put(lake: SmallLake, uri: str, spoiled: bytes | None) -> None:
    place = urlparse(uri)
    store = ObjectStore.open(lake.settings, place.netloc)
    if spoiled is None:
        store.delete(place.path.lstrip("/"))
    else:
        store.put(place.path.lstrip("/"), spoiled)


def fsck(settings: Settings) -> Found:
    catalog: Any = open_catalog(settings)
    return check_from(settings, catalog.engine, SystemClock(), (), lambda _: True)


def repaired(settings: Settings) -> Repair:
    """What `lakehouse repair --yes` does."""
    catalog: Any = open_catalog(settings)
    with keeping_files(settings):
        plan = plan_repair(settings, catalog.engine, SystemClock(), (), lambda *_: None)
        return repair(settings, catalog.engine, SystemClock(), (), plan)


@pytest.mark.parametrize("point", ["before_file", "after_files"])
def test_a_repair_that_is_killed_makes_nothing_worse(backed_up: SmallLake, point: str) -> None:
    lake, changes = backed_up, hurt(backed_up)
    before, bodies = moment(lake.settings), {uri: body(lake, uri) for uri in changes}
    for uri, spoiled in changes.items():
        put(lake, uri, spoiled)
    for about in [f"@{uri}" for uri in changes] if point == "before_file" else [""]:
        assert is_killed(f"repair.{point}{about}=kill", lambda: repaired(lake.settings)), about
        wait_until_no_locks(lake.settings)
        open_ones = {each.uri for each in fsck(lake.settings).damages}
        assert about.lstrip("@") in open_ones if about else open_ones == set()
        assert open_ones <= changes.keys()
        for uri in changes.keys() - open_ones:
            assert body(lake, uri) == bodies[uri]
            put(lake, uri, changes[uri])
    done = repaired(lake.settings)
    assert {each.uri for each in done.mended} == changes.keys() and done.after.damages == ()
    assert {uri: body(lake, uri) for uri in changes} == bodies
    assert moment(lake.settings) == before
    store = ObjectStore.of_backups(lake.settings)
    kept = [store.get(each.key) for each in store.list_after(DAMAGED)]
    assert {spoiled for spoiled in changes.values() if spoiled is not None} <= set(kept)
    assert repaired(lake.settings).mended == ()
