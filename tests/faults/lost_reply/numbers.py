"""A small job that makes every kind of commit, and what must hold of its table whatever was lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lakehouse.core.names import TableName
from lakehouse.engine.publish import Lake, Published, Target, publish
from lakehouse.engine.tables import ColumnSpec, TableSpec, qualified
from lakehouse.ledger.watermark import Consumed, Head, Stamp, ancestors, load_table, read_head, summary_of

SOURCE = "test.numbers"
STRANGER = -1
"""The number that another tool adds."""

Write = Callable[[Target, int, int], None]


def append(target: Target, low: int, high: int) -> None:
    """One commit: append the numbers from one to another."""
    target.append(target.lake.spark.range(low, high + 1).toDF("n"))


def merge(target: Target, low: int, high: int) -> None:
    """One commit: merge the numbers, and rewrite the one before them in place."""
    with target.stamped_session():
        target.lake.spark.sql(
            f"MERGE INTO {target.name} t USING (SELECT id AS n FROM range({low - 1}, {high + 1})) s ON t.n = s.n "
            "WHEN MATCHED THEN UPDATE SET t.n = s.n WHEN NOT MATCHED THEN INSERT (n) VALUES (s.n)"
        )


def overwrite(target: Target, low: int, high: int) -> None:
    """One commit: replace all rows, as a whole mart is."""
    others = f"SELECT n FROM {qualified(target.table)} WHERE n < 0"
    with target.stamped_session():
        target.lake.spark.sql(f"INSERT OVERWRITE {target.name} SELECT id FROM range(1, {high + 1}) UNION ALL {others}")


def replaced(target: Target, low: int, high: int) -> None:
    """Two commits: delete single rows, and append what takes their place."""
    target.delete(f"n = {low - 1}")
    append(target, max(1, low - 1), high)


@dataclass(frozen=True)
class Numbers:
    """Publishes the numbers up to one that a table does not have yet."""

    lake: Lake
    table: TableName
    upto: int
    how: Write = append
    columns: tuple[str, ...] = ()
    attempt: str = ""
    done: int = 0
    at_gate: Callable[[], object] = field(default=lambda: None)

    def specs(self) -> Sequence[TableSpec]:
        columns = {"n": ColumnSpec("bigint", "A number.")} | {c: ColumnSpec("string", "More.") for c in self.columns}
        return [TableSpec(self.table, "Numbers.", columns, sort=("n",))]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> Numbers | None:
        done = heads[self.table].consumed(SOURCE).through
        return None if done >= self.upto else replace(self, attempt=attempt, done=done)

    def stamps(self) -> Mapping[TableName, Stamp]:
        return {self.table: Stamp(self.attempt, inputs={SOURCE: Consumed(self.upto)})}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        self.how(targets[self.table], self.done + 1, self.upto)

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        self.at_gate()


def run(lake: Lake, table: TableName, upto: int, how: Write = append, **more: Any) -> tuple[Published, ...]:
    """Publish the numbers up to one."""
    return publish(lake, Numbers(lake, table, upto, how, **more))


def numbers(lake: Lake, table: TableName) -> list[int]:
    """What readers see."""
    return [row.n for row in lake.table(table).orderBy("n").collect()]


def stranger(lake: Lake, table: TableName) -> None:
    """Another tool commits to main: it asks for no lock and knows of no branch."""
    lake.spark.sql(f"INSERT INTO {qualified(table)} (n) VALUES ({STRANGER})")


def assert_sound(lake: Lake, table: TableName, upto: int, strangers: int = 0) -> None:
    """Everything that was acknowledged is in main once, every reference can be read, and nothing is left behind."""
    assert numbers(lake, table) == [STRANGER] * strangers + list(range(1, upto + 1))
    assert read_head(lake.catalog, table).consumed(SOURCE) == Consumed(upto)
    loaded = load_table(lake.catalog, table)
    assert loaded is not None
    attempts = [summary_of(snapshot).get("lakehouse.attempt") for snapshot in ancestors(loaded)]
    stamped = [each for each in attempts if each]
    assert len(stamped) == len(set(stamped)), "an attempt is in main twice"
    assert missing_files(lake, table) == []
    assert set(loaded.metadata.refs) == {"main"}
    lists = [snapshot.manifest_list for snapshot in loaded.metadata.snapshots]
    assert [path for path in lists if not loaded.io.new_input(path).exists()] == [], "a snapshot that nobody can read"


def missing_files(lake: Lake, table: TableName) -> list[str]:
    """Files that main refers to, through its whole ancestry, and that are not there."""
    loaded = load_table(lake.catalog, table)
    assert loaded is not None
    io, found = loaded.io, {loaded.metadata_location, *(e.metadata_file for e in loaded.metadata.metadata_log)}
    for snapshot in ancestors(loaded):
        found.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(io) if io.new_input(snapshot.manifest_list).exists() else ():
            found.add(manifest.manifest_path)
            entries = manifest.fetch_manifest_entry(io) if io.new_input(manifest.manifest_path).exists() else ()
            found |= {entry.data_file.file_path for entry in entries}
    assert len(found) >= 3, "the walk found nothing to look at"
    return sorted(path for path in found if not io.new_input(path).exists())
