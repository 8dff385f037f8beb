"""The dimensions that histories are folded into: all types mixed, in several shapes, and the contracts that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.histories.vocabulary import FIELDS
from tests.reference import Rules

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.types import DataType

TYPES = {
    **dict.fromkeys(FIELDS, "string"),
    "sequence": "long",
    "price": "decimal(10,2)",
    "seen": "timestamp",
    "rate": "double",
    "level": "int",
}
KEY = ("part", "code")
EARLY, LATE = ("sequence", True), ("tag", False)


@dataclass(frozen=True, eq=False)
class Shape:
    """A dimension.

    ``silent`` are the attributes of which null says nothing; ``ties`` name columns, and whether the highest wins.
    ``is_by_unit``: a slice's rows take effect when its day starts, as those of a snapshot always do.
    """

    name: str
    history: Mapping[str, int]
    silent: frozenset[str] = frozenset()
    per_life: bool = False
    ties: tuple[tuple[str, bool], ...] = (EARLY,)
    is_by_unit: bool = False

    @property
    def rules(self) -> Rules:
        """The part of it that the reference folds by."""
        kinds = {name: DataType.parse(TYPES[name]) for name in self.history}
        return Rules(self.history, kinds, tuple(highest for _, highest in self.ties), self.per_life)

    def typed(self, kind: str) -> tuple[str, ...]:
        """The fields that have to be readable for a row to be good."""
        return (*self.history, *(name for name, _ in self.ties), *(() if kind == "snapshot" else ("operation",)))

    def table(self, kind: str) -> dict[str, Any]:
        """The table of a contract for a source of a kind."""
        order = {name: _column(TYPES[name]) for name, _ in self.ties if name not in self.history}
        told = {}
        if kind != "snapshot":
            order |= {"at": _column("timestamp", nullable=False), "operation": _column("string")}
            told = {"deletion": {"column": "operation", "values": ["D"]}}
        return {
            "kind": "dimension",
            "description": "made for a test",
            "key": list(KEY),
            "columns": {"part": _column("int", nullable=False), "code": _column("string", nullable=False)}
            | {name: self._attribute(name) for name in self.history},
            "order": order,
            "tie_breakers": [{"column": name, "highest_wins": highest} for name, highest in self.ties],
            "per_life": self.per_life,
            "max_close_share": 1,
            "rules": [{"name": "city_known", "check": "city <> 'nowhere'", "description": "made for a test"}],
            "effective_time": names.UNIT if kind == "snapshot" or self.is_by_unit else "at",
            **told,
        }

    def _attribute(self, name: str) -> dict[str, Any]:
        null = "not_observed" if name in self.silent else "value"
        return _column(TYPES[name], history=self.history[name], null=null)


def _column(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": "made for a test", **more}


MIXED = Shape(
    "dim_mixed",
    {"born": 0, "origin": 0, "name": 1, "city": 2, "price": 2, "seen": 2, "rate": 2, "segment": 3, "level": 3},
    frozenset({"origin", "level", "price"}),
)
LIVES = Shape(
    "dim_lives",
    {"born": 0, "rate": 1, "city": 2, "level": 2, "segment": 3, "price": 3},
    frozenset({"rate"}),
    per_life=True,
    ties=(("level", False), LATE),
)
DAILY = replace(MIXED, name="dim_daily", per_life=True, ties=(("sequence", False),), is_by_unit=True)
TRACKED = Shape("dim_tracked", {"city": 2, "rate": 2, "level": 2}, frozenset({"level"}), ties=())
FEW = Shape("dim_few", {"born": 0, "name": 1, "city": 2, "segment": 3})


def contract(kind: str, shapes: Sequence[Shape]) -> Contract:
    """A source of JSON lines and its dimensions."""
    fields = [*KEY, "at", *FIELDS]
    return Contract.model_validate(
        {
            **{"format": 1, "domain": "test", "dataset": kind, "owner": "tests", "description": "made for a test"},
            "source": {
                "connector": "files",
                "kind": kind,
                "format": "jsonl",
                "timezone": "Europe/London",
                "pattern": f"test/{kind}/{{date}}.jsonl",
                "columns": {name: {"description": "made for a test"} for name in fields},
            },
            "tables": {shape.name: shape.table(kind) for shape in shapes},
        }
    )
