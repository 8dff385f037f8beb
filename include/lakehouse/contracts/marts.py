"""What the dbt project declares of the marts, read without dbt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lakehouse.contracts.model import Contract
from lakehouse.core.names import TableName

# A quoted name counts wherever it stands: models also loop over the names of those that they refer to.
_SILVER = re.compile(r"""source\(\s*['"]silver['"]\s*,\s*['"]([a-z0-9_]+)['"]""")
_QUOTED = re.compile(r"""['"]([a-z][a-z0-9_]*)['"]""")


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


def model_files(project: Path) -> list[Path]:
    """The files that say what models are; not those that a run generates."""
    files = [*project.glob("models/**/*.sql"), *project.glob("models/**/*.yml")]
    return sorted(path for path in files if "generated" not in path.parts)


def mart_inputs(project: Path) -> dict[str, tuple[str, ...]]:
    """For each mart the silver tables and the other marts that it is made of, through models that are no marts."""
    texts = {path.stem: path.read_text("utf-8") for path in model_files(project) if path.suffix == ".sql"}
    marts = {str(model["name"]) for model in mart_models(project)}
    return {mart: tuple(sorted(_inputs(mart, texts, marts))) for mart in sorted(marts)}


def _inputs(mart: str, texts: Mapping[str, str], marts: set[str]) -> set[str]:
    found, looked_at, waiting = set[str](), set[str](), {mart}
    while waiting:
        model = waiting.pop()
        looked_at.add(model)
        found |= {f"silver.{name}" for name in _SILVER.findall(texts[model])}
        named = (set(_QUOTED.findall(texts[model])) & texts.keys()) - {mart}
        found |= {f"gold.{name}" for name in named & marts}
        waiting |= named - marts - looked_at
    return found


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
