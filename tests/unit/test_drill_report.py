"""Records of drills and their reports: signed, self-contained, and nothing in them is ever markup."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.drills import a_drill, drilled
from tests.unit.test_page_html import EVIL, parse

from lakehouse.backup.drill_report import policy, render_report, style
from lakehouse.backup.drills import ID, Drill, Goals, duration
from lakehouse.backup.signing import Signer, new_key
from lakehouse.core.errors import IntegrityError


def signer() -> Signer:
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    text = new_key()[0]
    return Signer(Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(text + "=")))


def test_a_record_is_what_was_signed() -> None:
    mine = signer()
    made = a_drill(tables=(drilled(), drilled("gold.sales", problems=("it has one row less",)))).signed(mine)
    found = Drill.from_json(made.to_json(), "there")
    assert found == made and not found.is_good
    found.check(mine.public_key, "there")
    for other in (replace(made, rto_seconds=1.0), replace(made, tables=made.tables[:1]), replace(made, damages=("x",))):
        with pytest.raises(IntegrityError, match="the record of a drill was not signed with our key"):
            other.check(mine.public_key, "there")
    with pytest.raises(IntegrityError, match="was not signed"):
        made.check(signer().public_key, "there")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format_version": 2}', b'{"format_version": 1}', b"\xff"])
def test_what_is_no_record_is_said(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="the record of a drill cannot be read"):
        Drill.from_json(data, "there")


def test_a_report_says_what_an_auditor_asks() -> None:
    made = a_drill().signed(signer())
    page = parse(render_report(made))
    text = page.text
    assert page.find("div", **{"class": "result good"})[0].text.startswith("Passed The drill succeeded: every table")
    for words in (
        made.set_id, "2026-03-04 11:55:00 UTC", "s3://lake-backups", made.public_key, made.signature, "ada (Airflow)",
        "grace", "silver.dim_shop", "1,234", "5.0 MB", "all rows, with the live table at the same snapshot", "f" * 64,
        "restoring 40 s; verifying 21 s", "lakehouse 0.1.0", "5 min", "12 min", "1 min 1 s",
    ):  # fmt: skip
        assert words in text, words
    assert "extrapolated" not in text and "What is wrong" not in text and not page.find("td", **{"class": "missed"})


def test_a_failed_drill_of_some_tables_says_so() -> None:
    table = drilled(problems=("3 rows are missing",), is_live_compared=False, compared="files", rows=None)
    made = a_drill(
        tables=(table,), tables_of_set=4, damages=("objects/x is missing",), rto_all_seconds=7300.0, approved_by="",
        size_bytes_of_set=20_000_000,
    )  # fmt: skip
    page = parse(render_report(made))
    assert page.find("div", **{"class": "result bad"})
    assert [item.text for item in page.find("li")] == ["objects/x is missing", "silver.dim_shop: 3 rows are missing"]
    for words in ("Failed", "2 problems", "1 of 4", "extrapolated by bytes", "2 h 1 min", "nobody", "unknown"):
        assert words in page.text, words


def test_missed_goals_are_named() -> None:
    made = a_drill(goals=Goals(60.0, 30.0))
    assert made.is_good and made.missed_goals == (
        "the age of the set is 5 min, the goal is 1 min",
        "the time to restore everything is 1 min 1 s, the goal is 30 s",
    )
    assert "Missed: the age of the set is 5 min" in render_report(made)
    assert a_drill().missed_goals == ()


def test_names_in_a_report_are_text() -> None:
    table = drilled(EVIL, fingerprint=EVIL, problems=(EVIL,))
    made = a_drill(actor=EVIL, approved_by=EVIL, backup=EVIL, set_id=EVIL, damages=(EVIL,), tables=(table,))
    html = render_report(made)
    assert html.count("alert(") >= 7 and "<script" not in html and "<img" not in html
    assert not [e for e in parse(html).walk() if "onerror" in e.attributes]


def test_a_report_needs_nothing_from_elsewhere() -> None:
    html = render_report(a_drill())
    assert not re.search(r"(src|href|url\()\s*=?", html) and "<script" not in html
    assert f"<style>{style()}</style>" in html and "sha256-" in policy() and "unsafe" not in policy()


def test_ids_are_times_and_digits() -> None:
    assert ID.match(a_drill().id)
    for text in ("", "../x", a_drill().id + "\n", a_drill().id.upper() + "x", "20260304T120000Z"):
        assert not ID.match(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (7460, "2 h 4 min"),
     (90_000, "1 d 1 h")],
)  # fmt: skip
def test_lengths_of_time_are_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
