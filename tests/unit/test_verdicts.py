"""What two judgements of the same rows say, as counts."""

from __future__ import annotations

from lakehouse.engine.verdicts import Alike, Verdicts

FOUND = Verdicts(
    (
        Alike(1, 5, "good", "good", latest="2024-01-02"),
        Alike(1, 2, "quarantined", "good", ("a",), (), "2024-01-03"),
        Alike(2, 3, "good", "quarantined", (), ("b", "c"), "2024-01-09"),
        Alike(3, 4, "quarantined", "quarantined", ("a", "b"), ("b",)),
        Alike(4, 6, "quarantined", "without_key", ("a",), ()),
        Alike(5, 7, "rejected", "rejected", ("a",), ()),
        Alike(6, 8, "quarantined", "quarantined", ("b",), ("b",)),
    )
)


def test_what_comes_in_and_goes_out() -> None:
    assert (FOUND.coming, FOUND.going, FOUND.moved) == ({1: 2}, {2: 3}, {1, 2})
    assert FOUND.statuses() == {"good": 7, "quarantined": 15, "without_key": 6, "rejected": 7}


def test_where_quarantine_says_something_else() -> None:
    """A row without a key is not good, and no longer refused either."""
    assert FOUND.refused_otherwise == {1, 2, 3, 4}
    assert FOUND.refused_before == {1: 2, 3: 4, 4: 6, 6: 8} and FOUND.refused == {2: 3, 3: 4, 6: 8}


def test_rules_count_rows_of_records_that_can_be_read() -> None:
    assert FOUND.rules() == {"a": (12, 0), "b": (0, 3), "c": (0, 3)}


def test_the_latest_is_that_of_a_good_row() -> None:
    assert FOUND.max_effective == "2024-01-03" and Verdicts().max_effective == ""


def test_plain_values() -> None:
    told = FOUND.to_json()
    assert (told["rows"], told["coming"], told["going"]) == (35, 2, 3)
    assert told["quarantined"] == {"before": 20, "after": 15}
    assert told["batches"] == {1: {"coming": 2, "going": 0}, 2: {"coming": 0, "going": 3}}
    assert told["rules"]["a"] == {"no_longer": 12, "newly": 0}
