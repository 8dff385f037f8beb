"""The compiled index: one JSON file with all that contracts and marts say, read without pydantic, YAML or a SQL parser.

``read_index`` is what DAG parsing calls: it reads that one file. ``load_index`` first compares the hashes of contracts
and models, and compiles anew where one differs. Imports of heavy modules stay inside functions.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.core.errors import ContractError
from lakehouse.core.spark_place import place_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lakehouse.contracts.model import Contract
    from lakehouse.core.settings import Settings

INDEX_NAME = "index.json"
_FORMAT = 2


@dataclass(frozen=True)
class TableEntry:
    """A silver table: which dataset makes it, what it refers to, and the fingerprint of its semantics."""

    name: str
    dataset: str
    kind: str
    fingerprint: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Timing:
    """When a dataset's data come and are late, in hours, and in which zone its days begin."""

    timezone: str
    expected_every_hours: int
    expected_after_hours: int
    warn_after_hours: int


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset, with its contract as plain values (defaults left out)."""

    name: str
    owner: str
    description: str
    connector: str
    kind: str
    bronze: str
    classification: str
    timing: Timing
    tables: tuple[str, ...]
    contract: dict[str, Any]

    def model(self) -> Contract:
        """The contract as a model; imports pydantic."""
        from lakehouse.contracts.model import Contract

        return Contract.model_validate(self.contract)


@dataclass(frozen=True)
class MartEntry:
    """A mart, and the tables that it is made of: silver tables and other marts, by their full names."""

    name: str
    description: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Operation:
    """How tasks are tried again, and whether Spark is a cluster: as the settings said when the index was compiled."""

    retries: int = 3
    retry_seconds: int = 60
    is_on_cluster: bool = False


@dataclass(frozen=True)
class Edge:
    """Lineage: ``target`` is made from, or refers to, ``source``. Names are full: ``bronze.retail_sales``."""

    source: str
    target: str
    kind: str


@dataclass(frozen=True)
class Index:
    """All contracts, compiled."""

    files: dict[str, str]
    compiler: str
    datasets: dict[str, DatasetEntry]
    tables: dict[str, TableEntry]
    marts: dict[str, MartEntry]
    lineage: tuple[Edge, ...]
    operation: Operation

    def dataset_of(self, table: str) -> DatasetEntry:
        """The dataset that makes a silver table. Raises ContractError where no contract does."""
        if table not in self.tables:
            raise ContractError(
                f"no contract makes the table {table!r}", todo=f"use one of {', '.join(sorted(self.tables))}"
            )
        return self.datasets[self.tables[table].dataset]


def read_index(directory: Path) -> Index:
    """The index as it was compiled last. Raises ContractError where there is none, or one of another format."""
    path = directory / INDEX_NAME
    try:
        return _parse(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ContractError(
            f"the contracts' index cannot be read: {type(error).__name__}",
            where=str(path),
            todo="run `lakehouse contract compile`",
        ) from None


def load_index(directory: Path, project: Path | None = None, operation: Operation = Operation()) -> Index:
    """The index, compiled anew when a contract, model or setting was changed, added or removed. Raises ContractError.

    ``project`` is the dbt project of the marts; without one the index knows no marts.
    """
    try:
        index = read_index(directory)
    except ContractError:
        return compile_index(directory, project, operation)
    known = (index.files, index.compiler, index.operation)
    is_current = known == (_hashes(directory, project), _compiler(), operation)
    return index if is_current else compile_index(directory, project, operation)


def compile_for(settings: Settings) -> Index:
    """Compile all that an installation has. Raises ContractError with all problems."""
    is_on_cluster = place_of(settings.spark_master) == "cluster"
    operation = Operation(settings.task_retries, settings.task_retry_seconds, is_on_cluster)
    return compile_index(settings.contracts, settings.dbt, operation)


def compile_index(directory: Path, project: Path | None = None, operation: Operation = Operation()) -> Index:
    """Check and compile all contracts, and write the index in one step. Raises ContractError with all problems."""
    from lakehouse.contracts.load import load_contracts

    files = _hashes(directory, project)
    index = build_index(load_contracts(directory), files, read_marts(project) if project else {}, operation)
    _write(directory / INDEX_NAME, json.dumps({"format": _FORMAT, **asdict(index)}, indent=1))
    return index


def read_marts(project: Path) -> dict[str, MartEntry]:
    """What a dbt project says of its marts; imports YAML."""
    from lakehouse.contracts.marts import mart_inputs, mart_models

    inputs = mart_inputs(project)
    models = mart_models(project)
    return {each["name"]: MartEntry(each["name"], each["description"], inputs[each["name"]]) for each in models}


def build_index(
    contracts: Mapping[str, Contract],
    files: dict[str, str],
    marts: dict[str, MartEntry],
    operation: Operation = Operation(),
) -> Index:
    """The index of contracts that were checked."""
    from lakehouse.contracts.semantics import table_fingerprint

    tables = {
        name: TableEntry(
            name=name,
            dataset=contract.name,
            kind=table.kind,
            fingerprint=table_fingerprint(contract, name),
            references=tuple(dict.fromkeys(reference.table for reference in table.references)),
        )
        for contract in contracts.values()
        for name, table in contract.tables.items()
    }
    datasets = {name: _dataset(contract) for name, contract in contracts.items()}
    lineage = tuple(_lineage(datasets, tables, marts))
    return Index(files, _compiler(), datasets, tables, marts, lineage, operation)


def _dataset(contract: Contract) -> DatasetEntry:
    from lakehouse.contracts.derive import hours

    freshness = contract.freshness
    return DatasetEntry(
        name=contract.name,
        owner=contract.owner,
        description=contract.description,
        connector=contract.source.connector,
        kind=contract.source.kind,
        bronze=str(contract.bronze_table),
        classification=contract.classification,
        timing=Timing(
            contract.source.timezone,
            hours(freshness.expected_every),
            hours(freshness.expected_after),
            hours(freshness.warn_after),
        ),
        tables=tuple(contract.tables),
        contract=contract.dump(),
    )


def _lineage(
    datasets: Mapping[str, DatasetEntry], tables: Mapping[str, TableEntry], marts: Mapping[str, MartEntry]
) -> list[Edge]:
    edges = [Edge(f"source.{dataset.name}", dataset.bronze, "landed") for dataset in datasets.values()]
    for table in tables.values():
        edges.append(Edge(datasets[table.dataset].bronze, f"silver.{table.name}", "derived"))
        edges += [Edge(f"silver.{other}", f"silver.{table.name}", "reference") for other in table.references]
    return edges + [Edge(source, f"gold.{mart.name}", "mart") for mart in marts.values() for source in mart.inputs]


def _hashes(directory: Path, project: Path | None) -> dict[str, str]:
    """sha256 of each contract, by its path below the directory, and of each model, as ``models/…``."""
    from lakehouse.contracts.load import contract_files
    from lakehouse.contracts.marts import model_files

    paths = {str(path.relative_to(directory)): path for path in contract_files(directory)}
    paths |= {str(path.relative_to(project)): path for path in model_files(project)} if project else {}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def _compiler() -> str:
    """Changes with this package's code, so that an index of another version is not believed."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _parse(value: dict[str, Any]) -> Index:
    if value["format"] != _FORMAT:
        raise ValueError("another format")
    return Index(
        files=value["files"],
        compiler=value["compiler"],
        datasets={
            name: DatasetEntry(**{**entry, "tables": tuple(entry["tables"]), "timing": Timing(**entry["timing"])})
            for name, entry in value["datasets"].items()
        },
        tables={
            name: TableEntry(**{**entry, "references": tuple(entry["references"])})
            for name, entry in value["tables"].items()
        },
        marts={
            name: MartEntry(**{**entry, "inputs": tuple(entry["inputs"])}) for name, entry in value["marts"].items()
        },
        lineage=tuple(Edge(**edge) for edge in value["lineage"]),
        operation=Operation(**value["operation"]),
    )


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader sees the old one or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
