"""What the dbt project declares of the marts, read without dbt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lakehouse.contracts.model import Contract
from lakehouse.core.names import TableName


@dataclass(frozen=True)
class DeclaredMart:
    """One mart. Without a ``key`` it is replaced whole in every run; with one, only rows that differ are written.

    ``changed_by`` names the column that says which rows a change of a silver table concerns: for a fact the unit, for
    a dimension the member's durable key. Without it, all rows are computed anew and compared.
    """

    table: TableName
    description: str
    columns: Mapping[str, Mapping[str, Any]]
    partition: tuple[str, ...] = ()
    sort: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    changed_by: Mapping[str, str] | None = None


def mart_models(project: Path) -> list[dict[str, Any]]:
    """The models that the marts' YAML files declare, in the order of the files."""
    return [
        model
        for path in sorted((project / "models" / "marts").glob("*.yml"))
        for model in yaml.safe_load(path.read_text("utf-8")).get("models", [])
    ]


def declared_marts(project: Path) -> list[DeclaredMart]:
    """The marts, in the order of the files."""
    return [_mart(model) for model in mart_models(project)]


def _mart(model: Mapping[str, Any]) -> DeclaredMart:
    meta = model.get("config", {}).get("meta", {})
    lists = {name: tuple(meta.get(name, ())) for name in ("partition", "sort", "key")}
    columns = {column["name"]: column for column in model["columns"]}
    table = TableName("gold", model["name"])
    return DeclaredMart(table, model["description"], columns, **lists, changed_by=meta.get("changed_by"))


def mart_names(project: Path) -> list[TableName]:
    """The tables of the gold layer."""
    return [TableName("gold", model["name"]) for model in mart_models(project)]


def project_fingerprint(project: Path, contracts: Sequence[Contract]) -> str:
    """A hash of everything in the dbt project, and of what it takes from contracts, that decides the marts' content."""
    digest = hashlib.sha256()
    files = [*project.glob("macros/**/*"), *project.glob("models/**/*"), project / "dbt_project.yml"]
    for path in sorted(file for file in files if file.is_file() and "generated" not in file.parts):
        digest.update(f"{path.relative_to(project)}\0".encode() + path.read_bytes() + b"\0")
    for contract in contracts:
        for name, table in contract.tables.items():
            for reference in table.references:
                digest.update(f"{name} {reference.table} {reference.before_first}\0".encode())
    return digest.hexdigest()[:32]
