"""The canonical encoding says the same in Spark as in Python and Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from tests.strategies import KINDS, rows

from lakehouse.core import encoding as plain
from lakehouse.core.types import DataType
from lakehouse.engine import encoding as engine

COLUMNS = {f"c{i}": kind for i, kind in enumerate(KINDS)}
FIELDS = list(COLUMNS.items())
MANY = settings(
    max_examples=4,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a row that differs is shown by itself
    suppress_health_check=list(HealthCheck),
)


class Rows(tuple[tuple[Any, ...], ...]):
    """Many rows; too many to be printed."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"<{len(self)} rows>")


MANY_ROWS = rows(KINDS, 120).map(Rows)


def arrow(content: Sequence[tuple[Any, ...]]) -> pa.Table:
    schema = pa.schema([(name, kind.arrow) for name, kind in FIELDS])
    return pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in content], schema)


def frame(spark: SparkSession, content: Sequence[tuple[Any, ...]]) -> DataFrame:
    """The rows in a DataFrame, numbered, since a job may change their order."""
    numbers = pa.array(range(len(content)), pa.int64())
    return spark.createDataFrame(arrow(content).append_column("n", numbers))


@MANY
@given(content=MANY_ROWS)
def test_encoding_and_keys(spark: SparkSession, content: Rows) -> None:
    expressions = {
        "encoded": engine.encode(FIELDS),
        "key": engine.durable_key(FIELDS),
        **{f"key_{name}": engine.durable_key([(name, kind)]) for name, kind in FIELDS},
        "version": engine.version_key("c0", "c6"),
    }
    found = frame(spark, content).select("n", *(F.expr(sql).alias(name) for name, sql in expressions.items()))
    for got in found.orderBy("n").toArrow().to_pylist():
        row = content[got["n"]]
        assert got["encoded"] == plain.encode(KINDS, row), row
        assert got["key"] == plain.durable_key(KINDS, row), row
        for (name, kind), value in zip(FIELDS, row, strict=True):
            assert got[f"key_{name}"] == plain.durable_key([kind], [value]), value
        if row[0] is not None and row[6] is not None:
            assert got["version"] == plain.version_key(row[0], row[6]), row


@MANY
@given(content=MANY_ROWS, order=st.randoms(use_true_random=False), parts=st.integers(1, 3))
def test_fingerprint(spark: SparkSession, content: Rows, order: Any, parts: int) -> None:
    """Rows stand in another order, in several partitions, among columns that do not count."""
    shuffled = list(content)
    order.shuffle(shuffled)
    names = sorted(COLUMNS, reverse=True)
    spread = frame(spark, shuffled).repartition(parts).select(*names, "n")
    expected = plain.fingerprint_table(arrow(content), COLUMNS)
    assert engine.content_fingerprint(spread, COLUMNS) == expected
    assert engine.content_fingerprint(spread.limit(len(content) - 1), COLUMNS) != expected


def test_the_fingerprint_of_no_rows(spark: SparkSession) -> None:
    assert engine.content_fingerprint(frame(spark, []), COLUMNS) == plain.fingerprint_table(arrow([]), COLUMNS)


def test_every_twice_told_hour_is_two_moments(spark: SparkSession) -> None:
    """Sessions in other zones must not move a moment: the clocks of London go back at 01:00 UTC."""
    moments = [datetime(2024, 10, 27, hour, 30, tzinfo=UTC) for hour in (0, 1)]
    kind = DataType("timestamp")
    london = spark.newSession()
    london.conf.set("spark.sql.session.timeZone", "Europe/London")
    table = pa.table({"at": pa.array(moments, kind.arrow)})
    for session in (spark, london):
        found = session.createDataFrame(table).select(F.expr(engine.encode([("at", kind)])).alias("e")).collect()
        assert [row.e for row in found] == [plain.encode([kind], [moment]) for moment in moments]
