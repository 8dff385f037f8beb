"""Circuit breakers: which batches are held because there is something wrong with them as a whole.

Each batch is judged before it is taken, again in every run while it is held, and never again once a table has it.
What somebody released is taken unjudged. The limits stand in the contract.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.contracts.model import Contract, Volume
from lakehouse.core import names
from lakehouse.engine.tables import in_batches, literal

if TYPE_CHECKING:
    from lakehouse.engine.batch_rules import Verdict
    from lakehouse.engine.silver import Silver

_DEVIATION_OF_NORMAL = 1.4826  # of a normal distribution: its standard deviation over its median absolute deviation
_LEAST_SPREAD = 0.1  # days that are all alike may still differ by a tenth
_COLUMNS = 10


@dataclass(frozen=True)
class Arrived:
    """One batch as it was counted.

    All of its rows, those that passed, those that a rule refused, those with unknown columns, and of those that passed
    the ones without a value in columns that are to be complete.
    """

    rows: int
    good: int
    quarantined: int
    drifted: int
    nulls: Mapping[str, int]


def tripped(
    silver: Silver,
    arrived: Mapping[int, Arrived],
    taken: frozenset[int],
    units: Mapping[int, date],
    verdicts: Iterable[Verdict],
) -> Mapping[int, str]:
    """The batches among ``arrived`` that are held, each with the reasons in words.

    ``taken`` are batches that the table has, which volume is compared with; ``units`` has the unit of every batch;
    ``verdicts`` are those of the rules over batches. At most one small Spark job for the volume, and one for the names
    of columns where these hold a batch.
    """
    reasons: dict[int, list[str]] = {}
    for batch, why in (
        *_poisoned(silver, arrived),
        *_drifted(silver, arrived),
        *_volumes(silver, arrived, taken, units),
        *((verdict.batch, verdict.reason) for verdict in verdicts if verdict.holds and verdict.batch in arrived),
    ):
        reasons.setdefault(batch, []).append(why)
    return {batch: "; ".join(why) for batch, why in reasons.items()}


def _poisoned(silver: Silver, arrived: Mapping[int, Arrived]) -> Iterator[tuple[int, str]]:
    limit = silver.table.max_quarantined_share
    for batch, found in arrived.items():
        if found.quarantined > limit * found.rows:
            yield (
                batch,
                f"{found.quarantined:,} of its {found.rows:,} rows would go to quarantine: "
                f"{found.quarantined / found.rows:.1%}, and the contract allows {limit:.1%}",
            )


def is_drifted(contract: Contract) -> str:
    """SQL over typed rows that is true where a record did not have the columns of the contract.

    Fields that a JSON record leaves out are no drift: it says so of what it does not state.
    """
    known = ", ".join(literal(name) for name in contract.source.columns)
    extra = f"coalesce(size(array_except(map_keys({names.EXTRA}), array({known}))) > 0, false)"
    return extra if contract.source.format == "jsonl" else f"({extra} OR coalesce(size({names.MISSING}) > 0, false))"


def _drifted(silver: Silver, arrived: Mapping[int, Arrived]) -> Iterator[tuple[int, str]]:
    if silver.contract.source.drift != "block":
        return
    for batch in sorted(batch for batch, found in arrived.items() if found.drifted):
        yield batch, f"its columns are not those of the contract: {_columns(silver, batch)}"


def _columns(silver: Silver, batch: int) -> str:
    """The columns of a batch that are new or missing, by name."""
    rows = silver.typed(frozenset([batch])).where(is_drifted(silver.contract))
    named = {"new": f"map_keys({names.EXTRA})", "missing": names.MISSING}
    parts = []
    for kind, columns in named.items():
        found = rows.select(F.explode(F.expr(columns)).alias("name")).distinct().limit(_COLUMNS + 1).collect()
        shown = sorted(
            row["name"] for row in found if kind == "missing" or row["name"] not in silver.contract.source.columns
        )
        more = " and more" if len(shown) > _COLUMNS else ""
        parts += [f"{kind} {', '.join(map(repr, shown[:_COLUMNS]))}{more}"] if shown else []
    return ", ".join(parts)


def _volumes(
    silver: Silver, arrived: Mapping[int, Arrived], taken: frozenset[int], units: Mapping[int, date]
) -> Iterator[tuple[int, str]]:
    volume = silver.contract.source.volume
    if volume is None or not arrived:
        return
    others = {batch: nearest(batch, (arrived.keys() | taken) - {batch}, units, volume.days) for batch in arrived}
    asked = frozenset(batch for found in others.values() for batch in found) - arrived.keys()
    rows = {batch: found.rows for batch, found in arrived.items()} | _rows(silver, asked)
    for batch, found in others.items():
        if why := unlikely(rows[batch], [rows[other] for other in found], volume):
            yield batch, why


def nearest(batch: int, others: frozenset[int] | set[int], units: Mapping[int, date], count: int) -> list[int]:
    """The batches whose units are closest to that of a batch; of two at one distance the earlier comes first."""

    def distance(other: int) -> tuple[int, bool, int]:
        days = (units[other] - units[batch]).days
        return abs(days), days > 0, other

    return sorted(others, key=distance)[:count]


def unlikely(rows: int, others: Sequence[int], volume: Volume) -> str:
    """Why a number of rows is far from what is usual; empty where it is not, or too little is known to say so.

    Counts are compared by their logarithms, so that ten times and a tenth of the usual are equally far from it.
    """
    if len(others) < volume.min_days:
        return ""
    logs = [math.log1p(other) for other in others]
    usual = median(logs)
    spread = max(_DEVIATION_OF_NORMAL * median(abs(each - usual) for each in logs), _LEAST_SPREAD)
    deviations = abs(math.log1p(rows) - usual) / spread
    if deviations <= volume.deviations:
        return ""
    return (
        f"it has {rows:,} rows, and the {len(others)} batches closest in time have {round(math.expm1(usual)):,} "
        f"(median): {deviations:.1f} deviations away, and the contract allows {volume.deviations:g}"
    )


def _rows(silver: Silver, batches: frozenset[int]) -> dict[int, int]:
    """The rows of batches in bronze. One job that reads one column, none where there are no batches."""
    if not batches:
        return {}
    stored = silver.lake.table(silver.contract.bronze_table).where(in_batches(batches))
    counted = stored.groupBy(names.BATCH).count().collect()
    return dict.fromkeys(batches, 0) | {row[names.BATCH]: row["count"] for row in counted}
