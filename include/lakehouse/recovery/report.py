"""What a check of the lake found, as values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lakehouse.recovery.known import GoodCopy

LOGS = "the logs"


@dataclass(frozen=True, order=True)
class Hurt:
    """A snapshot of a table that needs a damaged file. ``at`` is ISO text, '' where nothing is left that says it.

    ``snapshot_id`` is None where the file belongs to the table, or to a source, and to no snapshot of it.
    """

    table: str
    snapshot_id: int | None = None
    at: str = ""
    is_current: bool = False


@dataclass(frozen=True)
class LakeDamage:
    """A file of the lake that is not what it must be, whom it hurts, and where its right bytes are, if anywhere.

    ``expected_by`` says who knows what its bytes were, '' where only its structure could be judged.
    """

    uri: str
    kind: str
    problem: str
    expected_by: str = ""
    sha256: str = ""
    hurts: tuple[Hurt, ...] = ()
    copy: GoodCopy | None = None
    hidden: str = ""
    todo: str = ""

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it hurts; of logs and landed files, the sources."""
        return tuple(sorted({hurt.table for hurt in self.hurts}))

    @property
    def repair(self) -> str:
        """The command that brings it back, '' where there is no good copy."""
        if self.copy is None:
            return ""
        return " ".join(["lakehouse repair", *(() if self.kind in ("log", "segment", "landed") else self.tables)])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        copy = self.copy and {
            "from": self.copy.source,
            "key": self.copy.stored.key,
            "version": self.copy.stored.version,
            "sha256": self.copy.stored.sha256,
            "is_sure": self.copy.is_sure,
        }
        return {**asdict(replace(self, copy=None)), "copy": copy, "tables": self.tables, "repair": self.repair}


@dataclass(frozen=True)
class Point:
    """A snapshot of a table: the newest that is whole, say."""

    snapshot_id: int
    at: str


@dataclass(frozen=True)
class Report:
    """One look at the lake. ``compared`` counts files by who knew what they must be; ``by_structure`` names those that
    nobody knew yet; ``whole`` is the newest whole snapshot of each table that is hurt, None where there is none.
    """

    at: str
    share: str
    tables: int
    files: int
    read: int
    read_bytes: int
    compared: Mapping[str, int]
    by_structure: tuple[str, ...]
    damages: tuple[LakeDamage, ...]
    whole: Mapping[str, Point | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = {name: getattr(self, name) for name in ("at", "share", "tables", "files", "read", "read_bytes")}
        return {
            **plain,
            "compared": dict(self.compared),
            "by_structure": list(self.by_structure),
            "damages": [damage.to_json() for damage in self.damages],
            "whole": {table: point and asdict(point) for table, point in self.whole.items()},
            "notes": list(self.notes),
        }


def hurt_tables(damages: Iterable[LakeDamage]) -> list[str]:
    """The tables, and sources, that some damage hurts."""
    return sorted({table for damage in damages for table in damage.tables})
