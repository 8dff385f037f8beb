"""A lake, the days that land in it, and tables that go back."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.pipeline import fingerprints, land_files, quarantine, run
from tests.integration.test_pipeline_order import KINDS, UNITS, make_content, write

from lakehouse.core.names import TableName
from lakehouse.engine.publish import Lake
from lakehouse.engine.travel import roll_back
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.decisions import Decision, append_decision, read_decisions
from lakehouse.ledger.outstanding import dataset_is_current
from lakehouse.ledger.rollback import plan_rollback
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import read_head

if TYPE_CHECKING:
    pass

KIND = "slice"
SOURCE = KINDS[KIND]
BRONZE = SOURCE.bronze_table
DIMENSION, FACT = (SOURCE.silver_table(name) for name in ("dim_fed", "fact_fed"))
State = tuple[dict[str, str], dict[str, str]]


def now() -> datetime:
    return datetime.now(UTC)


def go_back(lake: Lake, table: TableName, to: object) -> dict[TableName, str]:
    """Roll a table back; returns the tags of what was."""
    store = ObjectStore.open(lake.settings)
    plan = plan_rollback(lake.catalog, store, table, str(to))
    return roll_back(lake.settings, lake.catalog, store, plan, "a test", "tests", now())


class Feed:
    """A lake, and the days that land in it."""

    def __init__(self, lake: Lake, root: Path, seed: int) -> None:
        self.lake, self.root = lake, root
        self.content = make_content(random.Random(seed), KIND)  # noqa: S311 - a seed, not a secret

    @property
    def store(self) -> ObjectStore:
        return ObjectStore.open(self.lake.settings)

    def land(self, *places: int) -> None:
        """Land some days, each a batch."""
        for place in places:
            write(self.root, KIND, UNITS[place], self.content[UNITS[place]])
            land_files(self.lake, [SOURCE], self.root)

    def take(self, *places: int) -> State:
        """Land some days, and run."""
        self.land(*places)
        return self.run()

    def run(self) -> State:
        """Everything that is pending. All must be accounted for, and nothing pending after."""
        run(self.lake, [SOURCE])
        found = accounts(self.lake.catalog, self.store, SOURCE)
        assert [problem for each in found for problem in each.problems] == []
        assert dataset_is_current(self.lake.catalog, self.store, SOURCE)
        return self.state()

    def state(self) -> State:
        """The content of all tables, and of their quarantines."""
        return fingerprints(self.lake, [SOURCE]), quarantine(self.lake, [SOURCE])

    def head(self, table: TableName = DIMENSION) -> int:
        return read_head(self.lake.catalog, table).snapshot_id or 0

    def back(self, to: object, table: TableName = DIMENSION) -> str:
        """Roll a table back; returns the tag of what it was."""
        return go_back(self.lake, table, to)[table]

    def release(self, *batches: int) -> None:
        append_decision(self.store, Decision(SOURCE.name, 0, "release", batches, "it was right", "tests", now()))

    def said(self) -> list[str]:
        return [decision.action for decision in read_decisions(self.store, SOURCE.name)]
