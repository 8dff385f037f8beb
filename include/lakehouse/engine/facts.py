"""Facts: rows with their occurrence, durable key, and the durable keys of the dimensions that they refer to."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lakehouse.contracts.model import Table
from lakehouse.core import names
from lakehouse.core.names import quote
from lakehouse.core.types import DataType
from lakehouse.engine import encoding
from lakehouse.engine.typed import STATUS

_LINE_HASH = "_line_hash"


def fact_rows(typed: DataFrame, table: Table) -> DataFrame:
    """The good rows, with what makes them facts."""
    fields = [(quote(name), table.columns[name].type) for name in table.key]
    rows = typed.where(f"{STATUS} = 'good'")
    if table.occurrence:
        rows = rows.withColumn(_LINE_HASH, F.expr(encoding.digest(encoding.encode(fields))))
        identical = Window.partitionBy(names.BATCH, _LINE_HASH).orderBy(names.FILE, names.RECORD)
        rows = rows.withColumn(names.OCCURRENCE, F.row_number().over(identical))
        # The same line may truly stand in two units; the unit keeps their keys apart.
        parts = [(_LINE_HASH, DataType("string")), (names.UNIT, DataType("date")), (names.OCCURRENCE, DataType("int"))]
        rows = rows.withColumn(names.KEY, F.expr(encoding.digest(encoding.encode(parts))))
    else:
        rows = rows.withColumn(names.KEY, F.expr(encoding.durable_key(fields)))
    for reference in table.references:
        key = [(quote(name), table.columns[name].type) for name in reference.key]
        rows = rows.withColumn(reference.column, F.expr(encoding.durable_key(key)))
    return rows
