"""What a run did to each table, as counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lakehouse.core.names import TableName

if TYPE_CHECKING:
    from lakehouse.engine.dimension import Written


@dataclass(frozen=True)
class Refusal:
    """Rows that went to quarantine for one rule, and where the first of them came from.

    A place is a file and a record, from 1, and tells nothing of what the row says. ``line`` is None where the format
    has none.
    """

    rule: str
    words: str
    rows: int
    file: str
    record: int
    line: int | None

    @property
    def place(self) -> str:
        """The first row, as a person finds it."""
        return f"{self.file}, {f'line {self.line}' if self.line else f'record {self.record:,}'}"


@dataclass
class TableReport:
    """One table in one run. Rows of the source are counted by what became of them; the sum is ``received``.

    ``ties`` counts moments of a key for which different observations were ranked; ``beyond_horizon`` the quarantined
    rows that came too late, before the ``horizon`` of the table's baseline; ``drifted`` the rows of records that did
    not have the contract's columns; ``refusals`` has the rules behind ``quarantined``, each with its first row;
    ``snapshot_id`` is the snapshot that was published.
    """

    table: TableName
    batches: int = 0
    received: int = 0
    good: int = 0
    quarantined: int = 0
    rejected: int = 0
    without_key: int = 0
    warned: dict[str, int] = field(default_factory=dict)
    held: Mapping[int, str] = field(default_factory=dict)
    rows_added: int = 0
    rows_removed: int = 0
    opened: int = 0
    closed: int = 0
    ties: int = 0
    late_keys: int = 0
    late_rows: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    note: str = ""
    beyond_horizon: int = 0
    drifted: int = 0
    horizon: str = ""
    snapshot_id: int | None = None
    refusals: list[Refusal] = field(default_factory=list)

    def written(self, by: Written) -> None:
        """Take over what a pass did to a dimension."""
        self.opened, self.closed, self.ties = by.opened, by.closed, by.ties
        self.late_keys, self.late_rows = by.late_keys, by.late_rows

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {**asdict(self), "table": str(self.table), "seconds": round(self.seconds, 2)}
