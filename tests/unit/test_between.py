"""What two snapshots say beside their rows; on the catalog of :mod:`test_rollback`."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.test_rollback import SOURCE, TABLE, Place, batch, days, decision, head, place, three

from lakehouse.ledger import between as between_module
from lakehouse.ledger.between import Between, batch_change, between
from lakehouse.ledger.pending import Ledger
from lakehouse.ledger.points import resolve

__all__ = ["place", "three"]


def look(place: Place, start: object, end: object = None) -> Between:
    table = place.catalog.load_table(str(TABLE))
    points: list[Any] = [resolve(table, TABLE, str(each)) if each else None for each in (start, end)]
    subject: Any = SimpleNamespace(name=TABLE, table=table)
    return between(place.store, subject, *points)


def test_batches_that_came_and_went_by_the_logs() -> None:
    ledger = Ledger(SOURCE, (batch(1), batch(2, 1), batch(3, 1)), (decision(1, "hold", 1),))
    found = batch_change(ledger, str(TABLE), head(2), head(3, 1))
    assert (found.was_through, found.through, found.came, found.went) == (2, 3, (3,), (1, 2))
    same = batch_change(days(3), str(TABLE), head(3), head(3))
    assert (same.came, same.went) == ((), ())
    held = batch_change(days(3), str(TABLE), head(1), head(3, held={2: "too few"}))
    assert held.came == (3,)


def test_batches_of_two_snapshots_and_after_a_rollback(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    [change] = look(place, heads[0], heads[2]).batches
    assert (change.source, change.came, change.went) == (SOURCE, (2, 3), ())
    tag = place.roll_back(place.plan(heads[0]))[TABLE]
    [change] = look(place, tag).batches
    assert (change.was_through, change.through, change.came, change.went) == (3, 1, (), (2, 3))


def test_properties_are_those_of_the_time_of_publication(three: tuple[Place, list[int]]) -> None:
    place, heads = three
    table = place.catalog.load_table(str(TABLE))
    with table.transaction() as change:
        change.set_properties({"one": "1", "two": "2"})
    later = place.take("a4", 3)
    with place.catalog.load_table(str(TABLE)).transaction() as change:
        change.set_properties({"one": "11"})
    assert look(place, heads[0], later).properties == {"one": (None, "1"), "two": (None, "2")}
    assert look(place, heads[0]).properties == {"one": (None, "11"), "two": (None, "2")}
    assert look(place, heads[0], heads[2]).properties == {}
    assert look(place, later).to_json()["properties"] == {"one": {"before": "1", "after": "11"}}


def test_properties_that_are_no_longer_known_are_said_to_be(
    three: tuple[Place, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, heads = three
    read = between_module._metadata
    monkeypatch.setattr(
        between_module, "_metadata", lambda table, at: read(table, at) if at == table.metadata_location else None
    )
    found = look(place, heads[0], heads[1])
    assert found.properties is None and replace(found, batches=()).to_json() == {"batches": [], "properties": None}
