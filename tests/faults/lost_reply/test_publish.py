"""A reply is lost, to each commit of an attempt: what was acknowledged stays, and the next run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pytest
from tests.faults.lost_reply.conftest import PATIENT_SECONDS, Faulty
from tests.faults.lost_reply.numbers import (
    Write,
    append,
    assert_sound,
    merge,
    missing_files,
    numbers,
    overwrite,
    replaced,
    run,
    stranger,
)
from tests.faults.lost_reply.proxy import Fault, Verb
from tests.servers import cut_locks

from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import IntegrityError, LakehouseError, TableBusy, TransientError
from lakehouse.core.names import TableName
from lakehouse.engine import publish as protocol
from lakehouse.engine.fork import enter, make_fork, seal
from lakehouse.engine.publish import Lake
from lakehouse.engine.tables import qualified
from lakehouse.ledger.watermark import ancestors, load_table

Way = Literal["closed", "between", "silent"]
WAYS: tuple[Way, ...] = ("closed", "between", "silent")


@dataclass(frozen=True)
class Step:
    """One commit of an attempt, and how many of the same verb come before it.

    ``fails``: the loss alone ends the attempt. ``is_open``: so does another tool that moves main here, between the
    reading of the head and the fast-forward.
    """

    name: str
    skip: int
    verb: Verb = "UPDATE"
    how: Write = append
    more: dict[str, Any] = field(default_factory=dict)
    is_new: bool = False
    fails: bool = False
    is_open: bool = False


STEPS = [
    Step("create the table", 0, "INSERT", is_new=True),
    Step("set the sort order", 0, is_new=True),
    Step("first snapshot", 1, is_new=True),
    Step("add a column", 0, more={"columns": ("more",)}),
    Step("create the branch", 0, is_open=True),
    Step("append", 1, is_open=True),
    Step("delete rows", 1, how=replaced, fails=True, is_open=True),
    Step("append after a delete", 2, how=replaced, is_open=True),
    Step("merge", 1, how=merge, fails=True, is_open=True),
    Step("overwrite", 1, how=overwrite, is_open=True),
    Step("fast-forward", 2),
    Step("drop the branch", 3),
]


@pytest.fixture
def table(request: pytest.FixtureRequest) -> TableName:
    """A table that no other test uses."""
    return TableName("ops", "t_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[-60:].lower())


def arm(faulty: Faulty, table: TableName, step: Step, way: Way) -> Fault:
    """Lose the reply to one step of the next attempt; ``between``: another tool commits before the client can retry."""
    fault = Fault(table, "silent" if way == "silent" else "closed", step.verb, step.skip)
    if way == "between":
        fault.meanwhile = partial(stranger, faulty.other, table)
    return faulty.proxy.arm(fault)


def attempt(act: Callable[[], object]) -> LakehouseError | None:
    """Do it; the error, if it is one that trying again can help."""
    try:
        act()
    except TransientError as error:
        return error
    return None


def moved_back(lake: Lake, table: TableName) -> list[int]:
    """Snapshots that main was moved back to, by the log of its heads."""
    loaded = load_table(lake.catalog, table)
    assert loaded is not None
    log = [entry.snapshot_id for entry in loaded.metadata.snapshot_log]
    return [head for number, head in enumerate(log) if head in log[:number]]


def check_step(faulty: Faulty, table: TableName, step: Step, way: Way) -> None:
    """Lose the reply to one commit; run until it is published, and once more."""
    lake = faulty.hasty if way == "silent" else faulty.lake
    if not step.is_new:
        run(faulty.other, table, 3)
    fault = arm(faulty, table, step, way)
    error = attempt(lambda: run(lake, table, 5, step.how, **step.more))
    fault.check()
    assert (error is not None) == (step.fails or (way == "between" and step.is_open)), error
    if error is not None:
        run(lake, table, 5, step.how, **step.more)
    strangers = int(way == "between")
    assert_sound(faulty.other, table, 5, strangers)
    if way == "closed":  # whatever is left of the fault, later attempts go on
        run(lake, table, 6, step.how, **step.more)
        assert_sound(faulty.other, table, 6, strangers)


SILENT = ("create the table", "append", "merge", "fast-forward", "drop the branch")
"""One step of each kind: to the client, silence that ends is a closed connection that takes longer."""
CASES = [(step, way) for step in STEPS for way in WAYS if way != "silent" or step.name in SILENT]


@pytest.mark.parametrize(("step", "way"), CASES, ids=lambda part: getattr(part, "name", part))
def test_a_lost_reply_loses_nothing(faulty: Faulty, table: TableName, step: Step, way: Way) -> None:
    check_step(faulty, table, step, way)


def check_one_of_ours_in_between(faulty: Faulty, table: TableName) -> None:
    """The first run's fast-forward is made, its reply lost, its lock too; a second run publishes on top of it."""
    run(faulty.other, table, 3)

    def second() -> None:
        cut_locks(faulty.other)
        run(faulty.other, table, 7)

    fault = faulty.proxy.arm(Fault(table, skip=2, meanwhile=second))
    (published,) = run(faulty.lake, table, 5)
    fault.check()
    loaded = load_table(faulty.other.catalog, table)
    assert loaded is not None
    assert published.snapshot_id in [snapshot.snapshot_id for snapshot in ancestors(loaded)][1:]
    assert (published.records_added, moved_back(faulty.other, table)) == (2, [])
    assert_sound(faulty.other, table, 7)


def test_one_of_ours_that_lost_its_lock_takes_nothing_back(faulty: Faulty, table: TableName) -> None:
    check_one_of_ours_in_between(faulty, table)


def check_lock(faulty: Faulty, table: TableName) -> None:
    """While a reply is lost the lock is held: no other run of ours can come between and be taken out of main."""

    def second() -> None:
        with pytest.MonkeyPatch.context() as patch, suppress(TableBusy):
            patch.setattr(protocol, "table_locks", partial(protocol.table_locks, wait_seconds=0.3))
            run(faulty.other, table, 7)

    fault = faulty.proxy.arm(Fault(table, skip=1, meanwhile=second))  # the first snapshot
    run(faulty.lake, table, 5)
    fault.check()
    assert moved_back(faulty.other, table) == [], "an acknowledged publication was out of main for a while"
    assert_sound(faulty.other, table, 5)


def test_the_lock_is_held_while_a_reply_is_lost(faulty: Faulty, table: TableName) -> None:
    check_lock(faulty, table)


class Straggler:
    """Another tool whose append to main was committed, and which tries again only when it is told to."""

    def __init__(self, faulty: Faulty, table: TableName) -> None:
        self._committed, self._go_on = threading.Event(), threading.Event()
        fault = faulty.proxy.arm(Fault(table, meanwhile=self._wait))
        self._thread = threading.Thread(target=stranger, args=(faulty.lake, table))
        self._thread.start()
        assert self._committed.wait(PATIENT_SECONDS)
        self._fault = fault

    def _wait(self) -> None:
        self._committed.set()
        assert self._go_on.wait(PATIENT_SECONDS)

    def go_on(self) -> None:
        """Try again, and report success: main is moved back to what it committed."""
        self._go_on.set()
        self._thread.join(PATIENT_SECONDS)
        assert not self._thread.is_alive()
        self._fault.check()


def at_failpoint(patch: pytest.MonkeyPatch, name: str, action: Callable[[], object]) -> None:
    """Do something where a failpoint stands."""
    patch.setattr(protocol, "failpoint", lambda point, *_: action() if point == f"publish.{name}" else None)


def check_put_back(faulty: Faulty, table: TableName) -> None:
    """Another tool takes the attempt out of main right after its fast-forward: it is put back before it is reported."""
    run(faulty.other, table, 3)
    straggler = Straggler(faulty, table)
    with pytest.MonkeyPatch.context() as patch:
        at_failpoint(patch, "after_fast_forward", straggler.go_on)
        (published,) = run(faulty.other, table, 5)
    assert moved_back(faulty.other, table) != [], "nothing was taken out of main"
    assert published.records_added == 2
    assert_sound(faulty.other, table, 5, strangers=1)


def test_what_another_tool_takes_out_of_main_is_put_back(faulty: Faulty, table: TableName) -> None:
    check_put_back(faulty, table)


def test_what_is_taken_out_after_the_read_back_is_made_anew(faulty: Faulty, table: TableName) -> None:
    """Nobody is there to notice it, but the stamp went with the rows: they are pending again."""
    run(faulty.other, table, 3)
    straggler = Straggler(faulty, table)
    run(faulty.other, table, 5)
    straggler.go_on()
    assert numbers(faulty.other, table) == [-1, 1, 2, 3]
    run(faulty.other, table, 5)
    assert_sound(faulty.other, table, 5, strangers=1)


def test_what_cannot_be_put_back_is_named(faulty: Faulty, table: TableName) -> None:
    """Main was moved back and went on from there: to put anything back would take out what came since."""
    run(faulty.other, table, 3)
    straggler = Straggler(faulty, table)

    def more_than_once() -> None:
        straggler.go_on()
        stranger(faulty.other, table)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(IntegrityError) as raised:
        at_failpoint(patch, "after_fast_forward", more_than_once)
        run(faulty.other, table, 5)
    loaded = load_table(faulty.other.catalog, table)
    assert loaded is not None
    (branch,) = set(loaded.metadata.refs) - {"main"}
    written = loaded.snapshot_by_name(branch)
    assert written is not None and str(written.snapshot_id) in raised.value.where
    assert str(loaded.metadata.current_snapshot_id) in raised.value.where and branch in raised.value.untouched
    assert (missing_files(faulty.other, table), numbers(faulty.other, table)) == ([], [-1, -1, 1, 2, 3])
    run(faulty.other, table, 5)
    assert_sound(faulty.other, table, 5, strangers=2)


def test_a_catalog_that_never_answers_ends_the_run_in_time(faulty: Faulty, table: TableName) -> None:
    """The commit is made, and from then on no connection gets an answer: an error, and the next run goes on."""
    run(faulty.hasty, table, 3)
    with ExitStack() as silence:
        fault = faulty.proxy.arm(
            Fault(table, "silent", skip=1, meanwhile=lambda: silence.enter_context(faulty.proxy.deaf()))
        )
        with pytest.raises(TransientError):
            run(faulty.hasty, table, 5)
    fault.check()
    assert numbers(faulty.other, table) == [1, 2, 3] and missing_files(faulty.other, table) == []
    run(faulty.hasty, table, 5)
    assert_sound(faulty.other, table, 5)


def test_a_catalog_that_is_gone_after_the_fast_forward_leaves_it_open(
    new_faulty: Callable[[], Faulty], table: TableName
) -> None:
    """The error does not say that nothing was written: that is not known."""
    own = new_faulty()
    run(own.other, table, 3)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TransientError, match="not known") as raised:
        at_failpoint(patch, "after_fast_forward", own.proxy.close)
        run(Lake(own.other.spark, own.through), table, 5)
    assert "nothing was written" not in str(raised.value)
    assert run(own.other, table, 5) == ()
    run(own.other, table, 6)
    assert_sound(own.other, table, 6)


def test_a_lock_server_that_never_answers_ends_the_run(faulty: Faulty, table: TableName) -> None:
    """The lock's connection is silent: the writer cannot see whether it still holds the lock, and publishes nothing."""
    run(faulty.other, table, 3)
    through = Lake(faulty.other.spark, faulty.through)
    with ExitStack() as silence, pytest.raises(TransientError, match="lock was lost"):
        run(through, table, 5, at_gate=lambda: silence.enter_context(faulty.proxy.deaf()))
    assert numbers(faulty.other, table) == [1, 2, 3]
    run(faulty.other, table, 5)
    assert_sound(faulty.other, table, 5)


def test_a_rebuild_whose_reply_is_lost_is_found_in_the_catalog(faulty: Faulty, table: TableName) -> None:
    """The pointers of a rebuild are moved in one transaction, by another client than Spark's."""
    run(faulty.other, table, 3)
    fork = make_fork(faulty.other, table)
    faulty.other.spark.sql(f"INSERT INTO {qualified(fork.name)} VALUES (4)")
    sealed = seal(faulty.other, fork)
    fault = faulty.proxy.arm(Fault(table))
    enter(Lake(faulty.other.spark, faulty.through), [sealed], "rebuilt", SystemClock().now())
    fault.check()
    assert numbers(faulty.other, table) == [1, 2, 3, 4] and missing_files(faulty.other, table) == []
