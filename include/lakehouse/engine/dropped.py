"""Tables that were dropped: only their row in the catalog is gone. Their files are found and registered again, no JVM.

What was dropped with PURGE has no files left, and comes back from a backup only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from lakehouse.core.errors import IntegrityError, SettingsError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.engine.lock import table_locks
from lakehouse.engine.pointer import Swap, is_copy, read_document, swap
from lakehouse.ledger.points import rows_of
from lakehouse.ledger.references import snapshot_references
from lakehouse.ledger.store import ObjectInfo, ObjectStore
from lakehouse.ledger.watermark import load_table, reaching

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import StaticTable

_METADATA = ".metadata.json"
_GUARD = "gc.enabled"  # what forks say: their metadata files lie among those of the table that they were made of
_VIEW = "view-uuid"  # views lie in folders like those of tables
_SHOWN = 5


@dataclass(frozen=True)
class Dropped:
    """A table whose files are there and that the catalog does not know. ``updated_at`` is when it last changed.
    ``snapshot_id`` is None where it never had one.

    ``is_replaced``: another table has its name now. ``damaged``: its last metadata file cannot be read.
    """

    table: TableName
    location: str
    metadata_location: str
    snapshot_id: int | None
    rows: int
    updated_at: datetime
    is_replaced: bool
    damaged: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "table": str(self.table), "updated_at": self.updated_at.isoformat()}


@dataclass(frozen=True)
class Checked:
    """Whether the files of a dropped table are there. ``lost`` are of its rows as they were last, ``older`` of former
    snapshots only."""

    dropped: Dropped
    files: int
    lost: tuple[str, ...]
    older: tuple[str, ...]


@dataclass(frozen=True)
class Warehouse:
    """The lake's catalog, and the bucket with the tables' files."""

    settings: Settings
    catalog: Catalog
    store: ObjectStore

    @classmethod
    def open(cls, settings: Settings, catalog: Catalog) -> Warehouse:
        """That of the settings."""
        return cls(settings, catalog, ObjectStore.open(settings, settings.warehouse_bucket))

    def dropped(self, only: TableName | None = None) -> list[Dropped]:
        """What was dropped and can be brought back, the last changed first."""
        found = [self.last(name, place) for name, place in self.folders_unknown(only)]
        return sorted(filter(None, found), key=lambda one: one.updated_at, reverse=True)

    def folders_unknown(self, only: TableName | None = None) -> list[tuple[TableName, str]]:
        """The folders of tables that no table of the catalog lies in, each with the name of the table."""
        stand = folders_that_stand(self.catalog)
        return [(name, location) for name, location in self._folders(only) if location not in stand]

    def _folders(self, only: TableName | None) -> Iterator[tuple[TableName, str]]:
        """Every folder that is named as the catalog names those of tables: the table's name, and a unique end."""
        root = urlparse(self.settings.warehouse).path.strip("/") + "/"
        for namespace in [str(only.namespace)] if only else self.store.folders(root):
            for folder in self.store.folders(f"{root}{namespace}/"):
                try:
                    name = TableName(namespace, folder.partition("-")[0])
                except SettingsError:
                    continue  # no table of ours
                if only in (None, name):
                    yield name, f"s3://{self.store.bucket}/{root}{namespace}/{folder}"

    def last(self, name: TableName, location: str, *, is_empty_too: bool = False) -> Dropped | None:
        """A table as its last metadata file has it, by the time of writing: numbers count what was never published."""
        folder = urlparse(location).path.strip("/") + "/metadata/"
        files = [file for file in self.store.list_after(folder) if file.key.endswith(_METADATA)]
        for file in sorted(files, key=_written, reverse=True):
            written = f"s3://{self.store.bucket}/{file.key}"
            try:
                document = self._document(written)
                if _VIEW in document:
                    return None
                if not _is_guarded(document):
                    return self.read(name, written, is_empty_too=is_empty_too)
            except IntegrityError:  # whoever looks for another table must find it all the same
                return Dropped(name, location, written, 0, 0, _written(file)[0], self._opens(name), damaged=True)
        return None

    def _document(self, location: str) -> dict[str, Any]:
        try:
            document = read_document(self.catalog, location)
        except ValueError:
            raise _damaged(location) from None
        if not isinstance(document, dict) or "location" not in document:
            raise _damaged(location)
        return document

    def read(self, name: TableName, metadata_location: str, *, is_empty_too: bool = False) -> Dropped | None:
        """A dropped table by its metadata file; None where it never had a snapshot, unless these are wanted, too."""
        table = self._open(metadata_location)
        snapshot = table.current_snapshot()
        if snapshot is None and not is_empty_too:
            return None
        return Dropped(
            name,
            table.location(),
            metadata_location,
            snapshot.snapshot_id if snapshot else None,
            rows_of(snapshot) if snapshot else 0,
            datetime.fromtimestamp(table.metadata.last_updated_ms / 1000, UTC),
            self._opens(name),
        )

    def _opens(self, name: TableName) -> bool:
        """Whether the catalog has a table of this name that can be opened."""
        return not self.lost_pointer(name) and load_table(self.catalog, name) is not None

    def lost_pointer(self, name: TableName) -> str:
        """The metadata file that the catalog names for a table, where it is gone or damaged; '' where it is whole."""
        at = _pointer(self.catalog, name)
        try:
            if at:
                self._document(at)
        except IntegrityError:
            return at
        return ""

    def _open(self, metadata_location: str) -> StaticTable:
        from pyiceberg.exceptions import ValidationError
        from pyiceberg.table import StaticTable

        try:
            with reaching("read table metadata"):
                return StaticTable.from_metadata(metadata_location, self.catalog.properties)
        except (ValueError, ValidationError):
            raise _damaged(metadata_location) from None

    def choose(self, name: TableName, metadata_location: str | None) -> Dropped:
        """The dropped table that is meant: by its metadata file, or the last changed of that name.

        One whose metadata file is lost is as good as dropped; which former one it shall be, a person has to say.
        Raises :class:`SettingsError` where there is none, or a table of that name stands.
        """
        lost = self.lost_pointer(name)
        if not lost and load_table(self.catalog, name) is not None:
            raise _stands(name)
        if lost and metadata_location is None:
            raise _pointer_lost(name, lost)
        if metadata_location is not None:
            found = [self._named(name, metadata_location)]
        else:
            found = [*self.dropped(name)]
        if not found or found[0] is None:
            raise SettingsError(
                f"nothing of a dropped table {name} is left in the warehouse",
                where=self.settings.warehouse,
                todo="`lakehouse dropped` lists what is; what was purged comes back from a backup, and silver and gold "
                "tables are made anew by `lakehouse run`",
            )
        if found[0].damaged:
            raise _damaged(found[0].metadata_location)
        return found[0]

    def _named(self, name: TableName, metadata_location: str) -> Dropped | None:
        """A dropped table by a file that a person named. Raises :class:`SettingsError` where it is none of its own."""
        place = urlparse(metadata_location)
        if place.scheme != "s3" or place.netloc != self.store.bucket or not place.path.endswith(_METADATA):
            raise _not_its(name, metadata_location, f"it is no s3://{self.store.bucket}/….metadata.json")
        if self.store.head(place.path.lstrip("/")) is None:
            raise _not_its(name, metadata_location, "there is no such file")
        document = self._document(metadata_location)
        location = str(document["location"]).rstrip("/")
        *_, namespace, folder = f"//{location}".split("/")
        if (namespace, folder.partition("-")[0]) != (name.namespace, name.name):
            raise _not_its(name, metadata_location, f"it is of a table at {location}")
        if _is_guarded(document):
            raise _not_its(name, metadata_location, "it is of a rebuild that was never published")
        lost = self.lost_pointer(name)
        if lost and not lost.startswith(f"{location}/"):
            raise _not_its(name, metadata_location, f"the table whose metadata is lost lies at {lost}")
        if not lost and location in folders_that_stand(self.catalog):
            raise _not_its(name, metadata_location, f"the table at {location} stands under another name")
        return self.read(name, metadata_location)

    def check(self, dropped: Dropped) -> Checked:
        """Look for every file that its metadata leads to, walking the metadata itself."""
        table = self._open(dropped.metadata_location)
        there = self._there(dropped.location)
        head = table.current_snapshot()
        seen: set[str] = set()  # snapshots share most manifests
        now = set(snapshot_references(table, [head] if head else [], live=True, seen=seen))
        lost = sorted(file for file in now if not self._is_there(file, there))
        if lost:
            return Checked(dropped, len(now), tuple(lost), ())
        older: set[str] = set()
        for snapshot in table.metadata.snapshots:
            older |= self._lost_of(table, snapshot, there, seen)
        return Checked(dropped, len(now), (), tuple(sorted(older)))

    def _lost_of(self, table: StaticTable, snapshot: Any, there: frozenset[str], seen: set[str]) -> set[str]:
        try:
            files = set(snapshot_references(table, [snapshot], live=True, seen=seen))
        except IntegrityError as error:
            return {error.where}  # a list or a manifest that is gone: what it leads to is not known
        return {file for file in files if not self._is_there(file, there)}

    def _there(self, location: str) -> frozenset[str]:
        place = urlparse(location)
        there = self.store.in_bucket(place.netloc)
        return frozenset(f"s3://{there.bucket}/{file.key}" for file in there.list_after(place.path.strip("/") + "/"))

    def _is_there(self, file: str, there: frozenset[str]) -> bool:
        place = urlparse(file)
        return file in there or self.store.in_bucket(place.netloc).head(place.path.lstrip("/")) is not None

    def bring_back(self, checked: Checked) -> None:
        """Give a dropped table its row in the catalog again, or the row of one that has lost its metadata another file.

        Raises :class:`SettingsError` where a table stands.
        """
        dropped = checked.dropped
        if checked.lost:
            raise _lost(checked)
        with table_locks(self.settings, [dropped.table]) as locks:
            if lost := self.lost_pointer(dropped.table):
                locks.check()
                swap(self.catalog, [Swap(dropped.table, lost, dropped.metadata_location)], _stands)
                return
            if load_table(self.catalog, dropped.table) is not None:
                raise _stands(dropped.table)
            locks.check()
            register(self.catalog, dropped.table, dropped.metadata_location)


def folders_that_stand(catalog: Any) -> set[str]:
    """Where the tables of the catalog lie, by where their metadata files do: one question, whatever their number."""
    from sqlalchemy import text
    from sqlalchemy.exc import ProgrammingError

    pointers = "SELECT table_namespace, table_name, metadata_location FROM iceberg_tables WHERE catalog_name = :catalog"
    try:
        with reaching("list the tables"), catalog.engine.connect() as connection:
            rows = connection.execute(text(pointers), {"catalog": CATALOG}).all()
    except ProgrammingError:  # the catalog's own tables do not exist before Spark's first commit
        return set()
    return {
        location.rpartition("/metadata/")[0]
        for namespace, name, location in rows
        if namespace != "ops" or not is_copy(TableName(namespace, name))
    }


def _pointer(catalog: Any, name: TableName) -> str:
    """The metadata file of a table as its row says, whether it is there or not; '' where there is no row."""
    from sqlalchemy import text
    from sqlalchemy.exc import ProgrammingError

    row = (
        "SELECT metadata_location FROM iceberg_tables "
        "WHERE catalog_name = :catalog AND table_namespace = :namespace AND table_name = :name"
    )
    values = {"catalog": CATALOG, "namespace": name.namespace, "name": name.name}
    try:
        with reaching(f"look for {name}"), catalog.engine.connect() as connection:
            return str(connection.execute(text(row), values).scalar() or "")
    except ProgrammingError:  # as above
        return ""


def register(catalog: Catalog, name: TableName, metadata_location: str) -> None:
    """Make a metadata file a table of the catalog. Where the reply was lost, the catalog tells whether it is."""
    from pyiceberg.exceptions import TableAlreadyExistsError

    try:
        with reaching(f"bring {name} back"):
            catalog.create_namespace_if_not_exists(name.namespace)
            catalog.register_table((name.namespace, name.name), metadata_location)
    except (TableAlreadyExistsError, TransientError) as error:
        stands = load_table(catalog, name)
        if stands is None or stands.metadata_location != metadata_location:
            raise (_stands(name) if isinstance(error, TableAlreadyExistsError) else error) from None


def _is_guarded(document: dict[str, Any]) -> bool:
    return bool(document.get("properties", {}).get(_GUARD) == "false")


def _damaged(location: str) -> IntegrityError:
    return IntegrityError(
        "a metadata file is damaged",
        where=location,
        untouched="everything; nothing was written",
        todo="bring it back from a backup, or name the one before it with --metadata",
    )


def _pointer_lost(name: TableName, lost: str) -> IntegrityError:
    return IntegrityError(
        f"the metadata file that the catalog names for {name} is gone or damaged",
        where=lost,
        untouched="everything; nothing was written",
        todo=f"`lakehouse repair {name}` brings it back where there is a good copy; where there is none, "
        f"`lakehouse fsck {name}` names the newest former one: give it with --metadata, and the next run catches up",
    )


def _not_its(name: TableName, location: str, why: str) -> SettingsError:
    return SettingsError(
        f"this is no metadata file of a dropped table {name}: {why}",
        where=location,
        untouched="everything; nothing was written",
        todo="`lakehouse dropped` lists the last one of each table",
    )


def _written(file: ObjectInfo) -> tuple[datetime, str]:
    return file.modified_at or datetime.min.replace(tzinfo=UTC), file.key


def _stands(name: TableName) -> SettingsError:
    return SettingsError(
        f"there is a table {name}",
        untouched="it, and all that was dropped",
        todo=f"`lakehouse rollback {name}` brings back what it was; to put a dropped one in its place, drop it first",
    )


def _lost(checked: Checked) -> IntegrityError:
    return IntegrityError(
        f"{len(checked.lost)} of the {checked.files} files of {checked.dropped.table} are gone",
        where="; ".join(_some(checked.lost)),
        untouched="everything; the table was not brought back",
        todo="bring these files back from a backup first, or the whole table; silver and gold tables are made anew by "
        "`lakehouse run`",
    )


def _some(files: Sequence[str]) -> list[str]:
    more = len(files) - _SHOWN
    return [*files[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
