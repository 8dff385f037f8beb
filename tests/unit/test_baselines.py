"""What a trim leaves behind, in words and in stamps: which batches are past deciding, and what bronze lost."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest

from lakehouse.cli.decide import _Place, _refuse_trimmed
from lakehouse.contracts.changes import only_adds
from lakehouse.contracts.load import load_contract
from lakehouse.contracts.model import Contract
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.engine.bronze import BronzeJob
from lakehouse.ledger.beyond import why_beyond
from lakehouse.ledger.log import Batch
from lakehouse.ledger.pending import Ledger
from lakehouse.ledger.watermark import Baseline, Consumed, Head, Stamp

if TYPE_CHECKING:
    from lakehouse.ledger.decisions import Action

CONTRACT = load_contract(PROJECT_ROOT / "include" / "contracts" / "crm" / "catalogue.yaml")
[TABLE] = CONTRACT.tables
AT = datetime(2024, 4, 10, tzinfo=UTC)
BASELINE = Baseline(
    AT.isoformat(),
    7,
    3,
    "f",
    {1: ("live", 5), 2: ("superseded", 4)},
    {"good": 5},
    {3: 2},
    (2,),
    (("2024-04-02T00:00:00+00:00", 1, ()),),
)


def batch(number: int, day: int) -> Batch:
    return Batch(CONTRACT.name, number, date(2024, 4, day), "snapshot", (), None, None, AT)


LOG = (batch(1, 1), batch(2, 1), batch(3, 12), batch(4, 5), batch(5, 12))


def test_a_stamp_comes_back_as_it_was_written() -> None:
    stamp = Stamp("a", "f", {CONTRACT.name: Consumed(3)}, baseline=BASELINE, trimmed=(1, 2))
    assert Stamp.from_json(stamp.to_json()) == stamp
    assert [each[1:] for each in BASELINE.horizons] == [(1, ()), (3, (2,))]


def test_what_went_into_the_baseline_is_owed_while_its_batch_does_not_count() -> None:
    assert BASELINE.owed(frozenset({1, 3})) == 0
    assert BASELINE.owed(frozenset({1, 5})) == 2


def test_a_snapshot_is_beyond_that_came_after_the_trim_and_shows_what_was_before() -> None:
    assert [bool(why_beyond(CONTRACT, BASELINE, each)) for each in LOG] == [False, False, False, True, False]
    assert why_beyond(CONTRACT, None, LOG[3]) == ""
    slices = CONTRACT.model_copy(update={"source": CONTRACT.source.model_copy(update={"kind": "slice"})})
    assert why_beyond(slices, BASELINE, LOG[3]) == ""


@pytest.mark.parametrize(
    ("action", "number", "told"),
    [
        ("hold", 1, "was trimmed from bronze"),
        ("release", 2, "was trimmed from bronze"),
        ("hold", 3, "part of what it said is in the baseline"),
        ("discard", 3, "part of what it said is in the baseline"),
        ("release", 3, None),
        ("release", 4, "cannot be released: it shows the state of 2024-04-05"),
        ("discard", 4, None),
        ("hold", 5, None),
    ],
)
def test_a_decision_that_a_trim_made_void_is_refused(
    action: Action, number: int, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = Stamp("a", "f", baseline=BASELINE)
    monkeypatch.setattr("lakehouse.ledger.watermark.open_catalog", lambda _: None)
    monkeypatch.setattr("lakehouse.ledger.watermark.read_head", lambda *_: Head(1, stamp))
    nobody: Any = None
    place = _Place(CONTRACT, nobody, Ledger(CONTRACT.name, LOG, ()), number)
    if told is None:
        _refuse_trimmed(place, action)
        return
    with pytest.raises(SettingsError, match=told):
        _refuse_trimmed(place, action)


def test_bronze_goes_on_saying_what_it_lost() -> None:
    lake: Any = None
    head = Head(1, Stamp("a", "", {CONTRACT.name: Consumed(3)}, trimmed=(1, 2)))
    work = BronzeJob(lake, CONTRACT, LOG).plan("b", {CONTRACT.bronze_table: head})
    assert work is not None and [each.number for each in work.batches] == [4, 5]
    assert work.stamps()[CONTRACT.bronze_table].trimmed == (1, 2)


def test_kept_observations_can_be_read_where_columns_are_only_added() -> None:
    table, plain = CONTRACT.tables[TABLE], CONTRACT.dump()
    columns = plain["tables"][TABLE]["columns"]
    columns["more"] = {"type": "string", "expression": "'x'", "nullable": True, "description": "made for a test"}
    more = Contract.model_validate(plain).tables[TABLE]
    assert only_adds(table, table) and only_adds(table, more) and not only_adds(more, table)
