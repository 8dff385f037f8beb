"""The records of runs: three Iceberg tables in ``ops``, written at the end of a run through the one writer path.

Records for people and charts, never the truth: a run whose records cannot be written has done its work all the same.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lakehouse.core.names import TableName
from lakehouse.engine.publish import Lake, Target, publish
from lakehouse.engine.tables import ColumnSpec, TableSpec
from lakehouse.ledger.watermark import Head, Stamp

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse.engine.run import RunResult
    from lakehouse.quality.record import Recorder

_RUN = ColumnSpec("string", "The run that found this.")
_AT = ColumnSpec("timestamp", "When the run ended, UTC.")
_ABOUT = {
    "source": ColumnSpec("string", "The dataset, as in retail.sales."),
    "table": ColumnSpec("string", "The table, as in silver.fact_sales_line."),
    "attempt": ColumnSpec("string", "The attempt that published it; part of the snapshot's summary."),
    "batch": ColumnSpec("bigint", "Number of the batch in the landing log of the source."),
    "unit": ColumnSpec("date", "Logical date of the batch."),
}
RUNS = TableSpec(
    TableName("ops", "runs"),
    "One row for each run that published something or failed.",
    {
        "run": _RUN,
        "started_at": ColumnSpec("timestamp", "When the run began, UTC."),
        "ended_at": _AT,
        "outcome": ColumnSpec("string", "succeeded, held (a rule holds batches back) or failed."),
        "tables": ColumnSpec("int", "Publications."),
        "received": ColumnSpec("bigint", "Rows that silver tables received."),
        "quarantined": ColumnSpec("bigint", "Rows among them that went to quarantine."),
        "held": ColumnSpec("int", "Batches that a rule held back from a table in this run."),
        "errors": ColumnSpec("array<string>", "Messages of what could not go on."),
        "host": ColumnSpec("string", "The machine that it ran on."),
        "version": ColumnSpec("string", "Version of the lakehouse."),
    },
    ("month(ended_at)",),
    ("ended_at",),
)
BATCHES = TableSpec(
    TableName("ops", "batches"),
    "What became of each batch in each silver table, once for each run that looked at it.",
    {
        "run": _RUN,
        "ended_at": _AT,
        **_ABOUT,
        "landed_at": ColumnSpec("timestamp", "When the batch landed, UTC."),
        "state": ColumnSpec("string", "taken, held, or blocked by the gate."),
        "reason": ColumnSpec("string", "Why it is held; empty where it is not."),
        "received": ColumnSpec("bigint", "Rows of the batch."),
        "good": ColumnSpec("bigint", "Rows that passed all rules."),
        "quarantined": ColumnSpec("bigint", "Rows that failed a rule."),
        "rejected": ColumnSpec("bigint", "Records that could not be read."),
        "without_key": ColumnSpec("bigint", "Rows of a dimension that say nothing of any key."),
        "drifted": ColumnSpec("bigint", "Rows that did not have the columns of the contract."),
    },
    ("month(ended_at)",),
    ("ended_at", "table", "unit"),
)
QUALITY = TableSpec(
    TableName("ops", "quality_results"),
    "What each rule said of each batch: rows checked, rows that fail, and what came of them.",
    {
        "run": _RUN,
        "ended_at": _AT,
        **_ABOUT,
        "rule": ColumnSpec("string", "Name of the rule."),
        "dimension": ColumnSpec("string", "completeness, uniqueness, validity, consistency, timeliness or volume."),
        "scope": ColumnSpec("string", "row, or batch for rules over all rows of one."),
        "level": ColumnSpec("string", "error or warn."),
        "checked": ColumnSpec("bigint", "Rows that the rule looked at."),
        "failed": ColumnSpec("bigint", "Rows among them that fail it."),
        "outcome": ColumnSpec("string", "passed, quarantined, warned, held or blocked."),
        "words": ColumnSpec("string", "What the rule asks for."),
        "expectation": ColumnSpec("string", "The rule as an expectation of Great Expectations."),
        "arguments": ColumnSpec("string", "Its arguments, as JSON."),
    },
    ("month(ended_at)",),
    ("table", "rule", "unit"),
)
Rows = Sequence[Mapping[str, Any]]


def write_records(lake: Lake, recorder: Recorder, result: RunResult, started: datetime) -> None:
    """Append what a run found to the three tables. Raises what :func:`publish` raises."""
    ended = lake.clock.now()
    mark = {"run": recorder.run, "ended_at": ended}
    rows = [
        (BATCHES, [{**mark, **asdict(each)} for each in recorder.batches]),
        (QUALITY, [{**mark, **asdict(each)} for each in recorder.rules]),
        (RUNS, [{**_run(result, recorder), **mark, "started_at": started}]),
    ]
    publish(lake, _Append(tuple((spec, found) for spec, found in rows if found)))


def _run(result: RunResult, recorder: Recorder) -> dict[str, Any]:
    silver = [report for report in result.reports if report.table.namespace == "silver"]
    held = sum(batch.state == "held" for batch in recorder.batches)
    return {
        "outcome": "failed" if result.errors else "held" if held else "succeeded",
        "tables": len(result.reports),
        "received": sum(report.received for report in silver),
        "quarantined": sum(report.quarantined for report in silver),
        "held": held,
        "errors": [str(error) for error in result.errors],
        "host": socket.gethostname(),
        "version": version("lakehouse"),
    }


@dataclass(frozen=True)
class _Append:
    """Both the job and its work: what it appends does not depend on what the tables have."""

    rows: Sequence[tuple[TableSpec, Rows]]
    attempt: str = ""

    def specs(self) -> Sequence[TableSpec]:
        return [spec for spec, _ in self.rows]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _Append:
        return _Append(self.rows, attempt)

    def stamps(self) -> Mapping[TableName, Stamp]:
        return {spec.name: Stamp(self.attempt) for spec, _ in self.rows}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        for spec, rows in self.rows:
            target = targets[spec.name]
            table = _arrow(spec, rows)
            target.append(target.lake.spark.createDataFrame(table).coalesce(1))

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """Nothing is asked of a record."""


_ARROW = {"string": "string", "bigint": "int64", "int": "int32", "date": "date32"}


def _arrow(spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    kinds: dict[str, pa.DataType] = {
        **{name: pa.type_for_alias(alias) for name, alias in _ARROW.items()},
        "timestamp": pa.timestamp("us", tz="UTC"),
        "array<string>": pa.list_(pa.string()),
    }
    schema = pa.schema([(name, kinds[column.spark_type]) for name, column in spec.columns.items()])
    return pa.Table.from_pylist(list(rows), schema)
