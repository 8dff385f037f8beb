"""The two logs and what is pending, on moto's S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from moto import mock_aws

from lakehouse.core.errors import IntegrityError, SettingsError, TransientError
from lakehouse.core.settings import Settings
from lakehouse.ledger import journal
from lakehouse.ledger.decisions import Decision, append_decision, read_decisions
from lakehouse.ledger.log import Batch, LandedFile, append, read_log
from lakehouse.ledger.pending import Position, pending
from lakehouse.ledger.store import ContentMismatch, ObjectStore

AT = datetime(2024, 4, 1, 12, 30, tzinfo=UTC)
SOURCE = "retail.sales"


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with mock_aws():
        opened = ObjectStore.open(Settings(s3_access_key_id="a", s3_secret_access_key="b", s3_endpoint=""))
        opened.client.create_bucket(Bucket=opened.bucket)
        yield opened


def draft(day: int = 1, sha256: str = "ab" * 32) -> Batch:
    file = LandedFile("é.csv", f"objects/{SOURCE}/ab/{sha256}", 3, sha256, "csv", "gzip")
    return Batch(SOURCE, 0, date(2024, 4, day), "slice", (file,), None, None, AT)


def decided(action: str, *batches: int) -> Decision:
    return Decision(SOURCE, 0, action, batches, "a reason", "someone", AT)  # type: ignore[arg-type]


def put_raw(store: ObjectStore, place: int, changes: dict[str, object]) -> None:
    """Write an entry behind the log's back."""
    value = json.loads(store.get(f"log/{SOURCE}/{1:012d}.json"))
    store.put_if_absent(f"log/{SOURCE}/{place:012d}.json", json.dumps({**value, "number": place, **changes}).encode())


def test_batches_come_back_as_they_were_written(store: ObjectStore) -> None:
    written = [append(store, draft(day))[1] for day in (1, 2, 3)]
    assert read_log(store, SOURCE) == written
    assert [batch.number for batch in read_log(store, SOURCE, after=1)] == [2, 3]
    assert read_log(store, SOURCE, after=3) == []


@pytest.fixture
def long_log(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Eleven batches, in segments of four."""
    monkeypatch.setattr(journal, "SEGMENT", 4)
    log: list[Batch] = []
    for day in range(1, 12):
        log, _ = append(store, draft(day), log)
    return log


def segments(store: ObjectStore) -> list[str]:
    return [found.key for found in store.list_after("segments/")]


@pytest.mark.parametrize("after", range(12))
def test_a_long_log_is_read_in_segments(
    after: int, store: ObjectStore, long_log: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [key.rpartition("/")[2] for key in segments(store)] == ["000000000004.json", "000000000008.json"]
    read: list[str] = []
    get = ObjectStore.get
    monkeypatch.setattr(ObjectStore, "get", lambda self, key: read.append(key) or get(self, key))  # type: ignore[func-returns-value]
    assert read_log(store, SOURCE, after) == long_log[after:]
    whole = [key for key in segments(store) if int(key[-8:-5]) - 4 >= after]
    assert sorted(key for key in read if key.startswith("segments/")) == whole
    assert len(read) == len(whole) + (11 - after - 4 * len(whole))


def test_a_damaged_segment_is_passed_over(
    store: ObjectStore, long_log: list[Batch], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = segments(store)
    value = json.loads(store.get(second))
    for body in (b"[", b"[1, 2, 3, 4]", b"{}", json.dumps(value[::-1]).encode(), json.dumps(value[:3]).encode()):
        store.client.put_object(Bucket=store.bucket, Key=second, Body=body)
        assert read_log(store, SOURCE) == long_log
        assert second in caplog.text and first not in caplog.text
        caplog.clear()


def test_a_segment_that_was_not_written_is_written_with_the_next(store: ObjectStore, long_log: list[Batch]) -> None:
    for key in segments(store):
        store.client.delete_object(Bucket=store.bucket, Key=key)
    assert read_log(store, SOURCE) == long_log
    append(store, draft(12), long_log)
    assert len(segments(store)) == 3


def test_a_batch_has_landed_even_if_its_segment_was_not_written(
    store: ObjectStore, long_log: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ObjectStore.put_if_absent

    def refuse(self: ObjectStore, key: str, body: bytes) -> bool:
        if key.startswith("segments/"):
            raise TransientError("the server is away")
        return put(self, key, body)

    monkeypatch.setattr(ObjectStore, "put_if_absent", refuse)
    log, written = append(store, draft(12), long_log)
    assert written is not None and written.number == 12
    assert read_log(store, SOURCE) == log


def test_sources_do_not_share_a_log(store: ObjectStore) -> None:
    append(store, replace(draft(), source="retail.sales_returns"))
    assert read_log(store, SOURCE) == []


def test_a_writer_that_is_behind_decides_anew_and_takes_the_next_number(store: ObjectStore) -> None:
    known, _ = append(store, draft(1))
    append(store, draft(2))  # another writer, whom `known` does not show
    asked: list[int] = []

    def wanted(batches: object) -> bool:
        asked.append(len(batches))  # type: ignore[arg-type]
        return True

    log, written = append(store, draft(3), known, wanted)
    assert written is not None and written.number == 3
    assert asked == [1, 2]
    assert [batch.number for batch in log] == [1, 2, 3]


def test_a_writer_that_is_behind_may_find_nothing_left_to_do(store: ObjectStore) -> None:
    known, _ = append(store, draft(1))
    append(store, draft(2))
    late = replace(draft(2), landed_at=AT + timedelta(seconds=1))
    log, written = append(store, late, known, lambda batches: len(batches) < 2)  # type: ignore[arg-type]
    assert written is None
    assert len(log) == len(read_log(store, SOURCE)) == 2


def test_a_put_whose_answer_was_lost_counts_once(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ObjectStore.put_if_absent
    answers = iter([False])

    def lossy(self: ObjectStore, key: str, body: bytes) -> bool:
        return real(self, key, body) and next(answers, True)

    monkeypatch.setattr(ObjectStore, "put_if_absent", lossy)
    _, written = append(store, draft())
    assert written is not None and written.number == 1
    assert len(read_log(store, SOURCE)) == 1


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (3, {}, "number 2 was expected"),
        (2, {"format_version": 2}, "format 2"),
        (2, {"number": 7}, "says that it is number 7"),
        (2, {"kind": "pile"}, "its kind is 'pile'"),
        (2, {"source": "crm.customers"}, "belongs to 'crm.customers'"),
        (2, {"landed_at": "2024-04-01T00:00:00"}, "no zone"),
        (2, {"files": [{}]}, "cannot be read"),
    ],
)
def test_a_damaged_log_is_refused(store: ObjectStore, place: int, changes: dict[str, object], message: str) -> None:
    append(store, draft())
    put_raw(store, place, changes)
    with pytest.raises(IntegrityError, match=message):
        read_log(store, SOURCE)


def test_a_foreign_object_in_the_log_is_refused(store: ObjectStore) -> None:
    append(store, draft())
    store.put_if_absent(f"log/{SOURCE}/notes.txt", b"hello")
    with pytest.raises(IntegrityError, match="notes.txt"):
        read_log(store, SOURCE)


def test_decisions_are_numbered_and_come_back(store: ObjectStore) -> None:
    append_decision(store, decided("hold", 2))
    second = append_decision(store, replace(decided("release", 2, 3), table="silver.dim_customer"))
    assert second.number == 2
    assert read_decisions(store, SOURCE, after=1) == [second]


@pytest.mark.parametrize(
    "changes", [{"batches": ()}, {"batches": (0,)}, {"reason": ""}, {"by": ""}, {"at": datetime(2024, 4, 1)}]
)
def test_an_incomplete_decision_is_refused(store: ObjectStore, changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="needs batch numbers"):
        append_decision(store, replace(decided("hold", 1), **changes))  # type: ignore[arg-type]
    assert read_decisions(store, SOURCE) == []


def test_nothing_is_pending_at_the_end_of_both_logs(store: ObjectStore) -> None:
    assert pending(store, SOURCE, Position()).is_empty
    append(store, draft())
    append_decision(store, decided("hold", 1))
    assert pending(store, SOURCE, Position(1, 1)).is_empty


def test_what_is_pending_says_what_became_live_and_what_no_longer_is(store: ObjectStore) -> None:
    for day in (1, 2, 1):
        append(store, draft(day))
    found = pending(store, SOURCE, Position(2, 0))
    assert (found.end, found.added, found.removed, found.remaining) == (Position(3, 0), {3}, {1}, 0)
    assert [batch.number for batch in found.batches] == [3]
    append_decision(store, decided("discard", 3))
    after = pending(store, SOURCE, found.end)
    assert (after.end, after.added, after.removed, after.batches) == (Position(3, 1), {1}, {3}, ())
    assert not after.is_empty


def test_a_limit_leaves_the_rest_for_later(store: ObjectStore) -> None:
    for day in (1, 2, 3):
        append(store, draft(day))
    found = pending(store, SOURCE, Position(), limit=2)
    assert (found.end.through, found.added, found.remaining) == (2, {1, 2}, 1)
    assert pending(store, SOURCE, found.end, limit=2).added == {3}


def test_a_position_beyond_the_log_means_that_entries_were_lost(store: ObjectStore) -> None:
    append(store, draft())
    for position in (Position(2, 0), Position(1, 1)):
        with pytest.raises(IntegrityError, match="was consumed and is not there"):
            pending(store, SOURCE, position)


def test_a_missing_bucket_is_a_setting(store: ObjectStore) -> None:
    with pytest.raises(SettingsError, match="no bucket 'nowhere'"):
        read_log(store.in_bucket("nowhere"), SOURCE)


def test_an_upload_whose_content_differs_stores_nothing(store: ObjectStore) -> None:
    import hashlib
    import io

    sha256 = hashlib.sha256(b"what was measured").hexdigest()
    with pytest.raises(ContentMismatch, match="changed while it was uploaded"):
        store.put_stream("objects/x", io.BytesIO(b"what is there now"), 17, sha256)
    assert store.head("objects/x") is None
    assert not store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads")


def test_a_source_name_cannot_leave_the_log(store: ObjectStore) -> None:
    for name in ("../x", "a.b/../c", "A.b", ""):
        with pytest.raises(IntegrityError, match="not the name of a source"):
            read_log(store, name)
