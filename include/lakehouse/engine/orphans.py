"""Files below a table that nothing refers to: what attempts wrote that died before they committed. No JVM.

What belongs to a place is walked from the metadata of all tables there: a fork writes where its table does. A file that
was just written is not yet referred to, so only files that are older than any write takes are looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from lakehouse.core.names import TableName
from lakehouse.ledger.references import references
from lakehouse.ledger.store import ObjectInfo, ObjectStore
from lakehouse.ledger.watermark import catalog_tables, load_table, reaching

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

ORPHAN_DAYS = 3
"""Longer than the longest write takes from its first file to its commit."""
_METADATA = ".metadata.json"  # former ones may be asked for after the metadata's own log has dropped them


@dataclass(frozen=True)
class Orphans:
    """The orphans of one place, in one bucket."""

    store: ObjectStore
    files: Sequence[ObjectInfo]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def delete(self) -> None:
        """Delete them. Needs the locks of all tables there, and must have been found under it."""
        for file in self.files:
            self.store.delete(file.key)


def places(catalog: Catalog) -> dict[str, list[TableName]]:
    """Where tables lie, and which: a table and its fork share one place."""
    found: dict[str, list[TableName]] = {}
    for name in catalog_tables(catalog):
        if table := load_table(catalog, name):
            found.setdefault(table.location(), []).append(name)
    return found


def find_orphans(
    catalog: Catalog,
    store: ObjectStore,
    location: str,
    names: Sequence[TableName],
    now: datetime,
    named_by: Callable[[Table], Iterable[str]] = references,
) -> Orphans | None:
    """What lies in a place, is old, and none of its tables refers to; None if nothing."""
    place = urlparse(location)
    there = store.in_bucket(place.netloc)
    before = now - timedelta(days=ORPHAN_DAYS)
    # Listed first: what is committed meanwhile is found in the metadata, which is read after.
    old = [
        file for file in _below(there, place.path.strip("/") + "/") if file.modified_at and file.modified_at < before
    ]
    if not old:
        return None
    loaded = list(filter(None, (load_table(catalog, name) for name in names)))
    later = _later(catalog, there, location, loaded)
    named = {urlparse(file).path.lstrip("/") for table in (*loaded, *later) for file in named_by(table)}
    files = tuple(file for file in old if file.key not in named)
    return Orphans(there, files) if files else None


def _later(catalog: Catalog, there: ObjectStore, location: str, loaded: Sequence[Table]) -> list[Table]:
    """What metadata files say that are later than those of the catalog: it may have been set back to an older moment.

    Where it was not, these are of forks that were dropped, and soon no longer later.
    """
    from pyiceberg.table import StaticTable

    place = urlparse(location)
    known = max((_number(table.metadata_location) for table in loaded), default=-1)
    keys = (file.key for file in there.list_after(f"{place.path.strip('/')}/metadata/") if file.key.endswith(_METADATA))
    beyond = [f"{place.scheme}://{place.netloc}/{key}" for key in keys if _number(key) > known]
    with reaching("read metadata files that are later than the catalog's"):
        return [StaticTable.from_metadata(each, dict(catalog.properties)) for each in beyond]


def _number(location: str) -> int:
    """The number of a metadata file; of one that somebody else named, as if it were the last."""
    number = location.rpartition("/")[2].partition("-")[0]
    return int(number) if number.isdigit() else sys.maxsize


def _below(store: ObjectStore, prefix: str) -> Iterator[ObjectInfo]:
    return (file for file in store.list_after(prefix) if not file.key.endswith(_METADATA))
