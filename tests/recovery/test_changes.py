"""Sets of a lake that does not hold still, and what was purged: PyIceberg, PostgreSQL and MinIO, no JVM."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.backup_lake import SmallLake, tables_in_place
from tests.integration.test_restore import with_backups
from tests.recovery.world import moment, require_same

from lakehouse.backup.create import create
from lakehouse.backup.sets import BackupSet
from lakehouse.backup.signing import public_key_of
from lakehouse.backup.vault import Vault
from lakehouse.backup.verify import Share, verify
from lakehouse.core.clock import SystemClock
from lakehouse.core.settings import Settings
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog
from lakehouse.recovery.choose import Wanted
from lakehouse.recovery.restore import carry_out, plan_restore

CLOCK = SystemClock()
FIRST, SECOND = "silver.first", "gold.second"
SETS = 3
ROUNDS = 3
"""How often everything changes between the cut of a set and its first copy."""


@pytest.fixture
def lake(new_settings: Callable[[], Settings]) -> SmallLake:
    """An empty lake with a bucket for backups."""
    settings = with_backups(new_settings())
    catalog: Any = open_catalog(settings)
    catalog.create_tables()
    return SmallLake(settings, catalog)


@dataclass
class Writer:
    """Lands a batch, publishes it in one table and then in another, and makes and drops a third, again and again.

    While ``paused`` is there, a set has its cut and has copied nothing yet; it goes on after some rounds.
    """

    lake: SmallLake
    paused: Path
    rounds: int = 0
    during: int = 0
    problems: list[BaseException] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def prepare(self) -> None:
        for name in (FIRST, SECOND):
            self.lake.catalog.create_namespace_if_not_exists(name.partition(".")[0])
            self.lake.tables[name] = self.lake.catalog.create_table(name, pa.schema([("n", pa.int64())]))
        self.lake.catalog.create_namespace("ops")

    def one_round(self) -> None:
        number = self.rounds + 1
        self.lake.land(b"n\n%d\n" % number, number % 28 + 1)
        for name in (FIRST, SECOND):
            self.lake.tables[name].append(pa.table({"n": [number]}))
        self.lake.catalog.create_table(f"ops.passing_{number}", pa.schema([("n", pa.int64())]))
        if number % 3 == 0:
            self.lake.catalog.drop_table(f"ops.passing_{number - 1}")
        self.rounds = number
        if self.paused.exists():
            self.during += 1
            if self.during % ROUNDS == 0:
                self.paused.unlink()

    @contextmanager
    def working(self) -> Iterator[None]:
        def work() -> None:
            try:
                while not self.stopped.is_set():
                    self.one_round()
            except BaseException as error:
                self.problems.append(error)
                os.environ["LAKEHOUSE_FAILPOINTS"] = ""  # or the set would wait for ever
                self.paused.unlink(missing_ok=True)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            thread.join()
        assert self.problems == []

    def wait(self, rounds: int) -> None:
        end = time.monotonic() + 60
        while self.rounds < rounds and not self.problems:
            assert time.monotonic() < end
            time.sleep(0.02)


def rounds_of(table: Any, *, with_former: bool = False) -> int:
    """How many rounds a table has taken, by its rows; each of its snapshots, too, has those that it had then."""
    snapshots = list(enumerate(sorted(table.snapshots(), key=lambda each: each.sequence_number), 1))
    for place, snapshot in snapshots if with_former else snapshots[-1:]:
        rows = table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().column("n").to_pylist()
        assert sorted(rows) == list(range(1, place + 1))
    return len(snapshots)


def in_place(lake: SmallLake, made: BackupSet, folder: Path) -> tuple[int, int, int]:
    """The rounds that each table of a set has, and its landing log; out of the bucket of backups alone."""
    found = tables_in_place(lake.settings, made, folder)
    log = next(iter(made.manifest.sources.values())).log
    return rounds_of(found[FIRST]), rounds_of(found[SECOND]), log


@pytest.mark.timeout(120)
def test_sets_of_a_source_that_changes_heavily_are_each_of_one_moment(
    lake: SmallLake, new_settings: Callable[[], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No table is ahead of what it was made of, whatever was published while files were copied."""
    writer = Writer(lake, tmp_path / "paused")
    writer.prepare()
    with writer.working(), monkeypatch.context() as patch:
        writer.wait(2)
        patch.setenv("LAKEHOUSE_FAILPOINTS", f"backup.after_plan=pause:{writer.paused}")
        sets = [create(lake.settings, CLOCK) for _ in range(SETS)]
    assert writer.during >= SETS * ROUNDS
    ends = []
    vault = Vault.open(lake.settings, CLOCK.now())
    for made in sets:
        first, second, log = in_place(lake, made, tmp_path)
        assert second <= first <= second + 1 and log >= first
        assert verify(vault, made.id, public_key_of(lake.settings), Share(), CLOCK.now()).is_good
        ends.append((first, second, log))
    assert ends == sorted(ends) and ends[0] < ends[-1]
    other = new_settings().model_copy(
        update={name: getattr(lake.settings, name) for name in ("backup_bucket", "backup_signing_key")}
    )
    carry_out(other, CLOCK, plan_restore(other, CLOCK, Wanted(everything=True)))
    catalog = open_catalog(other)
    back = [rounds_of(catalog.load_table(name), with_former=True) for name in (FIRST, SECOND)]
    assert tuple(back) == ends[-1][:2]
    assert len(read_log(ObjectStore.open(other), "shop.orders")) == ends[-1][2]
    writer.one_round()
    quiet = in_place(lake, create(lake.settings, CLOCK), tmp_path)
    assert quiet == (writer.rounds, writer.rounds, writer.rounds)


def test_a_table_that_was_purged_comes_back_with_all_of_its_snapshots(lake: SmallLake) -> None:
    for rows in (3, 2):
        lake.table("silver.dim_shop", rows)
        lake.table("gold.sales", rows)
    table = lake.tables["silver.dim_shop"]
    table.manage_snapshots().create_tag(table.snapshots()[0].snapshot_id, "month").commit()
    create(lake.settings, CLOCK)
    then, place = moment(lake.settings), table.location().removeprefix(lake.settings.warehouse)
    lake.catalog.purge_table("silver.dim_shop")
    left = [each.key for each in ObjectStore.open(lake.settings, lake.settings.warehouse_bucket).list_after("")]
    assert [key for key in left if place.strip("/") in key and not key.endswith((".metadata.json", "/"))] == []
    lake.table("gold.sales", 4)
    carry_out(lake.settings, CLOCK, plan_restore(lake.settings, CLOCK, Wanted(("silver.dim_shop",))))
    now = moment(lake.settings)
    require_same({name: now[name] for name in ("silver.dim_shop",)}, {"silver.dim_shop": then["silver.dim_shop"]})
    assert now["gold.sales"].head != then["gold.sales"].head, "what was not asked for stays as it is"
    lake.tables["silver.dim_shop"] = lake.catalog.load_table("silver.dim_shop")
    assert len(lake.table("silver.dim_shop", 2).scan().to_arrow()) == 7
    create(lake.settings, CLOCK)
