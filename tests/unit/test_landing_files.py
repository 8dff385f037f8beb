"""Landing files, on moto's S3: what lands, what is a no-op, what is refused."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from moto import mock_aws

from lakehouse.contracts.model import Contract
from lakehouse.core.clock import FixedClock
from lakehouse.core.errors import SettingsError, SourceError
from lakehouse.core.settings import Settings
from lakehouse.landing import files as files_module
from lakehouse.landing.land import Request, land
from lakehouse.landing.places import FoundFile, LocalPlace
from lakehouse.landing.results import LandResult
from lakehouse.landing.upload import SMALL_BYTES
from lakehouse.ledger.decisions import Decision, append_decision
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore, Reader

CLOCK = FixedClock(datetime(2024, 4, 10, 6, tzinfo=UTC))
SOURCE = "retail.sales"


def contract(dataset: str = "sales", kind: str = "slice", pattern: str = "") -> Contract:
    column = {"type": "string", "description": "A value."}
    return Contract.model_validate(
        {
            "format": 1,
            "domain": "retail",
            "dataset": dataset,
            "owner": "owner@example.com",
            "description": "For tests.",
            "source": {
                "connector": "files",
                "kind": kind,
                "pattern": pattern or f"retail/{dataset}/{{date}}.csv*",
                "columns": {"a": {"description": "A value."}},
            },
            "tables": {
                f"fact_{dataset}": {"kind": "fact", "description": "Rows.", "columns": {"a": column}, "key": ["a"]}
            },
        }
    )


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with mock_aws():
        opened = ObjectStore.open(Settings(s3_access_key_id="a", s3_secret_access_key="b", s3_endpoint=""))
        opened.client.create_bucket(Bucket=opened.bucket)
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "retail" / "sales"
    made.mkdir(parents=True)
    return made


def run(store: ObjectStore, root: Path | str, *contracts: Contract, **request: object) -> LandResult:
    asked = Request(root=str(root), **request)  # type: ignore[arg-type]
    return land(Settings(), contracts or (contract(),), asked, clock=CLOCK, store=store)


def statuses(result: LandResult) -> dict[str, str]:
    return {unit.unit.isoformat(): unit.status for unit in result.units}


def objects(store: ObjectStore) -> list[str]:
    return [found.key for found in store.list_after("objects/")]


def test_bytes_land_unchanged_in_the_order_of_dates(store: ObjectStore, folder: Path) -> None:
    days = [f"2024-04-0{day}" for day in range(1, 8)]
    for day in reversed(days):
        (folder / f"{day}.csv").write_bytes(day.encode())
    run(store, folder.parents[1])
    log = read_log(store, SOURCE)
    assert [(batch.number, batch.unit.isoformat()) for batch in log] == list(enumerate(days, 1))
    assert [store.get(batch.files[0].key).decode() for batch in log] == days
    assert {batch.landed_at for batch in log} == {CLOCK.at}


def test_a_repeat_is_a_no_op_whatever_the_files_are_called(store: ObjectStore, tmp_path: Path) -> None:
    source = contract(pattern="in/{date}-*.csv")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "2024-04-01-a.csv").write_text("one")
    (tmp_path / "in" / "2024-04-01-b.csv").write_text("two")
    assert statuses(run(store, tmp_path, source)) == {"2024-04-01": "landed"}
    (tmp_path / "in" / "2024-04-01-a.csv").rename(tmp_path / "in" / "2024-04-01-z.csv")
    again = run(store, tmp_path, source)
    assert statuses(again) == {"2024-04-01": "unchanged"}
    assert again.units[0].batch == 1
    (batch,) = read_log(store, SOURCE)
    assert [file.name for file in batch.files] == ["2024-04-01-a.csv", "2024-04-01-b.csv"]


def test_a_b_a_lands_three_batches_and_stores_two_objects(store: ObjectStore, folder: Path) -> None:
    for content in ("A", "B", "A"):
        (folder / "2024-04-01.csv").write_text(content)
        assert statuses(run(store, folder.parents[1])) == {"2024-04-01": "landed"}
    assert len(read_log(store, SOURCE)) == 3
    assert len(objects(store)) == 2


def test_the_same_bytes_compressed_otherwise_are_another_batch(store: ObjectStore, folder: Path) -> None:
    body = gzip.compress(b"a\n1\n")
    (folder / "2024-04-01.csv").write_bytes(body)  # named wrongly at first
    run(store, folder.parents[1])
    (folder / "2024-04-01.csv").rename(folder / "2024-04-01.csv.gz")
    run(store, folder.parents[1])
    assert [batch.files[0].compression for batch in read_log(store, SOURCE)] == [None, "gzip"]


def test_landing_the_bytes_of_a_held_batch_does_not_undo_the_hold(store: ObjectStore, folder: Path) -> None:
    for content in ("good", "bad"):
        (folder / "2024-04-01.csv").write_text(content)
        run(store, folder.parents[1])
    append_decision(store, Decision(SOURCE, 0, "rollback", (2,), "wrong", "someone", CLOCK.at))
    again = run(store, folder.parents[1])
    assert statuses(again) == {"2024-04-01": "unchanged"}
    assert "batch 2 has these bytes and is held" in again.units[0].reason
    (folder / "2024-04-01.csv").write_text("corrected")
    assert statuses(run(store, folder.parents[1])) == {"2024-04-01": "landed"}


def test_discarded_bytes_may_land_again(store: ObjectStore, folder: Path) -> None:
    (folder / "2024-04-01.csv").write_text("x")
    run(store, folder.parents[1])
    append_decision(store, Decision(SOURCE, 0, "discard", (1,), "wrong", "someone", CLOCK.at))
    assert run(store, folder.parents[1]).units[0].batch == 2


def test_the_range_includes_both_ends(store: ObjectStore, folder: Path) -> None:
    for day in range(1, 6):
        (folder / f"2024-04-0{day}.csv").write_text(str(day))
    result = run(store, folder.parents[1], start=date(2024, 4, 2), end=date(2024, 4, 4))
    assert list(statuses(result)) == ["2024-04-02", "2024-04-03", "2024-04-04"]
    with pytest.raises(SettingsError, match="nothing lies between"):
        Request(start=date(2024, 4, 2), end=date(2024, 4, 1))


def test_a_dry_run_writes_nothing(store: ObjectStore, folder: Path) -> None:
    (folder / "2024-04-01.csv").write_text("x")
    assert statuses(run(store, folder.parents[1], is_dry_run=True)) == {"2024-04-01": "would_land"}
    assert list(store.list_after("")) == []
    run(store, folder.parents[1])
    assert statuses(run(store, folder.parents[1], is_dry_run=True)) == {"2024-04-01": "unchanged"}


def test_what_is_refused_is_named_and_the_rest_lands(store: ObjectStore, folder: Path) -> None:
    names = [
        "2024-04-01.csv",
        "2024-04-02.csv.bz2",
        "2024-04-03.csv\n",
        "2024-13-01.csv",
        ".hidden",
        "x.part",
        "2024-04-05.csv",
        "2024-04-05.csv.gz",
    ]
    for name in names:
        (folder / name).write_text(name)
    (folder / "2024-04-04.csv").symlink_to("/etc/hostname")
    (folder / "2024-04-06.csv").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "2024-04-07.csv")
    result = run(store, folder.parents[1])
    assert statuses(result) == {
        "2024-04-01": "landed",
        **{f"2024-04-0{day}": "refused" for day in range(2, 8)},
    }
    reasons = " | ".join(unit.reason for unit in result.units)
    for expected in (
        "bz2: unknown compression",
        "2024-04-03.csv\\n: ",
        "leads out",
        "differ in their compression",
        "No such file",
        "not a regular file",
    ):
        assert expected in reasons
    assert [note.name for note in result.refused_files] == ["2024-13-01.csv"]
    assert {note.name for note in result.ignored_files} == {".hidden", "x.part"}
    with pytest.raises(SourceError, match="2024-13-01 is not a date") as caught:
        result.raise_if_refused()
    assert caught.value.exit_code == 4
    assert [batch.unit for batch in read_log(store, SOURCE)] == [date(2024, 4, 1)]


def test_a_folder_with_the_name_of_a_file_is_refused(store: ObjectStore, folder: Path) -> None:
    """Spark writes such folders; passed over in silence, their day would be missing."""
    (folder / "2024-04-01.csv").mkdir()
    (refused,) = run(store, folder.parents[1]).units
    assert refused.status == "refused" and refused.reason == "2024-04-01.csv: it is a folder; a file is expected"


def test_a_unit_that_cannot_be_read_stops_no_other(
    store: ObjectStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in (1, 2):
        (folder / f"2024-04-0{day}.csv").write_text(str(day))
    real = LocalPlace.reading

    @contextmanager
    def failing(self: LocalPlace, found: FoundFile) -> Iterator[Reader]:
        if found.name.startswith("2024-04-01"):
            raise PermissionError(13, "Permission denied", found.path)
        with real(self, found) as stream:
            yield stream

    monkeypatch.setattr(LocalPlace, "reading", failing)
    result = run(store, folder.parents[1])
    assert statuses(result) == {"2024-04-01": "refused", "2024-04-02": "landed"}
    assert "Permission denied" in result.units[0].reason


@pytest.mark.parametrize("how", ["grows", "is_rewritten", "is_replaced", "shrinks"])
@pytest.mark.parametrize("size", [10_000, SMALL_BYTES + 1])
def test_a_file_that_changes_while_it_is_read_is_refused(
    store: ObjectStore, folder: Path, monkeypatch: pytest.MonkeyPatch, how: str, size: int
) -> None:
    path = folder / "2024-04-01.csv"
    path.write_bytes(b"x" * size)
    real = LocalPlace.reading

    @contextmanager
    def meanwhile(self: LocalPlace, found: FoundFile) -> Iterator[Reader]:
        with real(self, found) as stream:
            yield stream
            _change(path, how)

    monkeypatch.setattr(LocalPlace, "reading", meanwhile)
    result = run(store, folder.parents[1])
    assert statuses(result) == {"2024-04-01": "refused"}
    assert "changed while it was read" in result.units[0].reason
    assert objects(store) == [] and read_log(store, SOURCE) == []


def _change(path: Path, how: str) -> None:
    size = path.stat().st_size
    if how == "grows":
        with path.open("ab") as out:
            out.write(b"more")
    elif how == "shrinks":
        os.truncate(path, size - 1)
    elif how == "is_replaced":
        path.with_suffix(".new").write_bytes(b"y" * size)
        path.with_suffix(".new").replace(path)
    else:
        path.write_bytes(b"y" * size)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_a_big_file_lands_in_constant_memory(store: ObjectStore, folder: Path) -> None:
    size = 5 * SMALL_BYTES + 7
    with (folder / "2024-04-01.csv").open("wb") as out:
        out.truncate(size)
    taken: list[int] = []

    def swallow(self: ObjectStore, key: str, stream: Reader, size_bytes: int, sha256: str) -> None:
        taken.append(sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b"")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "put_stream", swallow)  # moto keeps uploads in this process
        tracemalloc.start()
        run(store, folder.parents[1])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert taken == [size]
    assert peak < SMALL_BYTES
    read_log(store, SOURCE)


def test_a_big_file_lands_whole(store: ObjectStore, folder: Path) -> None:
    body = os.urandom(2 * 16 * 1024 * 1024 + 5)
    (folder / "2024-04-01.csv").write_bytes(body)
    run(store, folder.parents[1])
    (batch,) = read_log(store, SOURCE)
    assert store.get(batch.files[0].key) == body


def test_a_damaged_object_under_the_key_is_not_taken_for_the_bytes(store: ObjectStore, folder: Path) -> None:
    (folder / "2024-04-01.csv").write_text("content")
    run(store, folder.parents[1])
    (batch,) = read_log(store, SOURCE)
    store.client.put_object(Bucket=store.bucket, Key=batch.files[0].key, Body=b"short")
    (folder / "2024-04-02.csv").write_text("content")
    with pytest.raises(Exception, match="a landed object has 5 bytes"):
        run(store, folder.parents[1])
    assert len(read_log(store, SOURCE)) == 1


def test_the_root_may_hold_the_files_itself_when_one_source_is_named(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "2024-04-01.csv").write_text("x")
    (tmp_path / "README.md").write_text("x")
    both = run(store, tmp_path, contract(), contract("returns"))
    assert both.units == () and len(both.refused_files) == 2
    assert statuses(run(store, tmp_path)) == {"2024-04-01": "landed"}


def test_a_root_that_is_not_there_says_what_to_do(store: ObjectStore, tmp_path: Path) -> None:
    result = run(store, tmp_path / "nowhere")
    with pytest.raises(SourceError, match="--root"):
        result.raise_if_refused()


def test_files_of_an_s3_prefix_land(store: ObjectStore) -> None:
    store.client.create_bucket(Bucket="drop")
    for key in (
        "p/retail/sales/2024-04-01.csv",
        "p/retail/sales/2024-04-02.csv.gz",
        "p/retail/sales/",
        "p/retail/sales/../x.csv",
        "p/other/2024-04-03.csv",
    ):
        store.client.put_object(Bucket="drop", Key=key, Body=key.encode())
    result = run(store, "s3://drop/p")
    assert statuses(result) == {"2024-04-01": "landed", "2024-04-02": "landed"}
    assert [batch.files[0].compression for batch in read_log(store, SOURCE)] == [None, "gzip"]
    assert statuses(run(store, "s3://drop/p/")) == {"2024-04-01": "unchanged", "2024-04-02": "unchanged"}
    assert statuses(run(store, "s3://drop/p/retail/sales")) == {"2024-04-01": "unchanged", "2024-04-02": "unchanged"}


def test_an_s3_object_that_changes_while_it_is_read_is_refused(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.client.create_bucket(Bucket="drop")
    key = "retail/sales/2024-04-01.csv"
    store.client.put_object(Bucket="drop", Key=key, Body=b"first")
    real = files_module.measure

    def late(opener: object, expected_bytes: int) -> object:
        store.client.put_object(Bucket="drop", Key=key, Body=b"other")
        return real(opener, expected_bytes)  # type: ignore[arg-type]

    monkeypatch.setattr(files_module, "measure", late)
    assert statuses(run(store, "s3://drop")) == {"2024-04-01": "refused"}
    assert read_log(store, SOURCE) == []


def test_files_of_an_increment_land_once_each(store: ObjectStore, folder: Path) -> None:
    feed = contract(kind="increment")
    for content in ("one", "two", "one"):
        (folder / "2024-04-01.csv").write_text(content)
        run(store, folder.parents[1], feed)
    assert len(read_log(store, SOURCE)) == 2
