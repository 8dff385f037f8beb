"""Files below a table that nothing refers to: what attempts wrote that died before they committed. No JVM.

What belongs to a place is walked from the metadata of all tables there: a fork writes where its table does. A file that
was just written is not yet referred to, so only files that are older than any write takes are looked at.

Former metadata files stay as long as what the table said then: a catalog that is set back to such a moment is at one of
them. Later ones go unless some metadata's log names them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from lakehouse.core.names import TableName
from lakehouse.engine.pointer import is_fork
from lakehouse.ledger.references import references
from lakehouse.ledger.store import ObjectInfo, ObjectStore
from lakehouse.ledger.watermark import catalog_tables, load_table, reaching

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

ORPHAN_DAYS = 3
"""Longer than the longest write takes from its first file to its commit."""
_METADATA = ".metadata.json"
_GUARD = "gc.enabled"


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
            found.setdefault(table.location().rstrip("/"), []).append(name)
    return found


def sharing(found: Mapping[str, Sequence[TableName]], location: str) -> list[TableName]:
    """The tables that lie in a place, below it or around it."""
    here = location.rstrip("/") + "/"
    near = (names for there, names in found.items() if f"{there}/".startswith(here) or here.startswith(f"{there}/"))
    return sorted(name for names in near for name in names)


def is_guarded(table: Table) -> bool:
    """Whether nobody may delete files of a table. Of a fork this protects those of the table that it was made of."""
    return table.properties.get(_GUARD, "true").lower() == "false"


def find_orphans(
    catalog: Catalog,
    store: ObjectStore,
    location: str,
    names: Sequence[TableName],
    now: datetime,
    named_by: Callable[[Table], Iterable[str]] = references,
    keep: timedelta | None = None,
) -> Orphans | None:
    """What lies in a place, is old, and none of its tables refers to; None if nothing.

    With ``keep``, former metadata files that are older than that, too.
    """
    place = urlparse(location)
    there = store.in_bucket(place.netloc)
    # Listed first: what is committed meanwhile is found in the metadata, which is read after.
    files = list(there.list_after(place.path.strip("/") + "/"))
    old = [file for file in files if not _is_metadata(file) and _is_before(file, now - timedelta(days=ORPHAN_DAYS))]
    metadata = [file for file in files if _is_metadata(file)]
    if keep is not None:
        old += _outlived(metadata, now - max(keep, timedelta(days=ORPHAN_DAYS)))
    if not old:
        return None
    loaded = list(filter(None, (load_table(catalog, name) for name in names)))
    if any(is_guarded(table) and not is_fork(TableName(*table.name())) for table in loaded):
        return None
    later = _later(catalog, location, loaded, metadata)
    named = {urlparse(file).path.lstrip("/") for table in (*loaded, *later) for file in named_by(table)}
    orphans = tuple(file for file in old if file.key not in named)
    return Orphans(there, orphans) if orphans else None


def _is_metadata(file: ObjectInfo) -> bool:
    return file.key.endswith(_METADATA)


def _is_before(file: ObjectInfo, moment: datetime) -> bool:
    return file.modified_at is not None and file.modified_at < moment


def _outlived(metadata: Sequence[ObjectInfo], since: datetime) -> list[ObjectInfo]:
    """The metadata files that a catalog was at for the last time before a moment: a later one follows another of them.

    Each follows one whose number is one less.
    """
    first = min((_number(file.key) for file in metadata if not _is_before(file, since)), default=sys.maxsize)
    return [file for file in metadata if _is_before(file, since) and _number(file.key) < first - 1]


def _later(catalog: Catalog, location: str, loaded: Sequence[Table], metadata: Sequence[ObjectInfo]) -> list[Table]:
    """What metadata files say that are later than those of the catalog: it may have been set back to an older moment.

    Those of forks that were dropped are of no use to anybody.
    """
    from pyiceberg.table import StaticTable

    place = urlparse(location)
    known = max((_number(table.metadata_location) for table in loaded), default=-1)
    beyond = [f"{place.scheme}://{place.netloc}/{file.key}" for file in metadata if _number(file.key) > known]
    with reaching("read metadata files that are later than the catalog's"):
        found = [StaticTable.from_metadata(each, dict(catalog.properties)) for each in beyond]
    return [table for table in found if not is_guarded(table)]


def _number(location: str) -> int:
    """The number of a metadata file; of one that somebody else named, as if it were the last."""
    number = location.rpartition("/")[2].partition("-")[0]
    return int(number) if number.isdigit() else sys.maxsize
