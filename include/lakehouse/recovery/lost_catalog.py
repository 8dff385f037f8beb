"""The catalog made anew out of the tables' own files, where its database is lost and no log of it is there. No JVM.

Every table of the warehouse that the catalog does not know gets its row again, with its last published metadata file.
The newest backup set helps, where there is one: it knows views, properties of namespaces, and which tables were dropped
on purpose before it was cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlparse

from lakehouse.backup.sets import PLAN, complete_ids, load_set, set_key
from lakehouse.backup.sets import Plan as SetPlan
from lakehouse.backup.signing import public_key_of
from lakehouse.backup.vault import Vault
from lakehouse.core.clock import Clock
from lakehouse.core.errors import IntegrityError, LakehouseError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.engine.dropped import Checked, Dropped, Warehouse
from lakehouse.engine.pointer import is_fork
from lakehouse.ledger.watched import in_threads
from lakehouse.ledger.watermark import open_catalog, reaching

Told = Callable[[str], None]
_THREADS = 8


@dataclass(frozen=True)
class Known:
    """What the newest backup set says of the catalog: pointers of tables and of views, and its namespaces."""

    set_id: str
    cut_at: datetime
    tables: dict[str, str]
    views: dict[str, str]
    namespaces: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class CatalogPlan:
    """What comes back: tables, each with its metadata file, and views out of the set. ``left`` were dropped before it.

    ``lost`` are tables of the set of which nothing is left in the warehouse.
    """

    tables: tuple[Dropped, ...]
    views: dict[str, str]
    left: tuple[Dropped, ...]
    lost: tuple[str, ...]
    known: Known | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "set": self.known.set_id if self.known else "",
            "tables": [each.to_json() for each in self.tables],
            "views": sorted(self.views),
            "dropped_before": [str(each.table) for each in self.left],
            "lost": list(self.lost),
        }


@dataclass(frozen=True)
class Rebuilt:
    """What came back, and what did not: tables of which files are gone, with the reason in words."""

    tables: tuple[Checked, ...]
    views: tuple[str, ...]
    failed: dict[str, str]


@dataclass(frozen=True)
class CatalogRebuild:
    """A warehouse whose catalog is to know its tables again."""

    warehouse: Warehouse
    known: Known | None

    @classmethod
    def open(cls, settings: Settings, clock: Clock) -> CatalogRebuild:
        """That of the settings. The catalog's own tables are made where they are not there."""
        catalog: Any = open_catalog(settings)
        with reaching("make the catalog's own tables"):
            catalog.create_tables()
        return cls(Warehouse.open(settings, catalog), newest_known(settings, clock))

    def plan(self) -> CatalogPlan:
        """What would come back. Reads one metadata file of each table, many at a time."""
        found = [each for each in in_threads(self._candidate, self.warehouse.folders_unknown(), _THREADS) if each]
        newest: dict[TableName, Dropped] = {}
        left = []
        for each in sorted(found, key=lambda one: one.updated_at):
            if each.is_replaced:
                continue
            if self._was_dropped(each):
                left.append(each)
            else:
                newest[each.table] = each
        tables = tuple(newest[name] for name in sorted(newest))
        return CatalogPlan(tables, self._views(), tuple(left), self._lost(found), self.known)

    def _candidate(self, found: tuple[TableName, str]) -> Dropped | None:
        """The table of a folder, by its last metadata file; by that of the set where that is newer."""
        name, location = found
        one = self.warehouse.last(name, location, is_empty_too=True)
        pointer = self.known.tables.get(str(name), "") if self.known else ""
        if one is None or pointer in ("", one.metadata_location) or not pointer.startswith(f"{location}/"):
            return one
        try:
            other = self.warehouse.read(name, pointer, is_empty_too=True)
        except IntegrityError:
            return one
        return other if other and (one.damaged or other.updated_at > one.updated_at) else one

    def _was_dropped(self, one: Dropped) -> bool:
        """Whether somebody dropped it before the set was cut: the set does not have it, and it is older."""
        if self.known is None or one.updated_at > self.known.cut_at:
            return False
        return not self.known.tables.get(str(one.table), "").startswith(f"{one.location}/")

    def _views(self) -> dict[str, str]:
        """Views of the set that the catalog does not know."""
        if self.known is None:
            return {}
        there = _pointers(self.warehouse.catalog)
        return {name: location for name, location in self.known.views.items() if name not in there}

    def _lost(self, found: Iterable[Dropped]) -> tuple[str, ...]:
        if self.known is None:
            return ()
        there = {str(each.table) for each in found} | _pointers(self.warehouse.catalog)
        return tuple(sorted(name for name in self.known.tables if name not in there and not _is_fork(name)))

    def carry_out(self, plan: CatalogPlan, told: Told = lambda _: None) -> Rebuilt:
        """Look for the files of every table, and give it its row. One whose files are gone does not hold up others."""
        failed: dict[str, str] = {}
        done: list[Checked] = []

        def bring(one: Dropped) -> None:
            try:
                checked = self.warehouse.check(one)
                self.warehouse.bring_back(checked)
                done.append(checked)
            except TransientError:
                raise
            except LakehouseError as error:
                failed[str(one.table)] = error.what
            told(f"{len(done)} of {len(plan.tables)} tables are back")

        with reaching("make namespaces"):
            for namespace in sorted({one.table.namespace for one in plan.tables}):
                self.warehouse.catalog.create_namespace_if_not_exists(namespace)
        in_threads(bring, plan.tables, _THREADS)
        views = self._bring_views(plan)
        return Rebuilt(tuple(sorted(done, key=lambda each: str(each.dropped.table))), views, failed)

    def _bring_views(self, plan: CatalogPlan) -> tuple[str, ...]:
        """Views have no other trace than the set's: their rows, where their files are there; and namespaces."""
        from sqlalchemy import text

        catalog: Any = self.warehouse.catalog
        there = {name: location for name, location in plan.views.items() if self._is_there(location)}
        view = text(
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) "
            "VALUES (:catalog, :namespace, :name, :location, 'VIEW') ON CONFLICT DO NOTHING"
        )
        space = text(
            "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) "
            "VALUES (:catalog, :namespace, :key, :value) ON CONFLICT DO NOTHING"
        )
        with reaching("bring views back"), catalog.engine.begin() as connection:
            for namespace, key, value in plan.known.namespaces if plan.known else ():
                row = {"catalog": CATALOG, "namespace": namespace, "key": key, "value": value}
                connection.execute(space, row)
            for full, location in there.items():
                namespace, _, name = full.rpartition(".")
                values = {"catalog": CATALOG, "namespace": namespace, "name": name, "location": location}
                connection.execute(view, values)
        return tuple(sorted(there))

    def _is_there(self, location: str) -> bool:
        place = urlparse(location)
        return self.warehouse.store.in_bucket(place.netloc).head(place.path.lstrip("/")) is not None


def newest_known(settings: Settings, clock: Clock) -> Known | None:
    """What the newest complete set says of the catalog; None where there is no place for backups, or no set."""
    if not settings.backup_bucket:
        return None
    vault = Vault.open(settings, clock.now())
    ids = complete_ids(vault)
    if not ids:
        return None
    manifest = load_set(vault, ids[-1], public_key_of(settings)).manifest
    key = set_key(manifest.id, PLAN)
    body = vault.get(key)
    if hashlib.sha256(body).hexdigest() != manifest.plan_sha256:
        raise IntegrityError("a set's plan is not the one that was signed", where=vault.store.where(key))
    cut = SetPlan.from_json(body, vault.store.where(key))
    by_kind: dict[str, dict[str, str]] = {"TABLE": {}, "VIEW": {}}
    for pointer in cut.pointers:
        by_kind[pointer.kind][pointer.table] = pointer.metadata_location
    at = datetime.fromisoformat(cut.cut_at).astimezone(UTC)
    return Known(manifest.id, at, by_kind["TABLE"], by_kind["VIEW"], cut.namespaces)


def _pointers(catalog: Any) -> set[str]:
    from sqlalchemy import text

    statement = text("SELECT table_namespace, table_name FROM iceberg_tables WHERE catalog_name = :catalog")
    with reaching("read the catalog"), catalog.engine.connect() as connection:
        return {f"{namespace}.{name}" for namespace, name in connection.execute(statement, {"catalog": CATALOG})}


def _is_fork(name: str) -> bool:
    namespace, _, bare = name.rpartition(".")
    return is_fork(TableName(namespace, bare))
