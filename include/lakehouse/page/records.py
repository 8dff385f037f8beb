"""What runs recorded in ``ops.batches`` and ``ops.quality_results``: each data file is read once, and kept small.

Both tables grow by a file with each run and are never edited, so a refresh reads what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lakehouse.core.names import TableName
from lakehouse.ledger.watermark import reaching
from lakehouse.quality.history import RESULTS

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import FileScanTask, Table

BATCHES = TableName("ops", "batches")
WINDOW = timedelta(days=90)
"""How far back runs are looked at."""
UNITS = 60
"""The most units of a chart, the newest."""
_BATCH_COLUMNS = (
    "ended_at", "source", "table", "batch", "unit", "state", "received", "good", "quarantined", "rejected",
    "without_key",
)  # fmt: skip
_RULE_COLUMNS = (
    "ended_at", "source", "table", "attempt", "batch", "unit", "rule", "dimension", "scope", "level", "checked",
    "failed", "outcome", "words", "expectation", "arguments",
)  # fmt: skip
COLUMNS: Mapping[TableName, tuple[str, ...]] = {BATCHES: _BATCH_COLUMNS, RESULTS: _RULE_COLUMNS}


@dataclass
class FileCache:
    """The recent rows of one table, file by file. ``opened`` counts the data files that were read."""

    columns: Sequence[str]
    opened: int = 0
    _files: dict[tuple[str, ...], pa.Table] = field(default_factory=dict)

    def read(self, table: Table, since: datetime) -> pa.Table:
        """All rows of runs that ended since then. Reads the files that were not read before, and forgets others."""
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyiceberg.expressions import GreaterThanOrEqual

        day = since.replace(hour=0, minute=0, second=0, microsecond=0)
        scan = table.scan(
            row_filter=GreaterThanOrEqual(term="ended_at", value=day.isoformat()),  # type: ignore[arg-type]
            selected_fields=tuple(self.columns),
        )
        with reaching(f"read {'.'.join(table.name())}"):
            tasks = {_identity(task): task for task in scan.plan_files()}
            new = {key: self._open(table, scan, task) for key, task in tasks.items() if key not in self._files}
        self._files = {key: new.get(key, self._files.get(key)) for key in tasks}
        if not self._files:
            return scan.projection().as_arrow().empty_table()
        rows = pa.concat_tables(self._files.values(), promote_options="permissive").unify_dictionaries()
        return rows.filter(pc.greater_equal(rows["ended_at"], pa.scalar(since)))

    def _open(self, table: Table, scan: Any, task: FileScanTask) -> pa.Table:
        from pyiceberg.io.pyarrow import ArrowScan

        self.opened += 1
        rows = ArrowScan(table.metadata, table.io, scan.projection(), scan.row_filter).to_table([task])
        return _encoded(rows)


def _identity(task: FileScanTask) -> tuple[str, ...]:
    return (task.file.file_path, *sorted(each.file_path for each in task.delete_files))


def _encoded(rows: pa.Table) -> pa.Table:
    """The same rows with each text kept once."""
    import pyarrow as pa

    for number, column in enumerate(rows.schema):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            texts = rows.column(number).cast(pa.string()).dictionary_encode()
            rows = rows.set_column(number, column.name, texts)
    return rows


@dataclass(frozen=True)
class UnitQuality:
    """What became of the rows of a unit in one table. ``state`` is taken, held or blocked."""

    unit: date
    good: int
    refused: int
    state: str

    @property
    def share(self) -> float | None:
        """Share of the rows with a key that passed; None where there were none."""
        return self.good / (self.good + self.refused) if self.good + self.refused else None


Series = tuple[UnitQuality, ...]


def quality_of(rows: Iterable[Mapping[str, Any]], increments: frozenset[str]) -> dict[str, Series]:
    """Quality by table and unit, oldest unit first, from rows of ``ops.batches``.

    Of several runs that looked at a batch, the last one counts. Of several batches of a unit, the last one does, since
    it replaced the others; batches of the sources named in ``increments`` replace nothing and are added up.
    """
    last: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["table"], row["batch"])
        if key not in last or row["ended_at"] >= last[key]["ended_at"]:
            last[key] = row
    units: dict[tuple[str, date], list[Mapping[str, Any]]] = {}
    for row in sorted(last.values(), key=lambda each: each["batch"]):
        units.setdefault((row["table"], row["unit"]), []).append(row)
    series: dict[str, list[UnitQuality]] = {}
    for (table, unit), found in sorted(units.items()):
        counted = found if found[0]["source"] in increments else found[-1:]
        series.setdefault(table, []).append(_quality(unit, counted))
    return {table: tuple(found[-UNITS:]) for table, found in series.items()}


def _quality(unit: date, rows: Sequence[Mapping[str, Any]]) -> UnitQuality:
    good = sum(row["good"] for row in rows)
    refused = sum(row["quarantined"] + row["rejected"] for row in rows)
    return UnitQuality(unit, good, refused, rows[-1]["state"])


def rows_about(rows: pa.Table, table: TableName) -> list[dict[str, Any]]:
    """The rows that are about one table."""
    import pyarrow.compute as pc

    return list(rows.filter(pc.equal(rows["table"].cast("string"), str(table))).to_pylist())
