"""How files go from one server to another: what is read where, in how many requests, and what is refused."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.backup_lake import SmallLake, make_lake

from lakehouse.backup import room as rooms
from lakehouse.backup import vault as vaults
from lakehouse.backup.copying import FilesMissing
from lakehouse.backup.room import Room
from lakehouse.backup.sets import complete_ids
from lakehouse.ledger.store import NotAsAnnounced, ObjectStore, Outgoing

BODY = bytes(range(256)) * 50_000


@pytest.fixture
def lake(endpoint: str, tmp_path: Path) -> SmallLake:
    return make_lake(endpoint, tmp_path)


@pytest.fixture
def source(lake: SmallLake) -> ObjectStore:
    """The lake's bucket of landed files, with one object."""
    store = ObjectStore.for_copies(lake.settings)
    store.put("here", BODY)
    return store


def carried(lake: SmallLake, source: ObjectStore, size: int = len(BODY), **more: Any) -> Any:
    return lake.vault.carry(source, "here", "objects/there", size, Room(), **more)


@pytest.mark.parametrize("sha256", ["", hashlib.sha256(BODY).hexdigest()])
def test_a_file_is_carried_as_it_is(lake: SmallLake, source: ObjectStore, sha256: str) -> None:
    stored = carried(lake, source, sha256=sha256)
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))
    assert lake.vault.get("objects/there") == BODY and lake.vault.head("objects/there") == stored


def test_an_empty_file_is_carried(lake: SmallLake, source: ObjectStore) -> None:
    source.put("here", b"")
    assert carried(lake, source, 0).sha256 == hashlib.sha256(b"").hexdigest()
    assert lake.vault.get("objects/there") == b""


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("said", [{"size": len(BODY) - 1}, {"size": len(BODY) + 1}, {"sha256": "0" * 64}])
def test_another_file_than_was_announced_is_not_stored(
    lake: SmallLake, source: ObjectStore, said: dict[str, Any], is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "AT_ONCE_BYTES", len(BODY) * 2 if is_whole else 1)
    with pytest.raises(NotAsAnnounced):
        carried(lake, source, **said)
    assert lake.vault.head("objects/there") is None


def damage(lake: SmallLake, bucket: str, key: str) -> None:
    """Other bytes of the same length below the checksum that the server has: as a disk that fails."""
    from moto.s3.models import s3_backends

    [found] = [b[key] for b in _keys(s3_backends, bucket) if key in b]
    body = found.value
    found.value = bytes([body[0] ^ 1]) + body[1:]


def _keys(backends: Any, bucket: str) -> list[Any]:
    regions = [region for account in backends.values() for region in account.values()]
    return [region.buckets[bucket].keys for region in regions if bucket in region.buckets]


@pytest.mark.parametrize("is_whole", [True, False])
def test_what_the_lakes_server_delivers_is_held_to_its_own_checksum(
    lake: SmallLake, source: ObjectStore, is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "AT_ONCE_BYTES", len(BODY) * 2 if is_whole else 1)
    lake.s3.put_object(Bucket=source.bucket, Key="here", Body=BODY, ChecksumAlgorithm="CRC32")
    damage(lake, source.bucket, "here")
    with pytest.raises(NotAsAnnounced):
        carried(lake, source)
    assert lake.vault.head("objects/there") is None


def test_a_data_file_that_its_server_has_damaged_is_named_and_no_set_is_made(lake: SmallLake) -> None:
    table = lake.table("gold.sales")
    uri = next(iter(table.scan().plan_files())).file.file_path
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    body = lake.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    lake.s3.put_object(Bucket=bucket, Key=key, Body=body, ChecksumAlgorithm="CRC32")
    damage(lake, bucket, key)
    with pytest.raises(FilesMissing) as error:
        lake.back_up()
    assert f"{uri} has other bytes" in str(error.value) and complete_ids(lake.vault) == []


@pytest.mark.parametrize("first", ["whole", "parts"])
def test_the_same_bytes_are_taken_however_they_were_stored_and_others_are_not(
    lake: SmallLake, source: ObjectStore, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that was cut short goes on with what is there, whether that went in parts or at once."""
    monkeypatch.setattr(vaults, "PART_BYTES", 6 * 1024 * 1024)
    limits = {"whole": len(BODY), "parts": 1}
    monkeypatch.setattr(rooms, "AT_ONCE_BYTES", limits.pop(first))
    before = carried(lake, source)
    assert ("-" in before.checksum) == (first == "parts")
    monkeypatch.setattr(rooms, "AT_ONCE_BYTES", *limits.values())
    again = carried(lake, source)
    assert (again.sha256, again.version) == (before.sha256, before.version)
    assert again.checksum == lake.vault.head("objects/there").checksum  # type: ignore[union-attr]
    source.put("here", BODY[::-1])
    with pytest.raises(vaults.OtherBytes):
        carried(lake, source)


def test_a_server_that_answers_with_no_hash_has_confirmed_nothing(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lake.vault.put("objects/one", BODY).is_confirmed
    vault, ask = lake.vault, ObjectStore.ask

    def silent(self: ObjectStore, key: str, request: Callable[[], Any], size_bytes: int = 0) -> Any:
        answer = ask(self, key, request, size_bytes)
        return {name: value for name, value in answer.items() if name != "ChecksumSHA256"}

    monkeypatch.setattr(ObjectStore, "ask", silent)
    assert not vault.put("objects/two", BODY).is_confirmed


def test_memory_is_used_again_and_has_an_end() -> None:
    room = Room(most_bytes=100 * 2**20)
    with room.holding(60 * 2**20) as first, room.holding(50 * 2**20) as second:
        assert first is not None and len(first) == 60 * 2**20 and second is None
        first[:3] = b"abc"
        with room.holding(rooms.SMALL_BYTES) as small:
            assert small is not None  # always
    del first
    with room.holding(10) as again:  # the smallest that is large enough
        assert again is not None and len(again) == 10 and bytes(again[:3]) != b"abc"
    with room.holding(59 * 2**20) as again, room.holding(rooms.AT_ONCE_BYTES + 1) as too_large:
        assert again is not None and bytes(again[:3]) == b"abc" and too_large is None
    del again
    with room.holding(90 * 2**20) as larger:  # in the place of what nobody holds
        assert larger is not None and bytes(larger[:3]) != b"abc"


def test_memory_is_not_used_again_after_an_error() -> None:
    room = Room(most_bytes=40 * 2**20)
    with pytest.raises(OSError), room.holding(30 * 2**20) as memory:
        assert memory is not None
        memory[:3] = b"abc"
        raise OSError
    with room.holding(30 * 2**20) as other:
        assert other is not None and bytes(other[:3]) != b"abc"


def test_a_body_is_sent_whole_also_when_it_is_sent_again() -> None:
    body = Outgoing(BODY)
    for _ in range(2):
        body.seek(0)
        assert b"".join(iter(lambda: bytes(body.read(1000)), b"")) == BODY
    assert (body.tell(), len(body), body.seek(-1, 2)) == (len(BODY), len(BODY), len(BODY) - 1)


def test_only_of_large_bodies_a_server_is_asked_first(lake: SmallLake) -> None:
    asked: dict[int, bool] = {}
    client = lake.vault.store.client

    def note(request: Any, **_: Any) -> None:
        asked[int(request.headers["Content-Length"])] = "Expect" in request.headers

    client.meta.events.register("before-send.s3.PutObject", note)
    try:
        for size in (10, 2**20, 2**20 + 1):
            lake.vault.put(f"objects/{size}", BODY[:size])
    finally:
        client.meta.events.unregister("before-send.s3.PutObject", note)
    assert asked == {10: False, 2**20: False, 2**20 + 1: True}


def test_only_copies_are_neither_signed_nor_compared_by_the_client(lake: SmallLake) -> None:
    """Who hashes nothing of what it reads and writes has the client do it."""
    plain, copies = ObjectStore.open(lake.settings), ObjectStore.for_copies(lake.settings)
    configs = [store.client.meta.config for store in (plain, copies, lake.vault.store)]
    assert [each.response_checksum_validation for each in configs] == ["when_supported", *["when_required"] * 2]
    assert [each.s3.get("payload_signing_enabled") for each in configs] == [None, False, False]


def test_the_hash_that_was_announced_is_the_one_that_the_server_has(lake: SmallLake, source: ObjectStore) -> None:
    carried(lake, source)
    found = lake.s3.head_object(Bucket=lake.settings.backup_bucket, Key="objects/there", ChecksumMode="ENABLED")
    assert base64.b64decode(found["ChecksumSHA256"]) == hashlib.sha256(BODY).digest()
