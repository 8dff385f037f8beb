"""Bringing a table's branch to what was computed, touching only the rows that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.model import Table
from lakehouse.core import names
from lakehouse.core.errors import GateFailed, IntegrityError
from lakehouse.core.names import quote
from lakehouse.engine.publish import Target
from lakehouse.ledger.watermark import load_table, summary_of

# Iceberg's row lineage: a number that no other live row of the table has.
ROW_ID = "_row_id"
_OLD_ROW_ID = "_old_row_id"
_CHANGE = "_change"
_SAMPLES = 5


@dataclass(frozen=True)
class Revised:
    """Versions that were opened, and versions that were open and no longer are."""

    opened: int
    closed: int


def located(target: Target) -> DataFrame:
    """The rows of the branch, each with its row id."""
    return target.lake.spark.table(target.name).select("*", ROW_ID)


def revise(target: Target, present: DataFrame, folded: DataFrame, business: Sequence[str]) -> Revised:
    """Make the versions on the branch that ``present`` locates equal to ``folded``: one merge of those that differ.

    ``present`` has been read already (:func:`located`), so the merge finds rows by their id and reads no column of
    the table.
    """
    compared = F.struct(*business)
    old = present.select(names.VERSION_KEY, compared.alias("_old"), F.col(ROW_ID).alias(_OLD_ROW_ID))
    new = folded.select(names.VERSION_KEY, names.KEY, compared.alias("_new"))
    differs = old.join(new, names.VERSION_KEY, "full_outer").where("NOT (_old <=> _new)")
    change = F.expr("CASE WHEN _old IS NULL THEN 'open' WHEN _new IS NULL THEN 'remove' ELSE 'change' END")
    was_open = F.col(f"_old.{names.IS_CURRENT}").alias("_was_open")
    changes = differs.select(
        change.alias(_CHANGE), "_new.*", names.KEY, names.VERSION_KEY, _OLD_ROW_ID, was_open
    ).localCheckpoint()
    counted = changes.selectExpr(
        f"count_if({_CHANGE} = 'open') AS opened",
        f"count_if({_CHANGE} = 'remove') AS removed",
        f"count_if(_was_open AND NOT coalesce({names.IS_CURRENT}, false)) AS closed",
        "count(*) AS n",
    ).collect()[0]
    if counted["n"] == 0:
        target.append_nothing()
    else:
        _merge(target, changes, [*business, names.KEY, names.VERSION_KEY])
        _require_merged(target, added=counted["n"] - counted["removed"], deleted=counted["n"] - counted["opened"])
    return Revised(counted["opened"], counted["closed"])


def _merge(target: Target, changes: DataFrame, columns: Sequence[str]) -> None:
    """Merge rows marked open, change or remove.

    The source must be materialised (``localCheckpoint``): a view over an Iceberg read has no plan inside MERGE on this
    version of Spark and Iceberg.
    """
    view = f"changes_{target.attempt}"
    changes.createOrReplaceTempView(view)
    updates = ", ".join(f"t.{quote(name)} = s.{quote(name)}" for name in columns)
    inserted = ", ".join(f"s.{quote(name)}" for name in columns)
    statement = (
        f"MERGE INTO {target.name} t USING {view} s "  # noqa: S608 - built from checked names
        f"ON t.{ROW_ID} = s.{_OLD_ROW_ID} "
        f"WHEN MATCHED AND s.{_CHANGE} = 'remove' THEN DELETE WHEN MATCHED THEN UPDATE SET {updates} "
        f"WHEN NOT MATCHED AND s.{_CHANGE} = 'open' "
        f"THEN INSERT ({', '.join(map(quote, columns))}) VALUES ({inserted})"
    )
    try:
        with target.stamped_session():
            target.lake.spark.sql(statement)
    finally:
        target.lake.spark.catalog.dropTempView(view)


def _require_merged(target: Target, *, added: int, deleted: int) -> None:
    """Every row was found where it was read: the commit says how many it added and deleted."""
    loaded = load_table(target.lake.catalog, target.table)
    snapshot = loaded.snapshot_by_name(target.branch) if loaded else None
    summary = summary_of(snapshot) if snapshot else {}
    deletes = int(summary.get("added-position-deletes", 0)) - int(summary.get("removed-position-deletes", 0))
    deletes += int(summary.get("deleted-records", 0))
    found = int(summary.get("added-records", 0)), deletes
    if found != (added, deleted):
        raise IntegrityError(
            f"a merge into {target.table} added {found[0]} rows and deleted {found[1]}, not {added} and {deleted}",
            where=f"branch {target.branch}",
            untouched=f"main of {target.table}; nothing was consumed",
            todo="run again; if it stays, rebuild the table and report what the branch holds",
        )


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
