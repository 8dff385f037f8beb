"""Backup sets of a real lake: format 3 with deletion vectors and format 2, on MinIO with object lock."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr
from tests.backup_lake import content_of, read_in_place, tables_in_place, with_backups
from tests.integration.pipeline import land_files, run
from tests.integration.test_pipeline_order import KINDS, UNITS, make_content, write
from tests.recovery.world import content

from lakehouse.backup.create import create
from lakehouse.backup.records import Damage, write_record
from lakehouse.backup.sets import BackupSet, complete_ids, set_ids
from lakehouse.backup.signing import public_key_of, signer_of
from lakehouse.backup.vault import Vault
from lakehouse.backup.verify import Share, verify
from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import TableBusy
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, PROJECT_ROOT, Settings
from lakehouse.ledger.retention_lock import keeping_files, removing_files
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import catalog_tables, load_table

if TYPE_CHECKING:
    from tests.servers import NewLake

    from lakehouse.engine.publish import Lake

SOURCE = KINDS["slice"]
OLD = f"{CATALOG}.ops.old_format"
DIMENSION = f"{CATALOG}.silver.dim_fed"
Rows = dict[str, list[dict[str, Any]]]
GONE_BACK = 6
"""The set that is made after the rollback, before anything expires: it has the most snapshots."""


@pytest.fixture
def lake(new_lake: NewLake) -> Lake:
    """An empty lake with a bucket for backups that locks."""
    made = new_lake()
    return type(made)(made.spark, with_backups(made.settings))


def contents(lake: Lake) -> Rows:
    return {str(name): content_of(load_table(lake.catalog, name)) for name in catalog_tables(lake.catalog)}


def damages(lake: Lake, made: BackupSet) -> tuple[Damage, ...]:
    vault = Vault.open(lake.settings, SystemClock().now())
    record = verify(vault, made.id, public_key_of(lake.settings), Share(), vault.now)
    write_record(vault, record, signer_of(lake.settings))
    return record.damages


def grow(lake: Lake, folder: Path, chance: random.Random, place: int) -> None:
    """A day lands and runs; the table of the older format gets rows and loses some by position."""
    write(folder, "slice", UNITS[place], make_content(chance, "slice")[UNITS[place]])
    land_files(lake, [SOURCE], folder)
    run(lake, [SOURCE])
    if place == 0:
        lake.spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {CATALOG}.ops")
        lake.spark.sql(
            f"CREATE TABLE {OLD} (n bigint, text string) USING iceberg PARTITIONED BY (truncate(n, 100)) TBLPROPERTIES"
            " ('format-version'='2', 'write.delete.mode'='merge-on-read', 'write.update.mode'='merge-on-read')"
        )
    number, text = lake.spark.table(OLD).columns[:2]
    new = f"SELECT id, string(id) FROM range({place * 200}, {place * 200 + 200})"
    lake.spark.sql(f"INSERT INTO {OLD} ({number}, {text}) {new}")
    lake.spark.sql(f"DELETE FROM {OLD} WHERE n % 7 = {place}")


def evolve(lake: Lake) -> None:
    lake.spark.sql(f"ALTER TABLE {OLD} ADD COLUMN more decimal(9,2)")
    lake.spark.sql(f"ALTER TABLE {OLD} RENAME COLUMN text TO words")
    lake.spark.sql(f"ALTER TABLE {OLD} ADD PARTITION FIELD bucket(4, words)")
    lake.spark.sql(f"INSERT INTO {OLD} VALUES (9001, 'é', 1.25)")


def compact(lake: Lake) -> None:
    for table in ("ops.old_format", "silver.dim_fed"):
        lake.spark.sql(
            f"CALL {CATALOG}.system.rewrite_data_files(table => '{table}', options => map('rewrite-all','true'))"
        )
        lake.spark.sql(f"CALL {CATALOG}.system.rewrite_manifests('{table}')")
    lake.spark.sql(f"ALTER TABLE {OLD} CREATE TAG kept")
    lake.spark.sql(f"CALL {CATALOG}.system.compute_table_stats('ops.old_format')")


def go_back(lake: Lake) -> None:
    """A table of each format is what it was before it was compacted, and before the commit before that."""
    for table in ("ops.old_format", "silver.dim_fed"):
        before = content_of(load_table(lake.catalog, TableName.parse(table)))
        heads = lake.spark.sql(f"SELECT snapshot_id FROM {CATALOG}.{table}.history ORDER BY made_current_at DESC")
        *_, former = heads.take(4)
        lake.spark.sql(f"CALL {CATALOG}.system.rollback_to_snapshot('{table}', {former.snapshot_id})")
        assert content_of(load_table(lake.catalog, TableName.parse(table))) != before


def expire(lake: Lake) -> None:
    """Former snapshots go with their files, which earlier sets have."""
    before = len(list(ObjectStore.open(lake.settings, lake.settings.warehouse_bucket).list_after("")))
    for table in ("ops.old_format", "silver.dim_fed"):
        lake.spark.sql(
            f"CALL {CATALOG}.system.expire_snapshots(table => '{table}', older_than => TIMESTAMP '2100-01-01 00:00:00')"
        )
    assert len(list(ObjectStore.open(lake.settings, lake.settings.warehouse_bucket).list_after(""))) < before


def all_snapshots(tables: Iterable[Any]) -> dict[int, str]:
    """What each snapshot of these tables says."""
    return {each.snapshot_id: content(table, each.snapshot_id) for table in tables for each in table.snapshots()}


def test_increments_over_everything_that_happens_to_tables(lake: Lake, tmp_path: Path, chance: random.Random) -> None:
    """Each set is read in place and equals the lake at its cut; at the end with nothing of the lake left."""
    steps: list[Callable[[], None]] = [
        lambda: grow(lake, tmp_path, chance, 0),
        lambda: grow(lake, tmp_path, chance, 1),
        lambda: evolve(lake),
        lambda: compact(lake),
        lambda: lake.spark.sql(f"CREATE TABLE {CATALOG}.ops.nothing (n int) USING iceberg") and None,
        lambda: go_back(lake),
        lambda: expire(lake),
        lambda: grow(lake, tmp_path, chance, 2),
    ]
    sets: list[tuple[BackupSet, Rows]] = []
    for step in steps:
        step()
        sets.append((create(lake.settings, SystemClock()), contents(lake)))
        if len(sets) == GONE_BACK:
            former = all_snapshots(load_table(lake.catalog, name) for name in catalog_tables(lake.catalog))
    unchanged = create(lake.settings, SystemClock())
    assert unchanged.manifest.new_files == 0 and unchanged.manifest.files == sets[-1][0].manifest.files
    found = {entry.kind for made, _ in sets for entry in made.files().values()}
    assert {"deletion_vector", "position_deletes", "statistics", "landed", "log"} <= found
    store = ObjectStore.of_backups(lake.settings)
    for bucket in (lake.settings.warehouse_bucket, lake.settings.landing_bucket):
        for each in list(store.in_bucket(bucket).list_after("")):
            store.in_bucket(bucket).delete(each.key)
    gone_back = sets[GONE_BACK - 1][0]
    assert all_snapshots(tables_in_place(lake.settings, gone_back, tmp_path).values()) == former
    for made, before in sets:
        assert read_in_place(lake.settings, made, tmp_path) == before
        assert damages(lake, made) == ()


def environment(settings: Settings, failpoints: str) -> dict[str, str]:
    """What a process of its own needs to work on this lake."""
    plain = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in settings.model_dump(exclude={"connections", "spark_conf", "secrets", "ivy_settings"}).items()
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    for name in ("s3_endpoint", "s3_access_key_id", "s3_secret_access_key"):
        plain[f"backup_{name}"] = plain[f"backup_{name}"] or plain[name]  # the stack has another place for backups
    given = {f"LAKEHOUSE_{name.upper()}": value for name, value in plain.items() if value}
    return {**kept, **given, "PYTHONPATH": str(PROJECT_ROOT / "include"), "LAKEHOUSE_FAILPOINTS": failpoints}


def killed(settings: Settings, failpoints: str) -> bool:
    """Make a set in a process of its own; whether it was killed on its way."""
    command = [sys.executable, "-m", "lakehouse.cli.main", "backup", "create"]
    done = subprocess.run(command, env=environment(settings, failpoints), capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def test_a_backup_that_is_killed_anywhere_goes_on(lake: Lake, tmp_path: Path, chance: random.Random) -> None:
    grow(lake, tmp_path, chance, 0)
    before = contents(lake)
    files = [task.file.file_path for name in catalog_tables(lake.catalog) if (t := load_table(lake.catalog, name))
             for task in t.scan().plan_files()]  # fmt: skip
    first, *more = [f"backup.after_copy@{uri}=kill" for uri in chance.sample(files, 3)]
    assert killed(lake.settings, "backup.after_plan=kill") and killed(lake.settings, first)
    for point in more:
        killed(lake.settings, point)  # unless an earlier try has copied that file
    for point in ("backup.after_metadata", "backup.after_copies", "backup.before_complete"):
        assert killed(lake.settings, f"{point}=kill"), point
    vault = Vault.open(lake.settings, SystemClock().now())
    assert complete_ids(vault) == [] and len(set_ids(vault)) == 1
    assert not killed(lake.settings, "")
    made = create(lake.settings, SystemClock())
    assert len(complete_ids(vault)) == 2 and made.manifest.new_files == 0
    assert read_in_place(lake.settings, made, tmp_path) == before
    assert damages(lake, made) == ()


def test_nobody_removes_or_replaces_what_is_locked(lake: Lake, tmp_path: Path, chance: random.Random) -> None:
    grow(lake, tmp_path, chance, 0)
    made = create(lake.settings, SystemClock())
    vault, bucket = Vault.open(lake.settings, SystemClock().now()), lake.settings.backup_bucket
    client = vault.store.client
    for entry in made.files().values():
        for stored in entry.objects:
            with pytest.raises(ClientError):
                client.delete_object(Bucket=bucket, Key=stored.key, VersionId=stored.version)
            client.put_object(Bucket=bucket, Key=stored.key, Body=b"other")
            assert len(vault.get(stored.key, stored.version)) == stored.size_bytes
    assert {damage.good_version != "" for damage in damages(lake, made)} == {True}


def test_a_backup_and_the_removal_of_files_exclude_each_other(lake: Lake) -> None:
    with keeping_files(lake.settings), keeping_files(lake.settings), pytest.raises(TableBusy, match="a backup"):
        with removing_files(lake.settings):
            pass
    with removing_files(lake.settings), pytest.raises(TableBusy, match="are being removed"):
        create(lake.settings, SystemClock())
    with removing_files(lake.settings):
        pass
