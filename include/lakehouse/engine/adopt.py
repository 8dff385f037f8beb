"""A run first adopts what changed for free in a contract: altered metadata, and a stamp that names the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lakehouse.contracts.changes import only_adds
from lakehouse.contracts.model import Contract
from lakehouse.contracts.semantics import table_fingerprint
from lakehouse.core.names import TableName
from lakehouse.engine.evolve import evolve_table, is_evolved
from lakehouse.engine.lock import table_locks
from lakehouse.engine.plan import require_free, silver_plan
from lakehouse.engine.publish import Lake, Target, publish
from lakehouse.engine.tables import TableSpec, bronze_spec, quarantine_spec, silver_spec
from lakehouse.ledger.recorded import recorded
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Baseline, Head, Stamp, load_table, read_head


def adopt_contract(lake: Lake, contract: Contract) -> None:
    """Bring the tables of a dataset to its contract where that is free. Raises ContractError before anything is
    written where it is not."""
    store = ObjectStore.open(lake.settings)
    plans = [silver_plan(lake.catalog, store, contract, name) for name in contract.tables]
    require_free(plans, contract, lake.settings.contracts)
    evolve_bronze(lake, contract)
    for name in contract.tables:
        _evolve(lake, quarantine_spec(contract, name))
        _evolve(lake, silver_spec(contract, name))
        stamp = read_head(lake.catalog, contract.silver_table(name)).stamp
        if stamp and stamp.fingerprint not in ("", table_fingerprint(contract, name)):
            publish(lake, _Restamp(lake, contract, name))


def evolve_bronze(lake: Lake, contract: Contract) -> None:
    """Bronze with the columns that its source is said to have now."""
    _evolve(lake, bronze_spec(contract))


def _evolve(lake: Lake, spec: TableSpec) -> None:
    table = load_table(lake.catalog, spec.name)
    if table is None or is_evolved(table, spec, lake.clock.now()):
        return
    with table_locks(lake.settings, [spec.name]):
        table = load_table(lake.catalog, spec.name)
        if table is not None:
            evolve_table(lake.spark, table, spec, lake.clock.now())


@dataclass(frozen=True)
class _Restamp:
    """The same rows under a contract that gives the same rows."""

    lake: Lake
    contract: Contract
    name: str

    def specs(self) -> Sequence[TableSpec]:
        return [silver_spec(self.contract, self.name)]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _Restamped | None:
        stamp = heads[self.contract.silver_table(self.name)].stamp
        fingerprint = table_fingerprint(self.contract, self.name)
        if stamp is None or stamp.fingerprint == fingerprint:
            return None  # another run was there first
        # Without the limits that it was held by, what is held is judged anew: a rule that is gone may have held it.
        baseline = self._baseline(stamp)
        stamp = replace(stamp, attempt=attempt, fingerprint=fingerprint, baseline=baseline, limits="")
        return _Restamped(self.contract.silver_table(self.name), stamp)

    def _baseline(self, stamp: Stamp) -> Baseline | None:
        """The baseline under the same contract, where its observations can be read by it: what is new was not observed.

        Any other keeps its fingerprint, and no fold starts from it.
        """
        baseline, table = stamp.baseline, load_table(self.lake.catalog, self.contract.silver_table(self.name))
        before = recorded(table, stamp.fingerprint) if table else None
        if baseline is None or before is None or baseline.fingerprint != stamp.fingerprint:
            return baseline
        if not only_adds(before.contract.tables[self.name], self.contract.tables[self.name]):
            return baseline
        return replace(baseline, fingerprint=table_fingerprint(self.contract, self.name))


@dataclass(frozen=True)
class _Restamped:
    table: TableName
    stamp: Stamp

    def stamps(self) -> Mapping[TableName, Stamp]:
        return {self.table: self.stamp}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        targets[self.table].append_nothing()

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """No row changed."""
