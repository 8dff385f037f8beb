"""Bronze rows as they would be, had the contract of today been known when they were loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.core import names
from lakehouse.core.names import quote
from lakehouse.engine.tables import literal
from lakehouse.ledger.generations import Generations


def as_known(bronze: DataFrame, columns: Iterable[str], generations: Generations) -> DataFrame:
    """Source columns that were not known to some batches, taken from ``_extra`` there, or named in ``_missing``."""
    late = {column: ranges for column in columns if (ranges := generations.unknown(column))}
    if not late:
        return bronze
    absent = names.MISSING
    values = {}
    for column, ranges in late.items():
        was_unknown, name = _within(ranges), literal(column)
        was_there = f"coalesce(map_contains_key({names.EXTRA}, {name}), false)"
        found = f"CASE WHEN {was_unknown} THEN try_element_at({names.EXTRA}, {name}) ELSE {quote(column)} END"
        values[column] = F.expr(found)
        more = f"array_union(coalesce({absent}, CAST(array() AS array<string>)), array({name}))"
        absent = f"CASE WHEN {was_unknown} AND NOT {was_there} THEN {more} ELSE {absent} END"
    return bronze.withColumns({**values, names.MISSING: F.expr(absent)})


def _within(ranges: Sequence[tuple[int, int | None]]) -> str:
    tests = [
        f"{names.BATCH} >= {first}" + (f" AND {names.BATCH} <= {last}" if last is not None else "")
        for first, last in ranges
    ]
    return "(" + " OR ".join(tests) + ")"
