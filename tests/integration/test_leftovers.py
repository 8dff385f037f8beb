"""What killed attempts leave behind is found and removed; what has an owner, or is kept on purpose, is not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import psycopg
import pytest
from tests.integration.test_publish import Numbers, branches, numbers, run
from tests.servers import as_catalog_user
from typer.testing import CliRunner

from lakehouse.core.errors import GateFailed
from lakehouse.core.failpoints import FailpointHit
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine.fork import make_fork
from lakehouse.engine.leftovers import FORK_DAYS, STAGED_HOURS, Leftover, Leftovers
from lakehouse.engine.lock import lock_number, table_locks
from lakehouse.engine.orphans import ORPHAN_DAYS
from lakehouse.engine.publish import REFUSED_DAYS, Lake, Target, publish
from lakehouse.ledger.log import Batch, LandedFile, append, object_key
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table

if TYPE_CHECKING:
    from tests.servers import NewLake

TABLE = TableName("ops", "numbers")
NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=FORK_DAYS + REFUSED_DAYS)


@pytest.fixture(scope="module")
def shared(new_lake: NewLake) -> Lake:
    return new_lake()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> TableName:
    return TableName("ops", "l_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[-50:].lower())


def looking(lake: Lake, at: datetime = NOW, *, files: bool = False) -> Leftovers:
    """With the lake's own connections."""
    leftovers = Leftovers(lake.settings, at, files=files)
    leftovers.__dict__["catalog"] = lake.catalog
    return leftovers


def of(lake: Lake, name: str, at: datetime = NOW) -> list[Leftover]:
    """What was left behind in one place."""
    return [each for each in looking(lake, at).find() if name in (each.where, each.name)]


def fix(lake: Lake, name: str, at: datetime = NOW, *, kept: bool = False) -> list[str]:
    """Remove it; why it is still there, '' for what is gone."""
    return [each.left for each in looking(lake, at).remove(of(lake, name, at), kept=kept)]


def break_at(lake: Lake, table: TableName, upto: int, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(FailpointHit):
        patch.setenv("LAKEHOUSE_FAILPOINTS", f"publish.{point}=raise")
        run(lake, table, upto)


@pytest.mark.parametrize("point", ["branched", "written", "after_fast_forward"])
def test_a_dead_attempts_branch_is_dropped(
    shared: Lake, table: TableName, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shared, table, 1)
    break_at(shared, table, 3, point, monkeypatch)
    (left,) = of(shared, str(table))
    assert (left.kind, left.state, [left.name]) == ("branch", "dead", branches(shared, table))
    before = numbers(shared, table)
    assert fix(shared, str(table)) == [""]
    assert (branches(shared, table), numbers(shared, table), of(shared, str(table))) == ([], before, [])
    run(shared, table, 4)  # Spark goes on from the metadata that was written without it
    assert numbers(shared, table) == [1, 2, 3, 4]


def test_a_refused_branch_is_kept_for_a_while_or_until_asked(shared: Lake, table: TableName) -> None:
    def refuse() -> None:
        raise GateFailed("rule x failed")

    run(shared, table, 1)
    with pytest.raises(GateFailed):
        run(shared, table, 2, refuse)
    (left,) = of(shared, str(table))
    assert left.state == "kept" and "gate" in left.why
    assert fix(shared, str(table)) == [] and branches(shared, table) == [left.name]
    assert [each.state for each in of(shared, str(table), LATER)] == ["dead"]
    assert fix(shared, str(table), kept=True) == [""] and branches(shared, table) == []
    run(shared, table, 2)
    assert numbers(shared, table) == [1, 2]


def test_a_living_owners_branch_is_left_alone(
    shared: Lake, table: TableName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner waits at a failpoint, goes on after the cleaning, and publishes."""
    run(shared, table, 1)
    monkeypatch.setenv("LAKEHOUSE_FAILPOINTS", f"publish.written@{table}=pause:{tmp_path}/paused")
    owner = threading.Thread(target=run, args=(shared, table, 2))
    owner.start()
    while not (tmp_path / "paused").exists():
        assert owner.is_alive()
    before = branches(shared, table)
    (left,) = of(shared, str(table))
    assert left.state == "alive" and f":{os.getpid()}" in left.why
    dead = Leftover(left.kind, left.where, left.name, "dead", "found before its owner had the lock")
    (removal,) = looking(shared, LATER).remove([dead], kept=True)
    assert "owner" in removal.left and branches(shared, table) == before != []
    (tmp_path / "paused").unlink()
    owner.join()
    assert (numbers(shared, table), branches(shared, table)) == ([1, 2], [])


def stage(settings: Settings, body: bytes) -> str:
    store, key = ObjectStore.open(settings), object_key("test.staged", _sha256(body))
    assert store.put_if_absent(key, body)
    return key


def _sha256(body: bytes) -> str:
    import hashlib

    return hashlib.sha256(body).hexdigest()


def log(settings: Settings, body: bytes) -> None:
    digest = _sha256(body)
    file = LandedFile("a.csv", object_key("test.staged", digest), len(body), digest, "csv", None)
    draft = Batch("test.staged", 0, NOW.date(), "slice", (file,), None, None, NOW)
    append(ObjectStore.open(settings), draft)


def test_what_was_staged_and_never_logged_is_deleted_when_it_is_old(shared: Lake) -> None:
    logged, staged = b"logged", b"staged"
    kept, dead = stage(shared.settings, logged), stage(shared.settings, staged)
    log(shared.settings, logged)
    old = NOW + timedelta(hours=STAGED_HOURS + 1)
    assert [each.state for each in of(shared, dead)] == ["kept"] and fix(shared, dead, kept=True) == []
    (found,) = of(shared, dead, old)
    assert found.state == "dead" and of(shared, kept, old) == []
    log(shared.settings, staged)  # a landing was there first
    assert [each.left for each in looking(shared, old).remove([found])] == ["it was logged meanwhile"]
    other = stage(shared.settings, b"other")
    assert fix(shared, other, old) == [""] and of(shared, other, old) == []
    assert ObjectStore.open(shared.settings).head(other) is None
    assert {ObjectStore.open(shared.settings).get(key) for key in (kept, dead)} == {logged, staged}


def test_a_landing_that_finds_its_bytes_staged_makes_them_young(shared: Lake) -> None:
    """They would otherwise look as old as the landing that died."""
    from io import BytesIO

    from lakehouse.landing.upload import Measured, upload

    body = b"found again"
    key = stage(shared.settings, body)
    store = ObjectStore.open(shared.settings)
    before = store.head(key)
    assert before is not None and before.modified_at is not None
    while datetime.now(UTC) < before.modified_at + timedelta(seconds=2):
        threading.Event().wait(0.1)  # servers tell times in whole seconds
    upload(store, "test.staged", Measured(len(body), _sha256(body), body), lambda: _opened(BytesIO(body)), timedelta(0))
    after = store.head(key)
    assert after is not None and after.modified_at is not None and after.modified_at > before.modified_at
    assert store.get(key) == body


def _opened(stream: Any) -> Any:
    from contextlib import nullcontext

    return nullcontext(stream)


def test_a_fork_that_nobody_confirmed_is_forgotten(shared: Lake, table: TableName) -> None:
    run(shared, table, 2)
    fork = make_fork(shared, table)
    (left,) = of(shared, str(fork.name))
    assert (left.kind, left.state) == ("fork", "kept") and str(table) in left.name
    assert fix(shared, str(fork.name)) == [] and load_table(shared.catalog, fork.name) is not None
    assert fix(shared, str(fork.name), LATER) == [""] and load_table(shared.catalog, fork.name) is None
    assert numbers(shared, table) == [1, 2]


def _connect(settings: Settings, pid: int) -> psycopg.Connection:
    """Looks like the lock connection of some process of this host."""
    return as_catalog_user(settings, application_name=f"lakehouse-lock {socket.gethostname()}:{pid}", autocommit=True)


def test_a_lock_whose_process_has_ended_is_released(shared: Lake, table: TableName) -> None:
    """Its connection may be kept open by a proxy, or by a child that inherited it."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with _connect(shared.settings, ended.pid) as dead, _connect(shared.settings, os.getppid()) as alive:
        dead.execute("SELECT pg_advisory_lock(%s)", (lock_number(table),))
        alive.execute("SELECT pg_advisory_lock(%s)", (lock_number(TableName("ops", "other")),))
        found = [each for each in looking(shared).find() if each.kind == "lock"]
        assert [str(ended.pid) in each.where for each in found] == [True]
        assert [each.left for each in looking(shared).remove(found)] == [""]
        assert alive.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            dead.execute("SELECT 1")
    run(shared, table, 1)
    assert numbers(shared, table) == [1]


def test_the_command_shows_first_and_removes_when_asked(
    shared: Lake, table: TableName, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lakehouse.cli import doctor
    from lakehouse.cli.main import app

    def told(*options: str) -> Mapping[str, Any]:
        said = CliRunner().invoke(app, ["doctor", "--json", *options]).stdout
        found: Mapping[str, Any] = json.loads(said)
        return found

    run(shared, table, 1)
    break_at(shared, table, 2, "written", monkeypatch)
    monkeypatch.setattr(doctor, "load_settings", lambda: shared.settings)
    ours: Callable[[Mapping[str, Any]], list[Any]] = lambda said: [  # noqa: E731
        each for each in said["leftovers"] if each["where"] == str(table)
    ]
    assert [each["state"] for each in ours(told())] == ["dead"]
    assert branches(shared, table) != []
    assert {"leftover": ours(told())[0], "left": ""} in told("--fix")["removals"]
    assert (branches(shared, table), ours(told())) == ([], [])


def test_a_refusal_in_the_middle_of_writing_keeps_the_branches_too(shared: Lake, table: TableName) -> None:
    """dbt's tests run while the marts are written."""

    class Refused(Numbers):
        def write(self, targets: Mapping[TableName, Target]) -> None:
            raise GateFailed("a test of a mart failed")

    run(shared, table, 1)
    with pytest.raises(GateFailed):
        publish(shared, Refused(shared, (table,), 2))
    assert [each.state for each in of(shared, str(table))] == ["kept"]


def test_old_files_that_nothing_refers_to_are_deleted(shared: Lake, table: TableName) -> None:
    """Beside those of a table with a branch, a fork and deletes, which all stay."""

    def refuse() -> None:
        raise GateFailed("rule x failed")

    run(shared, table, 3)
    shared.spark.sql(f"DELETE FROM lakehouse.{table} WHERE n = 2")
    fork = make_fork(shared, table)
    run(shared, fork.name, 5)
    with pytest.raises(GateFailed):
        run(shared, table, 4, refuse)
    loaded = load_table(shared.catalog, table)
    assert loaded is not None
    place = urlparse(loaded.location())
    store = ObjectStore.open(shared.settings, place.netloc)
    before = {file.key for file in store.list_after(f"{place.path.strip('/')}/")}
    orphan = f"{place.path.strip('/')}/data/0000-dead.parquet"
    assert store.put_if_absent(orphan, b"written and never committed")
    young, old = looking(shared, files=True), looking(shared, NOW + timedelta(days=ORPHAN_DAYS + 1), files=True)
    assert [each for each in young.find() if each.kind == "files"] == []
    (found,) = [each for each in old.find() if each.kind == "files" and each.where == loaded.location()]
    assert found.name.startswith("1 files")
    with table_locks(shared.settings, [fork.name]):
        assert ["owner" in each.left for each in old.remove([found])] == [True] and store.head(orphan)
    assert [each.left for each in old.remove([found])] == [""] and store.head(orphan) is None
    assert {file.key for file in store.list_after(f"{place.path.strip('/')}/")} == before
    assert (numbers(shared, table), numbers(shared, fork.name)) == ([1, 3], [1, 3, 4, 5])
