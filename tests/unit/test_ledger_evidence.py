"""Which batches a change of contract is judged by."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from lakehouse.contracts.load import load_contract
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.ledger import evidence
from lakehouse.ledger.decisions import Decision
from lakehouse.ledger.evidence import LakeEvidence
from lakehouse.ledger.log import Batch
from lakehouse.ledger.pending import Ledger
from lakehouse.ledger.watermark import Baseline, Consumed, Head, Stamp

CONTRACT = load_contract(PROJECT_ROOT / "include" / "contracts" / "crm" / "catalogue.yaml")
[TABLE] = CONTRACT.tables
AT = datetime(2024, 4, 1, tzinfo=UTC)


def batch(number: int, day: int) -> Batch:
    return Batch(CONTRACT.name, number, date(2024, 4, day), "snapshot", (), None, None, AT)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What counts for a table whose stamp holds batch 3, where batch 2 is of the same unit."""

    def of(decisions: tuple[Decision, ...] = (), baseline: Baseline | None = None) -> frozenset[int]:
        consumed = Consumed(3, len(decisions), (3,))
        stamp = Stamp("a", "", {CONTRACT.name: consumed}, held={3: "it closes too much"}, baseline=baseline)
        ledger = Ledger(CONTRACT.name, (batch(1, 1), batch(2, 2), batch(3, 2)), decisions)
        monkeypatch.setattr(evidence, "read_head", lambda *_: Head(1, stamp))
        monkeypatch.setattr(evidence, "read_ledger", lambda *_: ledger)
        return LakeEvidence(None, None, CONTRACT, TABLE).live  # type: ignore[arg-type]

    return of


def test_a_live_batch_behind_a_held_one_of_its_unit_is_asked(live: Any) -> None:
    assert live() == {1, 2}


def test_decisions_about_the_table_and_trimmed_batches_count(live: Any) -> None:
    own = Decision(CONTRACT.name, 1, "rollback", (1,), "why", "who", AT, str(CONTRACT.silver_table(TABLE)))
    assert live((own,)) == {2}
    assert live((own,), Baseline(AT.isoformat(), 1, 3, "", {1: ("live", 5)})) == {1, 2}
