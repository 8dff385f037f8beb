"""The readers: each record of each case is a row or a rejection, as the case says. No JVM, no servers."""

from __future__ import annotations

import io
from typing import Any

import pytest
from tests.bad_input.cases import CASES
from tests.bad_input.csv_cases import MILLION
from tests.bad_input.model import Case, contract_of

from lakehouse.records.reader import Layout, read_records

LARGE = 10_000


def test_the_cases_are_many_and_differ() -> None:
    assert len(CASES) >= 80
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_record_is_a_row_or_a_rejection(case: Case) -> None:
    layout = Layout.of(contract_of(case.source).source)
    count, kept, extra, missing = 0, [], set[str](), set[str]()
    refused: list[dict[str, Any]] = []
    for batch in read_records(io.BytesIO(case.content), layout, case.compression):
        assert batch.column("_record").to_pylist() == list(range(count + 1, count + 1 + batch.num_rows))
        count += batch.num_rows
        if batch.column("_rejected").null_count == batch.num_rows and batch.num_rows >= LARGE:
            continue
        rows = batch.drop_columns(list(layout.columns)).to_pylist()
        refused += [row for row in rows if row["_rejected"] is not None]
        kept += [row for row in rows if row["_rejected"] is None]
    for row in kept[:2]:
        extra |= {name for name, _ in row["_extra"] or ()}
        missing |= set(row["_missing"] or ())
    _check_rejections(case, refused, count)
    if not case.before_damage:
        assert count - len(refused) == case.good + len(case.quarantined)
    assert extra == case.extra if isinstance(case.extra, frozenset) else len(extra) == case.extra
    assert missing == case.missing
    assert count < 2 * MILLION


def _check_rejections(case: Case, refused: list[dict[str, Any]], count: int) -> None:
    if case.before_damage:
        assert refused[-1]["_record"] == count and case.rejected[0].reason in refused[-1]["_rejected"]
        return
    found = [(row["_record"], row["_line"]) for row in refused]
    assert found == [(one.record, one.line) for one in case.rejected]
    for one, row in zip(case.rejected, refused, strict=True):
        assert one.reason in row["_rejected"]
        assert row["_raw"] is None or len(row["_raw"].encode()) <= 4 * 1024 * 1024
