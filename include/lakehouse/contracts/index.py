"""The compiled index: one JSON file with all that contracts say, read without pydantic, YAML or a SQL parser.

``read_index`` is what DAG parsing calls: it reads that one file. ``load_index`` first compares the contracts' hashes,
and compiles anew where one differs. Imports of heavy modules stay inside functions.
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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lakehouse.contracts.model import Contract

INDEX_NAME = "index.json"
_FORMAT = 1


@dataclass(frozen=True)
class TableEntry:
    """A silver table: which dataset makes it, what it refers to, and the fingerprint of its semantics."""

    name: str
    dataset: str
    kind: str
    fingerprint: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset, with its contract as plain values (defaults left out)."""

    name: str
    bronze: str
    classification: str
    tables: tuple[str, ...]
    contract: dict[str, Any]

    def model(self) -> Contract:
        """The contract as a model; imports pydantic."""
        from lakehouse.contracts.model import Contract

        return Contract.model_validate(self.contract)


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
    lineage: tuple[Edge, ...]

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


def load_index(directory: Path) -> Index:
    """The index, compiled anew when a contract was changed, added or removed. Raises ContractError."""
    try:
        index = read_index(directory)
    except ContractError:
        return compile_index(directory)
    is_current = index.files == _hashes(directory) and index.compiler == _compiler()
    return index if is_current else compile_index(directory)


def compile_index(directory: Path) -> Index:
    """Check and compile all contracts, and write the index in one step. Raises ContractError with all problems."""
    from lakehouse.contracts.load import load_contracts

    files = _hashes(directory)
    index = build_index(load_contracts(directory), files)
    _write(directory / INDEX_NAME, json.dumps({"format": _FORMAT, **asdict(index)}, indent=1))
    return index


def build_index(contracts: Mapping[str, Contract], files: dict[str, str]) -> Index:
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
    return Index(files, _compiler(), datasets, tables, tuple(_lineage(datasets, tables)))


def _dataset(contract: Contract) -> DatasetEntry:
    return DatasetEntry(
        name=contract.name,
        bronze=str(contract.bronze_table),
        classification=contract.classification,
        tables=tuple(contract.tables),
        contract=contract.dump(),
    )


def _lineage(datasets: Mapping[str, DatasetEntry], tables: Mapping[str, TableEntry]) -> list[Edge]:
    edges = [Edge(f"source.{dataset.name}", dataset.bronze, "landed") for dataset in datasets.values()]
    for table in tables.values():
        edges.append(Edge(datasets[table.dataset].bronze, f"silver.{table.name}", "derived"))
        edges += [Edge(f"silver.{other}", f"silver.{table.name}", "reference") for other in table.references]
    return edges


def _hashes(directory: Path) -> dict[str, str]:
    """sha256 of each contract, by its path below the directory."""
    paths = sorted(path for path in directory.glob("*/*.yaml") if not path.name.endswith(".cases.yaml"))
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


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
            name: DatasetEntry(**{**entry, "tables": tuple(entry["tables"])})
            for name, entry in value["datasets"].items()
        },
        tables={
            name: TableEntry(**{**entry, "references": tuple(entry["references"])})
            for name, entry in value["tables"].items()
        },
        lineage=tuple(Edge(**edge) for edge in value["lineage"]),
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
