"""What a pass of the row rules found: rows of batches by what becomes of them, and by the rules that they failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from lakehouse.core import names
from lakehouse.core.names import TableName, quote
from lakehouse.engine.baseline import BEYOND
from lakehouse.engine.breakers import Arrived, is_drifted
from lakehouse.engine.report import TableReport
from lakehouse.engine.typed import EFFECTIVE, FAILED, STATUS, WARNED

if TYPE_CHECKING:
    from lakehouse.engine.silver import Silver

_NAMES = "_rule_names"
Rows = Mapping[int, int]
ByRule = Mapping[str, int]


@dataclass(frozen=True)
class Counted:
    """Rows of some batches by status: one job's answer, kept by batch so that a held one can be left out.

    ``failed`` and ``warned`` have the rows of each batch by rule, ``nulls`` the good rows by the column that is null in
    them, for columns that the contract wants complete.
    """

    target: TableName
    batches: frozenset[int] = frozenset()
    statuses: Mapping[int, ByRule] = field(default_factory=dict)
    failed: Mapping[int, ByRule] = field(default_factory=dict)
    warned: Mapping[int, ByRule] = field(default_factory=dict)
    nulls: Mapping[int, ByRule] = field(default_factory=dict)
    keyless: Rows = field(default_factory=dict)
    drifted: Rows = field(default_factory=dict)
    max_effective: str = ""

    def unreadable(self, batches: frozenset[int]) -> Mapping[int, str]:
        """Those of the batches in which a record or key cannot be read, each with the reason to hold it."""
        found = {}
        for batch in batches:
            rejected, without = self.statuses.get(batch, {}).get("rejected", 0), self.keyless.get(batch, 0)
            if rejected or without:
                found[batch] = (
                    f"{rejected:,} records cannot be read and {without:,} have no key: nobody can tell what is absent"
                )
        return found

    def arrived(self, batches: frozenset[int]) -> Mapping[int, Arrived]:
        """Some of the batches as breakers judge them; one without rows was counted too."""
        found = {batch: Counter(self.statuses.get(batch, {})) for batch in sorted(batches)}
        return {
            batch: Arrived(
                statuses.total(),
                statuses["good"],
                statuses["quarantined"],
                self.drifted.get(batch, 0),
                self.nulls.get(batch, {}),
            )
            for batch, statuses in found.items()
        }

    def plus(self, other: Counted) -> Counted:
        """Both together; they have no batch in common."""
        return Counted(
            self.target,
            self.batches | other.batches,
            {**self.statuses, **other.statuses},
            {**self.failed, **other.failed},
            {**self.warned, **other.warned},
            {**self.nulls, **other.nulls},
            {**self.keyless, **other.keyless},
            {**self.drifted, **other.drifted},
            max(self.max_effective, other.max_effective),
        )

    def of(self, batches: Iterable[int]) -> Counter[str]:
        """Rows by status over some of the batches."""
        return _over(self.statuses, batches)

    def report(self, batches: frozenset[int]) -> TableReport:
        """What a run says of these batches."""
        counts, failed = self.of(batches), _over(self.failed, batches)
        return TableReport(
            self.target,
            batches=len(batches),
            received=counts.total(),
            good=counts["good"],
            quarantined=counts["quarantined"],
            rejected=counts["rejected"],
            without_key=counts["without_key"],
            warned=dict(sorted(_over(self.warned, batches).items())),
            drifted=sum(self.drifted.get(batch, 0) for batch in batches),
            beyond_horizon=failed[BEYOND],
        )


def _over(counts: Mapping[int, ByRule], batches: Iterable[int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for batch in batches:
        total.update(counts.get(batch, {}))
    return total


def count(silver: Silver, batches: frozenset[int]) -> Counted:
    """Count the rows of some batches: one job, or none where there are no batches."""
    if not batches:
        return Counted(silver.target)
    # Rows are few that fail a rule, and the ways in which they fail fewer still.
    failed = f"CASE WHEN {STATUS} = 'quarantined' THEN array_join({FAILED}, ',') ELSE '' END"
    rows = silver.typed(batches).selectExpr("*", f"{failed} AS {_NAMES}", f"array_join({WARNED}, ',') AS _warnings")
    complete = silver.table.complete_columns
    counts = [F.count_if(F.expr(sql)).alias(name) for name, sql in _conditions(silver, complete).items()]
    latest = F.max(EFFECTIVE).cast("string") if silver.table.kind == "dimension" else F.lit("")
    grouped = rows.groupBy(names.BATCH, STATUS, _NAMES, "_warnings")
    return _read(
        silver.target, batches, grouped.agg(F.count(F.lit(1)).alias("n"), *counts, latest.alias("latest")).collect()
    )


def _conditions(silver: Silver, complete: Iterable[str]) -> dict[str, str]:
    """What is counted beside the rows themselves."""
    # A row that is quarantined may lack its key as well; the hash that is the durable key is not made for this.
    missing = " OR ".join(f"{quote(name)} IS NULL" for name in silver.table.key)
    drifted = is_drifted(silver.contract) if silver.contract.source.drift != "allow" else "false"
    nulls = {f"null_{column}": f"{STATUS} = 'good' AND {quote(column)} IS NULL" for column in complete}
    return {"keyless": f"{names.REJECTED} IS NULL AND ({missing})", "drifted": drifted, **nulls}


def _read(target: TableName, batches: frozenset[int], rows: Iterable[Any]) -> Counted:
    """The groups of rows, each a batch, a status and the rules that failed and warned."""
    statuses: dict[int, Counter[str]] = {}
    failed: dict[int, Counter[str]] = {}
    warned: dict[int, Counter[str]] = {}
    nulls: dict[int, Counter[str]] = {}
    keyless: Counter[int] = Counter()
    drifted: Counter[int] = Counter()
    effective = ""
    for row in map(lambda each: each.asDict(), rows):
        batch, n = row[names.BATCH], row["n"]
        statuses.setdefault(batch, Counter())[row[STATUS]] += n
        for found, text in ((failed, row[_NAMES]), (warned, row["_warnings"])):
            found.setdefault(batch, Counter()).update(dict.fromkeys(text.split(",") if text else (), n))
        nulls.setdefault(batch, Counter()).update(
            {name.removeprefix("null_"): rows for name, rows in row.items() if name.startswith("null_")}
        )
        keyless[batch] += row["keyless"]
        drifted[batch] += row["drifted"]
        if row[STATUS] == "good":
            effective = max(effective, row["latest"] or "")
    return Counted(target, batches, statuses, failed, warned, nulls, keyless, drifted, effective)
