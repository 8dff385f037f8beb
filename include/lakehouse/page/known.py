"""What the page knows at a moment: a value that is replaced, never changed, as a refresh goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from lakehouse.backup.status import Status
from lakehouse.core.errors import LakehouseError
from lakehouse.core.names import TableName
from lakehouse.ledger.holds import Hold
from lakehouse.ledger.log import Batch
from lakehouse.ledger.pending import Position
from lakehouse.page.declared import Declared
from lakehouse.page.facts import Facts
from lakehouse.page.records import Series

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Problem:
    """Why something could not be read: since when, and what to do. Written for people."""

    part: str
    what: str
    todo: str
    since: datetime

    @classmethod
    def of(cls, part: str, error: LakehouseError, now: datetime) -> Problem:
        """The error as a person should see it."""
        return cls(part, error.what, error.todo, now)


@dataclass(frozen=True)
class Source:
    """Where the logs of a source end, the newest batch that is in each table, and what is held or discarded."""

    end: Position
    batches: Mapping[int, Batch] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()


@dataclass(frozen=True)
class Known:
    """``tables`` are as of the last metadata that could be read; ``pointers`` say which metadata is the newest.

    ``damaged`` and ``broken`` tell of tables and sources that cannot be read alone. ``problems`` and ``read_at`` are by
    part: what went wrong in its last reading, and when it last went well. ``has_backups`` says whether a place for
    backups is configured, None where that is not known yet; ``backups`` is how they stood when last read.
    """

    declared: Declared = field(default_factory=Declared)
    pointers: Mapping[TableName, str] = field(default_factory=dict)
    tables: Mapping[TableName, Facts] = field(default_factory=dict)
    damaged: Mapping[TableName, str] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, Series] = field(default_factory=dict)
    results: pa.Table | None = None
    has_backups: bool | None = None
    backups: Status | None = None
    problems: Mapping[str, Problem] = field(default_factory=dict)
    read_at: Mapping[str, datetime] = field(default_factory=dict)

    def went_well(self, part: str, at: datetime) -> Known:
        """A part was read."""
        problems = {name: problem for name, problem in self.problems.items() if name != part}
        return replace(self, problems=problems, read_at={**self.read_at, part: at})

    def went_wrong(self, problem: Problem) -> Known:
        """A part could not be read; what was known of it stays. A problem that lasts keeps its beginning."""
        former = self.problems.get(problem.part)
        if former is not None:
            problem = replace(problem, since=former.since)
        return replace(self, problems={**self.problems, problem.part: problem})

    @property
    def unread(self) -> int:
        """How many tables have metadata that is newer than what is known of them, or not known at all."""
        return sum(
            1
            for name, location in self.pointers.items()
            if name not in self.damaged and (name not in self.tables or self.tables[name].location != location)
        )
