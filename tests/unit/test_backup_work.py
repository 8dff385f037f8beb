"""How much work a set is: requests that are made, files that are read, bytes that are stored. Not how long it takes."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.backup_lake import SmallLake, make_lake
from typer.testing import CliRunner

from lakehouse.backup import copying, verify
from lakehouse.backup.create import create_from
from lakehouse.backup.fingerprint import content_fingerprint
from lakehouse.backup.sets import BackupSet, load_set
from lakehouse.backup.signing import public_key_of
from lakehouse.cli import backup as cli
from lakehouse.cli.main import app
from lakehouse.core.clock import FixedClock
from lakehouse.core.errors import IntegrityError, SettingsError, TransientError
from lakehouse.core.failpoints import FailpointHit
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watched import WORKERS, in_threads, in_time

Asked = list[tuple[str, str]]
"""The operation and the key of each request."""


@pytest.fixture
def lake(endpoint: str, tmp_path: Path) -> SmallLake:
    """Two tables, one with deletes by position, and a landed batch."""
    made = make_lake(endpoint, tmp_path)
    grow(made, 2)
    made.table("gold.sales", 5)
    made.position_deletes("gold.sales", 1, 3)
    made.land(b"id\n1\n")
    return made


def grow(lake: SmallLake, commits: int) -> None:
    for _ in range(commits):
        lake.table("silver.dim_shop")


@pytest.fixture
def asked(lake: SmallLake) -> Iterator[Asked]:
    """Every request to either server from now on."""
    seen: Asked = []

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        seen.append((model.name, params.get("Key", params.get("Prefix", ""))))

    lakes = ObjectStore.open(lake.settings), ObjectStore.for_copies(lake.settings)
    clients = (lake.vault.store.client, *(each.client for each in lakes))
    for client in clients:
        client.meta.events.register("provide-client-params.s3", note)
    yield seen
    for client in clients:
        client.meta.events.unregister("provide-client-params.s3", note)


def same_moment(lake: SmallLake) -> BackupSet:
    """A set as soon after the last one that no lock is due to be extended."""
    return create_from(lake.settings, lake.catalog.engine, FixedClock(lake.now))


def requests_of(act: Callable[[], object], asked: Asked) -> Counter[str]:
    asked.clear()
    act()
    return Counter(operation for operation, _ in asked)


def test_an_unchanged_lake_costs_as_many_requests_however_many_files_it_has(lake: SmallLake, asked: Asked) -> None:
    lake.back_up()
    few = requests_of(lambda: same_moment(lake), asked)
    grow(lake, 12)
    made = lake.back_up()
    assert made.manifest.files > 60
    many = requests_of(lambda: same_moment(lake), asked)
    assert many == few and few.total() < 25
    assert not [key for _, key in asked if key.startswith(("objects/", "query/", "warehouse/"))]
    assert sum(key.endswith("files.jsonl.gz") for _, key in asked) == 2  # the parent's is read once, its own is written


def test_an_increment_costs_requests_for_what_is_new(lake: SmallLake, asked: Asked) -> None:
    lake.back_up()
    grow(lake, 1)
    small = requests_of(lambda: same_moment(lake), asked)
    grow(lake, 12)
    lake.back_up()
    grow(lake, 1)
    large = requests_of(lambda: same_moment(lake), asked)
    assert large == small and large["PutObject"] > 5
    # Of each new file: read, stored, and stored once more where it names others.
    read = [key for operation, key in asked if operation == "GetObject" and key.startswith("warehouse/")]
    assert len(read) == len(set(read)) == 4  # metadata, manifest list, manifest, data


def test_locks_are_extended_only_when_they_are_due(lake: SmallLake, asked: Asked) -> None:
    lake.back_up()
    assert requests_of(lambda: same_moment(lake), asked)["PutObjectRetention"] == 0
    lake.days += 2
    objects = sum(len(entry.objects) for entry in lake.back_up().files().values())
    assert Counter(operation for operation, _ in asked)["PutObjectRetention"] == objects
    assert requests_of(lambda: same_moment(lake), asked)["PutObjectRetention"] == 0


@pytest.mark.parametrize(("point", "lost"), [("after_copies", 0), ("after_copy", WORKERS)])
def test_a_set_that_goes_on_stores_nothing_twice(
    point: str, lost: int, lake: SmallLake, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was cut short in the midst of copies, what each thread had not yet noted is tried once more."""
    monkeypatch.setattr(copying, "_PROGRESS_SECONDS", 0)
    grow(lake, 4)
    with monkeypatch.context() as armed, pytest.raises(FailpointHit):
        armed.setenv("LAKEHOUSE_FAILPOINTS", f"backup.{point}=raise")
        lake.back_up()
    copied = stored_by(asked)
    assert len(copied) == len(set(copied)) > 10
    asked.clear()
    made = lake.back_up()
    again = stored_by(asked)
    assert len(set(again) & set(copied)) <= lost and len(again) == len(set(again))
    assert {entry.copy.key for entry in made.files().values()} == {*copied, *again}
    assert lake.verify(made).is_good


def stored_by(asked: Asked) -> list[str]:
    return [key for operation, key in asked if operation == "PutObject" and key.startswith("objects/")]


def test_a_verification_reads_every_object_once(lake: SmallLake, asked: Asked) -> None:
    made = lake.back_up()
    asked.clear()
    record = lake.verify(made)
    read = Counter(key for operation, key in asked if operation == "GetObject")
    objects = {stored.key: stored.size_bytes for entry in made.files().values() for stored in entry.objects}
    assert {key: read[key] for key in objects} == dict.fromkeys(objects, 1)
    assert (record.read, record.read_bytes) == (len(objects), sum(objects.values()))
    assert not [key for operation, key in asked if operation == "HeadObject" and key in objects]


def test_a_verification_of_a_share_asks_for_each_other_object_once(lake: SmallLake, asked: Asked) -> None:
    made = lake.back_up()
    asked.clear()
    lake.verify(made, verify.Share(0, 10**6))
    objects = {stored.key for entry in made.files().values() for stored in entry.objects}
    looked_at = Counter(key for _, key in asked if key in objects)
    assert looked_at == dict.fromkeys(objects, 1)


def test_bodies_are_hashed_by_us_alone(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client neither hashes a body for the request's signature nor against the checksum that the server sends."""
    from botocore import auth, httpchecksum

    made = lake.back_up()
    lake.land(b"id\n2\n", 2)

    def refuse(*_: Any) -> None:
        raise AssertionError("hashed once more")

    monkeypatch.setattr(httpchecksum.StreamingChecksumBody, "__init__", refuse)
    sent: list[str] = []
    payload = auth.S3SigV4Auth.payload
    monkeypatch.setattr(auth.S3SigV4Auth, "payload", lambda self, r: sent.append(payload(self, r)) or sent[-1])
    vault = lake.vault
    vault.get(next(iter(made.files().values())).copy.key)
    vault.put("objects/new", b"bytes")
    assert sent[-1] == "UNSIGNED-PAYLOAD"


def test_the_content_fingerprint_is_of_the_bytes_that_live_now(lake: SmallLake) -> None:
    first = lake.back_up()
    grow(lake, 1)
    second = lake.back_up()
    fingerprints = [{each.table: each.content_fingerprint for each in made.manifest.tables} for made in (first, second)]
    assert fingerprints[0]["gold.sales"] == fingerprints[1]["gold.sales"]
    assert fingerprints[0]["silver.dim_shop"] != fingerprints[1]["silver.dim_shop"]
    kinds = set()
    for table in second.manifest.tables:
        scan = lake.catalog.load_table(table.table).scan().plan_files()
        files = {("data", task.file.file_path) for task in scan}
        files |= {("position_deletes", each.file_path) for task in scan for each in task.delete_files}
        lines = sorted(f"{kind} {hashlib.sha256(body_of(lake, uri)).hexdigest()}\n" for kind, uri in files)
        assert table.content_fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()
        kinds |= {kind for kind, _ in files}
    assert kinds == {"data", "position_deletes"}


def body_of(lake: SmallLake, uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    body: bytes = lake.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


def test_the_content_fingerprint_of_a_rollback_is_that_of_then_and_any_snapshot_has_one(lake: SmallLake) -> None:
    then = lake.catalog.load_table("silver.dim_shop").current_snapshot().snapshot_id
    [before] = [t for t in lake.back_up().manifest.tables if t.table == "silver.dim_shop"]
    grow(lake, 1)
    made = lake.back_up()
    [after] = [t for t in made.manifest.tables if t.table == "silver.dim_shop"]
    assert content_fingerprint(made.files(), after.metadata, then) == before.content_fingerprint
    with lake.catalog.load_table("silver.dim_shop").manage_snapshots() as change:
        change.rollback_to_snapshot(then)
    [back] = [t for t in lake.back_up().manifest.tables if t.table == "silver.dim_shop"]
    assert back.content_fingerprint == before.content_fingerprint and back.metadata != before.metadata


def test_a_full_set_and_an_increment_have_the_same_fingerprints_and_an_empty_table_has_that_of_nothing(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyiceberg.schema import Schema

    lake.catalog.create_table("gold.empty", Schema())
    lake.back_up()
    grow(lake, 1)
    tables = [{t.table: t.content_fingerprint for t in lake.back_up(is_full=full).manifest.tables} for full in (0, 1)]
    assert tables[0] == tables[1] and tables[0]["gold.empty"] == hashlib.sha256(b"").hexdigest()
    monkeypatch.setattr(cli, "settings", lambda: lake.settings)
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["backup", "show"])
    assert shown.exception is None
    assert all(content[:8] in shown.stdout for content in tables[0].values())


def test_a_changed_fingerprint_breaks_the_signature(endpoint: str, tmp_path: Path) -> None:
    lake = make_lake(endpoint, tmp_path, is_locking=False)  # with versions, what was signed would still be found
    lake.table("gold.sales")
    made = lake.back_up()
    key = f"sets/{made.id}/manifest.json"
    forged = lake.vault.get(key).replace(made.manifest.tables[0].content_fingerprint.encode(), b"0" * 64)
    lake.s3.put_object(Bucket=lake.settings.backup_bucket, Key=key, Body=forged)
    seal = hashlib.sha256(forged).hexdigest().encode()
    lake.s3.put_object(Bucket=lake.settings.backup_bucket, Key=f"sets/{made.id}/COMPLETE", Body=seal)
    with pytest.raises(IntegrityError, match="not signed with our key"):
        load_set(lake.vault, made.id, public_key_of(lake.settings))


def late() -> TransientError:
    return TransientError("it takes too long")


def test_many_threads_answer_in_order_and_the_first_error_ends_them() -> None:
    assert in_threads(lambda n: n * n, range(100)) == [n * n for n in range(100)]
    assert in_threads(lambda n: n, []) == []
    begun: list[int] = []

    def act(n: int) -> None:
        begun.append(n)
        if n == 3:
            raise SettingsError("not this one")

    with pytest.raises(SettingsError, match="not this one"):
        in_threads(act, range(10_000), workers=2)
    assert len(begun) < 10_000


@pytest.mark.timeout(30)
def test_what_takes_too_long_in_one_of_many_threads_is_not_waited_for() -> None:
    end = threading.Event()
    try:
        with pytest.raises(TransientError, match="it takes too long"):
            in_threads(lambda n: in_time(end.wait if n == 5 else (lambda: True), 0.2, late), range(20), workers=3)
        with pytest.raises(TransientError, match="it takes too long"):
            in_time(end.wait, 0.2, late)
    finally:
        end.set()


def test_an_answer_in_time_costs_no_further_thread_where_somebody_watches() -> None:
    names = in_threads(lambda _: in_time(threading.get_ident, 5, late) == threading.get_ident(), range(50))
    assert all(names)
    assert in_time(threading.get_ident, 5, late) != threading.get_ident()
