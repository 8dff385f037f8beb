"""The live set against a naive reading of its definition."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.core.errors import IntegrityError
from lakehouse.ledger.decisions import Decision
from lakehouse.ledger.live import LiveSet, live
from lakehouse.ledger.log import Batch
from lakehouse.ledger.pending import Ledger, Position

AT = datetime(2024, 4, 1, tzinfo=UTC)
DAY = date(2024, 4, 1)
ALL = 10**9


def batch(number: int, unit: date = DAY, kind: str = "slice") -> Batch:
    return Batch("retail.sales", number, unit, kind, (), None, None, AT)  # type: ignore[arg-type]


def decision(number: int, action: str, *batches: int) -> Decision:
    return Decision("retail.sales", number, action, batches, "why", "who", AT)  # type: ignore[arg-type]


def sets(live: set[int], superseded: set[int] = frozenset(), held=frozenset(), discarded=frozenset()) -> LiveSet:  # type: ignore[no-untyped-def,assignment]
    return LiveSet(frozenset(live), frozenset(superseded), frozenset(held), frozenset(discarded))


def naive_state(number: int, decisions: list[Decision], through: int) -> str:
    """Reads the whole history of one batch, from the first decision to the last."""
    actions = [d.action for d in decisions if d.number <= through and number in d.batches]
    if "discard" in actions:
        return "discarded"
    return "held" if actions and actions[-1] in ("hold", "rollback") else "free"


def naive_live(batches: list[Batch], decisions: list[Decision], through: int, decisions_through: int) -> LiveSet:
    seen = [b for b in batches if b.number <= through]
    states = {b.number: naive_state(b.number, decisions, decisions_through) for b in seen}
    discarded = {n for n, state in states.items() if state == "discarded"}
    superseded = {
        b.number
        for b in seen
        if b.kind != "increment"
        and b.number not in discarded
        and any(
            o.unit == b.unit and o.kind != "increment" and o.number > b.number and states[o.number] == "free"
            for o in seen
        )
    }
    held = {n for n, state in states.items() if state == "held"} - superseded
    return sets({b.number for b in seen} - superseded - held - discarded, superseded, held, discarded)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Batch], list[Decision]]:
    units = st.sampled_from([date(2024, 4, day) for day in (1, 2, 3)])
    kinds = st.sampled_from(["slice", "snapshot", "increment"])
    pairs = draw(st.lists(st.tuples(units, kinds), max_size=10))
    batches = [batch(number, *pair) for number, pair in enumerate(pairs, 1)]
    numbers = st.lists(st.integers(1, len(pairs) + 2), min_size=1, max_size=3, unique=True)
    actions = st.sampled_from(["hold", "release", "discard", "rollback"])
    taken = draw(st.lists(st.tuples(actions, numbers), max_size=8))
    return batches, [decision(number, action, *which) for number, (action, which) in enumerate(taken, 1)]


@given(histories(), st.integers(0, 12), st.integers(0, 10))
def test_agrees_with_the_definition(
    history: tuple[list[Batch], list[Decision]], through: int, decisions_through: int
) -> None:
    batches, decisions = history
    found = live(batches, decisions, through, decisions_through)
    assert found == naive_live(batches, decisions, through, decisions_through)
    parts = [found.live, found.superseded, found.held, found.discarded]
    assert sum(map(len, parts)) == len(frozenset().union(*parts))
    assert frozenset().union(*parts) == {b.number for b in batches if b.number <= through}


@given(histories(), st.randoms())
def test_does_not_depend_on_the_order_in_which_it_is_told(history, random) -> None:  # type: ignore[no-untyped-def]
    batches, decisions = history
    expected = live(batches, decisions, ALL, ALL)
    random.shuffle(batches)
    random.shuffle(decisions)
    assert live(batches, decisions, ALL, ALL) == expected


def test_a_b_a_leaves_the_last_one_live() -> None:
    assert live([batch(1), batch(2), batch(3)], [], ALL, ALL) == sets({3}, {1, 2})


def test_a_held_batch_supersedes_nothing_and_a_release_lets_it() -> None:
    batches, decisions = [batch(1), batch(2)], [decision(1, "hold", 2), decision(2, "release", 2)]
    assert live(batches, decisions, ALL, 1) == sets({1}, held={2})
    assert live(batches, decisions, ALL, 2) == sets({2}, {1})


def test_a_discard_brings_the_predecessor_back_and_is_final() -> None:
    batches, decisions = [batch(1), batch(2)], [decision(1, "discard", 2), decision(2, "release", 2)]
    assert live(batches, decisions, ALL, ALL) == sets({1}, discarded={2})


def test_a_rollback_holds_until_superseded() -> None:
    decisions = [decision(1, "rollback", 1)]
    assert live([batch(1)], decisions, ALL, ALL) == sets(set(), held={1})
    assert live([batch(1), batch(2)], decisions, ALL, ALL) == sets({2}, {1})


def test_a_decision_about_one_table_is_none_for_the_others() -> None:
    """So that a table that was rolled back alone does not take its batch out of the others."""
    batches, decisions = [batch(1), batch(2)], [replace(decision(1, "rollback", 2), table="silver.a")]
    assert live(batches, decisions, ALL, ALL, "silver.a") == sets({1}, held={2})
    assert live(batches, decisions, ALL, ALL, "silver.b") == live(batches, decisions, ALL, ALL) == sets({2}, {1})
    released = [*decisions, decision(2, "release", 2)]  # about all tables
    assert live(batches, released, ALL, ALL, "silver.a") == sets({2}, {1})


def test_what_a_table_holds_by_a_rule_supersedes_nothing() -> None:
    batches = [batch(1), batch(2), batch(3)]
    assert live(batches, [], ALL, ALL, None, frozenset({3})) == sets({2}, {1}, held={3})
    assert live(batches, [], ALL, ALL, None, frozenset({2})) == sets({3}, {1, 2})
    assert live(batches, [decision(1, "discard", 3)], ALL, ALL, None, frozenset({3})) == sets({2}, {1}, discarded={3})


def test_increments_supersede_nothing() -> None:
    batches = [batch(1, kind="increment"), batch(2, kind="increment")]
    assert live(batches, [decision(1, "hold", 1)], ALL, ALL) == sets({2}, held={1})


@given(histories(), st.integers(1, 4))
def test_passes_of_any_size_add_and_remove_up_to_the_same_live_set(
    history: tuple[list[Batch], list[Decision]], limit: int
) -> None:
    batches, decisions = history
    ledger = Ledger("retail.sales", tuple(batches), tuple(decisions))
    position, consumed = Position(), frozenset[int]()
    while not (found := ledger.pending(position, limit)).is_empty:
        assert len(found.batches) <= limit
        assert found.added.isdisjoint(consumed) and found.removed <= consumed
        position, consumed = found.end, consumed - found.removed | found.added
    assert position == ledger.end
    assert consumed == live(batches, decisions, ALL, ALL).live


def test_a_position_beyond_the_ledger_is_refused() -> None:
    with pytest.raises(IntegrityError, match="its logs end at"):
        Ledger("retail.sales", (batch(1),), ()).pending(Position(2, 0))


def test_a_unit_lands_again_of_which_batches_were_trimmed() -> None:
    """What a trim took stays in its set; what it left is superseded, and comes back, as ever."""
    batches, discarded = [batch(1), batch(2), batch(3)], [decision(1, "discard", 3)]
    frozen = {1: "superseded"}  # batch 2 stayed
    assert live(batches, [], ALL, ALL, frozen=frozen) == sets({3}, {1, 2})
    assert live(batches, discarded, ALL, ALL, frozen=frozen) == sets({2}, {1}, discarded={3})
    gone = {1: "superseded", 2: "live"}
    assert live(batches, [], ALL, ALL, frozen=gone) == sets({2, 3}, {1})
    assert live(batches, discarded, ALL, ALL, frozen=gone) == sets({2}, {1}, discarded={3})
