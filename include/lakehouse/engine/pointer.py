"""Our own commits to a table's metadata: a new metadata file, and one update of the catalog's row. No JVM.

It is what every commit of the JDBC catalog is: the pointer moves from the file that was read to the one that was
written, or the commit fails. Files are edited as JSON: PyIceberg does not write format version 3, and would drop what
its model does not know.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse.core.errors import IntegrityError, LakehouseError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG
from lakehouse.ledger.kept import is_kept
from lakehouse.ledger.watermark import catalog_tables, load_table, reaching

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

FORK_PREFIX = "rebuild_"
UPKEEP_PREFIX = "upkeep_"
_LOG_PROPERTY = "write.metadata.previous-versions-max"
_LOGGED = 100
"""How many former metadata files the log of a metadata file names, as Iceberg has it."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Swap:
    """A pointer that moves: from the metadata file that is expected to the one that was written."""

    table: TableName
    was: str
    becomes: str


def fork_name(table: TableName, prefix: str = FORK_PREFIX) -> TableName:
    """The one name of a table's fork for a purpose: a second preparation takes the place of the first."""
    return TableName("ops", prefix + hashlib.sha256(str(table).encode()).hexdigest()[:16])


def is_fork(name: TableName) -> bool:
    """Whether a table of the catalog is somebody's fork of another."""
    return name.namespace == "ops" and name.name.startswith((FORK_PREFIX, UPKEEP_PREFIX))


def is_copy(name: TableName) -> bool:
    """Whether it is an entry for another table's sake, a fork or what a restore keeps, and none of its own."""
    return is_fork(name) or is_kept(name.namespace, name.name)


def pointers(catalog: Any) -> dict[TableName, str]:
    """The metadata file of every table, as the catalog is now."""
    from sqlalchemy import text

    tables = {(name.namespace, name.name): name for name in catalog_tables(catalog)}
    if not tables:
        return {}
    said = text("SELECT table_namespace, table_name, metadata_location FROM iceberg_tables WHERE catalog_name = :name")
    with reaching("read the catalog"), catalog.engine.connect() as connection:
        rows = connection.execute(said, {"name": CATALOG}).fetchall()
    return {tables[row[0], row[1]]: str(row[2]) for row in rows if (row[0], row[1]) in tables}


def read_document(catalog: Catalog, location: str) -> Document:
    """A metadata file as it stands: what PyIceberg's model doesn't know would be lost in it."""
    with reaching("read table metadata"), _io(catalog).new_input(location).open() as stream:
        document: Document = json.loads(stream.read())
    return document


def write_document(catalog: Catalog, table: TableName, was: str, source: str, document: Document) -> Swap:
    """Write a metadata file beside ``source``, which it follows; nobody reads it before the pointer moves."""
    folder, _, name = source.rpartition("/")
    location = f"{folder}/{int(name.split('-')[0]) + 1:05d}-{uuid.uuid4()}.metadata.json"
    entry = {"timestamp-ms": document["last-updated-ms"], "metadata-file": source}
    most = int(document.get("properties", {}).get(_LOG_PROPERTY, _LOGGED))
    log = [*document.get("metadata-log", []), entry][-max(1, most) :]
    with reaching("write table metadata"), _io(catalog).new_output(location).create() as stream:
        stream.write(json.dumps({**document, "metadata-log": log}).encode())
    return Swap(table, was, location)


def _io(catalog: Catalog) -> Any:
    from pyiceberg.io import load_file_io

    return load_file_io(catalog.properties)


def swap(catalog: Any, swaps: Sequence[Swap], moved: Callable[[TableName], LakehouseError]) -> None:
    """Move all pointers in one transaction, or none. Where the reply was lost, the pointers tell which."""
    try:
        _move(catalog, swaps, moved)
    except TransientError:
        if any(_location(catalog, each.table) != each.becomes for each in swaps):
            raise
    for each in swaps:
        found = _location(catalog, each.table)
        if found != each.becomes:
            raise IntegrityError(
                f"an update of {each.table} was acknowledged and is not what stands",
                where=f"expected {each.becomes}, found {found or 'nothing'}",
                todo="stop all writers of the table and compare both metadata files",
            )


def _move(catalog: Any, swaps: Sequence[Swap], moved: Callable[[TableName], LakehouseError]) -> None:
    from sqlalchemy import text

    statement = text(
        "UPDATE iceberg_tables SET metadata_location = :becomes, previous_metadata_location = :was WHERE catalog_name "
        "= :catalog AND table_namespace = :namespace AND table_name = :name AND metadata_location = :was"
    )
    with reaching("update the catalog"), catalog.engine.begin() as connection:
        for each in swaps:
            values = {"catalog": CATALOG, "namespace": each.table.namespace, "name": each.table.name}
            found = connection.execute(statement, {**values, "was": each.was, "becomes": each.becomes})
            if found.rowcount != 1:
                raise moved(each.table)


def forget(catalog: Any, name: TableName, metadata_location: str) -> bool:
    """Take a table out of the catalog as it was seen, and leave its files; False where it is another by now."""
    from sqlalchemy import text

    statement = text(
        "DELETE FROM iceberg_tables WHERE catalog_name = :catalog AND table_namespace = :namespace "
        "AND table_name = :name AND metadata_location = :seen"
    )
    values = {"catalog": CATALOG, "namespace": name.namespace, "name": name.name, "seen": metadata_location}
    with reaching(f"drop {name}"), catalog.engine.begin() as connection:
        return bool(connection.execute(statement, values).rowcount)


def _location(catalog: Any, table: TableName) -> str:
    loaded = load_table(catalog, table)
    return loaded.metadata_location if loaded else ""
