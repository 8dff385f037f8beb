"""Ingest, backfill, compaction and expiry at once, on the same tables, for as long as there is something to take.

For a minute here, and for longer in `make soak`. Once, on 2026-11-22 (seed 125824882), a fact's key stood twice on an
attempt's branch. The gate refused it and no table was wrong; it was not seen again in 12 longer runs, and its cause is
not known. Since then the gate compares all facts of the branch with all good rows that count.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from tests.faults.looking import Looking
from tests.faults.world import content, dataset, land_folder, open_lake, problems, run, tables, write_day

from lakehouse.contracts.model import Contract
from lakehouse.core.errors import TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.engine.publish import Lake
from lakehouse.ledger.watermark import STAMP_PROPERTY, ancestors, load_table, summary_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAYS = 4
TRIES = 30
KEPT = 3
REST_SECONDS = 6
"""Between two tables: a writer that meets a compaction in each of its tries never comes through."""


@dataclass
class Together:
    """What the four do, and how often each came through."""

    settings: Settings
    contract: Contract
    chance: random.Random
    open: Callable[[], Lake]
    done: threading.Event = field(default_factory=threading.Event)
    did: Counter[str] = field(default_factory=Counter)

    def take(self, who: str, lake: Lake, folder: Path) -> None:
        """Land a folder, and run until it is taken: another writer may be first, and first again."""
        for _ in range(TRIES):
            try:
                land_folder(self.settings, self.contract, folder)
                run(lake, self.contract)
                self.did[who] += 1
                return
            except TransientError as error:
                self.did[f"{who}: {type(error).__name__}"] += 1
                time.sleep(self.chance.random())
        raise AssertionError(f"{who} did not come through in {TRIES} tries: {dict(self.did)}")

    def write(self, who: str, folders: list[Path]) -> None:
        lake = self.open()
        for folder in folders:
            self.take(who, lake, folder)

    def maintain(self, who: str, act: Callable[[Lake, TableName], bool]) -> None:
        """Take table after table. It asks for no lock, as a tool would that knows none, and a conflict is its own."""
        lake, looking = self.open(), Looking(self.settings)
        while not self.done.is_set():
            for name in tables(looking, self.contract):
                with suppress(Py4JJavaError, PySparkException):
                    self.did[who] += act(lake, name)
                self.done.wait(REST_SECONDS * self.chance.random())


def compact(lake: Lake, name: TableName) -> bool:
    """Write the files of a table anew; whether there were any."""
    (row,) = lake.spark.sql(
        f"CALL {CATALOG}.system.rewrite_data_files(table => '{name}', options => map('rewrite-all', 'true'))"
    ).collect()
    return bool(row["rewritten_data_files_count"])


def expire(lake: Lake, name: TableName) -> bool:
    """Forget what is older than the last stamped snapshots, which must stay; whether that was anything.

    More than the last one: somebody may still be reading what was current a moment ago.
    """
    table = load_table(lake.catalog, name)
    stamped = [each for each in ancestors(table) if STAMP_PROPERTY in summary_of(each)] if table else []
    if len(stamped) < KEPT:
        return False
    before = datetime.fromtimestamp(stamped[KEPT - 1].timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    (row,) = lake.spark.sql(
        f"CALL {CATALOG}.system.expire_snapshots(table => '{name}', older_than => TIMESTAMP '{before}')"
    ).collect()
    return bool(row["deleted_manifest_lists_count"])


def folders_of(root: Path, days: int) -> tuple[list[Path], list[Path]]:
    """What the ingest lands, a day at a time; and the backfill: the same days, restated, the last first."""
    for day in range(days):
        write_day(root / f"day-{day}", day)
        write_day(root / f"again-{day}", day, version=1)
    return [root / f"day-{day}" for day in range(days)], [root / f"again-{day}" for day in reversed(range(days))]


def run_together(spark: SparkSession, settings: Settings, root: Path, chance: random.Random, days: int) -> Counter[str]:
    """All four at once, until both writers are through; then nothing is missing, and nothing is there twice."""
    contract = dataset("together", is_history=True)
    new, again = folders_of(root, 2 * days)
    first, new, again = new[:days], new[days:], again[-days:]
    four = Together(settings, contract, chance, lambda: open_lake(spark, settings))
    for folder in first:
        land_folder(settings, contract, folder)
    run(four.open(), contract)
    with ThreadPoolExecutor(4) as pool:
        tidying = [pool.submit(four.maintain, act.__name__, act) for act in (compact, expire)]
        writing = [pool.submit(four.write, "ingest", new), pool.submit(four.write, "backfill", again)]
        try:
            for each in writing:
                each.result()
        finally:
            four.done.set()
        for each in tidying:
            each.result()
    looking, clean = Looking(settings), dataset("alone", is_history=True)
    assert [*problems(looking, contract)] == []
    for folder in [*first, *new, *again]:
        land_folder(settings, clean, folder)
    run(four.open(), clean)
    assert content(looking, contract) == content(looking, clean)
    return four.did


def test_ingest_backfill_compaction_and_expiry_at_once(
    spark: SparkSession, new_settings: Callable[[], Settings], tmp_path: Path, chance: random.Random
) -> None:
    did = run_together(spark, new_settings(), tmp_path, chance, DAYS // 2)
    print(dict(did))
    assert all(did[who] for who in ("ingest", "backfill", "compact", "expire"))
