"""A rebuild: one silver table anew from bronze on a fork, shown beside what stands, then published or dropped.

No lock is held while a person looks at the difference. What is published is exactly what was shown: publication
fails when the table changed meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lakehouse.contracts.model import Contract
from lakehouse.core.errors import ContractError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.engine.adopt import evolve_bronze
from lakehouse.engine.compare_tables import Difference, compare_tables
from lakehouse.engine.evolve import evolve_table
from lakehouse.engine.fork import Fork, enter, forget, make_fork, rebuild_note, seal, take_back
from lakehouse.engine.lock import table_locks
from lakehouse.engine.publish import Lake, create_missing
from lakehouse.engine.report import TableReport
from lakehouse.engine.silver import Silver, run_silver
from lakehouse.engine.spark_errors import readable
from lakehouse.engine.tables import TableSpec, quarantine_spec, silver_spec
from lakehouse.ledger.watermark import head_of, load_table, read_head


@dataclass(frozen=True)
class Prepared:
    """A rebuild that was computed: its forks, what it did, and how the result differs from what stands."""

    contract: Contract
    name: str
    forks: tuple[Fork, ...]
    report: TableReport
    difference: Difference
    quarantined_before: int

    @property
    def table(self) -> TableName:
        return self.contract.silver_table(self.name)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        quarantined = {"before": self.quarantined_before, "after": self.report.quarantined}
        return {
            "table": str(self.table),
            "difference": asdict(self.difference),
            "quarantined": quarantined,
            "report": self.report.to_json(),
        }


@dataclass(frozen=True)
class Undone:
    """A rebuild that was taken back: main before and after, and how far the table has consumed its source again."""

    table: TableName
    was: int
    snapshot_id: int
    consumed_through: int


@readable()
def prepare_rebuild(lake: Lake, contract: Contract, name: str) -> Prepared:
    """Compute a silver table and its quarantine anew from bronze, as the contract says now. ``main`` is untouched."""
    through = _through(lake, contract, name)
    evolve_bronze(lake, contract)
    specs = [silver_spec(contract, name), quarantine_spec(contract, name)]
    create_missing(lake, specs)
    forks = tuple(fork_table(lake, spec) for spec in specs)
    silver = Silver(lake, contract, name, through, {fork.table: fork.name for fork in forks})
    try:
        report = run_silver(silver, rebuild=True)
        if report is None:
            raise SettingsError(
                f"bronze has nothing for {specs[0].name}", todo="`lakehouse run` after something landed"
            )
        forks = tuple(seal(lake, fork) for fork in forks)
        difference = compare_tables(lake, contract, name, forks[0].name)
    except BaseException:
        drop_forks(lake, forks)
        raise
    before = lake.table(specs[1].name).count()
    return Prepared(contract, name, forks, replace(report, table=specs[0].name), difference, before)


def _through(lake: Lake, contract: Contract, name: str) -> int:
    """How far bronze is. A table that was never made has nothing to be compared with."""
    table = contract.silver_table(name)
    if load_table(lake.catalog, table) is None:
        raise SettingsError(f"there is no table {table} to rebuild yet", todo="`lakehouse run` makes it")
    return read_head(lake.catalog, contract.bronze_table).consumed(contract.name).through


def fork_table(lake: Lake, spec: TableSpec) -> Fork:
    """A fork of a table that stands, with the columns and layout of its spec."""
    fork = make_fork(lake, spec.name)
    loaded = load_table(lake.catalog, fork.name)
    if loaded is None:
        raise ContractError(f"the fork of {spec.name} is gone", todo="no other rebuild may run beside this one")
    evolve_table(lake.spark, loaded, replace(spec, name=fork.name), lake.clock.now(), may_replace=True)
    return fork


@readable()
def publish_rebuild(lake: Lake, prepared: Prepared) -> int:
    """Make the table what was prepared; returns its new snapshot. Raises ConcurrentCommit where it changed since."""
    with table_locks(lake.settings, [fork.table for fork in prepared.forks]) as locks:
        locks.check()
        enter(lake, prepared.forks, uuid.uuid4().hex[:16], lake.clock.now())
    drop_forks(lake, prepared.forks)
    return read_head(lake.catalog, prepared.table).snapshot_id or 0


def drop_rebuild(lake: Lake, prepared: Prepared) -> None:
    """Forget what was prepared."""
    drop_forks(lake, prepared.forks)


def drop_forks(lake: Lake, forks: Iterable[Fork]) -> None:
    """Forget forks, unless another preparation took their place."""
    for fork in forks:
        forget(lake, fork)


@readable()
def undo_rebuild(lake: Lake, contract: Contract, name: str) -> Undone:
    """Make a table and its quarantine what they were before their last rebuild, columns included.

    What was consumed since the rebuild is pending again. Raises SettingsError where there is no rebuild to take back.
    """
    table, quarantine = contract.silver_table(name), quarantine_spec(contract, name).name
    with table_locks(lake.settings, [table, quarantine]) as locks:
        note = rebuild_note(lake, table)
        if note is None:
            raise SettingsError(f"{table} has no rebuild that could be taken back", todo="`lakehouse contract history`")
        was = read_head(lake.catalog, table).snapshot_id or 0
        _require_same_baseline(lake, table, note["before"])
        locks.check()
        take_back(lake, [table, *_with(lake, quarantine, note)], lake.clock.now())
    head = read_head(lake.catalog, table)
    return Undone(table, was, head.snapshot_id or 0, head.consumed(contract.name).through)


def _require_same_baseline(lake: Lake, table: TableName, before: int) -> None:
    """Raise SettingsError where bronze was trimmed since the rebuild: what stood before could not be folded on."""
    loaded = load_table(lake.catalog, table)
    then, now = head_of(loaded, before).baseline, head_of(loaded).baseline
    # A free change of the contract renames the semantics of the same baseline.
    if (then and replace(then, fingerprint="")) != (now and replace(now, fingerprint="")):
        raise SettingsError(
            f"the rebuild of {table} cannot be taken back: bronze was trimmed since, and what stood before does not "
            "start from that baseline",
            untouched=f"{table} and its quarantine",
            todo=f"correct the contract and run `lakehouse rebuild {table}`; the former rows can be read with --as-of",
        )


def _with(lake: Lake, quarantine: TableName, note: Mapping[str, Any]) -> list[TableName]:
    """The quarantine, if it was rebuilt by the same attempt."""
    other = rebuild_note(lake, quarantine)
    return [quarantine] if other and other["attempt"] == note["attempt"] else []
