"""Dropped tables, found by their files and brought back: a catalog without a server, and a folder for a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import ManifestFile

from lakehouse.core.errors import IntegrityError, SettingsError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine import dropped
from lakehouse.engine.dropped import Warehouse, register
from lakehouse.engine.pointer import FORK_PREFIX, UPKEEP_PREFIX, fork_name
from lakehouse.ledger.store import ObjectInfo
from lakehouse.ledger.watermark import catalog_tables, load_table

TABLE = TableName("silver", "dim_listed")
SCHEMA = pa.schema([("id", pa.int64())])
ROOT = "folder"


class FolderIO(PyArrowFileIO):
    """Reads and writes s3://bucket/key below a folder."""

    def _path(self, location: str) -> str:
        return location.replace("s3://", f"file://{self.properties[ROOT]}/")

    def new_input(self, location: str) -> Any:
        return super().new_input(self._path(location))

    def new_output(self, location: str) -> Any:
        output = super().new_output(self._path(location))
        output._location = location  # what is written says where it lies
        return output


@dataclass(frozen=True)
class Folder:
    """A bucket's listings, of a folder."""

    root: Path
    bucket: str = "warehouse"

    def in_bucket(self, bucket: str) -> Folder:
        return replace(self, bucket=bucket)

    def list_after(self, prefix: str) -> Iterator[ObjectInfo]:
        place = self.root / self.bucket
        for path in sorted(file for file in place.rglob("*") if file.is_file()):
            key = str(path.relative_to(place))
            if key.startswith(prefix):
                yield ObjectInfo(key, path.stat().st_size, "", datetime.fromtimestamp(path.stat().st_mtime, UTC))

    def folders(self, prefix: str) -> list[str]:
        return sorted({o.key.removeprefix(prefix).split("/")[0] for o in self.list_after(prefix)})

    def head(self, key: str) -> ObjectInfo | None:
        return next((found for found in self.list_after(key) if found.key == key), None)


@dataclass
class Place:
    """A warehouse, and what happens to tables in it."""

    warehouse: Warehouse
    root: Path
    made: int = field(default=0)

    def make(self, name: TableName = TABLE, publications: int = 2) -> Any:
        """A table with some publications."""
        self.made += 1
        location = f"{self.warehouse.settings.warehouse}/{name.namespace}/{name.name}-{self.made:08}"
        table = self.warehouse.catalog.create_table(str(name), schema=SCHEMA, location=location)
        for _ in range(publications):
            table.append(pa.table({"id": [1, 2]}, SCHEMA))
        return table

    def drop(self, name: TableName = TABLE) -> None:
        self.warehouse.catalog.drop_table(str(name))

    def lose(self, pattern: str) -> None:
        lost = list(self.root.rglob(pattern))
        assert lost
        for path in lost:
            path.unlink()

    def path(self, location: str) -> Path:
        return self.root / location.removeprefix("s3://")

    def undrop(self, metadata_location: str | None = None) -> Any:
        self.warehouse.bring_back(self.warehouse.check(self.warehouse.choose(TABLE, metadata_location)))
        return load_table(self.warehouse.catalog, TABLE)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    from pyiceberg.catalog.sql import SqlCatalog

    @contextmanager
    def unlocked(*_: Any, **__: Any) -> Iterator[Any]:
        yield SimpleNamespace(check=lambda: None)

    monkeypatch.setattr(dropped, "table_locks", unlocked)
    root = tmp_path / "s3"
    root.mkdir()
    catalog = SqlCatalog(
        "lakehouse",
        **{"uri": f"sqlite:///{tmp_path}/catalog.db", "py-io-impl": f"{__name__}.FolderIO", ROOT: str(root)},
    )
    for namespace in ("silver", "ops"):
        catalog.create_namespace(namespace)
    yield Place(Warehouse(Settings(), catalog, Folder(root)), root)  # type: ignore[arg-type]
    catalog.close()


def test_nothing_was_dropped(place: Place) -> None:
    assert place.warehouse.dropped() == []
    place.make()
    assert place.warehouse.dropped() == []
    with pytest.raises(SettingsError, match=f"there is a table {TABLE}"):
        place.undrop()


def test_a_dropped_table_is_found_and_comes_back_as_it_was(place: Place) -> None:
    place.make(TableName("silver", "other"))
    was = place.make()
    place.drop()
    [found] = place.warehouse.dropped()
    assert (found.table, found.rows, found.metadata_location) == (TABLE, 4, was.metadata_location)
    assert not found.is_replaced
    back = place.undrop()
    assert (back.metadata, back.metadata_location) == (was.metadata, was.metadata_location)
    assert place.warehouse.dropped() == []


def test_a_dropped_layer_comes_back_with_its_table(place: Place) -> None:
    place.make()
    place.drop()
    place.warehouse.catalog.drop_namespace("silver")
    assert place.undrop() is not None and catalog_tables(place.warehouse.catalog) == [TABLE]


def test_what_another_table_has_taken_the_name_of(place: Place) -> None:
    place.make()
    place.drop()
    newer = place.make(publications=3)
    [found] = place.warehouse.dropped()
    assert found.is_replaced and found.rows == 4
    with pytest.raises(SettingsError, match="drop it first"):
        place.undrop()
    place.drop()
    assert [each.rows for each in place.warehouse.dropped(TABLE)] == [6, 4]
    assert place.undrop().metadata == newer.metadata


def test_an_older_state_is_named_by_its_metadata_file(place: Place) -> None:
    table = place.make()
    before = table.metadata.metadata_log
    place.drop()
    back = place.undrop(before[-1].metadata_file)
    assert len(back.metadata.snapshots) == 1


@pytest.mark.parametrize("prefix", [FORK_PREFIX, UPKEEP_PREFIX])
def test_metadata_of_a_fork_is_not_the_tables(place: Place, prefix: str) -> None:
    """A rebuild that nobody confirmed, or upkeep that was killed, wrote the newest file, and still stands."""
    was = place.make()
    place.warehouse.catalog.register_table(str(fork_name(TABLE, prefix)), was.metadata_location)
    fork = place.warehouse.catalog.load_table(str(fork_name(TABLE, prefix)))
    with fork.transaction() as change:
        change.set_properties({"gc.enabled": "false"})
    place.drop()
    [found] = place.warehouse.dropped()
    assert found.metadata_location == was.metadata_location


def test_what_was_written_last_counts_and_not_the_highest_number(place: Place) -> None:
    """A rebuild that died before it entered its table has left a high number."""
    was = place.make()
    died = place.path(was.location()) / "metadata" / "00099-died.metadata.json"
    died.write_bytes(place.path(was.metadata.metadata_log[-1].metadata_file).read_bytes())
    os.utime(died, (1_700_000_000, 1_700_000_000))
    place.drop()
    assert place.undrop().metadata_location == was.metadata_location


@pytest.mark.parametrize("pattern", ["*.parquet", "*-m0.avro", "snap-*.avro"])
def test_a_table_that_has_lost_files_does_not_come_back(place: Place, pattern: str) -> None:
    place.make()
    place.drop()
    place.lose(pattern)
    with pytest.raises(IntegrityError):
        place.undrop()
    assert load_table(place.warehouse.catalog, TABLE) is None


def test_files_of_former_snapshots_that_are_gone_are_named(place: Place) -> None:
    table = place.make()
    first = table.metadata.snapshots[0].manifest_list
    place.drop()
    place.path(first).unlink()
    checked = place.warehouse.check(place.warehouse.choose(TABLE, None))
    assert checked.lost == () and len(checked.older) == 1 and Path(first).name in checked.older[0]


def test_each_manifest_is_read_once_however_many_snapshots_share_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = place.make(publications=8)
    place.drop()
    read: list[str] = []
    fetch = ManifestFile.fetch_manifest_entry

    def counted(self: ManifestFile, *arguments: Any, **options: Any) -> Any:
        read.append(self.manifest_path)
        return fetch(self, *arguments, **options)

    monkeypatch.setattr(ManifestFile, "fetch_manifest_entry", counted)
    checked = place.warehouse.check(place.warehouse.choose(TABLE, None))
    assert (checked.lost, checked.older) == ((), ())
    assert sorted(read) == sorted(each.manifest_path for each in table.current_snapshot().manifests(table.io))
    assert len(read) == 8


def test_a_purged_table_is_not_found(place: Place) -> None:
    place.make()
    place.drop()
    place.lose("*.*")
    assert place.warehouse.dropped() == []
    with pytest.raises(SettingsError, match="comes back from a backup"):
        place.undrop()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"location": 1, "properties": {}}'])
def test_a_damaged_metadata_file_is_named_and_hides_no_other_table(place: Place, content: str) -> None:
    other = TableName("silver", "other")
    was = place.make()
    place.make(other)
    place.drop()
    place.drop(other)
    place.path(was.metadata_location).write_text(content)
    assert {each.table: each.damaged for each in place.warehouse.dropped()} == {TABLE: True, other: False}
    with pytest.raises(IntegrityError, match="damaged") as raised:
        place.undrop()
    assert raised.value.where == was.metadata_location
    assert len(place.undrop(was.metadata.metadata_log[-1].metadata_file).metadata.snapshots) == 1


def test_only_a_file_of_the_table_itself_brings_it_back(place: Place) -> None:
    """Two tables on the same files would delete each other's."""
    was, other = place.make(), place.make(TableName("silver", "other"))
    place.drop()
    data = next(place.path(was.location()).rglob("*.parquet")).name
    for file, why in (
        (other.metadata_location, "it is of a table at"),
        (f"{was.location()}/data/{data}", "it is no s3"),
        (was.metadata_location.replace("warehouse", "elsewhere", 1), "it is no s3"),
        ("/etc/passwd.metadata.json", "it is no s3"),
        (f"{was.location()}/metadata/00009-none.metadata.json", "there is no such file"),
    ):
        with pytest.raises(SettingsError, match=why):
            place.undrop(file)
    place.warehouse.catalog.register_table("silver.renamed", was.metadata_location)
    with pytest.raises(SettingsError, match="stands under another name"):
        place.undrop(was.metadata_location)


def test_a_rebuild_that_was_never_published_is_no_state_of_the_table(place: Place) -> None:
    was = place.make()
    fork = place.warehouse.catalog.register_table(str(fork_name(TABLE)), was.metadata_location)
    with fork.transaction() as change:
        change.set_properties({"gc.enabled": "false"})
    place.drop()
    with pytest.raises(SettingsError, match="never published"):
        place.undrop(fork.metadata_location)


def test_folders_that_are_no_tables_are_passed_over(place: Place) -> None:
    for folder in ("warehouse/warehouse/silver/Backup-1", "warehouse/warehouse/tmp/x-1"):
        (place.root / folder / "metadata").mkdir(parents=True)
        (place.root / folder / "metadata" / "00001-x.metadata.json").write_text("{}")
    assert place.warehouse.dropped() == []


@pytest.mark.parametrize("is_there", [True, False])
def test_the_catalog_tells_what_became_of_a_lost_reply(
    place: Place, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    was = place.make()
    place.drop()
    registered = place.warehouse.catalog.register_table

    def lost(*arguments: Any) -> None:
        if is_there:
            registered(*arguments)
        raise TransientError("no reply")

    monkeypatch.setattr(place.warehouse.catalog, "register_table", lost)
    if is_there:
        register(place.warehouse.catalog, TABLE, was.metadata_location)
    else:
        with pytest.raises(TransientError):
            register(place.warehouse.catalog, TABLE, was.metadata_location)
    assert (load_table(place.warehouse.catalog, TABLE) is not None) == is_there


def test_somebody_else_was_first(place: Place) -> None:
    was = place.make()
    place.drop()
    place.make()
    with pytest.raises(SettingsError, match="there is a table"):
        register(place.warehouse.catalog, TABLE, was.metadata_location)
