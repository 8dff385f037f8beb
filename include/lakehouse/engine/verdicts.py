"""What other row rules say of rows that a table has taken: one job that judges each row by both, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.model import Table
from lakehouse.core import names
from lakehouse.core.names import quote
from lakehouse.engine.publish import Target
from lakehouse.engine.tables import TableSpec, in_batches, literal
from lakehouse.engine.typed import EFFECTIVE, FAILED, FAILED_BEFORE, STATUS, STATUS_BEFORE, typed_rows

if TYPE_CHECKING:
    from lakehouse.engine.silver import Silver

Key = TypeVar("Key")


@dataclass(frozen=True)
class Alike:
    """Rows of one batch of which both judgements say the same: the status, and the names of the rules that failed.

    ``latest`` is their greatest effective time as text, '' for facts.
    """

    batch: int
    rows: int
    before: str
    now: str
    failed_before: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    latest: str = ""

    @property
    def is_moved(self) -> bool:
        """Whether they come into the table, or go out of it."""
        return (self.before == "good") != (self.now == "good")

    @property
    def is_refused_otherwise(self) -> bool:
        """Whether quarantine has to say something else of them."""
        is_refused = "quarantined" in (self.before, self.now)
        return is_refused and (self.before, self.failed_before) != (self.now, self.failed)


@dataclass(frozen=True)
class Verdicts:
    """Both judgements of all rows of some batches."""

    found: tuple[Alike, ...] = ()

    def statuses(self) -> dict[str, int]:
        """Rows by their status now."""
        return _sums((each.now, each.rows) for each in self.found)

    @property
    def moved(self) -> frozenset[int]:
        """The batches with rows that come into the table, or go out of it."""
        return frozenset(each.batch for each in self.found if each.is_moved)

    @property
    def refused_otherwise(self) -> frozenset[int]:
        """The batches of which quarantine has to hold something else."""
        return frozenset(each.batch for each in self.found if each.is_refused_otherwise)

    @property
    def max_effective(self) -> str:
        """The greatest effective time of a row that is good now, as text; '' where there is none."""
        return max((each.latest for each in self.found if each.now == "good"), default="")

    @cached_property
    def refused_before(self) -> dict[int, int]:
        """How many rows of each batch were quarantined."""
        return _sums((each.batch, each.rows) for each in self.found if each.before == "quarantined")

    @cached_property
    def refused(self) -> dict[int, int]:
        """How many rows of each batch are quarantined now."""
        return _sums((each.batch, each.rows) for each in self.found if each.now == "quarantined")

    @cached_property
    def good(self) -> dict[int, int]:
        """How many rows of each batch are good now."""
        return _sums((each.batch, each.rows) for each in self.found if each.now == "good")

    @property
    def coming(self) -> dict[int, int]:
        """Rows that come into the table, by batch."""
        return _sums((each.batch, each.rows) for each in self.found if each.is_moved and each.now == "good")

    @property
    def going(self) -> dict[int, int]:
        """Rows that go out of the table, by batch."""
        return _sums((each.batch, each.rows) for each in self.found if each.is_moved and each.before == "good")

    def rules(self) -> dict[str, tuple[int, int]]:
        """For each rule that is said of other rows: how many no longer break it, and how many do and did not."""
        readable = [each for each in self.found if each.now != "rejected"]
        no_longer = _sums((rule, e.rows) for e in readable for rule in set(e.failed_before) - set(e.failed))
        newly = _sums((rule, e.rows) for e in readable for rule in set(e.failed) - set(e.failed_before))
        return {rule: (no_longer.get(rule, 0), newly.get(rule, 0)) for rule in sorted({*no_longer, *newly})}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        coming, going = self.coming, self.going
        return {
            "rows": sum(each.rows for each in self.found),
            "coming": sum(coming.values()),
            "going": sum(going.values()),
            "quarantined": {"before": sum(self.refused_before.values()), "after": sum(self.refused.values())},
            "rules": {rule: {"no_longer": a, "newly": b} for rule, (a, b) in self.rules().items()},
            "batches": {
                batch: {"coming": coming.get(batch, 0), "going": going.get(batch, 0)} for batch in sorted(self.moved)
            },
        }


def _sums(pairs: Iterable[tuple[Key, int]]) -> dict[Key, int]:
    total: Counter[Key] = Counter()
    for key, rows in pairs:
        total[key] += rows
    return dict(total)


def judge_both(silver: Silver, batches: frozenset[int], before: Table) -> Verdicts:
    """Judge the rows of some batches by today's rules and by former ones; one job, none without batches."""
    if not batches:
        return Verdicts()
    latest = F.max(EFFECTIVE).cast("string") if silver.table.kind == "dimension" else F.lit("")
    by = (names.BATCH, STATUS_BEFORE, STATUS, FAILED_BEFORE, FAILED)
    rows = _both(silver, batches, before).groupBy(*by).agg(F.count(F.lit(1)).alias("n"), latest.alias("latest"))
    return Verdicts(tuple(_alike(*row) for row in rows.select(*by, "n", "latest").collect()))


def _alike(batch: int, before: str, now: str, failed_before: list[str], failed: list[str], n: int, at: str) -> Alike:
    return Alike(batch, n, before, now, tuple(failed_before), tuple(failed), at or "")


def _both(silver: Silver, batches: frozenset[int], before: Table) -> DataFrame:
    return typed_rows(silver.bronze(batches), silver.contract, silver.name, before)


def moved_keys(silver: Silver, batches: frozenset[int], before: Table) -> DataFrame | None:
    """The durable keys of rows that were good and no longer are, or the other way round; materialised."""
    if not batches:
        return None
    rows = _both(silver, batches, before).where(f"({STATUS} = 'good') <> ({STATUS_BEFORE} = 'good')")
    return rows.where(f"{names.KEY} IS NOT NULL").select(names.KEY).distinct().localCheckpoint()


@dataclass(frozen=True)
class Rejudged:
    """What a replay changes of what was taken: ``keys`` to be folded again (dimensions; None where there are none).

    ``refused`` are the batches whose refused rows are taken from bronze, ``stands`` those for which quarantine has the
    right rows already; ``good`` is how many rows of each batch are good now.
    """

    keys: DataFrame | None
    refused: frozenset[int]
    stands: frozenset[int]
    good: Mapping[int, int]

    def standing(self, target: Target, spec: TableSpec, fingerprint: str) -> DataFrame:
        """The rows of quarantine that stay, as refused by the rules of today."""
        rows = target.lake.table(target.table).where(in_batches(self.stands))
        return rows.selectExpr(
            *[f"{literal(fingerprint)} AS {quote(c)}" if c == names.FINGERPRINT else quote(c) for c in spec.columns]
        )


def standing_batches(quarantine: DataFrame, refused: Mapping[int, int], fingerprint: str) -> frozenset[int]:
    """The batches of which quarantine has exactly the rows that were refused, all by one contract.

    A publication that was broken off leaves others; and after a change that was free, rows of an earlier fingerprint.
    """
    is_former = F.count_if(F.col(names.FINGERPRINT) == fingerprint).alias("former")
    counted = quarantine.groupBy(names.BATCH).agg(F.count(F.lit(1)).alias("n"), is_former).collect()
    return frozenset(row[names.BATCH] for row in counted if row["n"] == row["former"] == refused.get(row[names.BATCH]))
