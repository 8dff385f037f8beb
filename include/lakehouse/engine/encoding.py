"""The canonical encoding of :mod:`lakehouse.core.encoding` as Spark SQL expressions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.core.encoding import KEY_DIGITS, LANE_DIGITS, LANES, NULL, seal_fingerprint
from lakehouse.core.names import quote
from lakehouse.core.types import DataType

Typed = tuple[str, DataType]
"""A SQL expression and its type."""


def canonical_text(sql: str, kind: DataType) -> str:
    """SQL for the fixed text of a value; null stays null."""
    if kind.name == "string":
        return sql
    if kind.name == "decimal" and kind.scale:
        return f"trim(TRAILING '.' FROM trim(TRAILING '0' FROM CAST({sql} AS string)))"
    if kind.name == "double":
        return f"format_string('%a', CAST({sql} AS double) + 0.0D)"
    if kind.name == "timestamp":
        return f"CAST(unix_micros({sql}) AS string)"
    return f"CAST({sql} AS string)"


def encode(fields: Iterable[Typed]) -> str:
    """SQL for the canonical encoding of a row."""
    return "concat(" + ", ".join(_field(sql, kind) for sql, kind in fields) + ")"


def _field(sql: str, kind: DataType) -> str:
    text = canonical_text(sql, kind)
    if kind.name == "string":
        written = f"concat(CAST(length({text}) AS string), ':', {text})"
    else:
        written = f"concat({text}, ';')"
    # A null format_string argument prints "null", so nullness is asked of the value itself.
    return f"CASE WHEN {sql} IS NULL THEN '{NULL}' ELSE {written} END"


def digest(sql: str) -> str:
    """SQL for 128 bits of SHA-256 as 32 hexadecimal digits."""
    return f"left(sha2({sql}, 256), {KEY_DIGITS})"


def durable_key(fields: Sequence[Typed]) -> str:
    """SQL for the durable key of a natural key; null when any part is null."""
    missing = " OR ".join(f"{sql} IS NULL" for sql, _ in fields)
    return f"CASE WHEN {missing} THEN NULL ELSE {digest(encode(fields))} END"


def version_key(key: str, effective_from: str) -> str:
    """SQL for the key of one version."""
    return digest(encode([(key, DataType("string")), (effective_from, DataType("timestamp"))]))


def content_fingerprint(rows: DataFrame, columns: Mapping[str, DataType]) -> str:
    """The content fingerprint of a DataFrame that has at least ``columns``: one job, one row to the driver."""
    names = sorted(columns)
    full = f"sha2({encode([(quote(name), columns[name]) for name in names])}, 256)"
    lanes = [f"coalesce(sum(CAST({_lane(lane)} AS decimal(38,0))), 0) AS l{lane}" for lane in range(LANES)]
    summed = rows.select(F.expr(full).alias("_h")).selectExpr("count(*) AS n", *lanes).collect()[0]
    return seal_fingerprint(names, summed["n"], [summed[f"l{lane}"] for lane in range(LANES)])


def _lane(lane: int) -> str:
    return f"conv(substring(_h, {1 + lane * LANE_DIGITS}, {LANE_DIGITS}), 16, 10)"
