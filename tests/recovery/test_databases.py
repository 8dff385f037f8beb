"""The catalog's and Airflow's databases come back to a moment: real PostgreSQL and MinIO, no JVM."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psycopg
import pyarrow as pa
import pytest
from pydantic import SecretStr
from tests.backup_lake import content_of

from lakehouse.backup import wal
from lakehouse.backup.base_check import verify_bases
from lakehouse.backup.base_prune import plan_base_prune, run_base_prune
from lakehouse.backup.base_status import Databases, ask, look
from lakehouse.backup.bases import Base, complete_base_ids
from lakehouse.backup.create import create
from lakehouse.backup.prune import Policy
from lakehouse.backup.records import Verification, write_record
from lakehouse.backup.signing import new_key, public_key_of, signer_of
from lakehouse.backup.vault import Vault
from lakehouse.backup.verify import Share
from lakehouse.core.clock import FixedClock, SystemClock
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.failpoints import FailpointHit
from lakehouse.core.settings import Settings, load_settings
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog
from lakehouse.recovery import base_backup, databases
from lakehouse.recovery.databases import Done
from lakehouse.recovery.lost_catalog import CatalogRebuild
from lakehouse.stack import archiving, credentials, down, postgres, up

TABLE = "silver.orders"
Content = list[dict[str, Any]]


@dataclass
class Machine:
    """A home with servers of its own, and what is done there."""

    home: Path
    given: dict[str, str]

    @property
    def settings(self) -> Settings:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("LAKEHOUSE_") and name != "LAKEHOUSE_CACHE"]:
                patch.delenv(name)
            for name, value in {**self.given, "LAKEHOUSE_HOME": str(self.home)}.items():
                patch.setenv(name, value)
            return load_settings()

    def up(self) -> None:
        up(self.settings)

    @property
    def vault(self) -> Vault:
        return Vault.open(self.settings, datetime.now(UTC))

    @property
    def catalog(self) -> Any:
        return open_catalog(self.settings)

    def sql(self, database: str, statement: str) -> list[Any]:
        """A statement of the superuser's."""
        now = self.settings
        password = credentials.load_or_create(now).passwords.superuser
        with postgres.connect(now.postgres_port, database, postgres.SUPERUSER, password) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def append(self, *ids: int) -> None:
        rows = pa.table({"id": pa.array(ids, pa.int64())})
        catalog = self.catalog
        catalog.create_tables()
        catalog.create_namespace_if_not_exists("silver")
        catalog.create_table_if_not_exists(TABLE, rows.schema).append(rows)

    def content(self) -> Content:
        return content_of(self.catalog.load_table(TABLE))

    def back_up(self) -> Base:
        return base_backup.back_up(self.settings, SystemClock())

    def restore(self, at: datetime | None = None) -> Done:
        clock = SystemClock()
        return databases.carry_out(self.settings, databases.plan_databases(self.settings, clock, at), clock)

    def archive_all(self) -> None:
        """Wait until the log up to now is in the bucket."""
        name = self.sql("postgres", "SELECT pg_walfile_name(pg_switch_wal())")[0][0]
        [[server]] = self.sql("postgres", "SELECT system_identifier::text FROM pg_control_system()")
        deadline = time.monotonic() + 90
        while name not in wal.archived(self.vault, server):
            assert time.monotonic() < deadline, self.sql("postgres", "SELECT * FROM pg_stat_archiver")
            time.sleep(0.2)

    def verify(self) -> tuple[Verification, ...]:
        records = verify_bases(self.vault, public_key_of(self.settings), Share(), datetime.now(UTC))
        for record in records:
            write_record(self.vault, record, signer_of(self.settings))
        return records


def moment() -> datetime:
    """A moment that lies between two commits, also by a clock of seconds."""
    time.sleep(0.05)
    now = datetime.now(UTC)
    time.sleep(0.05)
    return now


def ids(*numbers: int) -> Content:
    return sorted(({"id": number} for number in numbers), key=str)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Servers with a bucket for backups, a base backup, and Airflow's database with a table of Airflow's in it."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-databases-") as folder:
        os.chmod(folder, 0o711)  # noqa: S103 - PostgreSQL's account must enter
        given = {
            "LAKEHOUSE_BACKUP_SERVER": "external",
            "LAKEHOUSE_BACKUP_BUCKET": "databases-backup",
            "LAKEHOUSE_BACKUP_SIGNING_KEY": new_key()[0],
            "LAKEHOUSE_BACKUP_LOCK_DAYS": "0",
        }
        made = Machine(Path(folder), given)
        try:
            made.up()
            client = ObjectStore.of_backups(made.settings).client
            client.create_bucket(Bucket=made.settings.backup_bucket)
            client.put_bucket_versioning(
                Bucket=made.settings.backup_bucket, VersioningConfiguration={"Status": "Enabled"}
            )
            made.sql("postgres", "SELECT pg_reload_conf()")  # it waits a minute after it found no bucket
            yield made
        finally:
            down(made.settings)


def test_there_and_back_between_moments(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog's database is dropped and comes back; then further back; and then to what that had undone."""
    machine.sql("lakehouse_airflow", "CREATE TABLE dag_run AS SELECT generate_series(1, 3) AS id")
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", "databases.before_seal=raise")
    with pytest.raises(FailpointHit):
        machine.back_up()
    monkeypatch.delenv("LAKEHOUSE_FAILPOINTS")
    assert complete_base_ids(machine.vault) == []
    with pytest.raises(SettingsError, match="there is no base backup"):
        machine.restore()
    base = machine.back_up()
    machine.append(1, 2)
    first = moment()
    machine.append(3)
    second = moment()
    machine.sql("postgres", "DROP DATABASE lakehouse_catalog WITH (FORCE)")  # the first commit after the moment
    machine.sql("lakehouse_airflow", "INSERT INTO dag_run VALUES (4)")

    gone = databases.plan_databases(machine.settings, SystemClock())
    with pytest.raises(IntegrityError, match="there was no database lakehouse_catalog"):
        databases.carry_out(machine.settings, gone, SystemClock())
    assert machine.sql("lakehouse_airflow", "SELECT count(*) FROM dag_run") == [(4,)], "what is in use is untouched"

    done = machine.restore(second)
    assert (done.plan.base, done.plan.timeline, done.reached_moment) == (base, 1, True)
    assert done.differences and done.differences.back == (TABLE,)
    assert done.look.airflow_runs == 3
    machine.up()
    assert machine.content() == ids(1, 2, 3)
    assert machine.sql("lakehouse_airflow", "SELECT count(*) FROM dag_run") == [(3,)]

    # Further back: the table is at an older snapshot than its files. Writing goes on from there.
    older = machine.restore(first)
    assert older.differences and older.differences.moved == (TABLE,)
    machine.up()
    assert machine.content() == ids(1, 2)
    machine.append(30)
    assert machine.content() == ids(1, 2, 30)

    # What that undid is on the timeline that was left, and can still be reached.
    machine.archive_all()
    [[timeline]] = machine.sql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()")
    again = machine.restore(second)
    assert again.plan.timeline < timeline and again.reached_moment
    machine.up()
    assert machine.content() == ids(1, 2, 3)
    assert len(databases.kept_folders(machine.home)) == 3
    assert len(databases.remove_kept(machine.home)) == 3 and not databases.kept_folders(machine.home)


def test_a_swap_that_was_cut_short_is_finished(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.back_up()
    before, wanted = moment(), machine.content()
    machine.append(99)
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", "databases.in_swap=raise")
    with pytest.raises(FailpointHit):
        machine.restore(before)
    monkeypatch.delenv("LAKEHOUSE_FAILPOINTS")
    assert not (machine.home / "postgres").exists()
    machine.up()
    assert machine.content() == wanted
    assert not list(machine.home.glob(f"{postgres.RESTORING}*"))


def test_a_new_machine_with_the_bucket_alone(machine: Machine) -> None:
    """Nothing of the old home: other passwords, another folder. It archives on a timeline of its own then."""
    machine.back_up()
    machine.append(50)
    machine.archive_all()
    wanted, s3 = machine.content(), machine.settings
    with tempfile.TemporaryDirectory(prefix="lakehouse-databases-") as folder:
        os.chmod(folder, 0o711)  # noqa: S103
        given = {
            **machine.given,
            "LAKEHOUSE_S3_SERVER": "external",
            "LAKEHOUSE_S3_ENDPOINT": s3.s3_endpoint,
            "LAKEHOUSE_S3_ACCESS_KEY_ID": s3.s3_access_key_id,
            "LAKEHOUSE_S3_SECRET_ACCESS_KEY": s3.s3_secret_access_key.get_secret_value(),
        }
        other = Machine(Path(folder) / "home", given)
        other.home.mkdir(mode=0o711)
        try:
            done = other.restore(datetime.now(UTC))
            assert (done.kept, done.differences, done.reached_moment) == ("", None, False)
            other.up()
            assert other.content() == wanted
            other.append(51)
            other.archive_all()
            machine.append(52)
            machine.archive_all()
            assert {"id": 51} in other.content() and {"id": 51} not in machine.content()
        finally:
            down(other.settings)
    assert all(record.is_good for record in machine.verify())


def test_an_archive_that_stands_still_is_told(machine: Machine) -> None:
    """As the reader sees it. The bucket refuses whoever archives; then it takes what waited."""

    def stands() -> Databases:
        now = machine.settings
        return look(machine.vault, public_key_of(now), lambda: ask(now))

    base = machine.back_up()
    machine.append(59)
    machine.archive_all()
    well = stands()
    assert (well.base, well.waiting, well.is_behind, well.problem) == (base, 0, False, "")
    assert well.writing and (well.writing.is_archiving, well.writing.timeout) == (True, timedelta(minutes=5))
    identity = archiving.folder_of(machine.home) / "stack.env"
    whole = identity.read_text()
    identity.write_text(whole.replace(machine.settings.backup_bucket, "no-such-bucket"))
    machine.append(60)
    machine.sql("postgres", "SELECT pg_switch_wal()")
    machine.append(61)
    wait_for(lambda: stands().is_behind and "the last try failed at" in stands().words(datetime.now(UTC)))
    late = stands()
    assert (late.base, late.waiting) == (base, 1) and late.writing
    long_up = replace(late, writing=replace(late.writing, started_at=base.finished))
    [words] = long_up.overdue(datetime.now(UTC) + timedelta(hours=1), timedelta(days=2), None)
    assert "the limit is 10 min" in words and "1 waits, the last try failed at" in words
    identity.write_text(whole)
    machine.sql("postgres", "SELECT pg_reload_conf()")  # it waits a minute after it failed three times
    wait_for(lambda: not stands().is_behind)
    wrong = machine.settings.model_copy(update={"reader_password": SecretStr("wrong")})
    away = look(machine.vault, public_key_of(wrong), lambda: ask(wrong))
    assert away.base == base and "password authentication failed" in away.words(datetime.now(UTC))


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_damage_of_the_archive_is_named(machine: Machine) -> None:
    """A missing segment, other bytes, another segment's bytes, a part of a base backup: each by name, with its span."""
    base = machine.back_up()
    for number in range(3):
        machine.append(100 + number)
        machine.archive_all()
    after = moment()
    machine.append(200)
    machine.archive_all()
    assert machine.verify()[-1].is_good
    files = wal.archived(machine.vault, base.server)
    path = wal.path_to(machine.vault, files, base.timeline)
    line = wal.chain(files, path, (base.timeline, wal.lsn_of(base.start_lsn)), base.segment_bytes).files
    victim, neighbour = line[2], line[3]
    client, bucket = ObjectStore.of_backups(machine.settings).client, machine.settings.backup_bucket
    whole = client.get_object(Bucket=bucket, Key=victim.key)["Body"].read()

    def damages() -> dict[str, str]:
        return {damage.key: damage.problem for damage in machine.verify()[-1].damages}

    with pytest.raises(IntegrityError, match="other bytes under this key"):
        store_again(machine.vault, base.server, neighbour, flip=True)
    store_again(machine.vault, base.server, neighbour)  # the same bytes: nothing to do

    client.delete_object(Bucket=bucket, Key=victim.key)
    found = damages()
    assert list(found) == [victim.key] and "missing" in found[victim.key]
    assert line[1].at.isoformat(timespec="seconds") in found[victim.key]
    assert neighbour.at.isoformat(timespec="seconds") in found[victim.key]
    with pytest.raises(IntegrityError, match=f"lacks {victim.name}"):
        databases.plan_databases(machine.settings, SystemClock(), after)
    assert databases.plan_databases(machine.settings, SystemClock()).gap

    swapped = client.get_object(Bucket=bucket, Key=neighbour.key)["Body"].read()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for body, problem in ((swapped, "another segment"), (bytes(flipped), "damaged"), (whole[:-9], "damaged")):
        client.put_object(Bucket=bucket, Key=victim.key, Body=body)
        found = damages()
        assert list(found) == [victim.key] and problem in found[victim.key]
    client.put_object(Bucket=bucket, Key=victim.key, Body=whole)
    assert damages() == {}

    part = base.parts[0]
    client.put_object(Bucket=bucket, Key=part.key, Body=b"something else")
    assert damages() == {}, "the version that was stored is still there"
    client.delete_object(Bucket=bucket, Key=part.key, VersionId=part.version)
    assert damages() == {part.key: "it is missing"}


def store_again(vault: Vault, server: str, file: wal.Archived, *, flip: bool = False) -> None:
    content = bytearray(wal.read(vault, file.key))
    if flip:
        content[-1] ^= 1
    assert gzip.compress(bytes(content), compresslevel=9) != wal.compressed(bytes(content))
    wal.store(vault, server, file.name, bytes(content))


def test_pruning_keeps_what_the_last_verified_one_needs(machine: Machine) -> None:
    newest = machine.back_up()
    machine.append(300)
    machine.archive_all()
    wanted = machine.content()
    records = machine.verify()
    assert records[-1].set_id == newest.id and records[-1].is_good
    later = Vault.open(machine.settings, datetime.now(UTC) + timedelta(days=3))
    none = Policy(hours=0, daily=0, weekly=0, monthly=0, yearly=0)
    plan = plan_base_prune(later, none, public_key_of(machine.settings))
    kept = [fate.set_id for fate in plan.fates if fate.is_kept]
    assert kept == [newest.id] and plan.log and plan.going
    assert run_base_prune(later, plan) == 0
    assert complete_base_ids(machine.vault) == [newest.id]
    assert [record.is_good for record in machine.verify()] == [True]
    # Where a key had been written again, its former version is the one that is seen now, and goes, too.
    while not (plan := plan_base_prune(later, none, public_key_of(machine.settings))).is_empty:
        assert not plan.going and run_base_prune(later, plan) == 0
    before = moment()
    machine.sql("postgres", "DROP DATABASE lakehouse_catalog WITH (FORCE)")
    machine.restore(before)
    machine.up()
    assert machine.content() == wanted


def test_a_server_of_somebody_else_is_left_alone(machine: Machine) -> None:
    settings = machine.settings.model_copy(update={"postgres_server": "external", "catalog_password": SecretStr("x")})
    for attempt in (
        lambda: base_backup.back_up(settings, SystemClock()),
        lambda: databases.plan_databases(settings, SystemClock()),
    ):
        with pytest.raises(SettingsError, match="PostgreSQL is not ours"):
            attempt()
    with pytest.raises(SettingsError, match="yet to come"):
        databases.plan_databases(machine.settings, FixedClock(datetime(2020, 1, 1, tzinfo=UTC)), datetime.now(UTC))
    with pytest.raises(psycopg.OperationalError):
        kept = credentials.load_or_create(machine.settings).passwords.backup
        postgres.connect(machine.settings.postgres_port, "lakehouse_airflow", "lakehouse_backup", kept)


def test_a_lost_catalog_is_made_anew_from_the_files(machine: Machine) -> None:
    """With the newest set's help: what was dropped before it stays so, and what came after it comes, too."""
    settings, clock = machine.settings, SystemClock()
    catalog = machine.catalog
    machine.append(400)
    rows = pa.table({"id": pa.array([7], pa.int64())})
    for name in ("silver.dropped", "silver.purged"):
        catalog.create_table(name, rows.schema).append(rows)
    catalog.create_table("silver.empty", rows.schema)
    catalog.drop_table("silver.dropped")
    store = ObjectStore.open(settings, settings.warehouse_bucket)
    view = "warehouse/silver/a_view/metadata/00000-a.metadata.json"
    store.put(
        view, json.dumps({"view-uuid": "u", "format-version": 1, "location": "s3://w/v", "versions": []}).encode()
    )
    row = f"'lakehouse', 'silver', 'a_view', '{store.where(view)}', 'VIEW'"
    columns = "catalog_name, table_namespace, table_name, metadata_location, iceberg_type"
    machine.sql("lakehouse_catalog", f"INSERT INTO iceberg_tables ({columns}) VALUES ({row})")
    create(settings, clock)
    machine.append(401)  # a newer state than the set's
    catalog.create_table("silver.young", rows.schema).append(rows)
    wanted = machine.content()
    place = urlparse(catalog.load_table("silver.purged").location()).path.strip("/")
    for found in list(store.list_after(f"{place}/data/")):
        store.delete(found.key)
    catalog.destroy_tables()

    rebuild = CatalogRebuild.open(settings, clock)
    plan = rebuild.plan()
    assert [str(one.table) for one in plan.left] == ["silver.dropped"]
    done = rebuild.carry_out(plan)
    assert list(done.failed) == ["silver.purged"] and done.views == ("silver.a_view",)
    found_view = "SELECT metadata_location FROM iceberg_tables WHERE iceberg_type = 'VIEW'"
    assert machine.sql("lakehouse_catalog", found_view) == [(store.where(view),)]
    assert [str(one.dropped.table) for one in done.tables] == ["silver.empty", TABLE, "silver.young"]
    assert machine.content() == wanted and {"id": 401} in wanted
    assert machine.catalog.load_table("silver.empty").current_snapshot() is None
    assert content_of(machine.catalog.load_table("silver.young")) == ids(7)
    again = rebuild.plan()
    assert [str(one.table) for one in again.tables] == ["silver.purged"]
    machine.append(402)
    assert {"id": 402} in machine.content()
