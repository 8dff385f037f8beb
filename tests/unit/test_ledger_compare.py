"""The comparison of two sides, against one that a person can read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import KINDS, values

from lakehouse.core import names
from lakehouse.core.encoding import canonical_text
from lakehouse.core.errors import IntegrityError
from lakehouse.core.types import DataType
from lakehouse.ledger import compare as comparison
from lakehouse.ledger.compare import Indices, Layout, compare, differs

START = datetime(2024, 3, 1, tzinfo=UTC)
MOMENT = pa.timestamp("us", tz="UTC")
LAYOUT = Layout(True, ("city", "size"), ("name",))
FACT = Layout(False, ("city", "size"))
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in (names.VERSION_KEY, names.KEY, "city", "name")),
        *((name, MOMENT) for name in (names.EFFECTIVE_FROM, names.EFFECTIVE_TO)),
        (names.IS_CURRENT, pa.bool_()),
        ("size", pa.float64()),
    ]
)
Row = dict[str, Any]


@dataclass
class Memory:
    """A side that is in memory."""

    table: pa.Table

    @property
    def index(self) -> pa.Table:
        return self.table

    def read(self, columns: Sequence[str], rows: Indices) -> pa.Table:
        return self.table.select(list(columns)).take(pa.array(rows))


def side(rows: list[Row]) -> Memory:
    return Memory(pa.Table.from_pylist(rows, SCHEMA))


def at(day: int) -> datetime:
    return START + timedelta(days=day)


def version(key: str, start: int, end: int | None, city: Any = "x", size: Any = 1.0, name: Any = "n") -> Row:
    return {
        names.VERSION_KEY: f"{key}@{start}",
        names.KEY: key,
        names.EFFECTIVE_FROM: at(start),
        names.EFFECTIVE_TO: None if end is None else at(end),
        names.IS_CURRENT: end is None,
        "city": city,
        "size": size,
        "name": name,
    }


@st.composite
def versions(draw: st.DrawFn, key: str) -> list[Row]:
    """A key's versions, with gaps, open at the end or not."""
    moments = sorted(draw(st.sets(st.integers(0, 8), max_size=6)))
    pairs = list(zip(moments, moments[1:], strict=False))
    kept = [pair for pair in pairs if draw(st.integers(0, 3))]
    spans: list[tuple[int, int | None]] = [*kept]
    if moments and draw(st.booleans()):
        spans.append((moments[-1], None))
    text, size = st.sampled_from([None, "", "x"]), st.sampled_from([None, 0.0, -0.0, 1.0, math.nan])
    return [version(key, start, end, draw(text), draw(size), draw(text)) for start, end in spans]


def tables() -> st.SearchStrategy[list[Row]]:
    return st.tuples(*(versions(key) for key in "abcd")).map(lambda found: [row for rows in found for row in rows])


def same(one: Row, other: Row, columns: Sequence[str]) -> bool:
    kinds = {"size": DataType("double"), names.EFFECTIVE_TO: DataType("timestamp")}
    texts = [[canonical_text(kinds.get(c, DataType("string")), row[c]) for c in columns] for row in (one, other)]
    return texts[0] == texts[1]


def naive(old: list[Row], new: list[Row], until: datetime) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """What happened to each version, to each key, and which keys have another past."""
    before, after = ({row[names.VERSION_KEY]: row for row in rows} for rows in (old, new))
    happened: dict[str, str] = {}
    for one in before.keys() | after.keys():
        was, now = before.get(one), after.get(one)
        if was is None and now is not None:
            happened[one] = "opened" if now[names.EFFECTIVE_FROM] > until else "inserted"
        elif now is None:
            happened[one] = "removed"
        elif was is not None and not same(was, now, ["city", "size", names.EFFECTIVE_TO, "name"]):
            happened[one] = kind_of_pair(was, now, until)
    keys: dict[str, str] = {}
    for key in {one.partition("@")[0] for one in happened}:
        was, now = open_version(old, key), open_version(new, key)
        if was is None or now is None:
            keys[key] = "past" if was is now else "opened" if was is None else "closed"
        elif not same(was, now, ["city", "size", "name"]) or happened.get(now[names.VERSION_KEY]) == "opened":
            keys[key] = "changed"
        else:
            keys[key] = "past"
    late = {one.partition("@")[0] for one, what in happened.items() if what in ("inserted", "removed", "rewritten")}
    return happened, keys, late


def kind_of_pair(was: Row, now: Row, until: datetime) -> str:
    end = now[names.EFFECTIVE_TO]
    if not same(was, now, ["city", "size"]):
        return "rewritten"
    if same(was, now, [names.EFFECTIVE_TO]):
        return "overwritten"
    return "closed" if was[names.EFFECTIVE_TO] is None and end > until else "rewritten"


def open_version(rows: list[Row], key: str) -> Row | None:
    return next((row for row in rows if row[names.KEY] == key and row[names.IS_CURRENT]), None)


@given(tables(), tables(), st.integers(-1, 9), st.randoms(use_true_random=False), st.booleans())
def test_as_a_person_would_compare(old: list[Row], new: list[Row], until: int, random: Any, narrow: bool) -> None:
    """Whatever the order of rows, with rows at hand that don't differ or without, and however few columns fit."""
    happened, keys, late = naive(old, new, at(until))
    if narrow:  # only what differs is at hand, as with files
        old, new = ([r for r in rows if r[names.VERSION_KEY] in happened] for rows in (old, new))
    for rows in (old, new):
        random.shuffle(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_CELLS", random.choice([1, 10, 1000]))
        found = compare(side(old), side(new), LAYOUT, at(until))
    told = {}
    for row in found.rows.to_pylist():
        here = old[row["old"]] if row["old"] >= 0 else new[row["new"]]
        assert row[names.KEY] == here[names.KEY]
        assert row["old"] < 0 or row["new"] < 0 or here[names.VERSION_KEY] == new[row["new"]][names.VERSION_KEY]
        told[here[names.VERSION_KEY]] = row["what"]
    assert told == happened
    assert {key: what for what, found_keys in found.keys.items() for key in found_keys.to_pylist()} == keys
    assert sum(len(found_keys) for found_keys in found.keys.values()) == len(keys)
    assert set(found.late.to_pylist()) == late
    in_both = {r[names.VERSION_KEY] for r in old} & {r[names.VERSION_KEY] for r in new}
    assert found.unchanged == len(in_both - happened.keys())


@given(st.data())
def test_values_differ_as_their_canonical_texts_do(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    pairs = data.draw(st.lists(st.tuples(values(kind), values(kind)) | values(kind).map(lambda v: (v, v)), max_size=9))
    old, new = (pa.chunked_array([[pair[i] for pair in pairs]], kind.arrow) for i in (0, 1))
    expected = [canonical_text(kind, one) != canonical_text(kind, other) for one, other in pairs]
    assert differs(old, new).tolist() == expected


def test_facts_by_key() -> None:
    old = [version(key, 0, None) for key in "abc"]
    new = [version("b", 0, None, size=2.0), version("c", 0, None), version("d", 0, None)]
    found = compare(side(old), side(new), FACT)
    assert {what: keys.to_pylist() for what, keys in found.keys.items()} == {
        "added": ["d"],
        "removed": ["a"],
        "changed": ["b"],
    }
    assert found.unchanged == 1 and found.count("changed") == 1


def test_late_data_is_told_apart() -> None:
    """x@1 and x@5 are one version; y@3 arrives late: the version ends earlier, and two more stand after it."""
    old = [version("a", 1, None)]
    new = [version("a", 1, 3), version("a", 3, 5, "y"), version("a", 5, None)]
    late = compare(side(old), side(new), LAYOUT, at(5))
    assert late.late.to_pylist() == ["a"] and late.keys["past"].to_pylist() == ["a"]
    in_order = compare(side(old), side(new), LAYOUT, at(2))
    assert in_order.late.to_pylist() == [] and in_order.keys["changed"].to_pylist() == ["a"]


def test_rows_that_cannot_be_told_apart_are_refused() -> None:
    twice = side([version("a", 1, None), version("a", 1, None)])
    with pytest.raises(IntegrityError, match="_version_key is not unique"):
        compare(twice, side([]), LAYOUT)


def test_nothing_against_nothing() -> None:
    found = compare(side([]), side([]), LAYOUT)
    assert found.rows.num_rows == 0 and all(len(keys) == 0 for keys in found.keys.values())
    assert np.array_equal(differs(pa.chunked_array([], pa.string()), pa.chunked_array([], pa.string())), [])
