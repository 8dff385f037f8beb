"""Running contract cases: the same functions that make the tables, on a few rows, without any server."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from lakehouse.contracts.cases import Case, Difference, cases_path, compare, compare_quarantine, load_cases
from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.errors import SettingsError
from lakehouse.engine.bronze import FileTask, with_provenance
from lakehouse.engine.facts import fact_rows
from lakehouse.engine.history import fold, observations
from lakehouse.engine.tables import bronze_spec
from lakehouse.engine.typed import FAILED, STATUS, typed_rows
from lakehouse.ledger.live import live
from lakehouse.ledger.log import Batch
from lakehouse.records.layout import Layout
from lakehouse.records.reader import read_records


@dataclass(frozen=True)
class CaseResult:
    """What a case found, by table; empty when everything is as expected."""

    contract: str
    case: str
    differences: dict[str, list[Difference]]

    @property
    def passed(self) -> bool:
        return not any(self.differences.values())

    def render(self) -> str:
        """One line when passed, else one more for each row that is missing or too many."""
        lines = [f"{'passed' if self.passed else 'FAILED'}  {self.contract}: {self.case}"]
        lines += [f"    {table}: {d.kind} {d.row}" for table, found in self.differences.items() for d in found]
        return "\n".join(lines)


def run_cases(spark: SparkSession, directory: Path, sources: Sequence[str] | None = None) -> list[CaseResult]:
    """Run the cases of these contracts, or of all. A contract without cases has none to run."""
    results = []
    contracts = load_contracts(directory)
    for name in sources or contracts:
        if name not in contracts:
            raise SettingsError(f"no contract is called {name}", todo=f"use one of {', '.join(contracts)}")
        path = cases_path(directory / contracts[name].domain / f"{contracts[name].dataset}.yaml")
        if path.exists():
            results += [run_case(spark, contracts[name], case) for case in load_cases(path, contracts[name])]
    return results


def run_case(spark: SparkSession, contract: Contract, case: Case) -> CaseResult:
    """Land, type and fold a case's batches in memory, and compare."""
    batches = [_batch(contract, number, each.unit, each.landed) for number, each in enumerate(case.batches, 1)]
    bronze = _bronze(spark, contract, case, batches).cache()
    units = {batch.number: batch.unit for batch in batches}
    counted = live(batches, [], len(batches), 0).live
    differences: dict[str, list[Difference]] = {}
    try:
        for name in contract.tables.keys() & (case.expect.tables.keys() | case.expect.quarantine.keys()):
            typed = typed_rows(bronze, contract, name)
            usable = counted - _unreadable(contract, typed)
            rows = typed.where(typed[names.BATCH].isin(sorted(usable)))
            differences |= _table(contract, case, name, rows, {n: units[n] for n in usable})
        if case.expect.rejected is not None:
            found = bronze.where(f"{names.REJECTED} IS NOT NULL").count()
            if found != case.expect.rejected:
                differences["rejected"] = [
                    Difference("unexpected", f"{found} records instead of {case.expect.rejected}")
                ]
    finally:
        bronze.unpersist()
    return CaseResult(contract.name, case.name, differences)


def _table(
    contract: Contract, case: Case, name: str, rows: DataFrame, units: dict[int, date]
) -> dict[str, list[Difference]]:
    table, found = contract.tables[name], {}
    if name in case.expect.tables:
        if table.kind == "fact":
            made = fact_rows(rows, table)
        else:
            made = fold(observations(rows, contract, table, units), table)
        found[name] = compare(table, case.expect.tables[name], made.toArrow().to_pylist())
    if name in case.expect.quarantine:
        refused = rows.where(f"{STATUS} = 'quarantined'").select(names.BATCH, names.RECORD, FAILED).collect()
        found[f"quarantine.{name}"] = compare_quarantine(case.expect.quarantine[name], [tuple(r) for r in refused])
    return found


def _unreadable(contract: Contract, typed: DataFrame) -> frozenset[int]:
    """Snapshots with a record or key that cannot be read: held, because absence cannot be judged in them."""
    if contract.source.kind != "snapshot":
        return frozenset()
    held = typed.where(f"{STATUS} IN ('rejected', 'without_key')").select(names.BATCH).distinct().collect()
    return frozenset(row[0] for row in held)


def _batch(contract: Contract, number: int, unit: date, landed: datetime) -> Batch:
    return Batch(contract.name, number, unit, contract.source.kind, (), None, None, landed)


def _bronze(spark: SparkSession, contract: Contract, case: Case, batches: Sequence[Batch]) -> DataFrame:
    layout = Layout.of(contract.source)
    read: list[pa.RecordBatch] = []
    for batch, content in zip(batches, case.batches, strict=True):
        data = content.content(contract)
        task = FileTask(batch.number, batch.unit, batch.landed_at.astimezone(UTC), "case", "", len(data), "", None)
        read += [with_provenance(records, layout, task) for records in read_records(io.BytesIO(data), layout, None)]
    if not read:
        spec = ", ".join(f"`{name}` {c.spark_type}" for name, c in bronze_spec(contract).columns.items())
        return spark.createDataFrame([], spec)
    return spark.createDataFrame(pa.Table.from_batches(read))
