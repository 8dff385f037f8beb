"""The rows of the catalog: read from one statement, and moved in one transaction, each only from where it was seen.

A table that loses its place stays in the catalog under another name. What was restored stands beside it, among the
properties of a namespace, so that one transaction tells all: what is live, what is kept, and why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lakehouse.core.errors import ConcurrentCommit, IntegrityError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG
from lakehouse.ledger.kept import KEPT_NAMESPACE, KEPT_PROPERTY, kept_name
from lakehouse.ledger.watermark import reaching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

_EXISTS = "exists"
_TABLE_ROW = "catalog_name = :catalog AND table_namespace = :namespace AND table_name = :name"
_PROPERTY_ROW = "catalog_name = :catalog AND namespace = :namespace AND property_key = :key"


@dataclass(frozen=True)
class Row:
    """A table or a view of the catalog, and the metadata file that it is at."""

    table: TableName
    kind: str
    metadata_location: str


@dataclass(frozen=True)
class Change:
    """A row that goes from the metadata file that was seen, '' for no row, to another.

    With ``keeps``, what it was stays in the catalog under a name of its own.
    """

    table: TableName
    kind: str
    was: str
    becomes: str
    keeps: bool = True


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
        with self._begin("read the catalog") as connection:
            if not self._is_there(connection):
                return {}
            found = self._select(connection, "SELECT * FROM iceberg_tables WHERE catalog_name = :catalog")
        rows = [
            Row(
                TableName(each["table_namespace"], each["table_name"]),
                each.get("iceberg_type") or "TABLE",
                each["metadata_location"],
            )
            for each in found
        ]
        return {row.table: row for row in rows}

    def kept(self) -> list[Kept]:
        """What restores noted, the newest first."""
        with self._begin("read what restores noted") as connection:
            if not self._is_there(connection):
                return []
            found = self._select(
                connection,
                "SELECT property_value FROM iceberg_namespace_properties "
                "WHERE catalog_name = :catalog AND namespace = :namespace AND property_key LIKE :like",
                namespace=KEPT_NAMESPACE,
                like=f"{KEPT_PROPERTY}%",
            )
        values = [json.loads(each["property_value"]) for each in found]
        notes = [Kept(**{**value, "table": TableName.parse(value["table"])}) for value in values]
        return sorted(sorted(notes, key=lambda note: note.table), key=lambda note: note.at, reverse=True)

    def move(
        self,
        changes: Sequence[Change],
        seen: Iterable[Row],
        restore: str,
        notes: Mapping[TableName, Kept],
        namespaces: Iterable[tuple[str, str, str]],
    ) -> None:
        """Move all rows, or none. ``seen`` must be as they were. Raises :class:`ConcurrentCommit`."""
        try:
            with self._begin("move the catalog's pointers") as connection:
                has_kind = self._has_kind(connection)
                for row in seen:
                    self._require(connection, row)
                wanted = {*namespaces, (KEPT_NAMESPACE, _EXISTS, "true")}
                for namespace, key, value in sorted(wanted | {(c.table.namespace, _EXISTS, "true") for c in changes}):
                    self._note(connection, namespace, key, value, is_new=True)
                for change in changes:
                    self._move(connection, change, restore, has_kind=has_kind)
                for note in notes.values():
                    self._note(connection, KEPT_NAMESPACE, note.key, json.dumps(note.to_json()))
        except TransientError:
            self._require_done(changes)

    def _require_done(self, changes: Sequence[Change]) -> None:
        """Where the reply was lost, the rows tell whether they were moved: all of them or none."""
        found = self.read()
        if any(each.table not in found or found[each.table].metadata_location != each.becomes for each in changes):
            raise TransientError(
                "the catalog's answer was lost, and nothing was moved",
                untouched="every table",
                todo="run it again; files that were brought back stay, and are not copied again",
            )

    def exchange(self, notes: Sequence[Kept]) -> None:
        """Make each table what is kept of it, and keep what it was: all of them or none."""
        with self._begin("exchange what is live and what is kept") as connection:
            has_kind = self._has_kind(connection)
            for note in notes:
                other = TableName.parse(note.kept)
                live, kept = self._location(connection, note.table), self._location(connection, other)
                self._put(connection, note.table, note.kind, live, kept, has_kind=has_kind)
                self._put(connection, other, note.kind, kept, live, has_kind=has_kind)
                turned = {**note.to_json(), "is_undone": not note.is_undone}
                self._note(connection, KEPT_NAMESPACE, note.key, json.dumps(turned))

    def forget(self, notes: Sequence[Kept]) -> None:
        """Take what is kept out of the catalog. No file is touched."""
        with self._begin("forget what is kept") as connection:
            for note in notes:
                if note.kept:
                    self._execute(
                        connection,
                        f"DELETE FROM iceberg_tables WHERE {_TABLE_ROW}",
                        **_name(TableName.parse(note.kept)),
                    )
                self._execute(
                    connection,
                    f"DELETE FROM iceberg_namespace_properties WHERE {_PROPERTY_ROW}",
                    namespace=KEPT_NAMESPACE,
                    key=note.key,
                )

    def _move(self, connection: Connection, change: Change, restore: str, *, has_kind: bool) -> None:
        self._put(connection, change.table, change.kind, change.was, change.becomes, has_kind=has_kind)
        if change.was and change.keeps:
            name = kept_name(change.table, restore)
            self._put(connection, name, change.kind, "", change.was, has_kind=has_kind)

    def _put(
        self, connection: Connection, table: TableName, kind: str, was: str, becomes: str, *, has_kind: bool
    ) -> None:
        """Set a row that is where it was seen; '' stands for no row."""
        from sqlalchemy.exc import IntegrityError as Duplicate

        values = {**_name(table), "was": was, "becomes": becomes, "kind": kind}
        if was and becomes:
            moved = self._execute(
                connection,
                "UPDATE iceberg_tables SET metadata_location = :becomes, previous_metadata_location = :was"
                f"{', iceberg_type = :kind' if has_kind else ''} WHERE {_TABLE_ROW} AND metadata_location = :was",
                **values,
            )
        elif was:
            moved = self._execute(
                connection, f"DELETE FROM iceberg_tables WHERE {_TABLE_ROW} AND metadata_location = :was", **values
            )
        elif becomes:
            columns, given = (", iceberg_type", ", :kind") if has_kind else ("", "")
            try:
                moved = self._execute(
                    connection,
                    "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, "
                    f"previous_metadata_location{columns}) VALUES (:catalog, :namespace, :name, :becomes, NULL{given})",
                    **values,
                )
            except Duplicate:
                raise _moved(table) from None
        else:
            moved = 1
        if moved != 1:
            raise _moved(table)

    def _require(self, connection: Connection, row: Row) -> None:
        if self._location(connection, row.table) != row.metadata_location:
            raise _moved(row.table)

    def _location(self, connection: Connection, table: TableName) -> str:
        found = self._select(
            connection, f"SELECT metadata_location FROM iceberg_tables WHERE {_TABLE_ROW}", **_name(table)
        )
        return str(found[0]["metadata_location"]) if found else ""

    def _note(self, connection: Connection, namespace: str, key: str, value: str, *, is_new: bool = False) -> None:
        """Set a property of a namespace; with ``is_new``, only one that it does not have."""
        row = {"namespace": namespace, "key": key}
        there = self._select(
            connection, f"SELECT property_key FROM iceberg_namespace_properties WHERE {_PROPERTY_ROW}", **row
        )
        if there and is_new:
            return
        statement = (
            f"UPDATE iceberg_namespace_properties SET property_value = :value WHERE {_PROPERTY_ROW}"
            if there
            else "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) "
            "VALUES (:catalog, :namespace, :key, :value)"
        )
        self._execute(connection, statement, **row, value=value)

    @contextmanager
    def _begin(self, purpose: str) -> Iterator[Connection]:
        with reaching(purpose), self.engine.begin() as connection:
            yield connection

    def _is_there(self, connection: Connection) -> bool:
        from sqlalchemy import inspect

        return bool(inspect(connection).has_table("iceberg_tables"))

    def _has_kind(self, connection: Connection) -> bool:
        """Whether the catalog tells tables from views: since version 1 of its own tables."""
        from sqlalchemy import inspect

        return any(column["name"] == "iceberg_type" for column in inspect(connection).get_columns("iceberg_tables"))

    def _select(self, connection: Connection, statement: str, **values: str) -> list[dict[str, Any]]:
        from sqlalchemy import text

        answer = connection.execute(text(statement), {"catalog": CATALOG, **values})
        return [dict(row) for row in answer.mappings()]

    def _execute(self, connection: Connection, statement: str, **values: str) -> int:
        from sqlalchemy import text

        used = {name: value for name, value in {"catalog": CATALOG, **values}.items() if f":{name}" in statement}
        return int(connection.execute(text(statement), used).rowcount)


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


def _name(table: TableName) -> dict[str, str]:
    return {"namespace": table.namespace, "name": table.name}


def _moved(table: TableName) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"{table} changed since the restore was planned",
        untouched="every table; files that were brought back stay, and are not copied again",
        todo="look again with --dry-run, and say what it says then",
    )
