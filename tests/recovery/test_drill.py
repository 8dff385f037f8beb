"""Drills on real servers, without a JVM: what comes back is compared, what does not is named, and nothing is left over.

PyIceberg writes one small lake for all tests; each takes back what it does to it.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.backup_lake import SmallLake, with_backups
from tests.integration.test_backup import environment

from lakehouse.backup import vault as vaults
from lakehouse.backup.create import create
from lakehouse.backup.drill_report import render_report
from lakehouse.backup.drills import Drill, drill_ids, read_drill
from lakehouse.backup.sets import BackupSet
from lakehouse.backup.signing import public_key_of
from lakehouse.backup.status import Limits, read_status
from lakehouse.backup.vault import Vault
from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import SettingsError, TableBusy
from lakehouse.core.settings import Settings
from lakehouse.ledger.retention_lock import drilling
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog
from lakehouse.recovery.comparing import compare
from lakehouse.recovery.drill import SCRATCH, has_scratch, plan_drill, run_drill

TABLES = {"silver.dim_shop", "gold.sales", "ops.everything", "ops.nothing"}
CLOCK = SystemClock()
PLACE = pa.struct([("x", pa.float64()), ("y", pa.string())])
ODD = pa.table(
    {
        "id": pa.array([1, 2, None], pa.int32()),
        "price": pa.array([Decimal("1.50"), None, Decimal("-2.00")], pa.decimal128(9, 2)),
        "ratio": pa.array([0.1, float("nan"), -0.0], pa.float64()),
        "at": pa.array([datetime(2024, 3, 1, 12, tzinfo=UTC), None, None], pa.timestamp("us", tz="UTC")),
        "local": pa.array([datetime(2024, 3, 1, 12), None, None], pa.timestamp("us")),  # noqa: DTZ001 - it has no zone
        "day": pa.array([date(2024, 3, 1), None, None], pa.date32()),
        "raw": pa.array([b"\x00\xff", b"", None], pa.binary()),
        "tags": pa.array([["a", None], [], None], pa.list_(pa.string())),
        "place": pa.array([{"x": 1.5, "y": "é"}, {"x": None, "y": None}, None], PLACE),
        "is_odd": pa.array([True, False, None], pa.bool_()),
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def lake(new_settings: Callable[[], Settings], tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    """Tables with deletes, tags, old snapshots, every type and nothing; three landed batches; and two sets."""
    settings = with_backups(new_settings(), lock_days=1, home=tmp_path_factory.mktemp("home"))
    catalog: Any = open_catalog(settings)
    catalog.create_tables()
    made = SmallLake(settings, catalog)
    made.table("silver.dim_shop", 4)
    table = made.table("silver.dim_shop", 4)
    table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "month").commit()
    made.table("gold.sales", 6)
    made.position_deletes("gold.sales", 1, 3)
    catalog.create_namespace("ops")
    made.tables["ops.everything"] = catalog.create_table("ops.everything", ODD.schema)
    made.tables["ops.everything"].append(ODD)
    made.tables["ops.nothing"] = catalog.create_table("ops.nothing", ODD.schema)
    for day in (1, 2, 3):
        made.land(b"id\n%d\n" % day, day)
    made.decide()
    create(settings, CLOCK)
    made.table("silver.dim_shop", 2)
    time.sleep(1.1)  # sets are in the order of the seconds of their cuts
    create(settings, CLOCK)
    return made


def vault(lake: SmallLake) -> Vault:
    return Vault.open(lake.settings, CLOCK.now())


def drill(lake: SmallLake, *tables: str, set_id: str = "", **given: Any) -> Drill:
    time.sleep(1.1)  # and so are drills
    plan = plan_drill(lake.settings, CLOCK, tables, set_id)
    return run_drill(lake.settings, CLOCK, plan, **{"actor": "ada", "approved_by": "grace", **given})


def everything_in(lake: SmallLake) -> set[tuple[str, str, str]]:
    """What lies in the lake's buckets, and the pointers of its catalog."""
    store = ObjectStore.open(lake.settings)
    buckets = (lake.settings.landing_bucket, lake.settings.warehouse_bucket)
    files = {(bucket, each.key, each.etag) for bucket in buckets for each in store.in_bucket(bucket).list_after("")}
    return files | {("catalog", name, lake.catalog.load_table(name).metadata_location) for name in TABLES}


@contextmanager
def replaced(store: ObjectStore, key: str, body: bytes | None) -> Iterator[None]:
    """An object with other bytes, or none, and its own afterwards."""
    before = store.get(key)
    if body is None:
        store.client.delete_object(Bucket=store.bucket, Key=key)
    else:
        store.client.put_object(Bucket=store.bucket, Key=key, Body=body)
    try:
        yield
    finally:
        store.client.put_object(Bucket=store.bucket, Key=key, Body=before)


def newest(lake: SmallLake) -> BackupSet:
    from lakehouse.backup.sets import load_set, require_known

    there = vault(lake)
    return load_set(there, require_known(there, ""), public_key_of(lake.settings))


def test_a_drill_brings_everything_back_compares_it_and_leaves_nothing(lake: SmallLake) -> None:
    before = everything_in(lake)
    made = drill(lake)
    assert made.problems == () and made.is_whole and made.logs >= 7
    assert {each.table for each in made.tables} == TABLES
    by_name = {each.table: each for each in made.tables}
    assert {name: each.rows for name, each in by_name.items()} == {
        "silver.dim_shop": 10, "gold.sales": 4, "ops.everything": 3, "ops.nothing": 0,
    }  # fmt: skip
    assert (by_name["silver.dim_shop"].snapshots, by_name["silver.dim_shop"].tags) == (3, 1)
    assert all(each.compared == "rows" for each in made.tables)
    assert {name for name, each in by_name.items() if each.is_live_compared} == TABLES - {"ops.nothing"}
    assert len({each.fingerprint for each in made.tables}) == len(TABLES)
    assert 0 < made.rto_seconds == made.rto_all_seconds and 0 < made.rpo_seconds < 600
    assert [name for name, _ in made.phases][0] == "reading the backup"
    assert everything_in(lake) == before and not has_scratch(lake.settings)
    assert not (lake.settings.home / SCRATCH).exists()
    kept = read_drill(vault(lake), made.id, public_key_of(lake.settings))
    assert kept == made
    assert vault(lake).get(f"drills/{made.id}.html").decode() == render_report(made)
    stands = read_status(
        vault(lake), public_key_of(lake.settings), Limits.of(lake.settings), CLOCK.now() + timedelta(seconds=1)
    )
    assert stands.drill == made and stands.overdue == ()


def test_a_share_is_drilled_and_the_rest_extrapolated(lake: SmallLake) -> None:
    made = drill(lake, "gold.sales")
    assert made.problems == () and not made.is_whole and [each.table for each in made.tables] == ["gold.sales"]
    assert made.rto_all_seconds > made.rto_seconds and made.size_bytes < made.size_bytes_of_set
    with pytest.raises(SettingsError, match="has no gold.other"):
        plan_drill(lake.settings, CLOCK, ["gold.other"])


def test_an_older_set_is_not_compared_with_what_the_lake_has_no_more(lake: SmallLake) -> None:
    """A table that was dropped, and one that went on: its snapshot of then is still there."""
    from lakehouse.backup.sets import complete_ids

    older = complete_ids(vault(lake))[0]
    live = {name: lake.catalog.load_table(name) for name in TABLES - {"gold.sales"}}
    made = drill(lake, "gold.sales", "silver.dim_shop", set_id=older, live=live.get)
    assert made.problems == () and made.set_id == older
    compared = {each.table: (each.is_live_compared, each.rows) for each in made.tables}
    assert compared == {"gold.sales": (False, 4), "silver.dim_shop": (True, 8)}


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_what_the_backup_has_lost_fails_the_drill_and_is_named(lake: SmallLake, how: str) -> None:
    entries = [entry for entry in newest(lake).files().values() if entry.kind == "data" and "/gold/" in entry.uri]
    copy = entries[0].copy
    store = vault(lake).store
    versions = store.client.list_object_versions(Bucket=store.bucket, Prefix=copy.key)["Versions"]
    assert versions, "a version that is locked stays, and so the file can be brought back"
    with replaced(store, copy.key, None if how == "missing" else b"x" * copy.size_bytes), no_versions(lake):
        made = drill(lake)
    assert not made.is_good and copy.key.rpartition("/")[2] in made.problems[0]
    assert made.tables == () and not has_scratch(lake.settings)
    assert "Failed" in render_report(made) and read_drill(vault(lake), made.id, public_key_of(lake.settings)) == made
    stands = read_status(vault(lake), public_key_of(lake.settings), Limits.of(lake.settings), CLOCK.now())
    assert any("the last drill failed" in words for words in stands.overdue)


@contextmanager
def no_versions(lake: SmallLake) -> Iterator[None]:
    """As in a bucket that keeps no versions: a restore would bring the good one back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vaults, "_version", lambda _: {})
        yield


def test_rows_that_differ_from_those_of_the_lake_are_noticed(lake: SmallLake) -> None:
    """A data file of the lake says something else than its copy: the same rows but for one value."""
    table = lake.catalog.load_table("ops.everything")
    [task] = table.scan().plan_files()
    key = task.file.file_path.removeprefix(f"s3://{lake.settings.warehouse_bucket}/")
    store = ObjectStore.open(lake.settings, lake.settings.warehouse_bucket)
    content = pq.read_table(io.BytesIO(store.get(key)))
    changed = content.set_column(0, content.schema.field(0), pa.array([1, 3, None], pa.int32()))
    body = io.BytesIO()
    pq.write_table(changed, body)
    with replaced(store, key, body.getvalue()):
        made = drill(lake, "ops.everything")
    assert (
        made.problems
        == (
            "ops.everything: its rows are not those of the live table: "
            + made.problems[0].partition("live table: ")[2],
        )
        and "rows=3" in made.problems[0]
    )
    assert drill(lake, "ops.everything").is_good


def test_an_old_snapshot_that_cannot_be_read_is_noticed(lake: SmallLake) -> None:
    table = lake.catalog.load_table("silver.dim_shop")
    backed_up = next(each for each in newest(lake).manifest.tables if each.table == "silver.dim_shop")
    store = ObjectStore.open(lake.settings, lake.settings.warehouse_bucket)
    there = {f"s3://{store.bucket}/{each.key}": each.size_bytes for each in store.list_after("")}
    assert compare(backed_up, table, lambda _: None, there).problems == ()
    first = table.metadata.snapshots[0]
    [path] = [task.file.file_path for task in table.scan(snapshot_id=first.snapshot_id).plan_files()]
    found = compare(backed_up, table, lambda _: None, {**there, path: 1})
    assert found.problems and all(path in problem for problem in found.problems)
    listed = first.manifest_list.removeprefix(f"s3://{store.bucket}/")
    with replaced(store, listed, b"no Avro"):
        found = compare(backed_up, table, lambda _: None, there)
    assert f"snapshot {first.snapshot_id} cannot be read" in found.problems[0]


def test_a_drill_that_was_killed_leaves_what_the_next_one_removes(lake: SmallLake) -> None:
    before, drills = everything_in(lake), drill_ids(vault(lake))
    command = [sys.executable, "-m", "lakehouse.cli.main", "backup", "drill", "gold.sales", "--json"]
    told = environment(lake.settings, "drill.after_restore=kill")
    killed = subprocess.run(command, env=told, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert has_scratch(lake.settings) and list((lake.settings.home / SCRATCH).iterdir())
    assert drill_ids(vault(lake)) == drills, "no record speaks of it"
    done = subprocess.run(command, env=environment(lake.settings, ""), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["is_good"] and said["report"] == f"drills/{said['id']}.html" and said["rto_all_seconds"] > 0
    assert everything_in(lake) == before and not has_scratch(lake.settings)


def test_one_drill_at_a_time(lake: SmallLake) -> None:
    with drilling(lake.settings), pytest.raises(TableBusy, match="a drill is being made"):
        drill(lake)


def test_what_it_would_do_is_said_first(lake: SmallLake) -> None:
    before = everything_in(lake)
    plan = plan_drill(lake.settings, CLOCK, ["gold.sales", "ops.nothing"])
    assert (plan.tables, plan.tables_of_set, plan.is_whole) == (("gold.sales", "ops.nothing"), 4, False)
    assert 0 < plan.size_bytes < plan.size_bytes_of_set and everything_in(lake) == before
    assert Path(lake.settings.home, SCRATCH).exists() is False
