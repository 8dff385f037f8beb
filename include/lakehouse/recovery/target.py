"""Where a lake is restored to: buckets, a catalog, and whoever else must keep away meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakehouse.backup.places import Places, Relocation
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.ledger.retention_lock import keeping_files, reading_backups, restoring
from lakehouse.ledger.store import ObjectStore
from lakehouse.recovery.catalog import Rows

if TYPE_CHECKING:
    from sqlalchemy import Engine

WAIT_SECONDS = 60
"""How long a restore waits for whoever writes a table."""
Check = Callable[[], None]
"""Raises unless what was locked still is."""


@dataclass(frozen=True)
class Target:
    """A place for a lake. ``prefix`` is put before every key, so that a scratch lake shares a bucket with others.

    ``settings`` are those whose locks are taken; None where nobody else knows the place.
    """

    store: ObjectStore = field(repr=False)
    rows: Rows = field(repr=False)
    warehouse: str
    landing: str
    prefix: str = ""
    settings: Settings | None = field(default=None, repr=False)

    @classmethod
    def of(cls, settings: Settings) -> Target:
        """The lake that the settings name."""
        from lakehouse.ledger.watermark import open_catalog

        catalog: Any = open_catalog(settings)
        return cls.at(settings, catalog.engine, locks=True)

    @classmethod
    def at(cls, settings: Settings, engine: Engine, *, prefix: str = "", locks: bool = False) -> Target:
        """The buckets that the settings name, with this catalog. Without ``locks``, nobody else may know of it."""
        return cls(
            ObjectStore.for_copies(settings),
            Rows(engine),
            settings.warehouse_bucket,
            settings.landing_bucket,
            prefix,
            settings if locks else None,
        )

    def relocation(self, source: Places) -> Relocation:
        """Where files of a lake that was in these places go."""
        return Relocation(source, self.warehouse, self.landing, self.prefix)

    def in_bucket(self, bucket: str) -> ObjectStore:
        """One of its buckets."""
        return self.store.in_bucket(bucket)

    @contextmanager
    def held(self, tables: Sequence[TableName]) -> Iterator[Check]:
        """Nobody else restores, removes files, or writes these tables. Raises :class:`TableBusy`."""
        from lakehouse.engine.lock import table_locks

        if self.settings is None:
            yield lambda: None
            return
        with ExitStack() as stack:
            stack.enter_context(restoring(self.settings))
            stack.enter_context(reading_backups(self.settings))
            stack.enter_context(keeping_files(self.settings))
            yield stack.enter_context(table_locks(self.settings, tables, wait_seconds=WAIT_SECONDS)).check
