"""Servers that fail under a run: it ends in words and in time, or succeeds; the next run completes what is missing."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from tests.faults.s3_proxy import S3Fault, writes
from tests.faults.world import (
    World,
    content,
    dataset,
    land_folder,
    make_world,
    open_lake,
    problems,
    run,
    write_day,
)

from lakehouse.contracts.model import Contract
from lakehouse.core.errors import LakehouseError, SettingsError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine import publish as protocol
from lakehouse.engine.lock import connected, table_locks
from lakehouse.engine.publish import Lake
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def world(spark: SparkSession, new_settings: Callable[[], Settings]) -> Iterator[World]:
    made = make_world(spark, new_settings())
    yield made
    made.s3.close()
    made.catalog.close()


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a folder of days: the second restates one day, and has another."""
    root = tmp_path_factory.mktemp("days")
    for day in range(2):
        write_day(root / "first", day)
        write_day(root / "second", day, version=day)
    write_day(root / "second", 2)
    return root


@pytest.fixture(scope="module")
def expected(world: World, days: Path) -> Mapping[str, str]:
    """The content of a dataset that no fault has met."""
    clean = dataset("clean")
    for version in ("first", "second"):
        land_folder(world.past.settings, clean, days / version)
        run(world.past, clean)
    assert [*problems(world.looking, clean)] == []
    return content(world.looking, clean)


@pytest.fixture
def mine(world: World, days: Path) -> Contract:
    """A dataset of this test's own, of which the first days are taken and the second have landed."""
    made = dataset(f"hit_{next(NUMBERS)}")
    land_folder(world.past.settings, made, days / "first")
    run(world.past, made)
    land_folder(world.past.settings, made, days / "second")
    return made


def said(act: Callable[[], object]) -> LakehouseError | None:
    """What a run ended with, if not well; it is meant for people."""
    started = time.monotonic()
    try:
        act()
    except LakehouseError as error:
        print(f"after {time.monotonic() - started:.1f} s, exit code {error.exit_code}:\n{error}")
        assert error.todo and "Traceback" not in str(error) and "\tat " not in str(error)
        return error
    print(f"it succeeded after {time.monotonic() - started:.1f} s")
    return None


def assert_completed(world: World, contract: Contract, expected: Mapping[str, str]) -> None:
    """The next run goes on by itself; then everything is there once, and as if nothing had happened."""
    world.heal()
    run(world.through, contract)
    assert [*problems(world.looking, contract)] == []
    assert content(world.looking, contract) == expected


PLACES = ("/data/", ".avro", ".metadata.json")
"""What a run writes: files of rows, manifests and their lists, and a table's metadata."""


def at_failpoint(patch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Do something once, where a failpoint stands."""
    todo = [act]
    patch.setattr(protocol, "failpoint", lambda point, *_: todo.pop()() if todo and point == name else None)


def test_s3_that_fails_for_a_moment_is_asked_again(world: World, mine: Contract, expected: Mapping[str, str]) -> None:
    with ExitStack() as faults:
        for place, status in zip(PLACES, (500, 503, None), strict=True):
            faults.enter_context(world.s3.armed(S3Fault(writes(place), status, times=2)))
        assert said(lambda: run(world.through, mine)) is None
    assert_completed(world, mine, expected)


@pytest.mark.parametrize("place", ["/data/", ".metadata.json"])
def test_s3_that_goes_away_ends_the_run(world: World, mine: Contract, expected: Mapping[str, str], place: str) -> None:
    with world.s3.armed(S3Fault(writes(place), 503, meanwhile=world.s3.go_down)):
        error = said(lambda: run(world.through, mine))
        again = said(lambda: run(world.through, mine))
    world.s3.come_back()
    assert isinstance(error, TransientError) and isinstance(again, TransientError)
    assert_completed(world, mine, expected)


def test_s3_that_comes_back_is_waited_for(world: World, mine: Contract, expected: Mapping[str, str]) -> None:
    """It is away for a second, while a table's metadata is written."""

    def away() -> None:
        world.s3.go_down()
        threading.Timer(1, world.s3.come_back).start()

    with world.s3.armed(S3Fault(writes(".metadata.json"), 503, times=1, meanwhile=away)):
        assert said(lambda: run(world.through, mine)) is None
    assert_completed(world, mine, expected)


def test_s3_at_a_byte_a_second_ends_the_run(
    world: World, mine: Contract, expected: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as slowness, monkeypatch.context() as patch:
        at_failpoint(patch, "publish.branched", lambda: slowness.enter_context(world.s3.slow(1)))
        error = said(lambda: run(world.through, mine))
    assert isinstance(error, TransientError) and "S3 has not answered" in error.what
    assert_completed(world, mine, expected)


LANDING_FAULTS: Mapping[str, Callable[[World], AbstractContextManager[object]]] = {
    "500": lambda world: world.s3.armed(S3Fault(writes("/objects/"), 500)),
    "503 at the log": lambda world: world.s3.armed(S3Fault(writes("/log/"), 503)),
    "reset mid-PUT": lambda world: world.s3.armed(S3Fault(writes("/objects/"))),
    "a byte a second": lambda world: world.s3.slow(1),
    "down": lambda world: world.s3.down(),
}


@pytest.mark.parametrize("fault", LANDING_FAULTS)
def test_a_landing_that_s3_fails_ends_and_is_completed(world: World, days: Path, fault: str) -> None:
    contract = dataset("landing_" + "".join(c for c in fault if c.isalnum()).lower())
    with LANDING_FAULTS[fault](world):
        error = said(lambda: land_folder(world.through.settings, contract, days / "first"))
    assert isinstance(error, TransientError)
    store = ObjectStore.open(world.past.settings)
    assert read_log(store, contract.name) == []
    land_folder(world.through.settings, contract, days / "first")
    log = read_log(store, contract.name)
    assert [batch.number for batch in log] == [1, 2]
    for file in (file for batch in log for file in batch.files):
        assert hashlib.sha256(store.get(file.key)).hexdigest() == file.sha256


@contextmanager
def altered(world: World, change: str, back: str) -> Iterator[None]:
    """Inside, the catalog database is not as usual, for whoever connects from now on."""
    database = world.past.settings.catalog_database
    with connected(world.past.settings) as owner:
        owner.execute(f"ALTER DATABASE {database} {change}")  # type: ignore[arg-type]
        world.catalog.drop_connections()
        try:
            yield
        finally:
            owner.execute(f"ALTER DATABASE {database} {back}")  # type: ignore[arg-type]


def read_only(world: World) -> AbstractContextManager[None]:
    return altered(world, "SET default_transaction_read_only = on", "RESET default_transaction_read_only")


def out_of_connections(world: World) -> AbstractContextManager[None]:
    return altered(world, "CONNECTION LIMIT 0", "CONNECTION LIMIT -1")


def down(world: World) -> AbstractContextManager[None]:
    return world.catalog.down()


@pytest.mark.parametrize(
    ("point", "fault", "words"),
    [
        ("", down, "the catalog cannot be reached"),
        ("", read_only, "the catalog database takes no changes"),
        ("", out_of_connections, "too many connections"),
        ("publish.branched", out_of_connections, "did not answer Spark"),
        ("publish.gated", down, "the connection that holds the lock was lost"),
        ("publish.before_fast_forward", down, "is not known"),
    ],
    ids=["down", "read-only", "out of connections", "out of connections later", "down at the gate", "down at the end"],
)
def test_a_catalog_that_fails_ends_the_run(
    world: World,
    mine: Contract,
    expected: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    fault: Callable[[World], AbstractContextManager[object]],
    words: str,
) -> None:
    with ExitStack() as broken, monkeypatch.context() as patch:
        if point:
            at_failpoint(patch, point, lambda: broken.enter_context(fault(world)))
        else:
            broken.enter_context(fault(world))
        error = said(lambda: run(world.through, mine))
    assert isinstance(error, TransientError) and words in str(error)
    assert_completed(world, mine, expected)


def test_a_wrong_password_is_a_setting(world: World, mine: Contract) -> None:
    wrong = world.past.settings.model_copy(update={"catalog_password": SecretStr("wrong-and-secret")})
    for act in (lambda: run(Lake(world.past.spark, wrong), mine), lambda: publish_nothing(wrong)):
        error = said(act)
        assert isinstance(error, SettingsError) and "LAKEHOUSE_CATALOG_PASSWORD" in error.where
        assert "wrong-and-secret" not in str(error)


def publish_nothing(settings: Settings) -> None:
    """What every publication begins with."""
    with table_locks(settings, [TableName("ops", "nothing")]):
        pass


def test_two_runs_of_everything_at_once(
    spark: SparkSession, world: World, days: Path, expected: Mapping[str, str]
) -> None:
    """Each lands and publishes what it finds pending, with a session of its own."""
    contract = dataset("twice")

    def one(_: int) -> None:
        lake = open_lake(spark, world.past.settings)
        for version in ("first", "second"):
            land_folder(lake.settings, contract, days / version)
            run(lake, contract)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(2)))
    assert_completed(world, contract, expected)
