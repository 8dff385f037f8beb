"""What the overview needs of a table, taken from its metadata once: a metadata file never changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakehouse.core.names import TableName
from lakehouse.ledger.holds import Holding, holding
from lakehouse.ledger.reading import TableSummary, summarize
from lakehouse.ledger.watermark import BRANCH_PREFIX, Head, head_of

if TYPE_CHECKING:
    from pyiceberg.table import Table

_MAIN = "main"


@dataclass(frozen=True)
class Ref:
    """A name for a snapshot: ``kind`` is tag or branch."""

    name: str
    kind: str
    snapshot_id: int


@dataclass(frozen=True)
class Facts:
    """A table as one metadata file describes it. ``location`` is that file."""

    location: str
    summary: TableSummary
    head: Head
    holding: Holding
    refs: tuple[Ref, ...]

    @property
    def name(self) -> TableName:
        """The table."""
        return self.summary.table

    def last_taken(self, source: str) -> int:
        """The newest batch of a source that is in the table; held and discarded ones are not. 0 for none."""
        consumed = self.head.consumed(source)
        left_out = {*consumed.holes, *self.head.held}
        return next((number for number in range(consumed.through, 0, -1) if number not in left_out), 0)

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of its tags, sorted."""
        return tuple(ref.name for ref in self.refs if ref.kind == "tag")


def facts_of(name: TableName, table: Table) -> Facts:
    """What one metadata file says; keeps nothing of the metadata itself, which may be megabytes."""
    return Facts(
        table.metadata_location, summarize(name, table), head_of(table), tuple(holding(table)), tuple(refs_of(table))
    )


def refs_of(table: Table) -> list[Ref]:
    """Tags and branches, by name; ``main`` and the branches of attempts left out."""
    return [
        Ref(name, ref.snapshot_ref_type.value, ref.snapshot_id)
        for name, ref in sorted(table.metadata.refs.items())
        if name != _MAIN and not name.startswith(BRANCH_PREFIX)
    ]
