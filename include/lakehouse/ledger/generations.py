"""From which batch on bronze knew which columns of its source.

A record's values of a column that the contract did not know then are in ``_extra``, and ``_missing`` says nothing of
it. So for each batch it matters whether the column was known when the batch was loaded. The property is set before the
columns are added; the last entry starts with the batch that would come next, so one that is ahead is harmless.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GENERATIONS_PROPERTY = "lakehouse.generations"


@dataclass(frozen=True)
class Generations:
    """First batch and known columns of each generation, oldest first. Empty: nothing was recorded."""

    entries: tuple[tuple[int, frozenset[str]], ...] = ()

    @classmethod
    def read(cls, properties: Mapping[str, str]) -> Generations:
        """What a bronze table's properties say."""
        value = json.loads(properties.get(GENERATIONS_PROPERTY, "[]"))
        return cls(tuple((first, frozenset(columns)) for first, columns in value))

    def to_json(self) -> str:
        """The property's value."""
        return json.dumps([[first, sorted(columns)] for first, columns in self.entries], separators=(",", ":"))

    def then(self, through: int, columns: Iterable[str]) -> Generations:
        """With these columns known from the batch after ``through`` on."""
        kept = tuple(entry for entry in self.entries if entry[0] <= through)
        known = frozenset(columns)
        return Generations(kept if kept and kept[-1][1] == known else (*kept, (through + 1, known)))

    def unknown(self, column: str) -> list[tuple[int, int | None]]:
        """The batches, first and last, that were loaded while the column was not known; None: no last one yet."""
        ends = [entry[0] - 1 for entry in self.entries[1:]]
        ranges = zip(self.entries, [*ends, None], strict=True) if self.entries else ()
        return [(first, last) for (first, columns), last in ranges if column not in columns]

    def knew(self, column: str, batch: int) -> bool:
        """Whether the column was known when the batch was loaded."""
        return not any(first <= batch and (last is None or batch <= last) for first, last in self.unknown(column))
