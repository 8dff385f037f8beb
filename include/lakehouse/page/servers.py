"""The servers behind the page: the lake's two, asked as the reader, for metadata and logs; and that of backups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from lakehouse.backup.base_status import Ask, asking
from lakehouse.backup.status import Limits, Seen, Status, read_status
from lakehouse.core.errors import SettingsError
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.ledger.watermark import open_catalog, reaching

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.io import FileIO
    from pyiceberg.table import Table

    from lakehouse.backup.vault import Vault
    from lakehouse.ledger.store import ObjectStore

S3_SECONDS = 9
"""How long S3 may take: a page that waits for a server that is away is of no use."""


class Lake(Protocol):
    """What the page asks."""

    @property
    def store(self) -> ObjectStore:
        """The landing bucket."""
        ...

    def pointers(self) -> Mapping[TableName, str]:
        """Every table with the place of its metadata file, in one query."""
        ...

    def table(self, name: TableName, location: str) -> Table:
        """A table as one metadata file describes it: one request."""
        ...

    @property
    def backups(self) -> BackupPlace | None:
        """Where backups are; None where no place is configured."""
        ...

    def close(self) -> None:
        """Let go of what is open and not in use."""
        ...


@dataclass(frozen=True)
class BackupPlace:
    """The bucket of backups, as the page asks it: how they stand, and the report of a drill.

    ``asked`` is how PostgreSQL is asked what it archives; None where that is not ours.
    """

    vault: Vault
    public_key: str
    limits: Limits
    asked: Ask | None = None

    @classmethod
    def open(cls, settings: Settings) -> BackupPlace | None:
        """The place that the settings name, if any. Opens no connection yet, and locks nothing."""
        if not settings.backup_bucket:
            return None
        from lakehouse.backup.signing import public_key_of
        from lakehouse.backup.vault import Vault
        from lakehouse.ledger.store import ObjectStore

        reader = settings.as_backup_reader()
        vault = Vault(ObjectStore.of_backups(reader), 0, datetime.min.replace(tzinfo=UTC))
        return cls(vault, public_key_of(settings), Limits.of(settings), asking(settings))

    def status(self, now: datetime, seen: Seen) -> Status:
        """How backups stand."""
        return read_status(self.vault, self.public_key, self.limits, now, seen, self.asked)

    def report(self, drill_id: str) -> str:
        """The report of a drill, made from its record: only what we signed is shown, never a page that lies there."""
        from lakehouse.backup.drill_report import render_report
        from lakehouse.backup.drills import read_drill

        return render_report(read_drill(self.vault, drill_id, self.public_key))


@dataclass(frozen=True)
class Servers:
    """The catalog's database and the S3 server."""

    catalog: SqlCatalog
    store: ObjectStore
    io: FileIO
    settings: Settings

    @property
    def backups(self) -> BackupPlace | None:
        """Asked as who only reads backups."""
        return BackupPlace.open(self.settings)

    @classmethod
    def open(cls, settings: Settings) -> Servers:
        """Sign in with the reader's role. Raises :class:`SettingsError` where it is not known."""
        from pyiceberg.catalog.sql import SqlCatalog
        from pyiceberg.io import load_file_io

        from lakehouse.ledger.store import ObjectStore

        quick = {"s3_timeout_seconds": min(S3_SECONDS, settings.s3_timeout_seconds)}
        mine = settings.as_reader().model_copy(update=quick)
        catalog = open_catalog(mine)
        assert isinstance(catalog, SqlCatalog)  # noqa: S101 - what `open_catalog` asks for
        # One for all tables: each has its own connections.
        return cls(catalog, ObjectStore.open(mine), load_file_io(catalog.properties, mine.warehouse), mine)

    def pointers(self) -> dict[TableName, str]:
        """Every table of the lake's layers; others in the same catalog are passed over."""
        from pyiceberg.catalog.sql import IcebergTables
        from sqlalchemy import select
        from sqlalchemy.exc import ProgrammingError
        from sqlalchemy.orm import Session

        columns = (IcebergTables.table_namespace, IcebergTables.table_name, IcebergTables.metadata_location)
        asked = select(*columns).where(IcebergTables.catalog_name == self.catalog.name)
        try:
            with reaching("list the tables"), Session(self.catalog.engine) as session:
                found = session.execute(asked).all()
        except ProgrammingError:  # the catalog's own tables do not exist before the first commit
            return {}
        named = ((_name(namespace, table), location) for namespace, table, location in found)
        return {name: location for name, location in named if name is not None and location}

    def table(self, name: TableName, location: str) -> Table:
        """The metadata file, read and parsed."""
        from pyiceberg.serializers import FromInputFile
        from pyiceberg.table import Table

        with reaching(f"read {name}"):
            metadata = FromInputFile.table_metadata(self.io.new_input(location))
        return Table((name.namespace, name.name), metadata, location, self.io, self.catalog)

    def close(self) -> None:
        """The connections to the catalog that nobody uses right now; one in use is closed when it comes back."""
        self.catalog.close()


def _name(namespace: str, table: str) -> TableName | None:
    try:
        return TableName(namespace, table)
    except SettingsError:
        return None
