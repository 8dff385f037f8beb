"""Odd names in one landing on a real S3 server: each gets its verdict, and the day beside it lands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import pytest
from tests.bad_input.making import csv_of, good_csv, row
from tests.bad_input.model import contract_of
from tests.bad_input.names import NAME_CASES, NameCase

from lakehouse.core.settings import Settings
from lakehouse.landing.land import Request, land
from lakehouse.landing.results import LandResult, printable
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore

NEIGHBOUR = date(2022, 12, 31)
AFTER = date(2024, 6, 1)
Landed = tuple[LandResult, set[date]]


@pytest.fixture(scope="module")
def landed(
    new_settings: Callable[[], Settings], tmp_path_factory: pytest.TempPathFactory
) -> tuple[LandResult, set[date]]:
    """The one landing, and the units that are in its log."""
    folder = tmp_path_factory.mktemp("names") / "lines"
    folder.mkdir()
    for case in NAME_CASES:
        case.make(folder / _name(case))
    for day in (NEIGHBOUR, AFTER):
        (folder / f"{day}.csv").write_bytes(csv_of(row(day)))
    settings = new_settings()
    result = land(settings, [contract_of("lines")], Request(root=str(folder.parent)))
    return result, {batch.unit for batch in read_log(ObjectStore.open(settings), "bad.lines")}


def _name(case: NameCase) -> str:
    return case.name.replace("{day}", case.unit().isoformat())


@pytest.mark.parametrize("case", NAME_CASES, ids=lambda case: case.title)
def test_the_name_gets_its_verdict_and_is_named(case: NameCase, landed: Landed) -> None:
    result, log = landed
    name, unit = printable(_name(case)), case.unit()
    assert (unit in log) == (case.verdict == "lands")
    if case.verdict == "lands":
        return
    if case.verdict == "unit refused":
        (refused,) = [found for found in result.of("refused") if found.unit == unit]
        said = refused.reason
    else:
        notes = result.refused_files if case.verdict == "file refused" else result.ignored_files
        (said,) = [note.reason for note in notes if note.name == name]
        assert not [found for found in result.units if found.unit == unit]
        said = f"{name}: {said}"
    assert said.startswith(f"{name}: ") and case.reason in said and said.isprintable()


def test_the_days_beside_them_landed(landed: Landed) -> None:
    result, log = landed
    assert {NEIGHBOUR, AFTER} <= log
    assert len(log) == 2 + sum(case.verdict == "lands" for case in NAME_CASES) == len(result.of("landed"))


def test_keys_of_an_s3_source_are_judged_as_names_are(new_settings: Callable[[], Settings]) -> None:
    """A server may refuse to store such keys at all; what it stores and lists is refused or passed over by name."""
    settings = new_settings()
    store = ObjectStore.open(settings)
    odd = ["2023-01-02\n.csv", "2023-01-03\\x.csv", "2023-01-04 ,;'`\"%2e+&#🎉.csv"]
    for name in (*odd, f"{NEIGHBOUR}.csv"):
        store.client.put_object(Bucket=store.bucket, Key=f"in/lines/{name}", Body=good_csv() + name.encode())
    result = land(settings, [contract_of("lines")], Request(root=f"s3://{store.bucket}/in"))
    assert {unit.unit for unit in result.of("landed")} == {NEIGHBOUR, date(2023, 1, 4)}
    assert {unit.unit for unit in result.of("refused")} == {date(2023, 1, 2), date(2023, 1, 3)}
    names = {file.name for batch in read_log(store, "bad.lines") for file in batch.files}
    assert names == {odd[2], f"{NEIGHBOUR}.csv"}
