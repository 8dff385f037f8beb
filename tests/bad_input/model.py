"""What a case of bad input is: bytes, a name, and what must become of every record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from lakehouse.contracts.load import load_contract
from lakehouse.contracts.model import Contract
from lakehouse.ledger.log import Compression

Source = Literal["lines", "events", "rows"]
SOURCES: tuple[Source, ...] = ("lines", "events", "rows")
ENDINGS: dict[Source, str] = {"lines": ".csv", "events": ".jsonl", "rows": ".parquet"}
FORMATS: dict[Source, str] = {"lines": "CSV", "events": "JSON lines", "rows": "Parquet"}
COMPRESSIONS: dict[str, Compression | None] = {"": None, ".gz": "gzip", ".zst": "zstd"}
CONTRACTS = Path(__file__).parent / "contracts"
FIRST_DAY = date(2024, 1, 1)
NEIGHBOURS = 2


@dataclass(frozen=True)
class Rejected:
    """A record, or the rest of a file, that bronze keeps as it came. ``reason`` is a part of the real one."""

    record: int
    line: int | None
    reason: str


@dataclass(frozen=True)
class Case:
    """One file. Records are counted from 1; ``good`` are published, ``quarantined`` go by record to their rules."""

    source: Source
    title: str
    data: Callable[[], bytes]
    good: int = 0
    quarantined: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    rejected: tuple[Rejected, ...] = ()
    packed: Literal["", ".gz", ".zst"] = ""
    stem: str = ""
    extra: frozenset[str] | int = frozenset()
    missing: frozenset[str] = frozenset()
    before_damage: bool = False
    """How many records come before the damage is up to the bytes; the last one stands for the rest."""

    @property
    def id(self) -> str:
        """The case's name among those of its format."""
        return f"{self.source}: {self.title}"

    @property
    def compression(self) -> Compression | None:
        """What the file's name says."""
        return COMPRESSIONS[self.packed]

    @cached_property
    def content(self) -> bytes:
        """The file's bytes."""
        return self.data()

    def file_name(self, unit: date) -> str:
        """The file's name, which says its unit."""
        return f"{unit}{self.stem or '-case'}{ENDINGS[self.source]}{self.packed}"


def contract_of(source: Source) -> Contract:
    """The contract that the files of a format are read with."""
    return load_contract(CONTRACTS / "bad" / f"{source}.yaml")


def units(cases: list[Case]) -> dict[str, date]:
    """A day of its own for each case, by the case's id."""
    return {case.id: FIRST_DAY + timedelta(days=at) for at, case in enumerate(cases)}
