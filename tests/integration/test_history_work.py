"""How much work a pass does, counted and never timed: rows, files, bytes, reads, and what is folded again."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from tests.integration.pipeline import all_tables, heads, land_files, run

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.engine.publish import Lake
from lakehouse.engine.report import TableReport
from lakehouse.ledger.watermark import STAMP_PROPERTY, ancestors, load_table, summary_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from tests.servers import NewLake

DAYS = [date(2024, 1, 1) + timedelta(days=number) for number in range(5)]
KEYS = 40_000
CHANGED = KEYS // 100
LATE = 50
MEGABYTE = 1_000_000
Row = dict[str, Any]


def contract(kind: str) -> Contract:
    """Keys with a text that does not compress, in a dimension of types 1 and 2."""
    columns = {
        "id": {"type": "string", "description": "the key", "nullable": False},
        "city": {"type": "string", "description": "an attribute"},
        "name": {"type": "string", "description": "an attribute", "history": 1},
        "note": {"type": "string", "description": "an attribute"},
    }
    order = {"at": {"type": "timestamp", "description": "effective time", "nullable": False}}
    time = {"effective_time": names.UNIT} if kind == "snapshot" else {"effective_time": "at", "order": order}
    ties = [] if kind == "snapshot" else [{"column": "at"}]
    table = {"kind": "dimension", "description": "made for a test", "key": ["id"], "columns": columns, **time}
    source = {
        "connector": "files",
        "kind": kind,
        "format": "jsonl",
        "pattern": f"work/{kind}/{{date}}.jsonl",
        "columns": {name: {"description": "made for a test"} for name in ("id", "at", "city", "name", "note")},
    }
    whole = {"format": 1, "domain": "work", "dataset": kind, "owner": "tests", "description": "made for a test"}
    return Contract.model_validate({**whole, "source": source, "tables": {"dim_work": {**table, "tie_breakers": ties}}})


@dataclass
class Worked:
    """A lake that took one full day, and can take more."""

    lake: Lake
    contract: Contract
    folder: Path
    content: dict[str, Row]

    @property
    def kind(self) -> str:
        return self.contract.source.kind

    def take(self, day: int, rows: Mapping[str, Row]) -> TableReport:
        """Land a day's rows and run: what happened to the dimension."""
        root = self.folder / f"{day}-{len(list(self.folder.iterdir()))}"
        path = root / "work" / self.kind / f"{DAYS[day]}.jsonl"
        path.parent.mkdir(parents=True)
        at = datetime.combine(DAYS[day], datetime.min.time(), UTC).isoformat()
        path.write_text("".join(json.dumps({"id": key, "at": at, **row}) + "\n" for key, row in rows.items()))
        land_files(self.lake, [self.contract], root)
        return run(self.lake, [self.contract])[-1]

    def changed(self, keys: int, city: str) -> dict[str, Row]:
        """Some keys with another city: as a delta, or the whole snapshot with these in it."""
        some = {key: {**self.content[key], "city": city} for key in list(self.content)[:keys]}
        return {**self.content, **some} if self.kind == "snapshot" else some

    def summary(self) -> dict[str, int]:
        """What the last commit with a stamp says it did."""
        table = load_table(self.lake.catalog, self.contract.silver_table("dim_work"))
        assert table is not None
        found = next(summary_of(s) for s in ancestors(table) if STAMP_PROPERTY in summary_of(s))
        return {name: int(value) for name, value in found.items() if str(value).isdecimal()}


@pytest.fixture(params=["increment", "snapshot"])
def worked(request: pytest.FixtureRequest, new_lake: NewLake, tmp_path: Path, chance: random.Random) -> Worked:
    content = {f"k{number}": {"city": "x", "name": "n", "note": chance.randbytes(60).hex()} for number in range(KEYS)}
    found = Worked(new_lake(), contract(request.param), tmp_path, content)
    assert found.take(0, content).rows_added == KEYS
    return found


def test_work_follows_what_changed(worked: Worked) -> None:
    """1% of keys changed, then nothing, then fifty late ones. One test, since each step needs the one before."""
    before = worked.summary()
    with target_reads(worked.lake, "dim_work") as reads:
        report = worked.take(2, worked.changed(CHANGED, "y"))
    did = worked.summary()
    assert (report.opened, report.closed, report.late_keys, report.late_rows) == (CHANGED, CHANGED, 0, 0)
    # No row is copied, and no file rewritten: what was added is what opened and what was closed.
    assert did["added-records"] == report.opened + report.closed
    assert did["added-position-deletes"] == report.closed
    assert "deleted-data-files" not in did and "deleted-records" not in did
    share = did["added-records"] / before["total-records"]
    allowed = 2.5 * share * before["total-files-size"] + MEGABYTE
    print(f"{worked.kind}: {did['added-files-size']} bytes written, {allowed:.0f} allowed; reads: {reads}")
    assert did["added-files-size"] <= allowed < before["total-files-size"], "the table is too small to tell"
    # The table is read once for its rows, and once more by the merge, for places alone. A snapshot's duplicates are
    # found by a count of open rows.
    kinds = sorted("places" if read <= PLACES else "mark" if read == {"is_current"} else "rows" for read in reads)
    assert kinds == (["mark", "places", "rows"] if worked.kind == "snapshot" else ["places", "rows"])
    _nothing_is_done_again(worked)
    _late_keys_alone_are_folded_again(worked)


def _nothing_is_done_again(worked: Worked) -> None:
    tables = all_tables([worked.contract])
    was = heads(worked.lake, tables)
    assert run(worked.lake, [worked.contract]) == []
    assert heads(worked.lake, tables) == was


def _late_keys_alone_are_folded_again(worked: Worked) -> None:
    before = _bytes_read(worked.lake)
    report = worked.take(1, worked.changed(LATE, "z"))
    print(f"{worked.kind}: {_bytes_read(worked.lake) - before} bytes read to land and fold {LATE} late keys")
    days = 3  # the late keys are among those that the delta changed
    assert report.late_keys == LATE
    assert report.late_rows <= LATE * days
    did = worked.summary()
    assert did["added-records"] == 2 * LATE and "deleted-data-files" not in did


def _bytes_read(lake: Lake) -> int:
    """Bytes that the JVM has read so far, from the bucket and from its own disk. Reported, and not asserted."""
    pid = lake.spark._jvm.java.lang.ProcessHandle.current().pid()
    return int(psutil.Process(pid).io_counters().read_chars)


Columns = frozenset[str]
# What Iceberg knows of a row without reading one of the table's columns.
PLACES = frozenset({"_file", "_pos", "_spec_id", "_partition", "_row_id", "_last_updated_sequence_number"})


@contextmanager
def target_reads(lake: Lake, table: str) -> Iterator[list[Columns]]:
    """The columns of every read of a table while the block lasts, as the physical plans have them."""
    reads: list[Columns] = []
    scan = re.compile(rf"BatchScan \S*silver\.{table}\[([^\]]*)\]")

    def look(plan: str) -> None:
        for columns in scan.findall(plan):
            reads.append(frozenset(column.split("#")[0].strip() for column in columns.split(",")))

    lake.spark.conf.set("spark.sql.debug.maxToStringFields", 1000)
    with pytest.MonkeyPatch.context() as patch:
        _watch_frames(patch, type(lake.spark.range(1)), look)
        _watch_merges(patch, lake, look)
        yield reads


def _watch_frames(patch: pytest.MonkeyPatch, frames: type, look: Callable[[str], None]) -> None:
    """Look at the plan of every DataFrame that is about to be computed."""

    def watched(original: Callable[..., Any], computed: Callable[[DataFrame], DataFrame]) -> Callable[..., Any]:
        def action(frame: DataFrame, *args: Any, **kwargs: Any) -> Any:
            look(computed(frame)._jdf.queryExecution().executedPlan().toString())
            return original(frame, *args, **kwargs)

        return action

    for name in ("localCheckpoint", "collect"):
        patch.setattr(frames, name, watched(getattr(frames, name), lambda frame: frame))
    for name in ("count", "isEmpty"):
        patch.setattr(frames, name, watched(getattr(frames, name), lambda frame: frame.groupBy().count()))


def _watch_merges(patch: pytest.MonkeyPatch, lake: Lake, look: Callable[[str], None]) -> None:
    original = lake.spark.sql

    def sql(statement: str, *args: Any, **kwargs: Any) -> Any:
        if statement.startswith("MERGE"):
            look(original(f"EXPLAIN {statement}").head()[0])
        return original(statement, *args, **kwargs)

    patch.setattr(lake.spark, "sql", sql)
