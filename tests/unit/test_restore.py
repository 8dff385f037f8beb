"""Restores of a small lake: planned, carried out, undone, into other buckets, out of a damaged backup. No JVM."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from tests.backup_lake import SmallLake, catalog_at, content_of, make_lake

from lakehouse.core.clock import FixedClock
from lakehouse.recovery.choose import Wanted
from lakehouse.recovery.restore import Restored, RestorePlan, carry_out, plan_restore, undo
from lakehouse.recovery.target import Target


@pytest.fixture(autouse=True)
def _quiet_server() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def lake(endpoint: str, tmp_path: Path) -> SmallLake:
    made = make_lake(endpoint, tmp_path)
    made.table("silver.dim_shop")
    made.table("silver.dim_shop")
    made.table("gold.sales", 5)
    made.position_deletes("gold.sales", 1, 3)
    for day in (1, 2, 3):
        made.land(b"id\n%d\n" % day, day)
    made.decide()
    return made


EVERYTHING = Wanted(everything=True)


def here(lake: SmallLake) -> Target:
    return Target.at(lake.settings, lake.catalog.engine)


def plan(lake: SmallLake, what: Wanted = EVERYTHING, target: Target | None = None) -> RestorePlan:
    return plan_restore(lake.settings, FixedClock(lake.now), what, target=target or here(lake))


def restore(lake: SmallLake, what: Wanted = EVERYTHING, target: Target | None = None) -> Restored:
    place = target or here(lake)
    return carry_out(lake.settings, FixedClock(lake.now), plan(lake, what, place), target=place)


def test_a_lake_that_lost_its_files_is_as_it_was(lake: SmallLake) -> None:
    before = lake.contents()
    lake.back_up()
    lake.empty()
    done = restore(lake)
    assert lake.contents() == before
    assert done.tables == ()
    assert plan(lake).is_empty


def test_tables_go_back_and_forth(lake: SmallLake) -> None:
    before = lake.contents()
    lake.back_up()
    lake.table("silver.dim_shop", 7)
    after = lake.contents()
    done = restore(lake)
    assert done.tables == ("silver.dim_shop",)
    assert lake.contents() == before
    undo(here(lake))
    assert lake.contents() == after
    undo(here(lake))
    assert lake.contents() == before


def test_into_other_buckets_and_an_empty_catalog(lake: SmallLake, tmp_path: Path) -> None:
    before = lake.contents()
    lake.back_up()
    lake.empty()
    settings = lake.settings.model_copy(update={"warehouse_bucket": "new-w", "landing_bucket": "new-l"})
    for bucket in ("new-w", "new-l"):
        lake.s3.create_bucket(Bucket=bucket)
    catalog = catalog_at(settings, tmp_path / "other.db")
    target = Target.at(settings, catalog.engine)
    restore(lake, target=target)
    assert {name: content_of(catalog.load_table(name)) for name in before} == before
    assert plan(lake, target=target).is_empty


def test_dropped_table_comes_back_and_goes_again(lake: SmallLake) -> None:
    before = lake.contents()
    lake.back_up()
    lake.catalog.drop_table("gold.sales")
    restore(lake, Wanted(("gold",)))
    assert lake.contents() == before
    undo(here(lake))
    assert not lake.catalog.table_exists("gold.sales")
    undo(here(lake))
    assert lake.contents() == before
