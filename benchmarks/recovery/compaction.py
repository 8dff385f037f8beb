"""What compaction costs beside the bare call of Iceberg, and what sixty days of batches and upkeep leave behind.

    .venv/bin/python benchmarks/recovery/compaction.py --pairs 5 --days 60

On servers and a session of its own, in one run of less than four minutes:

- pairs of equal tables of 200 small files, one compacted by the upkeep of this project, from looking at the table to
  the entered result, one by a bare ``rewrite_data_files``; which one begins alternates. The same rows must come of
  both, in as many files.
- a batch a day for each of four tables (facts by month, a dimension whose versions are closed by MERGE, bronze, a
  ledger of one row a day), and upkeep after each day. Every ten days each table is written anew as a copy, and what a
  scan of the table costs is compared with the copy's: bytes, files and deletion vectors as they really are. At the end
  both are read, too. Counted are the bytes that upkeep wrote, those that came, and the manifests that looking at the
  table read.

Goals: a pair's ratio of at most 1; a scan never above 1.2 of a fresh table's; fewer than 4 bytes rewritten for one that
came.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import psutil

from lakehouse.contracts.model import Upkeep
from lakehouse.core.names import TableName
from lakehouse.core.settings import load_settings
from lakehouse.engine.compact import UPKEEP_PROPERTY, rewrite
from lakehouse.engine.maintain import look, maintain
from lakehouse.engine.publish import Lake
from lakehouse.engine.session import session
from lakehouse.engine.tables import ColumnSpec, TableSpec, create_table, qualified
from lakehouse.engine.upkeep import Budget, Care, House
from lakehouse.ledger.compaction import OPEN_BYTES, SCAN_BYTES
from lakehouse.ledger.layout import Layout, Manifests
from lakehouse.ledger.watermark import load_table, summary_of
from lakehouse.stack import down, up

SMALL_FILES = 200
ROWS_IN_SMALL_FILE = 2000
FRESH_EVERY = 10
SCANS = 7
POLICY = Upkeep(keep_snapshots="24h", min_snapshots=3)
CARE = Care(POLICY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--days", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakehouse-benchmark-", ignore_cleanup_errors=True) as scratch:
        os.chmod(scratch, 0o711)  # noqa: S103 - PostgreSQL runs as another account when started by root
        os.environ["LAKEHOUSE_HOME"] = scratch
        up(load_settings())
        try:
            with session(load_settings(), "compaction") as spark:
                lake = Lake(spark, load_settings())
                is_good = [compare(lake, options.pairs), simulate(lake, options.days)]
        finally:
            down(load_settings())
    sys.exit(0 if all(is_good) else 1)


def cpu_seconds() -> float:
    """CPU seconds so far of this process and all that it started, the JVM among them; servers run elsewhere."""
    me = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (me, *me.children(recursive=True)))


@dataclass(frozen=True)
class Took:
    wall_seconds: float
    cpu_seconds: float


def measured(act: Callable[[], object]) -> Took:
    cpu, began = cpu_seconds(), time.perf_counter()
    act()
    return Took(time.perf_counter() - began, cpu_seconds() - cpu)


def house_of(lake: Lake, *names: TableName) -> House:
    """A new look, as each run of upkeep has; what is no longer among the last publications is old enough to go."""
    house = House(lake.settings, lake.catalog, datetime.now(UTC) + timedelta(days=7), looks_for_orphans=False)
    house.__dict__["cares"] = dict.fromkeys(names, CARE)
    return house


def layout_of(lake: Lake, name: TableName) -> Layout:
    table = load_table(lake.catalog, name)
    assert table is not None, f"there is no table {name}"
    return Manifests(table.io).layout(table, table.current_snapshot())


# Pairs


def compare(lake: Lake, pairs: int) -> bool:
    """Pairs of equal tables, after one that warms the JVM up."""
    took: dict[str, list[Took]] = {"ours": [], "bare": []}
    for number in range(pairs + 1):
        for kind in sorted(took, reverse=bool(number % 2)):
            name = TableName("silver", f"{kind}_{number}")
            write_small(lake, name)
            done = measured(partial(ours if kind == "ours" else bare, lake, name))
            took[kind] += [done] if number else []
        require_same(lake, TableName("silver", f"ours_{number}"), TableName("silver", f"bare_{number}"))
    print(f"\n{SMALL_FILES} small files, {pairs} pairs, medians")
    print(f"{'':24}{'wall s':>8}{'cpu s':>8}")
    for kind, each in took.items():
        wall, cpu = (statistics.median(getattr(one, what) for one in each) for what in ("wall_seconds", "cpu_seconds"))
        print(f"{kind:24}{wall:8.2f}{cpu:8.2f}")
    ratios = [o.wall_seconds / b.wall_seconds for o, b in zip(took["ours"], took["bare"], strict=True)]
    cpus = [o.cpu_seconds / b.cpu_seconds for o, b in zip(took["ours"], took["bare"], strict=True)]
    print(f"{'ratio within pairs':24}{statistics.median(ratios):8.2f}{statistics.median(cpus):8.2f}", flush=True)
    return statistics.median(ratios) <= 1


def write_small(lake: Lake, name: TableName) -> None:
    columns = {"n": ColumnSpec("bigint", "A number."), "text": ColumnSpec("string", "Some text.")}
    create_table(lake.spark, TableSpec(name, "Small files.", columns))
    rows = lake.spark.range(0, SMALL_FILES * ROWS_IN_SMALL_FILE, 1, SMALL_FILES).selectExpr(
        "id AS n", "sha2(string(id), 256) AS text"
    )
    rows.writeTo(qualified(name)).option("distribution-mode", "none").append()
    assert len(layout_of(lake, name).files) == SMALL_FILES


def ours(lake: Lake, name: TableName) -> None:
    done = rewrite(lake, house_of(lake, name), name, lambda needs: needs)
    assert (done.steps, done.files_before) == (1, SMALL_FILES), done


def bare(lake: Lake, name: TableName) -> None:
    lake.spark.sql(f"CALL lakehouse.system.rewrite_data_files(table => '{name}')").collect()


def require_same(lake: Lake, mine: TableName, other: TableName) -> None:
    """As many files of both, and the same rows."""
    assert len(layout_of(lake, mine).files) == len(layout_of(lake, other).files)
    first, second = (qualified(name) for name in (mine, other))
    difference = lake.spark.sql(f"SELECT * FROM {first} EXCEPT ALL SELECT * FROM {second}")
    assert difference.isEmpty() and lake.table(mine).count() == SMALL_FILES * ROWS_IN_SMALL_FILE


# Days

MEMBERS = 150_000
VERSIONS = {"m": "bigint", "text": "string", "effective_from": "int", "is_current": "boolean"}
TABLES: Mapping[TableName, tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = {
    TableName("silver", "fact"): ({"day": "date", "n": "bigint", "text": "string"}, ("month(day)",), ("n",)),
    TableName("silver", "dimension"): (VERSIONS, (), ("m",)),
    TableName("bronze", "lines"): ({"batch": "int", "n": "bigint", "text": "string"}, (), ("batch", "n")),
    TableName("ops", "records"): ({"batch": "int", "text": "string"}, (), ()),
}
FACT, DIMENSION, BRONZE, RECORDS = TABLES


def create(lake: Lake, name: TableName, like: TableName) -> None:
    columns, partition, sort = TABLES[like]
    spec = {column: ColumnSpec(kind, "A column.") for column, kind in columns.items()}
    create_table(lake.spark, TableSpec(name, "A table.", spec, partition, sort))


def take(lake: Lake, day: int) -> None:
    """A day's batch in every table."""
    text = f"sha2(concat(id, '-', {day}), 256) AS text"
    date = f"date_add(DATE '2024-01-01', {day}) AS day"
    fact = lake.spark.range(0, 30_000, 1, 1).selectExpr(date, f"id + {day} * 30000 AS n", text)
    fact.writeTo(qualified(FACT)).append()
    lines = lake.spark.range(0, 15_000, 1, 1).selectExpr(f"{day} AS batch", "id AS n", text)
    lines.writeTo(qualified(BRONZE)).append()
    lake.spark.range(1).selectExpr(f"{day} AS batch", text).writeTo(qualified(RECORDS)).append()
    changed = f"(id * 7919 + {day} * 104729) % 100 = 0"
    if day == 0:
        versions = lake.spark.range(0, MEMBERS, 1, 1).selectExpr("id", text, "0", "true")
        versions.toDF(*VERSIONS).writeTo(qualified(DIMENSION)).append()
        return
    lake.spark.sql(
        f"MERGE INTO {qualified(DIMENSION)} t USING ("  # noqa: S608 - names and numbers of this program
        f"SELECT true AS closes, id FROM range({MEMBERS}) WHERE {changed} UNION ALL "
        f"SELECT false, id FROM range({MEMBERS}) WHERE {changed}) s "
        "ON t.m = s.id AND t.is_current AND s.closes WHEN MATCHED THEN UPDATE SET is_current = false WHEN NOT MATCHED "
        "THEN INSERT (m, text, effective_from, is_current) "
        f"VALUES (s.id, sha2(concat(s.id, '-{day}'), 256), {day}, true)"
    )


def cost(layout: Layout) -> float:
    """What a scan costs, by what lies there: the unit of the plan, on files that are real on both sides."""
    vectors = sum(1 for file in layout.files if file.deleted)
    return SCAN_BYTES + layout.size_bytes + OPEN_BYTES * (len(layout.files) + vectors / 2)


@dataclass
class Story:
    """What became of a table over the days."""

    worst: float = 1
    bytes_came: int = 0
    bytes_rewritten: int = 0
    rewritings: int = 0
    looked_at: list[int] = field(default_factory=list)
    look_seconds: list[float] = field(default_factory=list)


def simulate(lake: Lake, days: int) -> bool:
    for name in TABLES:
        create(lake, name, name)
    stories = {name: Story() for name in TABLES}
    counted: dict[TableName, set[int]] = {name: set() for name in TABLES}
    began, upkeep = time.perf_counter(), 0.0
    for day in range(days):
        take(lake, day)
        for name, story in stories.items():
            count(lake, name, story, counted[name])
        upkeep += measured(lambda: keep(lake, stories)).wall_seconds
        for name, story in stories.items():
            count(lake, name, story, counted[name])
            if (day + 1) % FRESH_EVERY == 0:
                print(
                    f"day {day + 1}: {name} has {len(layout_of(lake, name).files)} files", file=sys.stderr, flush=True
                )
                story.worst = max(story.worst, cost(layout_of(lake, name)) / cost(layout_of(lake, fresh(lake, name))))
    print(f"\n{days} days in {time.perf_counter() - began:.0f} s, {upkeep:.0f} s of them upkeep")
    columns = ("files", "worst cost", "scan time", "came MB", "written anew", "commits", "manifests", "look s")
    print(f"{'table':18}" + "".join(f"{column:>14}" for column in columns))
    for name, story in stories.items():
        tell(lake, name, story)
    return all(s.worst <= 1.2 and s.bytes_rewritten < 4 * s.bytes_came for s in stories.values())


def keep(lake: Lake, stories: Mapping[TableName, Story]) -> None:
    """What ``lakehouse maintain`` does."""
    for name, story in stories.items():
        house = house_of(lake, name)
        began = time.perf_counter()
        needs = look(house, [name], lambda _: None)
        story.look_seconds.append(time.perf_counter() - began)
        story.looked_at.append(house.manifests_read)
        done = maintain(house, needs, Budget(), lambda _: None, lake)
        assert not done.errors, done.errors
        story.rewritings += sum(report.rewritten.steps for report in done.reports)


def count(lake: Lake, name: TableName, story: Story, seen: set[int]) -> None:
    """Bytes of the snapshots that were not there before; upkeep's carry its mark."""
    table = load_table(lake.catalog, name)
    assert table is not None
    for snapshot in table.metadata.snapshots:
        if snapshot.snapshot_id not in seen:
            seen.add(snapshot.snapshot_id)
            summary = summary_of(snapshot)
            size = int(summary.get("added-files-size", 0))
            if UPKEEP_PROPERTY in summary:
                story.bytes_rewritten += size
            else:
                story.bytes_came += size


def fresh(lake: Lake, name: TableName) -> TableName:
    """A copy of the table's rows, just written."""
    copy = TableName("ops", f"fresh_{name.name}")
    lake.spark.sql(f"DROP TABLE IF EXISTS {qualified(copy)}")
    create(lake, copy, name)
    lake.table(name).writeTo(qualified(copy)).append()
    return copy


def scan_ratio(lake: Lake, name: TableName) -> float:
    """How long all rows of the table take to read, times as long as those of a copy; medians of scans in turn."""
    took: dict[TableName, list[float]] = {name: [], fresh(lake, name): []}
    for _ in range(SCANS):
        for each, times in took.items():
            times.append(measured(lambda each=each: scan(lake, each)).wall_seconds)  # type: ignore[misc]
    first, second = (statistics.median(times) for times in took.values())
    return first / second


def scan(lake: Lake, name: TableName) -> None:
    lake.spark.sql(f"SELECT sum(hash(*)) FROM {qualified(name)}").collect()  # noqa: S608 - a name of this program


def tell(lake: Lake, name: TableName, story: Story) -> None:
    files, looked = len(layout_of(lake, name).files), story.looked_at
    print(
        f"{name!s:18}{files:14}{story.worst:14.3f}{scan_ratio(lake, name):14.2f}{story.bytes_came / 1e6:14.2f}"
        f"{story.bytes_rewritten / story.bytes_came:14.2f}{story.rewritings:14}"
        f"{statistics.median(looked):9.0f} ≤{max(looked):3}{statistics.median(story.look_seconds):14.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
