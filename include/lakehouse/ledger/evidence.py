"""What live rows say about a change of contract: a scan of one small column of bronze or quarantine. No JVM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.names import TableName
from lakehouse.ledger.generations import Generations
from lakehouse.ledger.pending import Position, read_ledger
from lakehouse.ledger.recorded import all_recorded
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table, reaching, read_head

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table


@dataclass(frozen=True)
class LakeEvidence:
    """Evidence about one silver table: of the batches that are live in it."""

    catalog: Catalog
    store: ObjectStore
    contract: Contract
    name: str

    @cached_property
    def live(self) -> frozenset[int]:
        """The batches behind the table as it stands."""
        target = self.contract.silver_table(self.name)
        head = read_head(self.catalog, target)
        consumed = head.consumed(self.contract.name)
        frozen = head.baseline.frozen if head.baseline else {}
        position = Position(consumed.through, consumed.decisions)
        sets = read_ledger(self.store, self.contract.name).live(position, str(target), head.held, frozen)
        return sets.live - set(consumed.holes)

    def seen(self, columns: frozenset[str]) -> frozenset[str]:
        """Those source columns of which live bronze rows may hold values."""
        bronze = load_table(self.catalog, self.contract.bronze_table)
        if bronze is None or not self.live:
            return frozenset()
        generations = Generations.read(bronze.properties)
        if not generations.entries:
            return columns  # a table of an earlier version: nobody knows
        known = {c for c in columns if any(generations.knew(c, batch) for batch in self.live)}
        return frozenset(known | (columns & self._unexpected if columns - known else set()))

    @cached_property
    def _unexpected(self) -> frozenset[str]:
        """Columns under ``_extra`` in any live row."""
        import pyarrow.compute as pc

        bronze = load_table(self.catalog, self.contract.bronze_table)
        found: set[str] = set()
        for batches, extra in _pairs(bronze, names.EXTRA) if bronze else ():
            live = pc.is_in(batches, value_set=self._live_array(batches.type))
            found |= set(pc.unique(extra.filter(live).drop_null().keys).to_pylist())
        return frozenset(found)

    def refused(self, rules: frozenset[str]) -> bool:
        """Whether a live row is in quarantine for one of these rules."""
        return bool(self._refusals & rules)

    @cached_property
    def _refusals(self) -> frozenset[str]:
        import pyarrow.compute as pc

        quarantine = load_table(self.catalog, TableName("quarantine", self.name))
        found: set[str] = set()
        for batches, rules in _pairs(quarantine, names.RULES) if quarantine else ():
            live = pc.is_in(batches, value_set=self._live_array(batches.type))
            found |= set(pc.unique(pc.list_flatten(rules.filter(live))).to_pylist())
        return frozenset(found)

    def names(self, column: str) -> frozenset[str]:
        """Every name that a column ever had by any contract that was recorded."""
        table = load_table(self.catalog, self.contract.silver_table(self.name))
        former = [
            (name, spec.renamed_from)
            for one in (all_recorded(table) if table else ())
            for name, spec in one.contract.tables[self.name].typed.items()
            if spec.renamed_from
        ]
        found = {column}
        while more := {b for a, b in former if a in found} - found:
            found |= more
        return frozenset(found)

    def _live_array(self, kind: Any) -> Any:
        import pyarrow as pa

        return pa.array(sorted(self.live), kind)


def _pairs(table: Table, column: str) -> Iterator[tuple[Any, Any]]:
    """Batch numbers with one other column, file by file."""
    with reaching("read what live rows hold"):
        for batch in table.scan(selected_fields=(names.BATCH, column)).to_arrow_batch_reader():
            yield batch.column(names.BATCH), batch.column(column)
