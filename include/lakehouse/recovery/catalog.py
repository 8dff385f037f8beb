"""The rows of the catalog: read from one statement, and moved in one transaction, each only from where it was seen.

A table that loses its place stays in the catalog under another name. What was restored stands beside it, among the
properties of a namespace, so that one transaction tells all: what is live, what is kept, and why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import column, delete, insert, inspect, select, table, text, update
from sqlalchemy.exc import IntegrityError as Duplicate

from lakehouse.core.errors import ConcurrentCommit, IntegrityError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG
from lakehouse.ledger.kept import KEPT_NAMESPACE, KEPT_PROPERTY
from lakehouse.ledger.watermark import reaching

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine, TableClause

_EXISTS = ("exists", "true")  # as Iceberg says it of a namespace without tables
_TABLES = table(
    "iceberg_tables",
    *map(
        column,
        (
            "catalog_name",
            "table_namespace",
            "table_name",
            "metadata_location",
            "previous_metadata_location",
            "iceberg_type",
        ),
    ),
)
_PROPERTIES = table(
    "iceberg_namespace_properties", *map(column, ("catalog_name", "namespace", "property_key", "property_value"))
)


@dataclass(frozen=True)
class Row:
    """A table or a view of the catalog, and the metadata file that it is at."""

    table: TableName
    kind: str
    metadata_location: str


@dataclass(frozen=True)
class Change:
    """A row that goes from the metadata file that was seen, '' for no row, to another."""

    table: TableName
    kind: str
    was: str
    becomes: str


@dataclass(frozen=True)
class Kept:
    """What a restore did to a table. ``kept`` is the name under which the other one of both stays, if there is one.

    It is '' where the table was lost before, and nothing could be kept.

    ``is_undone``: the table is what it was before the restore, and what was restored is kept.
    """

    restore: str
    table: TableName
    kind: str
    kept: str
    set_id: str
    at: str
    is_undone: bool = False

    @property
    def key(self) -> str:
        """The property that says so."""
        return f"{KEPT_PROPERTY}{self.restore}.{self.table}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "table": str(self.table)}


class Rows:
    """The catalog's own tables, in whatever database they are."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def prepare(self) -> None:
        """Make the catalog's own tables where there are none: a database that is new, or was lost."""
        from pyiceberg.catalog.sql import SqlCatalogBaseTable

        with reaching("make the catalog's own tables"):
            SqlCatalogBaseTable.metadata.create_all(self.engine)

    def read(self) -> dict[TableName, Row]:
        """All rows, as of one moment."""
        with self._begin("read the catalog") as work:
            found = work.select(_TABLES) if work.is_there else []
        rows = [
            Row(TableName(each["table_namespace"], each["table_name"]), each["iceberg_type"], each["metadata_location"])
            for each in found
        ]
        return {row.table: row for row in rows}

    def kept(self) -> list[Kept]:
        """What restores noted, the newest first."""
        with self._begin("read what restores noted") as work:
            found = work.select(_PROPERTIES, namespace=KEPT_NAMESPACE) if work.is_there else []
        values = [
            json.loads(each["property_value"]) for each in found if each["property_key"].startswith(KEPT_PROPERTY)
        ]
        notes = [Kept(**{**value, "table": TableName.parse(value["table"])}) for value in values]
        return sorted(sorted(notes, key=lambda note: note.table), key=lambda note: note.at, reverse=True)

    def move(
        self,
        changes: Sequence[Change],
        seen: Iterable[Row],
        notes: Sequence[Kept],
        namespaces: Iterable[tuple[str, str, str]],
    ) -> None:
        """Move all rows, or none. ``seen`` must be as they were. Raises :class:`ConcurrentCommit`."""
        known = {*namespaces, (KEPT_NAMESPACE, *_EXISTS), *((each.table.namespace, *_EXISTS) for each in changes)}
        kept = {note.table: note.kept for note in notes}
        try:
            with self._begin("move the catalog's pointers") as work:
                for row in seen:
                    work.require(row.table, row.metadata_location)
                for namespace, key, value in sorted(known):
                    work.note(namespace, key, value, is_new=True)
                for change in changes:
                    work.put(change.table, change.kind, change.was, change.becomes)
                    if change.was and kept.get(change.table):
                        work.put(TableName.parse(kept[change.table]), change.kind, "", change.was)
                for note in notes:
                    work.note(KEPT_NAMESPACE, note.key, json.dumps(note.to_json()))
        except TransientError as error:
            if isinstance(error, ConcurrentCommit) or not self._is_done(changes):
                raise

    def _is_done(self, changes: Sequence[Change]) -> bool:
        """Where the reply was lost, the rows tell whether they were moved: all of them or none."""
        found = self.read()
        return all(each.table in found and found[each.table].metadata_location == each.becomes for each in changes)

    def exchange(self, notes: Sequence[Kept]) -> None:
        """Make each table what is kept of it, and keep what it was: all of them or none."""
        with self._begin("exchange what is live and what is kept") as work:
            for note in notes:
                other = TableName.parse(note.kept)
                live, kept = work.location(note.table), work.location(other)
                work.put(note.table, note.kind, live, kept)
                work.put(other, note.kind, kept, live)
                work.note(KEPT_NAMESPACE, note.key, json.dumps({**note.to_json(), "is_undone": not note.is_undone}))

    def forget(self, notes: Sequence[Kept]) -> None:
        """Take what is kept out of the catalog. No file is touched."""
        with self._begin("forget what is kept") as work:
            for note in notes:
                if note.kept:
                    other = TableName.parse(note.kept)
                    work.put(other, note.kind, work.location(other), "")
                work.unnote(KEPT_NAMESPACE, note.key)

    @contextmanager
    def _begin(self, purpose: str) -> Iterator[_Work]:
        with reaching(purpose), self.engine.begin() as connection:
            yield _Work(connection)


@dataclass(frozen=True)
class _Work:
    """One transaction. '' stands for no row."""

    connection: Connection

    @property
    def is_there(self) -> bool:
        """Whether the catalog has its own tables: it does not before Spark's first commit."""
        return bool(inspect(self.connection).has_table(_TABLES.name))

    @cached_property
    def has_kind(self) -> bool:
        """Whether the catalog tells tables from views: since version 1 of its own tables."""
        return any(each["name"] == "iceberg_type" for each in inspect(self.connection).get_columns(_TABLES.name))

    def select(self, of: TableClause, **where: str) -> list[dict[str, Any]]:
        """Rows of this catalog as plain values."""
        statement = select(text("*")).select_from(of).where(*_are(of, where))
        rows = [dict(row) for row in self.connection.execute(statement).mappings()]
        return [{**row, "iceberg_type": row.get("iceberg_type") or "TABLE"} for row in rows]

    def location(self, table: TableName) -> str:
        """Where a table's metadata is."""
        found = self.select(_TABLES, table_namespace=table.namespace, table_name=table.name)
        return str(found[0]["metadata_location"]) if found else ""

    def require(self, table: TableName, seen: str) -> None:
        """Raise :class:`ConcurrentCommit` unless a table is where it was seen."""
        if self.location(table) != seen:
            raise _moved(table)

    def put(self, table: TableName, kind: str, was: str, becomes: str) -> None:
        """Set a row that is where it was seen. Raises :class:`ConcurrentCommit` where it is not."""
        name = {"table_namespace": table.namespace, "table_name": table.name}
        values = {"metadata_location": becomes, "previous_metadata_location": was or None}
        values |= {"iceberg_type": kind} if self.has_kind else {}
        here = _are(_TABLES, {**name, "metadata_location": was})
        if was == becomes:
            self.require(table, was)
        elif not was:
            self._insert(table, {"catalog_name": CATALOG, **name, **values})
        else:
            change = update(_TABLES).where(*here).values(values) if becomes else delete(_TABLES).where(*here)
            if self.connection.execute(change).rowcount != 1:
                raise _moved(table)

    def _insert(self, table: TableName, values: Mapping[str, str | None]) -> None:
        try:
            self.connection.execute(insert(_TABLES).values(values))
        except Duplicate:
            raise _moved(table) from None

    def note(self, namespace: str, key: str, value: str, *, is_new: bool = False) -> None:
        """Set a property of a namespace; with ``is_new``, only one that it does not have."""
        row = {"namespace": namespace, "property_key": key}
        if not self.select(_PROPERTIES, **row):
            values = {"catalog_name": CATALOG, **row, "property_value": value}
            self.connection.execute(insert(_PROPERTIES).values(values))
        elif not is_new:
            self.connection.execute(update(_PROPERTIES).where(*_are(_PROPERTIES, row)).values(property_value=value))

    def unnote(self, namespace: str, key: str) -> None:
        """Take a property away."""
        here = _are(_PROPERTIES, {"namespace": namespace, "property_key": key})
        self.connection.execute(delete(_PROPERTIES).where(*here))


def _are(of: TableClause, values: Mapping[str, str]) -> list[ColumnElement[bool]]:
    """That a row of this catalog has these values."""
    return [of.c[name] == value for name, value in {"catalog_name": CATALOG, **values}.items()]


def require_stands(rows: Mapping[TableName, Row], changes: Sequence[Change]) -> None:
    """Raise :class:`IntegrityError` unless the catalog says what it was told."""
    for each in changes:
        found = rows.get(each.table)
        if found is None or found.metadata_location != each.becomes:
            raise IntegrityError(
                f"an update of {each.table} was acknowledged and is not what stands",
                where=f"expected {each.becomes}, found {found.metadata_location if found else 'nothing'}",
                todo="stop all writers of the table and compare both metadata files",
            )


def _moved(table: TableName) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"{table} changed since the restore was planned",
        untouched="every table; files that were brought back stay, and are not copied again",
        todo="look again with --dry-run, and say what it says then",
    )
