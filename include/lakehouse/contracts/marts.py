"""What the dbt project declares of the marts, read without dbt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChainableUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from lakehouse.contracts.model import Contract
from lakehouse.core.errors import ContractError
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


def model_files(project: Path) -> list[Path]:
    """The files that say what models are."""
    files = [*project.glob("models/**/*.sql"), *project.glob("models/**/*.yml")]
    return sorted(files)


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


def mart_inputs(project: Path) -> dict[str, tuple[str, ...]]:
    """For each mart the silver tables and other marts that it is made of, what stands between them left out.

    Raises :class:`ContractError` where a model cannot be read.
    """
    read = {path.stem: _inputs(path) for path in model_files(project) if path.suffix == ".sql"}
    marts = {name.name for name in mart_names(project)}
    return {mart: tuple(sorted(_reached(mart, read, marts))) for mart in sorted(marts)}


@dataclass(frozen=True)
class _Inputs:
    models: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()


def _reached(model: str, read: Mapping[str, _Inputs], marts: set[str]) -> set[str]:
    """What a model reads, by itself or through models that are no marts."""
    found: set[str] = set()
    seen, waiting = {model}, [model]
    while waiting:
        inputs = read.get(waiting.pop(), _Inputs())
        found |= inputs.tables | {f"gold.{name}" for name in inputs.models & marts - {model}}
        waiting += inputs.models - marts - seen
        seen |= inputs.models
    return found


class _Anything(ChainableUndefined):
    """Whatever a model asks of dbt or of a macro: it has every attribute, can be called, and says nothing."""

    def __call__(self, *_: Any, **__: Any) -> _Anything:  # type: ignore[override]
        return self


def _inputs(path: Path) -> _Inputs:
    """What a model names in ``ref`` and ``source``, found by rendering it as dbt does, without a database."""
    models: set[str] = set()
    tables: set[str] = set()

    def ref(*names: str, **_: Any) -> str:
        models.add(names[-1])
        return names[-1]

    def source(namespace: str, name: str) -> str:
        tables.add(f"{namespace}.{name}")
        return name

    environment = SandboxedEnvironment(undefined=_Anything, extensions=["jinja2.ext.do"])
    try:
        environment.from_string(path.read_text("utf-8")).render(ref=ref, source=source)
    except (TemplateError, TypeError, ValueError) as error:
        raise ContractError(
            f"the model cannot be read: {error}", where=str(path), todo="correct its Jinja; `dbt parse` says more"
        ) from None
    return _Inputs(frozenset(models), frozenset(tables))


def project_fingerprint(project: Path, contracts: Sequence[Contract]) -> str:
    """A hash of everything in the dbt project, and of what it takes from contracts, that decides the marts' content."""
    digest = hashlib.sha256()
    files = [*project.glob("macros/**/*"), *project.glob("models/**/*"), project / "dbt_project.yml"]
    for path in sorted(file for file in files if file.is_file()):
        digest.update(f"{path.relative_to(project)}\0".encode() + path.read_bytes() + b"\0")
    for contract in contracts:
        for name, table in contract.tables.items():
            for reference in table.references:
                digest.update(f"{name} {reference.table} {reference.before_first}\0".encode())
    return digest.hexdigest()[:32]
