"""Reading tables without a JVM: what is there, and the history of one key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from lakehouse.contracts.model import Contract, Table
from lakehouse.core import names
from lakehouse.core.clock import moment
from lakehouse.core.encoding import durable_key
from lakehouse.core.errors import SettingsError
from lakehouse.core.names import TableName
from lakehouse.core.types import DataType
from lakehouse.ledger.points import Point, existing_table, rows_of
from lakehouse.ledger.watermark import head_of, load_table, reaching, summary_of

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table as IcebergTable

LAYERS = ("bronze", "silver", "quarantine", "gold")


@dataclass(frozen=True)
class TableSummary:
    """A table as its metadata describes it."""

    table: TableName
    description: str
    rows: int
    files: int
    bytes: int
    snapshots: int
    committed_at: datetime | None
    consumed: dict[str, int]
    snapshot_id: int | None = None


def list_tables(catalog: Catalog) -> list[TableSummary]:
    """Every table of the lake, layer by layer."""
    from pyiceberg.exceptions import NoSuchNamespaceError
    from sqlalchemy.exc import ProgrammingError

    found = []
    for layer in LAYERS:
        try:
            with reaching("list tables"):
                found += sorted(catalog.list_tables(layer))
        except (NoSuchNamespaceError, ProgrammingError):
            continue
    return [summary for name in found if (summary := _summary(catalog, TableName(*name)))]


def _summary(catalog: Catalog, name: TableName) -> TableSummary | None:
    table = load_table(catalog, name)
    return summarize(name, table) if table is not None else None


def summarize(name: TableName, table: IcebergTable) -> TableSummary:
    """What a table's metadata says of it."""
    snapshot = table.current_snapshot()
    counts = summary_of(snapshot) if snapshot else {}
    stamp = head_of(table).stamp
    return TableSummary(
        name,
        str(table.properties.get("comment", "")),
        rows_of(snapshot),
        int(counts.get("total-data-files", 0)),
        int(counts.get("total-files-size", 0)),
        len(table.metadata.snapshots),
        datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC) if snapshot else None,
        {source: consumed.through for source, consumed in stamp.inputs.items()} if stamp else {},
        snapshot.snapshot_id if snapshot else None,
    )


@dataclass(frozen=True)
class Subject:
    """A silver table: its name, what its contract says, and its metadata."""

    name: TableName
    spec: Table
    table: IcebergTable


def subject_of(catalog: Catalog, contracts: Iterable[Contract], name: TableName) -> Subject:
    """A silver table that can be asked for its history. Raises :class:`SettingsError` where it is none."""
    spec = next((contract.tables[name.name] for contract in contracts if name.name in contract.tables), None)
    if spec is None or name.namespace != "silver":
        raise SettingsError(f"{name} is no silver table of any contract", todo="`lakehouse tables` lists what is there")
    return Subject(name, spec, existing_table(catalog, name))


def key_versions(
    subject: Subject, key: str, known_at: Point | None = None, valid_at: datetime | None = None
) -> list[dict[str, Any]]:
    """The versions of a durable key, oldest first, as they stand now or were known at a point; or the one valid then.

    A version is valid at its ``effective_from``, and no longer at its ``effective_to``.
    """
    from pyiceberg.expressions import EqualTo

    snapshot_id = known_at.snapshot.snapshot_id if known_at else None
    scan = subject.table.scan(row_filter=EqualTo(term=names.KEY, value=key), snapshot_id=snapshot_id)  # type: ignore[arg-type]
    with reaching(f"read {subject.name}"):
        rows: list[dict[str, Any]] = scan.to_arrow().sort_by(names.EFFECTIVE_FROM).to_pylist()
    return [row for row in rows if valid_at is None or _is_valid(row, valid_at)]


def _is_valid(row: dict[str, Any], at: datetime) -> bool:
    return row[names.EFFECTIVE_FROM] <= at and (row[names.EFFECTIVE_TO] is None or row[names.EFFECTIVE_TO] > at)


def key_history(catalog: Catalog, table: Table, name: TableName, key: Sequence[str]) -> list[dict[str, Any]]:
    """The versions of a dimension's natural key as they stand now, oldest first. No JVM.

    Raises :class:`SettingsError` when the key has the wrong number of parts, a part has the wrong type, or there is
    no table.
    """
    subject = Subject(name, table, existing_table(catalog, name))
    return key_versions(subject, parse_key(table, key))


def parse_key(table: Table, key: Sequence[str]) -> str:
    """The durable key of a natural key that a person gave in parts. Raises :class:`SettingsError`."""
    if len(key) != len(table.key):
        raise SettingsError(
            f"the key has {len(table.key)} parts, {len(key)} were given",
            todo="give " + " ".join(f"--key {column.upper()}" for column in table.key),
        )
    kinds = [table.columns[column].type for column in table.key]
    values = [_parse(kind, text, column) for kind, text, column in zip(kinds, key, table.key, strict=True)]
    return str(durable_key(kinds, values))


def _parse(kind: DataType, text: str, column: str) -> Any:
    parsers: dict[str, Callable[[str], Any]] = {
        "int": int,
        "long": int,
        "double": float,
        "decimal": Decimal,
        "date": date.fromisoformat,
        "timestamp": moment,
        "boolean": lambda value: {"true": True, "false": False}[value],
    }
    try:
        return parsers.get(kind.name, str)(text)
    except (ValueError, KeyError, InvalidOperation, SettingsError):
        raise SettingsError(f"{text!r} is no {kind}, which {column} is") from None
