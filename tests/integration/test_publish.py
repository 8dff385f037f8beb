"""The publish protocol on real servers: once, or not at all, whoever else writes and wherever it breaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.servers import cut_locks
from tests.sessions import small_session

from lakehouse.core.errors import ConcurrentCommit, GateFailed, IntegrityError, TableBusy, TransientError
from lakehouse.core.failpoints import FailpointHit
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG
from lakehouse.engine import publish as protocol
from lakehouse.engine.lock import table_locks
from lakehouse.engine.publish import Lake, Target, publish
from lakehouse.engine.tables import ColumnSpec, TableSpec, qualified
from lakehouse.ledger.watermark import (
    ATTEMPT_PROPERTY,
    Consumed,
    Head,
    Stamp,
    ancestors,
    load_table,
    read_head,
    summary_of,
)

if TYPE_CHECKING:
    from tests.servers import NewLake

SOURCE = "test.numbers"
BEFORE = ["locked", "branched", "appended", "written", "gated", "before_fast_forward"]
AFTER = ["after_fast_forward", "read_back", "done"]


def nothing() -> None:
    """What most tests do between two steps."""


@dataclass(frozen=True)
class Numbers:
    """Publishes the numbers up to one that a table does not have yet. ``gate`` and ``write`` may be disturbed."""

    lake: Lake
    tables: tuple[TableName, ...]
    upto: int
    at_gate: Callable[[], None] = nothing
    todo: dict[TableName, tuple[int, str]] = field(default_factory=dict)

    def specs(self) -> Sequence[TableSpec]:
        return [TableSpec(table, "Numbers.", {"n": ColumnSpec("bigint", "A number.")}) for table in self.tables]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> Numbers | None:
        done = {table: head.consumed(SOURCE).through for table, head in heads.items()}
        if all(number >= self.upto for number in done.values()):
            return None
        self.todo.update({table: (number, attempt) for table, number in done.items()})
        return self

    def stamps(self) -> Mapping[TableName, Stamp]:
        return {t: Stamp(attempt, inputs={SOURCE: Consumed(self.upto)}) for t, (_, attempt) in self.todo.items()}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        for table, target in targets.items():
            target.append(self.lake.spark.range(self.todo[table][0] + 1, self.upto + 1).toDF("n"))

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        self.at_gate()


@pytest.fixture(scope="module")
def shared(new_lake: NewLake) -> Lake:
    return new_lake()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> TableName:
    """A table that no other test uses."""
    return TableName("ops", "t_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[-50:].lower())


def run(lake: Lake, table: TableName, upto: int, at_gate: Callable[[], None] = nothing) -> Any:
    return publish(lake, Numbers(lake, (table,), upto, at_gate))


def numbers(lake: Lake, table: TableName) -> list[int]:
    return [row.n for row in lake.table(table).orderBy("n").collect()]


def snapshot_ids(lake: Lake, table: TableName) -> list[int]:
    loaded = load_table(lake.catalog, table)
    assert loaded is not None
    return [snapshot.snapshot_id for snapshot in ancestors(loaded)]


def branches(lake: Lake, table: TableName) -> list[str]:
    loaded = load_table(lake.catalog, table)
    assert loaded is not None
    return sorted(set(loaded.metadata.refs) - {"main"})


def sql(lake: Lake, statement: str) -> Callable[[], None]:
    """Runs a statement past the protocol, when it is called."""

    def act() -> None:
        lake.spark.sql(statement)

    return act


def another_writer(lake: Lake, table: TableName) -> Callable[[], None]:
    """Commits to main without asking anyone, as a job whose client died may do."""
    return sql(lake, f"INSERT INTO {qualified(table)} VALUES (-1)")


def at_failpoint(patch: pytest.MonkeyPatch, name: str, action: Callable[[], None]) -> None:
    """Do something where a failpoint stands."""
    patch.setattr(protocol, "failpoint", lambda point, *_: action() if point == f"publish.{name}" else None)


def test_an_attempt_is_in_main_once(shared: Lake, table: TableName) -> None:
    (first,) = run(shared, table, 3)
    before = snapshot_ids(shared, table)
    (second,) = run(shared, table, 5)
    assert (first.records_added, second.records_added, numbers(shared, table)) == (3, 2, [1, 2, 3, 4, 5])
    after = snapshot_ids(shared, table)
    assert after[0] == second.snapshot_id and after[-len(before) :] == before
    loaded = load_table(shared.catalog, table)
    assert loaded is not None
    attempts = [summary_of(snapshot).get(ATTEMPT_PROPERTY) for snapshot in ancestors(loaded)]
    assert attempts.count(first.attempt) == attempts.count(second.attempt) == 1
    assert read_head(shared.catalog, table).consumed(SOURCE) == Consumed(5)
    assert branches(shared, table) == []


def test_a_table_whose_stamps_were_expired_is_not_taken_for_new(shared: Lake, table: TableName) -> None:
    run(shared, table, 3)
    another_writer(shared, table)()
    old = "older_than => TIMESTAMP '2999-01-01 00:00:00', retain_last => 1"
    shared.spark.sql(f"CALL {CATALOG}.system.expire_snapshots(table => '{table}', {old})")
    before = snapshot_ids(shared, table)
    assert len(before) == 1 and read_head(shared.catalog, table).stamp is None
    with pytest.raises(IntegrityError, match="every batch a second time"):
        run(shared, table, 3)
    assert (snapshot_ids(shared, table), numbers(shared, table), branches(shared, table)) == (before, [-1, 1, 2, 3], [])


def test_nothing_pending_commits_nothing(shared: Lake, table: TableName) -> None:
    run(shared, table, 3)
    before = snapshot_ids(shared, table)
    assert run(shared, table, 3) == ()
    assert (snapshot_ids(shared, table), branches(shared, table)) == (before, [])


def test_no_rows_still_commit_the_stamp(shared: Lake, table: TableName) -> None:
    class Empty(Numbers):
        def write(self, targets: Mapping[TableName, Target]) -> None:
            targets[table].append_nothing()

    run(shared, table, 2)
    (published,) = publish(shared, Empty(shared, (table,), 3))
    assert published.records_added == 0 and numbers(shared, table) == [1, 2]
    assert read_head(shared.catalog, table).consumed(SOURCE).through == 3


def test_a_held_lock_is_waited_for_and_its_holder_named(
    shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shared, table, 1)
    monkeypatch.setattr(protocol, "table_locks", partial(table_locks, wait_seconds=0.3))
    with table_locks(shared.settings, [table]), pytest.raises(TableBusy) as raised:
        run(shared, table, 2)
    assert f":{os.getpid()}" in raised.value.where and raised.value.is_retryable
    assert numbers(shared, table) == [1]
    run(shared, table, 2)
    assert numbers(shared, table) == [1, 2]


def test_writers_at_once_publish_once(shared: Lake, table: TableName) -> None:
    """Each has a session of its own, and plans anew when it has the lock."""

    def writer(_: int) -> int:
        return len(run(Lake(small_session(shared.spark, shared.settings), shared.settings), table, 4))

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(writer, range(3))) == [0, 0, 1]
    assert numbers(shared, table) == [1, 2, 3, 4]


def test_main_that_moved_is_not_overwritten(shared: Lake, table: TableName) -> None:
    run(shared, table, 1)
    with pytest.raises(ConcurrentCommit, match="moved") as raised:
        run(shared, table, 2, another_writer(shared, table))
    assert raised.value.is_retryable and numbers(shared, table) == [-1, 1]
    run(shared, table, 2)
    assert numbers(shared, table) == [-1, 1, 2]


def test_main_that_moves_at_the_last_moment_is_not_overwritten(
    shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the head was looked at, only the fast-forward itself can tell."""
    run(shared, table, 1)
    with monkeypatch.context() as patch, pytest.raises(ConcurrentCommit):
        at_failpoint(patch, "before_fast_forward", another_writer(shared, table))
        run(shared, table, 2)
    assert numbers(shared, table) == [-1, 1]


def test_a_failed_gate_leaves_main_and_keeps_the_branch(shared: Lake, table: TableName) -> None:
    def refuse() -> None:
        raise GateFailed("rule x failed")

    run(shared, table, 1)
    before = snapshot_ids(shared, table)
    with pytest.raises(GateFailed):
        run(shared, table, 2, refuse)
    assert snapshot_ids(shared, table) == before and read_head(shared.catalog, table).consumed(SOURCE).through == 1
    (kept,) = branches(shared, table)
    seen = shared.spark.table(qualified(table, kept)).orderBy("n").collect()
    assert [row.n for row in seen] == [1, 2]
    run(shared, table, 2)
    assert (numbers(shared, table), branches(shared, table)) == ([1, 2], [])


def test_a_lost_lock_publishes_nothing(shared: Lake, table: TableName) -> None:
    run(shared, table, 1)
    with pytest.raises(TransientError, match="lock was lost"):
        run(shared, table, 2, lambda: cut_locks(shared))
    assert numbers(shared, table) == [1]
    run(shared, table, 2)
    assert (numbers(shared, table), branches(shared, table)) == ([1, 2], [])


def test_an_acknowledged_commit_that_is_taken_out_is_put_back(
    shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    (published,) = run(shared, table, 1)
    back = f"CALL lakehouse.system.rollback_to_snapshot('{table}', {published.snapshot_id})"
    with monkeypatch.context() as patch:
        at_failpoint(patch, "after_fast_forward", sql(shared, back))
        run(shared, table, 2)
    assert (numbers(shared, table), branches(shared, table)) == ([1, 2], [])


def test_an_acknowledged_commit_that_is_lost_is_noticed(
    shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Main went on from before it: to put it back would take out what came since."""
    (published,) = run(shared, table, 1)
    back = f"CALL lakehouse.system.rollback_to_snapshot('{table}', {published.snapshot_id})"

    def lose() -> None:
        sql(shared, back)()
        another_writer(shared, table)()

    with monkeypatch.context() as patch, pytest.raises(IntegrityError, match="not in main"):
        at_failpoint(patch, "after_fast_forward", lose)
        run(shared, table, 2)
    run(shared, table, 2)
    assert numbers(shared, table) == [-1, 1, 2]


@pytest.mark.parametrize("point", [*BEFORE, *AFTER])
def test_whatever_breaks_is_completed_by_the_next_run(
    shared: Lake, table: TableName, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tables published together: a crash between their fast-forwards is completed too."""
    tables = (table, TableName("ops", f"{table.name}_b"))
    publish(shared, Numbers(shared, tables, 1))
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"publish.{point}=raise")
    with pytest.raises(FailpointHit):
        publish(shared, Numbers(shared, tables, 3))
    came = [numbers(shared, each) for each in tables]
    assert came == [[1, 2, 3] if point in AFTER else [1], [1]]
    monkeypatch.delenv("LAKEHOUSE_FAILPOINTS")
    publish(shared, Numbers(shared, tables, 3))
    assert [numbers(shared, each) for each in tables] == [[1, 2, 3], [1, 2, 3]]
    assert [branches(shared, each) for each in tables] == [[], []]
    assert publish(shared, Numbers(shared, tables, 3)) == ()
