"""Bringing a table's branch to what was computed, touching only the rows that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.model import Table
from lakehouse.core import names
from lakehouse.core.errors import GateFailed
from lakehouse.core.names import quote
from lakehouse.engine.publish import Target

_CHANGE = "_change"
_SAMPLES = 5


@dataclass(frozen=True)
class Changes:
    """Versions that were opened, and versions that were open and no longer are."""

    opened: int
    closed: int


def apply_versions(target: Target, folded: DataFrame, keys: DataFrame, business: Sequence[str]) -> Changes:
    """Make the versions of ``keys`` on the branch equal to ``folded``: one merge of the versions that differ."""
    present = target.lake.spark.table(target.name).join(F.broadcast(keys), names.KEY, "left_semi")
    compared = F.struct(*business)
    old = present.select(names.VERSION_KEY, names.KEY, compared.alias("_old"))
    new = folded.select(names.VERSION_KEY, names.KEY, compared.alias("_new"))
    both = old.withColumnRenamed(names.KEY, "_old_key").join(new, names.VERSION_KEY, "full_outer")
    differs = both.where("NOT (_old <=> _new)")
    change = F.expr("CASE WHEN _old IS NULL THEN 'open' WHEN _new IS NULL THEN 'remove' ELSE 'change' END")
    key = F.coalesce(names.KEY, "_old_key").alias(names.KEY)
    changes = differs.select(
        change.alias(_CHANGE), "_new.*", key, names.VERSION_KEY, F.col(f"_old.{names.IS_CURRENT}").alias("_was_open")
    ).localCheckpoint()
    counted = changes.selectExpr(
        f"count_if({_CHANGE} = 'open') AS opened",
        f"count_if(_was_open AND NOT coalesce({names.IS_CURRENT}, false)) AS closed",
        "count(*) AS n",
    ).collect()[0]
    if counted["n"] == 0:
        target.append_nothing()
    else:
        merge(target, changes, business)
    return Changes(counted["opened"], counted["closed"])


def merge(target: Target, changes: DataFrame, business: Sequence[str]) -> None:
    """Merge rows marked open, change or remove by their version key.

    The source must be materialised (``localCheckpoint``): a view over an Iceberg read has no plan inside MERGE on this
    version of Spark and Iceberg.
    """
    columns = [*business, names.KEY, names.VERSION_KEY]
    view = f"changes_{target.attempt}"
    changes.createOrReplaceTempView(view)
    updates = ", ".join(f"t.{quote(name)} = s.{quote(name)}" for name in columns)
    inserted = ", ".join(f"s.{quote(name)}" for name in columns)
    statement = (
        f"MERGE INTO {target.name} t USING {view} s ON t.{names.VERSION_KEY} = s.{names.VERSION_KEY} "  # noqa: S608
        f"WHEN MATCHED AND s.{_CHANGE} = 'remove' THEN DELETE WHEN MATCHED THEN UPDATE SET {updates} "
        f"WHEN NOT MATCHED THEN INSERT ({', '.join(map(quote, columns))}) VALUES ({inserted})"
    )
    try:
        with target.stamped_session():
            target.lake.spark.sql(statement)
    finally:
        target.lake.spark.catalog.dropTempView(view)


def require_unique(target: Target, table: Table, condition: str) -> None:
    """Refuse the attempt when a durable key stands more than once on the branch."""
    rows = target.lake.spark.table(target.name)
    written = rows.where(condition).select(names.KEY).distinct()
    twice = rows.join(written, names.KEY, "left_semi").groupBy(names.KEY).count().where("count > 1")
    samples = twice.limit(_SAMPLES).collect()
    if samples:
        keys = ", ".join(row[names.KEY] for row in samples)
        raise GateFailed(
            f"{target.table}: key_unique failed: {', '.join(table.key)} is not unique",
            where=f"branch {target.branch}, durable keys such as {keys}",
            untouched=f"main of {target.table}; nothing was consumed",
            todo="correct the source and land it again, or say `occurrence: true` if identical lines are real",
        )
