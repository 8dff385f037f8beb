"""A table's metadata as of a moment: pure, on documents as Iceberg writes them."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from lakehouse.backup.iceberg import read_document, write_document
from lakehouse.recovery.documents import (
    NotKnown,
    as_of,
    companion_head,
    current_of,
    head_at,
    name_beside,
    rows_of,
    was_published,
)

Document = dict[str, Any]


def snapshot(number: int, parent: int | None, attempt: str = "", **summary: str) -> Document:
    return {
        "snapshot-id": number,
        "sequence-number": number,
        "timestamp-ms": number * 100,
        "manifest-list": f"s3://w/{number}.avro",
        "schema-id": 0 if number < 3 else 1,
        "summary": {"total-records": str(number * 10), "lakehouse.attempt": attempt or f"a{number}", **summary},
        **({"parent-snapshot-id": parent} if parent else {}),
    }


def table(*heads: int, **more: Any) -> Document:
    """Snapshots 1 to 4, each after the one before; ``main`` was at these."""
    return {
        "last-updated-ms": 500,
        "snapshots": [snapshot(n, n - 1 or None) for n in (1, 2, 3, 4)],
        "snapshot-log": [{"timestamp-ms": n * 100 + 5, "snapshot-id": n} for n in heads],
        "current-snapshot-id": heads[-1] if heads else -1,
        "refs": {"main": {"snapshot-id": heads[-1], "type": "branch"}, "late": {"snapshot-id": 4, "type": "tag"}},
        "schemas": [{"schema-id": 0, "fields": [{"id": 1}]}, {"schema-id": 1, "fields": [{"id": 1}, {"id": 2}]}],
        "current-schema-id": 1,
        "partition-specs": [{"fields": []}],
        "sort-orders": [{"fields": []}],
        "statistics": [{"snapshot-id": 1}, {"snapshot-id": 4}],
        **more,
    }


@pytest.mark.parametrize(("millis", "head"), [(105, 1), (304, 1), (305, 3), (9999, 4)])
def test_where_main_was(millis: int, head: int) -> None:
    assert head_at(table(1, 3, 4), millis) == head


def test_what_is_not_known_is_not_guessed() -> None:
    empty = {"last-updated-ms": 50, "snapshots": []}
    assert head_at(empty, 60) is None
    for document, millis in ((table(1, 4), 104), (empty, 40)):
        with pytest.raises(NotKnown):
            head_at(document, millis)
    gone = table(1, 4)
    gone["snapshots"] = gone["snapshots"][1:]
    with pytest.raises(NotKnown):
        head_at(gone, 200)


def test_what_was_committed_later_is_left_out() -> None:
    document = table(1, 2, 3, 4)
    then = as_of(document, 2)
    assert current_of(then) == 2 and [each["snapshot-id"] for each in then["snapshots"]] == [1, 2]
    assert then["refs"] == {"main": {"snapshot-id": 2, "type": "branch"}}
    assert then["snapshot-log"] == document["snapshot-log"][:2]
    assert then["statistics"] == [{"snapshot-id": 1}] and then["current-schema-id"] == 0
    assert as_of(document, 4) is document
    assert current_of(as_of(document, None)) is None and as_of(document, None)["snapshots"] == []


def test_columns_that_a_layout_needs_stay() -> None:
    document = table(1, 4, **{"partition-specs": [{"fields": [{"source-id": 2}]}]})
    assert as_of(document, 1)["current-schema-id"] == 1


def test_the_log_ends_with_a_head_that_it_had_lost() -> None:
    then = as_of(table(1, 4), 2)
    assert [entry["snapshot-id"] for entry in then["snapshot-log"]] == [1, 2]


def test_a_companion_has_nothing_of_an_attempt_that_is_undone() -> None:
    document, companion = table(1, 2, 3, 4), table(1, 2, 3, 4)
    assert companion_head(document, 2, companion) == 2
    stays = {**companion, "snapshot-log": companion["snapshot-log"][2:]}
    with pytest.raises(NotKnown):
        companion_head(document, 2, stays)
    assert companion_head(document, 2, {"snapshots": []}) is None


def test_only_heads_count_as_published() -> None:
    document = table(1, 2)
    assert [was_published(document, each) for each in (1, 2, 3, 4, 9)] == [True, True, False, True, False]


def test_rows() -> None:
    document = {"snapshots": [snapshot(1, None, **{"total-position-deletes": "4"})]}
    assert rows_of(document, 1) == 6 and rows_of(document, None) == 0
    left_open = {"snapshots": [snapshot(1, None, **{"total-equality-deletes": "4"})]}
    assert rows_of(left_open, 1) is None


def test_the_same_bytes_have_the_same_name() -> None:
    body = write_document(table(1))
    first = name_beside("s3://w/t/metadata/00007-abc.metadata.json", body)
    assert first == name_beside("s3://w/t/metadata/00007-abc.metadata.json", body)
    assert first.startswith("s3://w/t/metadata/00008-") and first.endswith(".metadata.json")
    assert first != name_beside("s3://w/t/metadata/00007-abc.metadata.json", body + b" ")
    assert name_beside("s3://w/t/metadata/v.metadata.json", body).startswith("s3://w/t/metadata/00000-")


def test_a_document_stays_compressed() -> None:
    packed = gzip.compress(b'{"a": "\xc3\xa9"}')
    assert read_document(packed) == {"a": "\u00e9"}
    assert read_document(write_document({"b": 1}, packed)) == {"b": 1}
    assert write_document({"b": 1}, packed)[:2] == packed[:2] and write_document({"b": 1}) == b'{"b":1}'
    assert write_document({"b": 1}, packed) == write_document({"b": 1}, packed)
    for broken in (packed[:9], packed[:4] + b"x" * 20, b"{"):
        with pytest.raises(ValueError):
            read_document(broken)
