"""``lakehouse maintain``: what each table needs, and the steps in their order.

Compaction, manifests, expiry, orphans, statistics. One table's trouble does not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from lakehouse.core.errors import LakehouseError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine.compact import Rewritten, rewrite
from lakehouse.engine.publish import Lake
from lakehouse.engine.session import session
from lakehouse.engine.upkeep import Budget, House, Needs, Removed

Tell = Callable[[str], None]


@dataclass
class Report:
    """What was done to one table. ``postponed`` says what has to wait, and why."""

    table: TableName
    cost_before: float = 1
    cost_after: float = 1
    rewritten: Rewritten = Rewritten()
    expired: Removed = Removed()
    orphans: Removed = Removed()
    is_counted: bool = False
    postponed: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "table": str(self.table),
            "scan_cost": {"before": round(self.cost_before, 3), "after": round(self.cost_after, 3)},
            "rewritten": vars(self.rewritten),
            "expired": vars(self.expired),
            "orphans": vars(self.orphans),
            "statistics": self.is_counted,
            "postponed": self.postponed,
        }


@dataclass
class Upkept:
    """All reports, and the errors of the tables that have none."""

    reports: list[Report] = field(default_factory=list)
    errors: list[LakehouseError] = field(default_factory=list)


def look(house: House, names: Sequence[TableName], tell: Tell) -> list[Needs]:
    """What the tables need. Changes nothing."""
    found = []
    for name in names:
        tell(f"looking at {name}")
        found.append(house.needs(name))
    return [needs for needs in found if not needs.is_nothing]


def maintain(house: House, found: Sequence[Needs], budget: Budget, tell: Tell, lake: Lake | None = None) -> Upkept:
    """Do what was found; each step looks again. A session is started where something is to be rewritten."""
    done = Upkept()
    with _writing(house.settings, found, lake, tell) as writer:
        for needs in found:
            tell(f"{needs.table}")
            try:
                done.reports.append(_maintain_one(house, needs, budget, writer))
            except LakehouseError as error:
                done.errors.append(error)
    return done


@contextmanager
def _writing(settings: Settings, found: Sequence[Needs], lake: Lake | None, tell: Tell) -> Iterator[Lake | None]:
    if lake is not None or not any(needs.writes and not needs.skipped for needs in found):
        yield lake
        return
    tell("starting Spark")
    with session(settings, "lakehouse maintain") as spark:
        yield Lake(spark, settings)


def _maintain_one(house: House, needs: Needs, budget: Budget, lake: Lake | None) -> Report:
    name, report = needs.table, Report(needs.table, needs.cost, needs.cost)
    if needs.skipped:
        report.postponed.append(needs.skipped)
        return report
    with _postponed(report, "a former run"):
        house.forget_fork(name)
    if lake is not None and (needs.compaction or needs.manifests):
        report.rewritten = rewrite(lake, house, name, lambda now: replace(now, statistics=()))
        report.postponed += [report.rewritten.gave_way] if report.rewritten.gave_way else []
    with _postponed(report, "old snapshots"):
        report.expired = house.expire(name, budget)
        report.postponed += _left(report.expired, "old snapshots")
    with _postponed(report, "orphans"):
        report.orphans = house.remove_orphans(name, budget)
        report.postponed += _left(report.orphans, "orphans")
    if lake is not None and house.to_write(name).statistics:
        counted = rewrite(lake, house, name, lambda now: replace(now, compaction=None, manifests=None))
        report.is_counted = counted.steps > 0
    report.cost_after = house.to_write(name).cost
    return report


@contextmanager
def _postponed(report: Report, what: str) -> Iterator[None]:
    """A step that finds others at work is left to the next run."""
    try:
        yield
    except TransientError as others:
        report.postponed.append(f"{what}: {others.what}")


def _left(removed: Removed, what: str) -> list[str]:
    more = f"{what}: {removed.left:,} files are left for the next run, since this one may delete no more"
    return [more] if removed.left else []
