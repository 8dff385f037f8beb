"""A replay: rows that a table has taken are judged anew, after a change of row rules alone.

What comes of it is what a rebuild would give, rows, quarantine and stamp; but only batches of facts, or keys of
dimensions, are written again of which a row came in or went out. It is prepared on forks, as a rebuild is, so that the
table and its quarantine change at once, or not at all.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lakehouse.contracts.changes import Change
from lakehouse.contracts.model import Contract, Table
from lakehouse.contracts.rejudging import judged_as
from lakehouse.core.errors import ConcurrentCommit, SettingsError
from lakehouse.core.names import TableName
from lakehouse.engine.adopt import evolve_bronze
from lakehouse.engine.fork import Fork, enter, seal
from lakehouse.engine.lock import table_locks
from lakehouse.engine.plan import replay_plan
from lakehouse.engine.publish import Lake, create_missing, publish
from lakehouse.engine.rebuild import drop_forks, fork_table
from lakehouse.engine.report import TableReport
from lakehouse.engine.silver import HeadMoved, Intake, Silver, SilverJob, add_published, take
from lakehouse.engine.spark_errors import readable
from lakehouse.engine.tables import TableSpec, quarantine_spec, silver_spec
from lakehouse.engine.verdicts import Rejudged, Verdicts, judge_both, moved_keys, standing_batches
from lakehouse.ledger.recorded import recorded
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Head, head_of, load_table, read_head

_STATUSES = ("good", "quarantined", "rejected", "without_key")


@dataclass(frozen=True)
class Replay:
    """A replay that was judged and not yet published: both judgements of what the table has, and what else it takes.

    ``former`` is the table with the rules that it was made with; ``intake`` has what was pending or held.
    """

    silver: Silver
    head: Head
    changes: tuple[Change, ...]
    former: Table
    verdicts: Verdicts
    intake: Intake

    @property
    def table(self) -> TableName:
        return self.silver.target

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "table": str(self.table),
            "changes": [change.render() for change in self.changes],
            "verdicts": self.verdicts.to_json(),
            "pending_batches": sorted(self.intake.added),
            "held": {str(batch): reason for batch, reason in self.intake.held.items()},
        }

    @property
    def specs(self) -> list[TableSpec]:
        """The table and its quarantine."""
        contract, name = self.silver.contract, self.silver.name
        return [silver_spec(contract, name), quarantine_spec(contract, name)]


@readable()
def judge_anew(lake: Lake, contract: Contract, name: str) -> Replay:
    """Judge all that a table has by the rules of before and of today, and find what else a run would take.

    Nothing is published, and no row is written. Raises as :func:`replay_plan` does, and :class:`SettingsError` where
    the rules did not change.
    """
    plan = replay_plan(lake.catalog, ObjectStore.open(lake.settings), contract, name)
    head, before = _recorded(lake, contract, name)
    if plan.verdict != "replay" or before is None:
        raise SettingsError(f"no row rule of {plan.table} changed: there is nothing to replay")
    evolve_bronze(lake, contract)
    through = read_head(lake.catalog, contract.bronze_table).consumed(contract.name).through
    silver, former = Silver(lake, contract, name, through), judged_as(contract, name, before)
    intake = take(silver, head, judge=True, replay=True)
    if intake is None:
        raise SettingsError(f"{plan.table} has taken nothing: there is nothing to replay")
    verdicts = judge_both(silver, intake.live - intake.added, former)
    return Replay(silver, head, plan.changes, former, verdicts, _completed(intake, verdicts))


def _recorded(lake: Lake, contract: Contract, name: str) -> tuple[Head, Table | None]:
    """The head, and the table as the contract was that it was made with; None where that is not known."""
    table = load_table(lake.catalog, contract.silver_table(name))
    head = head_of(table)
    found = recorded(table, head.stamp.fingerprint) if table and head.stamp else None
    return head, found.contract.tables[name] if found else None


def _completed(intake: Intake, verdicts: Verdicts) -> Intake:
    """With the counts and the greatest effective time of all that is live, by the rules of today."""
    counts = Counter(verdicts.statuses()) + Counter({status: getattr(intake.report, status) for status in _STATUSES})
    latest = max(intake.max_effective, verdicts.max_effective)
    return replace(intake, counts={status: counts[status] for status in sorted(counts)}, max_effective=latest)


@readable()
def publish_replay(lake: Lake, replay: Replay) -> TableReport:
    """Bring a table and its quarantine to what was judged, both at once.

    Raises :class:`ConcurrentCommit` where the table changed since.
    """
    create_missing(lake, replay.specs)
    with table_locks(lake.settings, [spec.name for spec in replay.specs]) as locks:
        if read_head(lake.catalog, replay.table).snapshot_id != replay.head.snapshot_id:
            raise _moved(replay)
        forks: list[Fork] = []
        try:
            for spec in replay.specs:
                forks.append(fork_table(lake, spec))  # one by one: what was made is dropped, wherever it breaks
            report = _write(lake, replay, forks)
            forks = [seal(lake, fork) for fork in forks]
            locks.check()
            enter(lake, forks, uuid.uuid4().hex[:16], lake.clock.now())
        except ConcurrentCommit as error:
            raise _moved(replay) from error
        finally:
            drop_forks(lake, forks)
    return report


def _write(lake: Lake, replay: Replay, forks: Sequence[Fork]) -> TableReport:
    """Write to the forks what a replay changes."""
    silver = replace(replay.silver, forks={fork.table: fork.name for fork in forks})
    intake = _with_rejudged(replay, silver)
    job = SilverJob(silver, intake, replay.head)
    try:
        published = publish(lake, job)
    except HeadMoved:
        raise _moved(replay) from None
    add_published(intake.report, [each for each in published if each.table == silver.target])
    return replace(intake.report, table=replay.table)


def _with_rejudged(replay: Replay, silver: Silver) -> Intake:
    """The intake with the batches of facts, or the keys, that are to be written again, and the rows to be refused."""
    verdicts, intake = replay.verdicts, replay.intake
    keys = None
    if silver.table.kind == "fact":
        intake = replace(intake, added=intake.added | verdicts.moved, removed=intake.removed | verdicts.moved)
    else:
        keys = moved_keys(silver, verdicts.moved, replay.former)
    former = replay.head.stamp.fingerprint if replay.head.stamp else ""
    quarantine = silver.lake.table(silver.placed(replay.specs[1]).name)
    stands = standing_batches(quarantine, verdicts.refused_before, former) - verdicts.refused_otherwise
    stands &= intake.live - replay.intake.added
    refused = replay.intake.added | (verdicts.refused.keys() - stands)
    return replace(intake, rejudged=Rejudged(keys, frozenset(refused), stands, verdicts.good))


def _moved(replay: Replay) -> ConcurrentCommit:
    return ConcurrentCommit(
        f"{replay.table} changed since it was judged",
        untouched=f"{replay.table} and its quarantine; nothing of the replay was published",
        todo="run `lakehouse replay` again; it starts from the table as it is now",
    )
