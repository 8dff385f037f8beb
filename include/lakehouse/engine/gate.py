"""The gate of a silver table: Great Expectations judges what an attempt took and wrote, before it is published.

Row rules have split the rows by then, and rules over batches have held what breaks them. The gate looks whether the
branch has what follows from that, costs no Spark job, and records what every rule said of every batch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lakehouse.core.errors import GateFailed
from lakehouse.core.names import TableName
from lakehouse.engine.tables import quarantine_spec
from lakehouse.ledger.watermark import load_table, summary_of
from lakehouse.quality.expectations import Judged, Tally, judge
from lakehouse.quality.record import BatchRecord, Outcome, RuleRecord, State
from lakehouse.quality.suite import PUBLISHED, QUARANTINED, Expected, named_by_engine, suite

if TYPE_CHECKING:
    from lakehouse.engine.batch_rules import Verdict
    from lakehouse.engine.publish import Target
    from lakehouse.engine.silver import Intake, Silver

_READABLE = ("good", "quarantined", "without_key")


@dataclass(frozen=True)
class Gate:
    """What one attempt took into a table, and what its contract expects of that."""

    silver: Silver
    intake: Intake
    attempt: str

    @cached_property
    def suite(self) -> tuple[Expected, ...]:
        """The contract's expectations, and the rules that the engine refuses rows by beside them."""
        said = suite(self.silver.contract, self.silver.name)
        named = {expected.rule for expected in said}
        extra = {rule for failed in self.intake.counted.failed.values() for rule in failed} - named
        return (*map(named_by_engine, sorted(extra)), *said)

    @cached_property
    def _verdicts(self) -> Mapping[int, Mapping[str, Verdict]]:
        """What the rules over batches say, by batch and rule."""
        found: dict[int, dict[str, Verdict]] = {}
        for verdict in self.intake.verdicts:
            found.setdefault(verdict.batch, {})[verdict.rule.name] = verdict
        return found

    def check(self, targets: Mapping[TableName, Target]) -> None:
        """Raise :class:`GateFailed` unless the branches have what was judged to go there."""
        refused = [judged for judged in self._judged(targets) if self._blocks(judged)]
        if refused:
            raise self._failed(refused)

    def _judged(self, targets: Mapping[TableName, Target]) -> list[Judged]:
        wanted, tallies, written = self._wanted(), self._tallies(), self._written(targets)
        asked = [
            Expected(**{**vars(expected), "arguments": {"value": wanted[expected.rule]}})
            if expected.scope == "table"
            else expected
            for expected in self.suite
            if expected.scope != "table" or expected.rule in written
        ]
        return judge(asked, tallies | {rule: _tally(rows, wanted[rule]) for rule, rows in written.items()})

    def _wanted(self) -> dict[str, int]:
        """Facts have all rows that count, from whatever attempt; the last commit to quarantine, those of this one."""
        refused = self.intake.counts if self.intake.rejudged else self.intake.counted.of(self.intake.added)
        return {PUBLISHED: self.intake.counts.get("good", 0), QUARANTINED: refused.get("quarantined", 0)}

    def _written(self, targets: Mapping[TableName, Target]) -> dict[str, int]:
        """Rows as the branches have them. A history has as many as follow from its fold, and is left out."""
        kept = self.silver.placed(quarantine_spec(self.silver.contract, self.silver.name)).name
        written = {QUARANTINED: _rows_added(targets[kept])} if kept in targets else {}
        if self.silver.table.kind == "fact":
            written[PUBLISHED] = _rows(targets[self.silver.target])
        return written

    def _tallies(self) -> dict[str, Tally]:
        """Each rule over all batches that were taken."""
        checked: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        for batch in self.intake.added:
            for expected, rows in self._of_batch(batch):
                checked[expected.rule] += rows[0]
                failed[expected.rule] += rows[1]
        return {rule: Tally(checked[rule], failed[rule]) for rule in checked}

    def _blocks(self, judged: Judged) -> bool:
        """Rows that fail a row rule are in quarantine; batches that fail theirs are held, or somebody released them."""
        if judged.success or judged.expected.level == "warn" or judged.expected.scope == "row":
            return False
        return judged.expected.scope == "table" or not self.intake.pending.released & self.intake.added

    def _of_batch(self, batch: int) -> Iterator[tuple[Expected, tuple[int, int]]]:
        """What each rule says of a batch: rows checked and failed."""
        counted = self.intake.counted
        statuses = counted.statuses.get(batch, {})
        readable = sum(statuses.get(status, 0) for status in _READABLE)
        failed = {**counted.warned.get(batch, {}), **counted.failed.get(batch, {})}
        said = self._verdicts.get(batch, {})
        for expected in self.suite:
            if expected.scope == "row":
                yield expected, (readable, failed.get(expected.rule, 0))
            elif expected.rule in said:
                yield expected, (said[expected.rule].checked, said[expected.rule].failed)

    def rules(self, *, is_blocked: bool = False) -> Iterator[RuleRecord]:
        """What every rule said of every batch that was looked at."""
        at = (self.silver.contract.name, str(self.silver.target), self.attempt)
        arguments = {e.rule: json.dumps(e.arguments, sort_keys=True, default=str) for e in self.suite}
        for batch in sorted(self.intake.looked_at):
            verdicts = self._verdicts.get(batch, {})
            for expected, (checked, failed) in self._of_batch(batch):
                passes = verdicts[expected.rule].passes if expected.rule in verdicts else not failed
                outcome = "passed" if passes else self._outcome(expected, batch, is_blocked=is_blocked)
                yield RuleRecord(
                    *at, batch, self.intake.units[batch], expected.rule, expected.dimension, expected.scope,
                    expected.level, checked, failed, outcome, expected.words, expected.type, arguments[expected.rule],
                )  # fmt: skip

    def _outcome(self, expected: Expected, batch: int, *, is_blocked: bool) -> Outcome:
        if batch in self.intake.held:
            return "held"
        if is_blocked:
            return "blocked"
        return "quarantined" if expected.level == "error" and expected.scope == "row" else "warned"

    def batches(self, *, is_blocked: bool = False) -> Iterator[BatchRecord]:
        """What became of every batch that was looked at."""
        for number in sorted(self.intake.looked_at):
            batch, held = self.intake.pending.batch(number), self.intake.held.get(number, "")
            state: State = "held" if held else "blocked" if is_blocked else "taken"
            rows = self.intake.counted.of([number])
            yield BatchRecord(
                source=self.silver.contract.name,
                table=str(self.silver.target),
                attempt=self.attempt,
                batch=number,
                unit=batch.unit,
                landed_at=batch.landed_at,
                state=state,
                reason=held,
                received=rows.total(),
                good=rows["good"],
                quarantined=rows["quarantined"],
                rejected=rows["rejected"],
                without_key=rows["without_key"],
                drifted=self.intake.counted.drifted.get(number, 0),
            )

    def _failed(self, refused: list[Judged]) -> GateFailed:
        said = "; ".join(f"{j.expected.rule} ({j.expected.words} {_found(j)})" for j in refused)
        return GateFailed(
            f"the gate refused what attempt {self.attempt} wrote to {self.silver.target}: {said}",
            where=f"{self.silver.contract.name}, batches {_list(self.intake.added)}",
            untouched=f"{self.silver.target} and its quarantine: nothing of this attempt was published or consumed",
            todo=f"run again; if it happens twice, look at branch attempt_{self.attempt} of the tables: another tool "
            f"has changed rows (`lakehouse rebuild {self.silver.target}` makes them anew), or the engine is wrong",
        )


def _found(judged: Judged) -> str:
    if judged.expected.scope == "table":
        return (
            f"{judged.expected.arguments['value']:,} rows were judged to be there, {judged.tally.checked:,} are there."
        )
    return f"{judged.tally.failed:,} of {judged.tally.checked:,} rows fail it."


def _tally(rows: int, wanted: int) -> Tally:
    return Tally(rows, abs(rows - wanted))


def _rows_added(target: Target) -> int:
    """The rows that the last commit of a branch added, as its snapshot says."""
    return int(_summary(target).get("added-records", 0))


def _rows(target: Target) -> int:
    """The rows of a branch that are not deleted, as its snapshot says."""
    summary = _summary(target)
    return int(summary.get("total-records", 0)) - int(summary.get("total-position-deletes", 0))


def _summary(target: Target) -> Mapping[str, str]:
    table = load_table(target.lake.catalog, target.table)
    snapshot = table.snapshot_by_name(target.branch) if table else None
    return summary_of(snapshot) if snapshot else {}


def _list(batches: frozenset[int]) -> str:
    few = sorted(batches)[:5]
    return ", ".join(map(str, few)) + (f" and {len(batches) - len(few)} more" if len(batches) > len(few) else "")
