"""Rules over the rows of a batch: completeness, uniqueness, relationships, timeliness.

They see the rows that passed the row rules. What they find holds a whole batch or is reported; it never splits rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.derive import hours
from lakehouse.contracts.model import AnyBatchRule, Contract, Relationship, Timeliness, Uniqueness
from lakehouse.core import names
from lakehouse.core.names import TableName, quote
from lakehouse.engine import encoding
from lakehouse.engine.typed import STATUS
from lakehouse.ledger.watermark import load_table

if TYPE_CHECKING:
    from lakehouse.engine.breakers import Arrived
    from lakehouse.engine.silver import Silver
    from lakehouse.ledger.log import Batch

_FAILED = "failed"
_CHECKED = "checked"
Found = Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class Verdict:
    """What a rule says of one batch: how many rows it looked at, and how many of them fail it.

    A batch that landed late fails with all of its rows.
    """

    batch: int
    rule: AnyBatchRule
    checked: int
    failed: int

    @property
    def passes(self) -> bool:
        """Whether the batch is as the rule wants it."""
        return self.rule.passes(self.checked, self.failed)

    @property
    def holds(self) -> bool:
        """Whether the batch is held for it."""
        return self.rule.level == "error" and not self.passes

    @property
    def reason(self) -> str:
        """Why the batch fails, in words."""
        share = (
            f" ({(self.checked - self.failed) / self.checked:.2%} of {self.checked:,} do not)" if self.checked else ""
        )
        return f"{self.rule.name}: {self.failed:,} rows fail it{share}. {self.rule.words}"


def judge(silver: Silver, arrived: Mapping[int, Arrived], log: Mapping[int, Batch]) -> tuple[Verdict, ...]:
    """What each rule of the table says of each batch. One job for each rule of uniqueness or relationship."""
    if not arrived:
        return ()
    return tuple(
        Verdict(batch, rule, *found)
        for rule in silver.table.batch_rules
        for batch, found in sorted(_measured(silver, rule, arrived, log).items())
    )


def _measured(silver: Silver, rule: AnyBatchRule, arrived: Mapping[int, Arrived], log: Mapping[int, Batch]) -> Found:
    if rule.kind == "completeness":
        return {batch: (found.good, found.nulls.get(rule.column, 0)) for batch, found in arrived.items()}
    if rule.kind == "timeliness":
        return {
            batch: (found.rows, found.rows if _is_late(silver.contract, rule, log[batch]) else 0)
            for batch, found in arrived.items()
        }
    if rule.kind == "uniqueness":
        return _repeated(silver, rule, frozenset(arrived))
    return _unrelated(silver, rule, frozenset(arrived))


def _is_late(contract: Contract, rule: Timeliness, batch: Batch) -> bool:
    end = datetime.combine(batch.unit + timedelta(days=1), time(), ZoneInfo(contract.source.timezone))
    return batch.landed_at > end + timedelta(hours=hours(rule.within))


def _repeated(silver: Silver, rule: Uniqueness, batches: frozenset[int]) -> Found:
    columns = [quote(name) for name in rule.columns]
    stated = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    rows = silver.typed(batches).where(f"{STATUS} = 'good' AND {stated}")
    groups = rows.groupBy(names.BATCH, *columns).count()
    return _collected(groups, F.sum("count"), F.sum(F.when(F.col("count") > 1, F.col("count")).otherwise(0)))


def _unrelated(silver: Silver, rule: Relationship, batches: frozenset[int]) -> Found:
    table = silver.table
    reference = next(each for each in table.references if each.column == rule.reference)
    key = encoding.durable_key([(quote(name), table.columns[name].type) for name in reference.key])
    keys = silver.typed(batches).where(f"{STATUS} = 'good'").selectExpr(names.BATCH, f"{key} AS {names.KEY}")
    keys = keys.where(f"{names.KEY} IS NOT NULL").groupBy(names.BATCH, names.KEY).count()
    target = TableName("silver", reference.table)
    if load_table(silver.lake.catalog, target) is None:
        return _collected(keys, F.sum("count"), F.sum("count"))
    known = silver.lake.table(target).select(names.KEY, F.lit(True).alias("_is_known")).distinct()
    found = keys.join(known, names.KEY, "left")
    return _collected(found, F.sum("count"), F.sum(F.when(F.col("_is_known").isNull(), F.col("count")).otherwise(0)))


def _collected(groups: DataFrame, checked: Expression, failed: Expression) -> Found:
    counted = groups.groupBy(names.BATCH).agg(checked.alias(_CHECKED), failed.alias(_FAILED))
    return {row[names.BATCH]: (row[_CHECKED], row[_FAILED]) for row in counted.collect()}
