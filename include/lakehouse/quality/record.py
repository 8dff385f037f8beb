"""What a run leaves behind about itself, as plain values: the rows of the ``ops`` tables.

They are records for people and charts. Nothing that decides what a table holds ever reads them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

Outcome = Literal["passed", "quarantined", "warned", "held", "blocked"]
State = Literal["taken", "held", "blocked"]


@dataclass(frozen=True)
class RuleRecord:
    """What a rule said of one batch, and what came of it. ``checked`` and ``failed`` are rows.

    ``expectation`` and ``arguments`` (JSON) are Great Expectations' own words for the rule.
    """

    source: str
    table: str
    attempt: str
    batch: int | None
    unit: date | None
    rule: str
    dimension: str
    scope: str
    level: str
    checked: int
    failed: int
    outcome: Outcome
    words: str
    expectation: str
    arguments: str


@dataclass(frozen=True)
class BatchRecord:
    """What became of a batch in one table: rows by status, and why it is held where it is."""

    source: str
    table: str
    attempt: str
    batch: int
    unit: date
    landed_at: datetime
    state: State
    reason: str
    received: int
    good: int
    quarantined: int
    rejected: int
    without_key: int
    drifted: int


@dataclass
class Recorder:
    """What a run has found so far. ``run`` names it."""

    run: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    rules: list[RuleRecord] = field(default_factory=list)
    batches: list[BatchRecord] = field(default_factory=list)

    def add(self, rules: Iterable[RuleRecord], batches: Iterable[BatchRecord]) -> None:
        """Keep the records of one table."""
        self.rules += rules
        self.batches += batches
