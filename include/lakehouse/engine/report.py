"""What a run did to each table, as counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lakehouse.core.names import TableName


@dataclass
class TableReport:
    """One table in one run. Rows of the source are counted by what became of them; the sum is ``received``."""

    table: TableName
    batches: int = 0
    received: int = 0
    good: int = 0
    quarantined: int = 0
    rejected: int = 0
    without_key: int = 0
    warned: dict[str, int] = field(default_factory=dict)
    held: tuple[int, ...] = ()
    rows_added: int = 0
    rows_removed: int = 0
    opened: int = 0
    closed: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {**asdict(self), "table": str(self.table), "seconds": round(self.seconds, 2)}
