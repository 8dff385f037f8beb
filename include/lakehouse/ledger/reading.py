"""Reading tables without a JVM: what is there, and the history of one key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from lakehouse.contracts.model import Table
from lakehouse.core import names
from lakehouse.core.encoding import durable_key
from lakehouse.core.errors import SettingsError
from lakehouse.core.names import TableName
from lakehouse.core.types import DataType
from lakehouse.ledger.watermark import head_of, load_table, reaching, summary_of

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

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
    if table is None:
        return None
    snapshot = table.current_snapshot()
    counts = summary_of(snapshot) if snapshot else {}
    stamp = head_of(table).stamp
    return TableSummary(
        name,
        str(table.properties.get("comment", "")),
        int(counts.get("total-records", 0)) - int(counts.get("total-position-deletes", 0)),
        int(counts.get("total-data-files", 0)),
        int(counts.get("total-files-size", 0)),
        len(table.metadata.snapshots),
        datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC) if snapshot else None,
        {source: consumed.through for source, consumed in stamp.inputs.items()} if stamp else {},
    )


def key_history(
    catalog: Catalog, table: Table, name: TableName, key: Sequence[str], known_at: datetime | None = None
) -> list[dict[str, Any]]:
    """The versions of a dimension's key, oldest first, as they stand now or were known at a moment. No JVM.

    Raises :class:`SettingsError` when the key has the wrong number of parts, a part has the wrong type, or there was
    no table then.
    """
    from pyiceberg.expressions import EqualTo

    loaded = load_table(catalog, name)
    if loaded is None:
        raise SettingsError(f"there is no table {name} yet", todo="run `lakehouse run` after something has landed")
    snapshot_id = None
    if known_at is not None:
        snapshot = loaded.snapshot_as_of_timestamp(int(known_at.timestamp() * 1000))
        if snapshot is None:
            raise SettingsError(f"{name} had no snapshot yet at {known_at:%Y-%m-%d %H:%M:%S} UTC")
        snapshot_id = snapshot.snapshot_id
    wanted = durable_key([table.columns[column].type for column in table.key], _parse_key(table, key))
    scan = loaded.scan(row_filter=EqualTo(term=names.KEY, value=wanted), snapshot_id=snapshot_id)  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = scan.to_arrow().sort_by(names.EFFECTIVE_FROM).to_pylist()
    return rows


def _parse_key(table: Table, key: Sequence[str]) -> list[Any]:
    if len(key) != len(table.key):
        raise SettingsError(
            f"the key has {len(table.key)} parts, {len(key)} were given",
            todo="give " + " ".join(f"--key {column.upper()}" for column in table.key),
        )
    return [_parse(table.columns[column].type, text, column) for column, text in zip(table.key, key, strict=True)]


def _parse(kind: DataType, text: str, column: str) -> Any:
    parsers: dict[str, Callable[[str], Any]] = {
        "int": int,
        "long": int,
        "double": float,
        "decimal": Decimal,
        "date": date.fromisoformat,
        "timestamp": lambda value: datetime.fromisoformat(value).astimezone(UTC),
        "boolean": lambda value: {"true": True, "false": False}[value],
    }
    try:
        return parsers.get(kind.name, str)(text)
    except (ValueError, KeyError, InvalidOperation):
        raise SettingsError(f"{text!r} is no {kind}, which {column} is") from None
