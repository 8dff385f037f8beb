"""What changed in silver since a mart was built, so that the mart computes only what depends on it.

Iceberg's row lineage tells: a row that was written again has another ``_last_updated_sequence_number``, one that only
moved in maintenance keeps its own. So two snapshots are compared, and no record of changes has to be kept beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame

from lakehouse.core import names
from lakehouse.core.names import TableName
from lakehouse.engine.publish import Lake
from lakehouse.engine.tables import qualified
from lakehouse.ledger.watermark import STAMP_PROPERTY, Stamp, ancestors, load_table, summary_of

_SEQUENCE = "_last_updated_sequence_number"


@dataclass(frozen=True)
class Since:
    """From where a silver table is compared with what it is now: a snapshot, or None where it had no rows yet."""

    table: TableName
    snapshot_id: int | None


def changes_since(lake: Lake, then: Mapping[str, str], now: Mapping[str, str]) -> list[Since] | None:
    """The silver tables that were published since a mart was made. Both say for each table the attempt that was last.

    None when a table left the history that the mart was made of (rolled back, expired): everything may have changed.
    """
    found = []
    for table in sorted(now):
        attempt = then.get(table, "")
        if attempt == now[table]:
            continue
        name = TableName(*table.split(".", 1))
        snapshot = _published_by(lake, name, attempt) if attempt else None
        if attempt and snapshot is None:
            return None
        found.append(Since(name, snapshot))
    return found


def _published_by(lake: Lake, table: TableName, attempt: str) -> int | None:
    """The snapshot in ``main``'s ancestry with which an attempt published a table."""
    loaded = load_table(lake.catalog, table)
    for snapshot in ancestors(loaded) if loaded else ():
        text = summary_of(snapshot).get(STAMP_PROPERTY)
        if text and Stamp.from_json(text).attempt == attempt:
            return snapshot.snapshot_id
    return None


def changed_members(lake: Lake, since: Since) -> DataFrame:
    """Durable keys of the members with a version that came, went or was written again."""
    return lake.spark.sql(f"""
        SELECT DISTINCT coalesce(now.{names.KEY}, was.{names.KEY}) AS {names.KEY}
        FROM (SELECT {names.KEY}, {names.VERSION_KEY}, {_SEQUENCE} FROM {_then(since)}) was
        FULL OUTER JOIN (SELECT {names.KEY}, {names.VERSION_KEY}, {_SEQUENCE} FROM {qualified(since.table)}) now
        ON was.{names.VERSION_KEY} = now.{names.VERSION_KEY}
        WHERE NOT (was.{_SEQUENCE} <=> now.{_SEQUENCE})
    """)  # noqa: S608 - built from checked names


def changed_units(lake: Lake, since: Since) -> list[date]:
    """The units of a fact with rows that came, went or were written again."""
    counted = f"SELECT {names.UNIT}, struct(count(*), max({_SEQUENCE})) AS state FROM"
    rows = lake.spark.sql(f"""
        SELECT coalesce(now.{names.UNIT}, was.{names.UNIT})
        FROM ({counted} {_then(since)} GROUP BY {names.UNIT}) was
        FULL OUTER JOIN ({counted} {qualified(since.table)} GROUP BY {names.UNIT}) now
        ON was.{names.UNIT} = now.{names.UNIT}
        WHERE NOT (was.state <=> now.state)
    """)  # noqa: S608 - built from checked names
    return sorted(row[0] for row in rows.collect())


def _then(since: Since) -> str:
    if since.snapshot_id is None:
        return f"{qualified(since.table)} WHERE false"
    return f"{qualified(since.table)} VERSION AS OF {since.snapshot_id}"
