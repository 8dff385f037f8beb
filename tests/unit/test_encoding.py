"""The canonical encoding: no two rows share one, and the fingerprint knows no order."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import KINDS, rows, values

from lakehouse.core.encoding import (
    ContentFingerprint,
    canonical_text,
    digest,
    durable_key,
    encode,
    fingerprint_table,
    version_key,
)
from lakehouse.core.types import DataType

STRING, LONG, DOUBLE = DataType("string"), DataType("long"), DataType("double")


def same(kind: DataType, one: Any, other: Any) -> bool:
    """Whether two values of a type are one value, said without the encoding."""
    if one is None or other is None:
        return one is other
    if kind.name == "double" and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


@given(st.data())
def test_no_two_rows_share_an_encoding(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    one, other = data.draw(rows(kinds, 2))
    is_same = all(map(same, kinds, one, other))
    assert (encode(kinds, one) == encode(kinds, other)) == is_same


@given(st.lists(st.none() | st.text(st.sampled_from("~:01a")), min_size=2, max_size=4), st.data())
def test_where_a_field_ends_is_part_of_the_encoding(row: list[str | None], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.none() | st.text(st.sampled_from("~:01a")), min_size=len(row), max_size=len(row)))
    kinds = [STRING] * len(row)
    assert (encode(kinds, row) == encode(kinds, other)) == (row == other)


@given(st.integers(-(10**14), 10**14), st.integers(0, 6), st.integers(0, 6))
def test_a_widened_decimal_keeps_its_text(unscaled: int, scale: int, more: int) -> None:
    value = Decimal(f"{unscaled}E-{scale}")
    wide = value.quantize(Decimal(f"1E-{scale + more}"))
    narrow, wider = DataType("decimal", 20, scale), DataType("decimal", 38, scale + more)
    assert canonical_text(narrow, value) == canonical_text(wider, wide)
    assert durable_key([narrow], [value]) == durable_key([wider], [wide])


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("string", "", ""),
        ("boolean", True, "true"),
        ("long", -(2**63), "-9223372036854775808"),
        ("decimal(38,0)", Decimal("1E+3"), "1000"),
        ("decimal(10,4)", Decimal("-0.0000"), "0"),
        ("decimal(10,4)", Decimal("100.5000"), "100.5"),
        ("double", -0.0, "0x0.0p0"),
        ("double", 1.0, "0x1.0p0"),
        ("double", 0.1, "0x1.999999999999ap-4"),
        ("double", 5e-324, "0x0.0000000000001p-1022"),
        ("double", float("-inf"), "-Infinity"),
        ("double", float("nan"), "NaN"),
        ("date", date(1, 1, 1), "0001-01-01"),
        ("timestamp", datetime(1970, 1, 1, tzinfo=UTC), "0"),
        ("timestamp", datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), "-1"),
        ("timestamp", datetime(1, 1, 1, tzinfo=UTC), "-62135596800000000"),
        ("timestamp", datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "0"),
    ],
)
def test_texts_are_fixed(kind: str, value: Any, text: str) -> None:
    """What was written once must be found again: these texts never change."""
    assert canonical_text(DataType.parse(kind), value) == text


def test_keys_are_fixed() -> None:
    """Keys stand in tables, so that they never change either."""
    assert encode([STRING, LONG, STRING], ["é\U0001f600", None, ""]) == "2:é\U0001f600~0:"
    assert durable_key([STRING], ["12346"]) == hashlib.sha256(b"5:12346").hexdigest()[:32]
    assert durable_key([STRING, STRING], ["a", None]) is None
    assert version_key("k", datetime(1970, 1, 1, tzinfo=UTC)) == digest("1:k0;")


FINGERPRINTED = {"b": LONG, "a": STRING, "c": DOUBLE}
CONTENT = st.lists(st.fixed_dictionaries({name: values(kind) for name, kind in FINGERPRINTED.items()}), max_size=8)


def fingerprint(content: list[dict[str, Any]], names: list[str]) -> str:
    schema = pa.schema([(name, FINGERPRINTED[name].arrow) for name in names])
    return fingerprint_table(pa.Table.from_pylist(content, schema), FINGERPRINTED)


@given(CONTENT, st.permutations(list(FINGERPRINTED)), st.randoms(use_true_random=False))
def test_the_fingerprint_knows_no_order(content: list[dict[str, Any]], names: list[str], order: Any) -> None:
    shuffled = list(content)
    order.shuffle(shuffled)
    assert fingerprint(shuffled, names) == fingerprint(content, list(FINGERPRINTED))


@given(CONTENT, CONTENT)
def test_the_fingerprint_knows_content(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    def bag(content: list[dict[str, Any]]) -> list[str]:
        return sorted(encode(list(FINGERPRINTED.values()), [row[name] for name in FINGERPRINTED]) for row in content)

    names = list(FINGERPRINTED)
    assert (fingerprint(one, names) == fingerprint(other, names)) == (bag(one) == bag(other))


def test_the_fingerprint_counts_repeats_and_names() -> None:
    row = {"a": "x"}
    once, twice, renamed = (ContentFingerprint({name: STRING}) for name in ("a", "a", "b"))
    once.add(row)
    twice.add(row)
    twice.add(row)
    renamed.add({"b": "x"})
    assert len({once.hexdigest(), twice.hexdigest(), renamed.hexdigest()}) == 3
