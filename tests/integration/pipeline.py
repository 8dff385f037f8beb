"""What tests of the whole way do: land, run, and look at what came out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.names import TableName
from lakehouse.core.types import DataType
from lakehouse.engine.encoding import content_fingerprint
from lakehouse.engine.publish import Lake
from lakehouse.engine.report import TableReport
from lakehouse.engine.run import run_dataset
from lakehouse.engine.silver import Silver, run_silver
from lakehouse.engine.tables import business_types
from lakehouse.landing.land import Request, land
from lakehouse.ledger.watermark import ancestors, load_table, read_head

KEY = {names.KEY: DataType("string")}
VERSION_KEY = {names.VERSION_KEY: DataType("string")}


def land_files(lake: Lake, contracts: Iterable[Contract], root: Path) -> None:
    """Land everything that is new."""
    land(lake.settings, list(contracts), Request(root=str(root))).raise_if_refused()


def run(lake: Lake, contracts: Iterable[Contract], max_batches: int | None = None) -> list[TableReport]:
    """Bronze and silver of everything that is pending."""
    return [r for contract in contracts for r in run_dataset(lake, contract, max_batches, lambda _: None)]


def rebuild(lake: Lake, contract: Contract, name: str) -> None:
    """A silver table anew from bronze."""
    through = read_head(lake.catalog, contract.bronze_table).consumed(contract.name).through
    run_silver(Silver(lake, contract, name, through), rebuild=True)


def fingerprints(lake: Lake, contracts: Iterable[Contract]) -> dict[str, str]:
    """The content of every silver table: business columns and keys, whatever batch they came in."""
    return {
        name: content_fingerprint(
            lake.table(contract.silver_table(name)),
            business_types(table) | KEY | (VERSION_KEY if table.kind == "dimension" else {}),
        )
        for contract in contracts
        for name, table in contract.tables.items()
    }


def quarantine(lake: Lake, contracts: Iterable[Contract]) -> dict[str, str]:
    """The content of every quarantine that holds something: rows as they came, and their rules."""
    found = {}
    for contract in contracts:
        columns = dict.fromkeys(contract.source.columns, DataType("string")) | {"rules": DataType("string")}
        for name in contract.tables:
            table = TableName("quarantine", name)
            if load_table(lake.catalog, table):
                rows = lake.table(table).selectExpr("*", f"array_join({names.RULES}, ' ') AS rules")
                found |= {name: content_fingerprint(rows, columns)} if not rows.isEmpty() else {}
    return found


def heads(lake: Lake, tables: Iterable[TableName]) -> dict[TableName, int | None]:
    """Where main of each table is."""
    return {table: read_head(lake.catalog, table).snapshot_id for table in tables}


def branches(lake: Lake, tables: Iterable[TableName]) -> list[str]:
    """Branches other than main, of tables that are there."""
    loaded = [load_table(lake.catalog, table) for table in tables]
    return sorted(ref for table in loaded if table for ref in table.metadata.refs if ref != "main")


def unpublished(lake: Lake, tables: Iterable[TableName]) -> list[str]:
    """Branches that hold something which main does not.

    A run that was killed right after its fast-forward leaves a branch that main has caught up with; the next
    publication of the table drops it.
    """
    found = []
    for loaded in filter(None, (load_table(lake.catalog, table) for table in tables)):
        main = {snapshot.snapshot_id for snapshot in ancestors(loaded)}
        found += [name for name, ref in loaded.metadata.refs.items() if ref.snapshot_id not in main]
    return sorted(found)


def all_tables(contracts: Iterable[Contract]) -> list[TableName]:
    """Every table that the contracts make."""
    found = []
    for contract in contracts:
        found.append(contract.bronze_table)
        for name in contract.tables:
            found += [contract.silver_table(name), TableName("quarantine", name)]
    return found
