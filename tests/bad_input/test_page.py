"""The page says what the cases say."""

from __future__ import annotations

from tests.bad_input.cases import CASES
from tests.bad_input.names import NAME_CASES
from tests.bad_input.page import render

from lakehouse.core.settings import PROJECT_ROOT


def test_the_page_is_made_of_the_cases() -> None:
    page = (PROJECT_ROOT / "docs" / "bad-input.md").read_text("utf-8")
    assert page == render(), "run python -m tests.bad_input.page > docs/bad-input.md"
    assert page.count("\n| ") > len(CASES) + len(NAME_CASES)
