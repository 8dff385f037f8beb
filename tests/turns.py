"""Heavy tests of several kinds take turns: one kind a day, so that all have run after a few; or all, LAKEHOUSE_EVERY=1.

Which turn it is stands at the top of what pytest prints, and what waits for its turn is reported as skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

EVERY, TURN = "LAKEHOUSE_EVERY", "LAKEHOUSE_TEST_TURN"
# Once for all processes of a run: they must agree on their tests, also over midnight.
os.environ.setdefault(TURN, str(datetime.now(UTC).date().toordinal()))


def turn() -> str:
    """What is run today, in words."""
    if os.environ.get(EVERY):
        return "every kind of every test"
    return f"turn {os.environ[TURN]} of heavy tests of several kinds; {EVERY}=1 runs all"


def in_turn(*cases: Any) -> Iterable[Any]:
    """The cases as parameters: all but today's are skipped."""
    today = int(os.environ[TURN]) % len(cases)
    return [
        pytest.param(case, marks=pytest.mark.skipif(not _is_on(number, today), reason=_reason()))
        for number, case in enumerate(cases)
    ]


def on_turn(number: int, of: int) -> pytest.MarkDecorator:
    """The mark of a test that is one of so many that take turns."""
    return pytest.mark.skipif(not _is_on(number, int(os.environ[TURN]) % of), reason=_reason())


def _is_on(number: int, today: int) -> bool:
    return bool(os.environ.get(EVERY)) or number == today


def _reason() -> str:
    return f"it is another one's turn today; {EVERY}=1 runs all"
