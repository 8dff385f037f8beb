"""What a landing did, unit by unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Literal

from lakehouse.core.errors import SourceError

Status = Literal["landed", "unchanged", "would_land", "refused"]
Progress = Callable[[str, int, int], None]
"""Called with the source's name, the number of units done, and the number of units in all."""


@dataclass(frozen=True)
class UnitResult:
    """One unit of one source. ``batch`` is the number of the batch that landed, or that holds the same bytes."""

    source: str
    unit: date
    status: Status
    batch: int | None = None
    files: int = 0
    size_bytes: int = 0
    records: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Note:
    """A file, or a whole source when ``name`` is empty, that was left out, and why. Names are printable."""

    source: str
    name: str
    reason: str
    is_retryable: bool = False

    def __str__(self) -> str:
        return f"{self.source}: {self.name + ': ' if self.name else ''}{self.reason}"


@dataclass(frozen=True)
class LandResult:
    """All units that were looked at, files that were refused, and files that were passed over."""

    units: tuple[UnitResult, ...] = ()
    refused_files: tuple[Note, ...] = ()
    ignored_files: tuple[Note, ...] = ()

    def __add__(self, other: LandResult) -> LandResult:
        return LandResult(
            self.units + other.units,
            self.refused_files + other.refused_files,
            self.ignored_files + other.ignored_files,
        )

    def of(self, status: Status) -> tuple[UnitResult, ...]:
        """The units that ended in this way."""
        return tuple(unit for unit in self.units if unit.status == status)

    def raise_if_refused(self) -> None:
        """Raise :class:`SourceError` naming everything that was refused; the rest has landed all the same."""
        lines = [f"{unit.source} {unit.unit}: {unit.reason}" for unit in self.of("refused")]
        lines += [str(note) for note in self.refused_files]
        if lines:
            error = SourceError(
                "\n".join([f"refused while landing: {len(lines)}", *(f"  - {line}" for line in lines)]),
                untouched="what was refused has no entry in the landing log; everything else has landed",
                todo="put the source right and land again; what has landed is not landed twice",
            )
            error.is_retryable = any(note.is_retryable for note in self.refused_files)
            raise error


def printable(name: str) -> str:
    """A name as it may be shown: control characters and broken encodings are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name)
