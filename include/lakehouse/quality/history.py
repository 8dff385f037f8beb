"""What rules said over time, read from ``ops.quality_results`` without a JVM."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from lakehouse.core.names import TableName
from lakehouse.quality.suite import Expected

if TYPE_CHECKING:
    from pyiceberg.table import Table

RESULTS = TableName("ops", "quality_results")


@dataclass(frozen=True)
class Finding:
    """A rule in one attempt: rows checked and failed over its batches, and the gravest outcome."""

    table: str
    attempt: str
    at: datetime
    first_unit: date
    last_unit: date
    batches: int
    expected: Expected
    checked: int
    failed: int
    outcome: str

    @property
    def share(self) -> float:
        """Share of the rows that pass; 1 where there were none."""
        return 1 - self.failed / self.checked if self.checked else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = {name: value for name, value in vars(self).items() if name != "expected"}
        about = {name: getattr(self.expected, name) for name in ("rule", "dimension", "scope", "level", "words")}
        return {**plain, **about, "share": self.share}


_GRAVEST = ("passed", "warned", "quarantined", "held", "blocked")


def read_findings(results: Table | None, tables: Sequence[str] = ()) -> list[Finding]:
    """Every rule of every attempt, newest first; of some tables only, where these are named."""
    rows = results.scan().to_arrow().to_pylist() if results is not None else []
    return findings_in(row for row in rows if not tables or row["table"] in tables)


def findings_in(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """The findings that rows of ``ops.quality_results`` tell, newest first."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["table"], row["attempt"], row["rule"]), []).append(row)
    found = [_finding(group) for group in groups.values()]
    return sorted(found, key=lambda each: (each.at, each.table, each.expected.rule), reverse=True)


def newest(findings: Iterable[Finding]) -> list[Finding]:
    """The last thing that each rule of each table said."""
    last: dict[tuple[str, str], Finding] = {}
    for finding in sorted(findings, key=lambda each: each.at):
        last[finding.table, finding.expected.rule] = finding
    return sorted(last.values(), key=lambda each: (each.table, each.expected.rule))


def _finding(rows: Sequence[Mapping[str, Any]]) -> Finding:
    one = rows[0]
    expected = Expected(
        one["rule"], one["dimension"], one["level"], one["scope"], one["words"], one["expectation"],
        json.loads(one["arguments"]),
    )  # fmt: skip
    units = [row["unit"] for row in rows]
    return Finding(
        table=one["table"],
        attempt=one["attempt"],
        at=one["ended_at"],
        first_unit=min(units),
        last_unit=max(units),
        batches=len(rows),
        expected=expected,
        checked=sum(row["checked"] for row in rows),
        failed=sum(row["failed"] for row in rows),
        outcome=max((row["outcome"] for row in rows), key=_GRAVEST.index),
    )
