"""The tests can fail: with a guard taken out of the engine, the test of what it guards is red."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from tests.faults.lost_reply import test_publish as tests
from tests.faults.lost_reply.conftest import Faulty

from lakehouse.core.errors import LakehouseError
from lakehouse.core.names import TableName
from lakehouse.engine import publish as protocol
from lakehouse.engine import tables as creation
from lakehouse.engine.publish import Published, Target

Mutant = Callable[[pytest.MonkeyPatch], None]
Check = Callable[[Faulty, TableName], None]
STEPS = {step.name: step for step in tests.STEPS}


def lock_taken_out(patch: pytest.MonkeyPatch) -> None:
    """Writers don't wait for each other."""

    class Unlocked:
        def check(self) -> None:
            pass

    @contextmanager
    def unlocked(*_: Any, **__: Any) -> Iterator[Unlocked]:
        yield Unlocked()

    patch.setattr(protocol, "table_locks", unlocked)


def read_back_taken_out(patch: pytest.MonkeyPatch) -> None:
    """What is answered to the fast-forward is taken for what it says."""

    def trust(target: Target, refused: Exception | None) -> Published:
        if refused is not None:
            raise refused
        return Published(target.table, target.attempt, 0, 1, 1, records_added=2, records_deleted=0)

    patch.setattr(protocol, "_confirmed", trust)


def not_put_back(patch: pytest.MonkeyPatch) -> None:
    """Main is read back, and what is missing in it is not put back."""
    original = protocol._fast_forward
    seen: set[str] = set()

    def once(target: Target) -> Exception | None:
        if target.attempt in seen:
            return None
        seen.add(target.attempt)
        return original(target)

    patch.setattr(protocol, "_fast_forward", once)


def first_snapshot_unwatched(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether the first snapshot took anything out of main."""
    patch.setattr(protocol, "_undone", lambda _: None)


def said_once(patch: pytest.MonkeyPatch) -> None:
    """A conflict is an error, whatever the catalog shows."""
    for module in (protocol, creation):
        patch.setattr(module, "say_twice", lambda spark, statement: spark.sql(statement))


def losing(name: str, way: tests.Way) -> Check:
    return partial(tests.check_step, step=STEPS[name], way=way)


CASES: list[tuple[Mutant, Check]] = [
    (lock_taken_out, tests.check_lock),
    (read_back_taken_out, losing("fast-forward", "closed")),
    (read_back_taken_out, losing("fast-forward", "between")),
    (read_back_taken_out, losing("fast-forward", "silent")),
    (read_back_taken_out, tests.check_put_back),
    (not_put_back, tests.check_put_back),
    (first_snapshot_unwatched, losing("first snapshot", "between")),
    (said_once, losing("create the table", "closed")),
    (said_once, losing("create the branch", "silent")),
    (said_once, losing("drop the branch", "closed")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_a_guard_taken_out_is_noticed(faulty: Faulty, case: tuple[Mutant, Check]) -> None:
    mutant, check = case
    table = TableName("ops", f"mutant_{CASES.index(case)}")
    with pytest.MonkeyPatch.context() as patch, pytest.raises((AssertionError, LakehouseError)) as raised:
        mutant(patch)
        check(faulty, table)
    assert "no reply to" not in str(raised.value), "the fault itself did not happen"
