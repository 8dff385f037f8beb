"""Which rows a run refused: the rules, and the first row of each, by its place in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.core import names
from lakehouse.engine.report import Refusal
from lakehouse.engine.tables import in_batches, quarantine_spec
from lakehouse.quality.suite import named_by_engine, suite

if TYPE_CHECKING:
    from lakehouse.engine.silver import Intake, Silver


def refusals(silver: Silver, intake: Intake) -> list[Refusal]:
    """The rules by which rows of these batches are in quarantine, most rows first. One small job."""
    kept = silver.placed(quarantine_spec(silver.contract, silver.name)).name
    rows = silver.lake.table(kept).where(in_batches(intake.added))
    place = F.struct(names.UNIT, names.FILE, names.RECORD, names.LINE)
    by_rule = rows.select(F.explode(names.RULES).alias("rule"), place.alias("place")).groupBy("rule")
    found = by_rule.agg(F.count(F.lit(1)).alias("rows"), F.min("place").alias("first")).collect()
    words = {expected.rule: expected.words for expected in suite(silver.contract, silver.name)}
    return [
        Refusal(
            rule=row["rule"],
            words=words.get(row["rule"], named_by_engine(row["rule"]).words),
            rows=row["rows"],
            file=row["first"][names.FILE],
            record=row["first"][names.RECORD],
            line=row["first"][names.LINE],
        )
        for row in sorted(found, key=lambda each: (-each["rows"], each["rule"]))
    ]
