"""What the project declares: contracts, by their compiled index, and the marts' dbt files. Read when they change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lakehouse.contracts.index import INDEX_NAME, Edge, read_index
from lakehouse.contracts.marts import DeclaredMart, declared_marts, mart_inputs
from lakehouse.contracts.model import Contract
from lakehouse.core.names import TableName


@dataclass(frozen=True)
class Neighbour:
    """A table next to another in the lineage: ``how`` one is made of the other. A source is no table of the lake."""

    name: str
    how: str
    is_source: bool = False


@dataclass(frozen=True)
class Declared:
    """Contracts by source, and marts by table."""

    contracts: Mapping[str, Contract] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()
    marts: Mapping[TableName, DeclaredMart] = field(default_factory=dict)
    mart_inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def contract_of(self) -> Mapping[TableName, Contract]:
        """The contract behind each bronze, silver and quarantine table."""
        found = {}
        for contract in self.contracts.values():
            found[contract.bronze_table] = contract
            for name in contract.tables:
                found[contract.silver_table(name)] = contract
                found[TableName("quarantine", name)] = contract
        return found

    @property
    def expected(self) -> frozenset[TableName]:
        """The tables that there will be once everything has run; a quarantine is made with its table."""
        return frozenset([*(name for name in self.contract_of if name.namespace != "quarantine"), *self.marts])

    @property
    def increments(self) -> frozenset[str]:
        """The sources whose batches replace nothing."""
        return frozenset(name for name, contract in self.contracts.items() if contract.source.kind == "increment")

    @cached_property
    def lineage(self) -> tuple[Edge, ...]:
        """Every edge, once: from sources to bronze, silver, quarantine and marts."""
        return tuple(dict.fromkeys((*self.edges, *self._refusals(), *self._marts())))

    def _refusals(self) -> Iterator[Edge]:
        for contract in self.contracts.values():
            for name in contract.tables:
                yield Edge(str(contract.bronze_table), f"quarantine.{name}", "refused")

    def _marts(self) -> Iterator[Edge]:
        for mart, inputs in self.mart_inputs.items():
            yield from (Edge(each, f"gold.{mart}", "mart") for each in inputs)

    def upstream(self, name: TableName) -> list[Neighbour]:
        """What a table is made from or refers to."""
        return [_neighbour(edge.source, edge.kind) for edge in self.lineage if edge.target == str(name)]

    def downstream(self, name: TableName) -> list[Neighbour]:
        """What is made from a table or refers to it."""
        return [_neighbour(edge.target, edge.kind) for edge in self.lineage if edge.source == str(name)]

    def silver_behind(self, mart: TableName) -> frozenset[str]:
        """The silver tables that a mart is made of, by itself or through other marts."""
        found: set[str] = set()
        seen, waiting = {str(mart)}, [str(mart)]
        while waiting:
            for each in self.mart_inputs.get(waiting.pop().removeprefix("gold."), ()):
                if each.startswith("silver."):
                    found.add(each)
                elif each not in seen:
                    seen.add(each)
                    waiting.append(each)
        return frozenset(found)


_HOW = {
    "landed": "landed",
    "derived": "typed and checked",
    "reference": "referred to",
    "refused": "rows refused",
    "mart": "dbt",
}


def _neighbour(name: str, kind: str) -> Neighbour:
    source = name.removeprefix("source.")
    return Neighbour(source, _HOW[kind], is_source=source != name)


@dataclass
class Declarations:
    """Reads what is declared, and again when a file that says it has changed."""

    contracts: Path
    dbt: Path
    _read: tuple[object, Declared] | None = None

    def now(self) -> Declared:
        """What is declared. Raises :class:`ContractError` where the index or a model cannot be read."""
        state = tuple(_state(path) for path in self._files())
        if self._read is None or self._read[0] != state:
            self._read = (state, self._load())
        return self._read[1]

    def _files(self) -> list[Path]:
        models = (self.dbt / "models").glob("**/*")
        return [self.contracts / INDEX_NAME, *sorted(path for path in models if path.suffix in (".sql", ".yml"))]

    def _load(self) -> Declared:
        index = read_index(self.contracts)
        marts = {mart.table: mart for mart in declared_marts(self.dbt)}
        contracts = {name: entry.model() for name, entry in index.datasets.items()}
        return Declared(contracts, index.lineage, marts, mart_inputs(self.dbt))


def _state(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (str(path), 0, 0)
    return (str(path), found.st_mtime_ns, found.st_size)
