"""Values of every type that a contract may have, with the awkward ones of each."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from lakehouse.core.types import DataType

KINDS = [
    DataType.parse(text)
    for text in (
        *("string", "boolean", "int", "long", "double", "date", "timestamp"),
        *("decimal(38,0)", "decimal(38,38)", "decimal(18,4)", "decimal(1,1)"),
    )
]
_TEXTS = ["", " ", "~", "0", "1:", "a", "a\0", "é", "e\u0301", "\ufeff", "\uffff", "\U0001f600", "\U0001f600a", "ﷺ" * 9]
_DOUBLES = [0.0, -0.0, 1.0, 0.1, 1e308, -1e-308, 5e-324, float("inf"), float("-inf"), float("nan")]
_CLOCKS = [datetime(2024, 3, 31, 1, tzinfo=UTC), datetime(2024, 10, 27, 0, 59, 59, 999_999, UTC)]
_EDGES = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
    datetime(1582, 10, 14, tzinfo=UTC),
]


def _decimals(kind: DataType) -> st.SearchStrategy[Decimal]:
    unscaled = st.integers(-(10**kind.precision) + 1, 10**kind.precision - 1)
    round_ones = st.builds(
        lambda digit, power: digit * 10**power, st.integers(-9, 9), st.integers(0, kind.precision - 1)
    )
    return st.one_of(unscaled, round_ones).map(lambda value: Decimal(f"{value}E-{kind.scale}"))


def values(kind: DataType) -> st.SearchStrategy[Any]:
    """Values of a type, null among them."""
    found: dict[str, st.SearchStrategy[Any]] = {
        "string": st.sampled_from(_TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        "boolean": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "double": st.sampled_from(_DOUBLES) | st.floats(allow_nan=False),
        "date": st.dates(date(1, 1, 1), date(9999, 12, 31)),
        "timestamp": st.sampled_from(_CLOCKS + _EDGES) | st.datetimes(timezones=st.just(UTC)),
    }
    return st.none() | (_decimals(kind) if kind.name == "decimal" else found[kind.name])


def rows(kinds: list[DataType], size: int) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Many rows with a value of each type."""
    return st.lists(st.tuples(*map(values, kinds)), min_size=size, max_size=size)
