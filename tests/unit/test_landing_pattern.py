"""Which files belong to a source, and what their names say."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.landing.pattern import Pattern, Verdict
from lakehouse.landing.results import printable

DAY = date(2024, 3, 31)
SALES = Pattern.parse("retail/sales/{date}.csv*")


@pytest.mark.parametrize(
    ("name", "compression"), [("2024-03-31.csv", None), ("2024-03-31.csv.gz", "gzip"), ("2024-03-31.csv.zst", "zstd")]
)
def test_names_that_fit(name: str, compression: str | None) -> None:
    assert SALES.judge(name) == Verdict("fits", "", DAY, compression, "2024-03-31.csv")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "unit", "reason"),
    [
        ("2024-02-30.csv", None, "2024-02-30 is not a date"),
        ("2024-03-31.csv.bz2", DAY, "unknown compression"),
        ("2024-03-31.csv.bak", DAY, "unknown ending '.bak'"),
        ("2024-03-31.csv\n", DAY, "line break"),
        ("notes\n.txt", None, "line break"),
        ("a\\b.csv", None, "backslash"),
        ("2024-03-31.csv\udcff", DAY, "broken encoding"),
        ("\u202e2024-03-31.csv", None, "format character"),
        ("../2024-03-31.csv", None, "empty part, . or .."),
        ("2024-03-31.csv/./x", None, "empty part, . or .."),
        ("x" * 2000, None, "longer than 1024 bytes"),
    ],
)
def test_names_that_are_refused(name: str, unit: date | None, reason: str) -> None:
    verdict = SALES.judge(name)
    assert (verdict.status, verdict.unit) == ("refused", unit)
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".2024-03-31.csv", "hidden"),
        ("_SUCCESS", "hidden"),
        ("2024-03-31.csv.part", "temporary"),
        ("2024-03-31.csv.tmp", "temporary"),
        ("2024-03-31.csv~", "temporary"),
        ("README.md", "does not fit"),
        ("2024-3-31.csv", "does not fit"),
        ("٢٠٢٤-03-31.csv", "does not fit"),
        ("more/2024-03-31.csv", "does not fit"),
    ],
)
def test_names_that_are_passed_over(name: str, reason: str) -> None:
    verdict = SALES.judge(name)
    assert verdict.status == "ignored"
    assert reason in verdict.reason


def test_a_date_in_a_folder_must_be_the_date_in_the_name() -> None:
    pattern = Pattern.parse("in/{date}/part-*-{date}.parquet")
    assert pattern.folder == "in"
    assert pattern.judge("2024-03-31/part-1-2024-03-31.parquet").unit == DAY
    assert pattern.judge("2024-03-31/part-1-2024-04-01.parquet").status == "ignored"


def test_a_star_inside_a_name_stands_for_anything_but_a_slash() -> None:
    pattern = Pattern.parse("{date}-*.csv")
    assert pattern.judge("2024-03-31-a.b.csv").status == "fits"
    assert pattern.judge("2024-03-31-a/b.csv").status == "ignored"


def test_the_flat_form_is_the_last_part() -> None:
    assert SALES.flat == Pattern("", ("{date}.csv*",))
    assert SALES.flat.has_date
    assert not Pattern.parse("{date}/all.csv").flat.has_date


@given(st.dates(), st.sampled_from(["", ".gz", ".zst"]))
def test_every_date_is_recognised(day: date, ending: str) -> None:
    assert SALES.judge(f"{day.isoformat()}.csv{ending}").unit == day


@given(st.text(alphabet=st.characters(codec=None, categories=None), max_size=30))
def test_every_name_gets_a_verdict_and_can_be_shown(name: str) -> None:
    assert SALES.judge(name).status in ("fits", "refused", "ignored")
    assert printable(name).isprintable()
    printable(name).encode()
