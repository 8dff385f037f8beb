"""The check and the repair of a small lake, on moto: copies of log entries, large files, a pointer that is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pytest
from tests.backup_lake import SOURCE, SmallLake, content_of, make_lake

from lakehouse.backup.vault import WHOLE_BYTES
from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.engine import dropped
from lakehouse.engine.dropped import Warehouse
from lakehouse.ledger import journal
from lakehouse.ledger.log import landing_log, read_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.recovery.fsck import check_from
from lakehouse.recovery.repair import Repair, plan_repair, repair
from lakehouse.recovery.report import Report

Damage = Callable[[bytes], bytes | None]
DAYS = 7
CLOCK = SystemClock()


@pytest.fixture
def lake(endpoint: str, tmp_path: Path) -> SmallLake:
    """An empty lake that nobody has backed up."""
    return unbacked(endpoint, tmp_path)


def unbacked(endpoint: str, tmp_path: Path) -> SmallLake:
    made = make_lake(endpoint, tmp_path)
    made.settings = made.settings.model_copy(update={"backup_bucket": ""})
    return made


def with_backups(lake: SmallLake) -> SmallLake:
    """The same lake with a set of everything that is in it."""
    bucket = lake.settings.warehouse_bucket.replace("warehouse", "backup")
    lake.settings = lake.settings.model_copy(update={"backup_bucket": bucket})
    lake.back_up()
    return lake


def check(lake: SmallLake, *, is_read: bool = True) -> Report:
    return check_from(lake.settings, lake.catalog.engine, CLOCK, (), lambda _: is_read)


def mend(lake: SmallLake) -> Repair:
    plan = plan_repair(lake.settings, lake.catalog.engine, CLOCK, (), lambda *_: None)
    return repair(lake.settings, lake.catalog.engine, CLOCK, (), plan)


def get(lake: SmallLake, uri: str) -> bytes:
    place = urlparse(uri)
    return bytes(lake.s3.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))["Body"].read())


def put(lake: SmallLake, uri: str, body: bytes | None) -> None:
    place = urlparse(uri)
    where = {"Bucket": place.netloc, "Key": place.path.lstrip("/")}
    if body is None:
        lake.s3.delete_object(**where)
    else:
        lake.s3.put_object(**where, Body=body)


@pytest.fixture
def logged(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> SmallLake:
    """Seven batches in a log whose segments hold three each."""
    return in_segments(lake, monkeypatch)


def in_segments(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> SmallLake:
    monkeypatch.setattr(journal, "SEGMENT", 3)
    for day in range(1, DAYS + 1):
        lake.land(b"id\n%d\n" % day, day)
    assert landing_log(ObjectStore.open(lake.settings), SOURCE).segments() == [3, 6]
    return lake


def segment(lake: SmallLake, last: int = 3) -> str:
    log = landing_log(ObjectStore.open(lake.settings), SOURCE)
    return f"s3://{lake.settings.landing_bucket}/{log.segment_key(last)}"


def entry(lake: SmallLake, number: int) -> str:
    log = landing_log(ObjectStore.open(lake.settings), SOURCE)
    return f"s3://{lake.settings.landing_bucket}/{log.key(number)}"


def another_unit(body: bytes) -> bytes:
    """A segment that can be read, and says something else of one batch."""
    values = json.loads(body)
    values[1]["unit"] = "2026-03-28"
    return json.dumps(values).encode()


DAMAGES: dict[str, Damage] = {
    "cut": lambda body: body[:-30],
    "says something else": another_unit,
    "of another place": lambda body: body.replace(b'"number": 1', b'"number": 4'),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_segment_that_is_not_its_entries_is_named_and_made_anew(logged: SmallLake, how: str) -> None:
    assert check(logged).damages == ()
    uri, log = segment(logged), read_log(ObjectStore.open(logged.settings), SOURCE)
    good = get(logged, uri)
    put(logged, uri, DAMAGES[how](good))
    is_believed = read_log(ObjectStore.open(logged.settings), SOURCE) != log
    assert is_believed == (how == "says something else"), "so it matters"
    (damage,) = check(logged, is_read=False).damages
    assert (damage.uri, damage.kind, damage.tables) == (uri, "segment", (SOURCE,))
    assert damage.copy is not None and damage.copy.is_sure and damage.repair == "lakehouse repair"
    done = mend(logged)
    assert [each.source for each in done.mended] == ["the entries of the log"] and done.after.damages == ()
    assert get(logged, uri) == good and read_log(ObjectStore.open(logged.settings), SOURCE) == log
    assert done.mended[0].kept.startswith(f"s3://{logged.settings.landing_bucket}/damaged/")


@pytest.mark.parametrize("is_known", [True, False])
def test_an_entry_comes_back_out_of_its_segment(logged: SmallLake, *, is_known: bool) -> None:
    """No backup has it. Where an earlier check has seen it, its hash says that it is the same."""
    assert not is_known or check(logged).damages == ()
    lost, cut = entry(logged, 2), entry(logged, 5)
    good = {uri: get(logged, uri) for uri in (lost, cut)}
    put(logged, lost, None)
    put(logged, cut, b"{")
    damages = check(logged).damages
    assert {(each.uri, each.copy and each.copy.is_sure) for each in damages} == {(lost, is_known), (cut, is_known)}
    done = mend(logged)
    assert done.after.damages == () and {uri: get(logged, uri) for uri in good} == good


def test_an_entry_and_its_segment_are_damaged_at_once(logged: SmallLake) -> None:
    """The segment is not believed where its other word is known; what neither has is named, and nothing is made up."""
    assert check(logged).damages == ()
    put(logged, entry(logged, 2), None)
    put(logged, segment(logged), another_unit(get(logged, segment(logged))))
    done = mend(logged)
    (damage,) = done.after.damages
    assert done.mended == () and damage.uri == entry(logged, 2) and "never renumber" in damage.todo


def test_without_a_look_at_segments_nobody_notices(logged: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    put(logged, segment(logged), another_unit(get(logged, segment(logged))))
    monkeypatch.setattr(journal.Journal, "segments", lambda _: [])
    assert check(logged).damages == ()


@pytest.fixture
def large(lake: SmallLake) -> tuple[SmallLake, dict[str, bytes]]:
    """A data file and a landed one, each larger than what is held in memory; and a set that has both."""
    numbers = np.random.default_rng(7).integers(0, 2**62, WHOLE_BYTES // 8 + 100_000)
    lake.catalog.create_namespace("silver")
    content = pa.table({"id": numbers})
    lake.tables["silver.large"] = lake.catalog.create_table("silver.large", content.schema)
    lake.tables["silver.large"].append(content)
    [task] = lake.tables["silver.large"].scan().plan_files()
    key = lake.land(numbers.tobytes())
    uris = (task.file.file_path, f"s3://{lake.settings.landing_bucket}/{key}")
    bodies = {uri: get(lake, uri) for uri in uris}
    assert all(len(body) > WHOLE_BYTES for body in bodies.values())
    return with_backups(lake), bodies


def flipped(body: bytes, place: int) -> bytes:
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


def test_large_files_are_read_in_pieces_and_come_back_in_parts(large: tuple[SmallLake, dict[str, bytes]]) -> None:
    """Damage beyond the first part is found; parts that are put together are the bytes that were there."""
    lake, bodies = large
    first = check(lake)
    assert first.damages == () and first.read_bytes > 2 * WHOLE_BYTES
    data, landed = bodies
    put(lake, data, flipped(bodies[data], WHOLE_BYTES + 5))
    put(lake, landed, bodies[landed][: WHOLE_BYTES + 9])
    spoiled = {uri: get(lake, uri) for uri in bodies}
    found = check(lake, is_read=False)
    assert {damage.uri for damage in found.damages} == bodies.keys()
    done = mend(lake)
    assert {each.uri for each in done.mended} == bodies.keys() and done.after.damages == ()
    for each in done.mended:
        assert get(lake, each.uri) == bodies[each.uri] and get(lake, each.kept) == spoiled[each.uri]
        assert "-" in head(lake, each.uri)["ETag"], "it was sent in parts"
    again = check(lake, is_read=False)
    assert again.damages == () and again.compared["size and ETag"] >= len(bodies)
    assert again.read_bytes < WHOLE_BYTES, "what was mended is known by its new ETag"


def head(lake: SmallLake, uri: str) -> Any:
    place = urlparse(uri)
    return lake.s3.head_object(Bucket=place.netloc, Key=place.path.lstrip("/"))


def test_a_large_file_that_nobody_knows_is_judged_by_its_structure(lake: SmallLake) -> None:
    numbers = np.random.default_rng(7).integers(0, 2**62, WHOLE_BYTES // 8 + 100_000)
    table = lake.table("silver.large", 1)
    table.overwrite(pa.table({"id": numbers, "city": pa.array(["x"] * len(numbers))}))
    [task] = table.scan().plan_files()
    uri = task.file.file_path
    good = get(lake, uri)
    assert len(good) > WHOLE_BYTES
    for spoiled in (good[:-8], flipped(good, len(good) - 2)):
        put(lake, uri, spoiled)
        (damage,) = check(lake).damages
        assert damage.uri == uri and damage.copy is None and damage.problem
    put(lake, uri, good)
    assert check(lake).damages == ()


@pytest.fixture
def unlocked(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """The warehouse of the lake, without the server that locks tables."""

    @contextmanager
    def nobody(*_: Any, **__: Any) -> Iterator[Any]:
        yield SimpleNamespace(check=lambda: None)

    monkeypatch.setattr(dropped, "table_locks", nobody)
    return Warehouse.open(lake.settings, lake.catalog)


@pytest.mark.parametrize("left", [None, b"{"])
def test_a_table_whose_pointer_is_lost_goes_back_to_what_is_named(
    lake: SmallLake, unlocked: Warehouse, left: bytes | None
) -> None:
    """No copy of its last metadata file is anywhere: the command that `fsck` says makes the former one the table."""
    lake.table("gold.sales", 5)
    table = lake.table("silver.dim_shop")
    former, before = table.metadata_location, content_of(table)
    table = lake.table("silver.dim_shop", 4)
    name, lost = TableName("silver", "dim_shop"), table.metadata_location
    put(lake, lost, left)
    (damage,) = check(lake).damages
    assert mend(lake).mended == () and damage.copy is None
    assert f"`lakehouse undrop silver.dim_shop --metadata {former}`" in damage.todo
    with pytest.raises(IntegrityError, match="is gone or damaged") as unnamed:
        unlocked.choose(name, None)
    assert (unnamed.value.where, "lakehouse fsck silver.dim_shop" in unnamed.value.todo) == (lost, True)
    with pytest.raises(SettingsError, match="it is of a table at"):
        unlocked.choose(name, lake.catalog.load_table("gold.sales").metadata_location)
    unlocked.bring_back(unlocked.check(unlocked.choose(name, former)))
    lake.tables["silver.dim_shop"] = lake.catalog.load_table("silver.dim_shop")
    assert lake.contents()["silver.dim_shop"] == before and check(lake).damages == ()
    assert len(content_of(lake.table("silver.dim_shop", 4))) == len(before) + 4
    with pytest.raises(SettingsError, match=r"there is a table silver\.dim_shop"):
        unlocked.choose(name, former)
