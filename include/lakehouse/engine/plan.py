"""What the contracts say and the live tables are not yet: found from metadata, without a JVM, and adopted by a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.contracts.changes import Change, Verdict, compare, verdict_of
from lakehouse.contracts.model import Contract
from lakehouse.contracts.semantics import table_fingerprint
from lakehouse.core.errors import ContractError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.engine.alter import LiveTable, alterations
from lakehouse.engine.evolve import next_generation
from lakehouse.engine.tables import TableSpec, bronze_spec, quarantine_spec, silver_spec
from lakehouse.ledger.evidence import LakeEvidence
from lakehouse.ledger.generations import Generations
from lakehouse.ledger.recorded import recorded
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Baseline, head_of, load_table

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table


@dataclass(frozen=True)
class TablePlan:
    """What would change in one table. One that starts from a baseline (``is_trimmed``) cannot be rebuilt for it."""

    table: TableName
    changes: tuple[Change, ...]
    is_new: bool = False
    is_trimmed: bool = False

    @property
    def verdict(self) -> Verdict:
        """The gravest of its changes."""
        return verdict_of(self.changes)

    @property
    def command(self) -> str:
        """What brings the table to its contract where a run does not."""
        return f"lakehouse {'replay' if self.verdict == 'replay' else 'rebuild'} {self.table}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        changes = [asdict(change) for change in self.changes]
        marks = {"is_new": self.is_new, "is_trimmed": self.is_trimmed}
        return {"table": str(self.table), "verdict": self.verdict, **marks, "changes": changes}


def plan(catalog: Catalog, store: ObjectStore, contracts: Iterable[Contract]) -> list[TablePlan]:
    """For each table of each contract that is not as the contract says, what would change."""
    found = [one for contract in contracts for one in _plan_contract(catalog, store, contract)]
    return [one for one in found if one.changes or one.is_new]


def _plan_contract(catalog: Catalog, store: ObjectStore, contract: Contract) -> Iterable[TablePlan]:
    yield _bronze(load_table(catalog, contract.bronze_table), contract)
    for name in contract.tables:
        yield silver_plan(catalog, store, contract, name)
        quarantine = quarantine_spec(contract, name)
        if table := load_table(catalog, quarantine.name):
            yield TablePlan(quarantine.name, _metadata_changes(table, quarantine))


def _bronze(table: Table | None, contract: Contract) -> TablePlan:
    if table is None:
        return TablePlan(contract.bronze_table, (), is_new=True)
    known = Generations.read(table.properties).entries
    coming = next_generation(table, tuple(contract.source.columns)).entries[-1][1]
    gone = sorted(known[-1][1] - coming) if known else []
    text = "what files still say of it is kept in _extra"
    removed = [Change("column no longer expected", name, verdict="free", reason=text) for name in gone]
    return TablePlan(contract.bronze_table, (*_metadata_changes(table, bronze_spec(contract)), *removed))


def _metadata_changes(table: Table, spec: TableSpec) -> tuple[Change, ...]:
    return tuple(one.change for one in alterations(LiveTable.of(table), spec, may_replace=True) if one.change)


def silver_plan(catalog: Catalog, store: ObjectStore, contract: Contract, name: str) -> TablePlan:
    """What would change in one silver table."""
    target = contract.silver_table(name)
    table = load_table(catalog, target)
    if table is None:
        return TablePlan(target, (), is_new=True)
    rows = _row_changes(catalog, store, contract, name, table)
    spec = silver_spec(contract, name)
    said = {(change.what.split()[-1], change.subject) for change in rows}
    kinds = ("description", "classified", "order", "partitioning", "sort")
    more = [c for c in _metadata_changes(table, spec) if (c.what.split()[-1], c.subject) not in said]
    if verdict_of(rows) not in (
        "free",
        "replay",
    ):  # a rebuild replaces columns; what it would do is said by the changes above
        more = [change for change in more if change.what.startswith(kinds)]
    return TablePlan(target, (*rows, *more), is_trimmed=head_of(table).baseline is not None)


def _row_changes(catalog: Catalog, store: ObjectStore, contract: Contract, name: str, table: Table) -> list[Change]:
    """Differences between the contract and the one that the rows were made with, as the table can take them."""
    found = _differences(catalog, store, contract, name, table)
    baseline = head_of(table).baseline
    return [_at_baseline(change, baseline) for change in found] if baseline else found


def _differences(catalog: Catalog, store: ObjectStore, contract: Contract, name: str, table: Table) -> list[Change]:
    stamp = head_of(table).stamp
    if stamp is None or not stamp.fingerprint or stamp.fingerprint == table_fingerprint(contract, name):
        return []
    before = recorded(table, stamp.fingerprint)
    if before is None:
        reason = "the contract that it was made with was not recorded, or is read otherwise by this version"
        return [Change("contract", "", stamp.fingerprint[:12], table_fingerprint(contract, name)[:12], reason=reason)]
    changes = compare(before.contract, contract, name, LakeEvidence(catalog, store, contract, name))
    # The semantics differ in spelling alone.
    return changes or [Change("contract", "", "rewritten", "equal", "free")]


def _at_baseline(change: Change, baseline: Baseline) -> Change:
    """The change of a table whose older observations are only kept as a baseline, by the contract of then."""
    if change.verdict == "free" and change.what not in ("column renamed", "column widened"):
        return change
    text = f"bronze was trimmed, and what was observed before {baseline.at:%Y-%m-%d} is kept as the contract said then"
    return replace(change, verdict="refused", reason=f"{change.reason}; {text}" if change.reason else text)


def replay_plan(catalog: Catalog, store: ObjectStore, contract: Contract, name: str) -> TablePlan:
    """What a table's contract changed since its rows were judged: nothing, what is free, or row rules.

    Raises :class:`SettingsError` where there is no table yet, and :class:`ContractError` where more than row rules
    changed, or where rows that are to be judged were trimmed from bronze.
    """
    found = silver_plan(catalog, store, contract, name)
    if found.is_new:
        raise SettingsError(f"there is no table {found.table} to replay yet", todo="`lakehouse run` makes it")
    if found.verdict in ("free", "replay"):
        return found
    what, todo = "more than its row rules changed", f"run `{found.command}` to make it anew from bronze"
    if found.is_trimmed:
        what, todo = "rows that count were trimmed from bronze", "take the change back"
    lines = [f"  {change.verdict}: {change.render()}" for change in found.changes if change.verdict != "free"]
    raise ContractError(
        f"{found.table} cannot be judged anew, since {what}:\n" + "\n".join(lines),
        where=contract.name,
        untouched=f"{found.table} and its quarantine",
        todo=todo,
    )


def require_free(plans: Sequence[TablePlan], contract: Contract, folder: Path) -> None:
    """Raise ContractError where a table cannot go on with the contract as it is; lists every such change."""
    from lakehouse.contracts.load import shown

    stuck = [one for one in plans if one.verdict != "free"]
    if not stuck:
        return
    lines = [
        f"  {one.table}: {change.verdict}: {change.render()}"
        for one in stuck
        for change in one.changes
        if change.verdict != "free"
    ]
    tables = " and ".join(f"`{one.command}`" for one in stuck)
    todo = f"run {tables} to judge or make it anew from bronze, or take the change back; `lakehouse plan` shows all"
    if any(one.is_trimmed for one in stuck):
        todo = "take the change back: a table whose source was trimmed cannot be made anew; `lakehouse plan` shows all"
    raise ContractError(
        "the contract now says something else than these tables were made with:\n" + "\n".join(lines),
        where=shown(folder / contract.domain / f"{contract.dataset}.yaml"),
        untouched="everything of this dataset; nothing was written",
        todo=todo,
    )


def plan_json(plans: Sequence[TablePlan]) -> Mapping[str, Any]:
    """Plain values, for ``--json``."""
    verdict = verdict_of(change for one in plans for change in one.changes)
    return {"verdict": verdict, "tables": [one.to_json() for one in plans]}
