"""The tables as Airflow's assets, so that its asset graph is the lineage of the lake."""

from __future__ import annotations

from collections.abc import Sequence

from airflow.sdk import Asset

from lakehouse.contracts.index import DatasetEntry, Index

# Without "x-", Airflow asks every provider for one that normalizes such addresses, which imports boto3 in each parse.
SCHEME = "x-lakehouse"


def slug(source: str) -> str:
    """A source's name as tables and DAGs have it: ``retail.sales`` is ``retail_sales``."""
    return source.replace(".", "_")


def table(name: str) -> Asset:
    """A table, as in ``silver.dim_customer``; its layer is the asset's group."""
    layer, _, short = name.partition(".")
    return Asset(name=name, uri=f"{SCHEME}://{layer}/{short}", group=layer)


def landing(source: str) -> Asset:
    """What landed of a source: its landing log, from which bronze is loaded."""
    return table(f"landing.{slug(source)}")


def made_by(dataset: DatasetEntry) -> list[Asset]:
    """Every table that is made of a source: bronze, silver, and the refused rows of each silver table."""
    silver = [table(f"silver.{name}") for name in dataset.tables]
    return [table(dataset.bronze), *silver, *[table(f"quarantine.{name}") for name in dataset.tables]]


def silver_tables(index: Index) -> list[Asset]:
    """Every silver table, by name."""
    return [table(f"silver.{name}") for name in sorted(index.tables)]


def marts(index: Index) -> list[Asset]:
    """Every mart, by name."""
    return [table(f"gold.{name}") for name in sorted(index.marts)]


def changed(index: Index, tables: Sequence[str]) -> list[Asset]:
    """Tables, and what landed of their sources: a table that went back or came back has batches to take again."""
    known = {f"silver.{name}": entry.dataset for name, entry in index.tables.items()}
    known |= {dataset.bronze: dataset.name for dataset in index.datasets.values()}
    sources = sorted({known[name] for name in tables if name in known})
    return [*map(table, tables), *map(landing, sources)]
