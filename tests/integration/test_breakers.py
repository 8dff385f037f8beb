"""Batches that are held because something is wrong with them as a whole, and how that is resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.integration.pipeline import fingerprints, land_files, run
from tests.turns import in_turn

from lakehouse.contracts.model import Contract
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.decisions import Action, Decision, append_decision
from lakehouse.ledger.holds import holds
from lakehouse.ledger.outstanding import dataset_is_current
from lakehouse.ledger.store import ObjectStore

if TYPE_CHECKING:
    from tests.integration.conftest import NewLake

    from lakehouse.engine.publish import Lake

DAYS = [date(2024, 5, 1) + timedelta(days=day) for day in range(12)]
TABLES = ("fact_sold", "dim_shop")


def contract(
    *, drift: str = "warn", quarantined: float = 1, volume: dict[str, float] | None = None, kind: str = "slice"
) -> Contract:
    """A source of CSV files with a fact and a dimension; the limits are those of the test."""
    text = {"type": "string", "description": "made for a test"}
    moment = {"type": "timestamp", "nullable": False, "description": "made for a test"}
    rules = [{"name": "city_known", "check": "city <> 'nowhere'", "description": "made for a test"}]
    common = {"description": "made for a test", "rules": rules, "max_quarantined_share": quarantined}
    fact = {"kind": "fact", "key": ["id", "at", "city"], "occurrence": True, **common}
    shop = {"kind": "dimension", "key": ["id"], "effective_time": "at", "tie_breakers": [{"column": "city"}], **common}
    columns = {"id": {**text, "nullable": False}, "city": text}
    source = {
        "connector": "files",
        "kind": kind,
        "format": "csv",
        "pattern": "{date}.csv",
        "drift": drift,
        "volume": volume,
        "columns": {name: {"description": "made for a test"} for name in ("id", "at", "city")},
    }
    tables = {
        "fact_sold": {**fact, "columns": {**columns, "at": moment}},
        "dim_shop": {**shop, "columns": columns, "order": {"at": moment}},
    }
    whole = {"format": 1, "domain": "test", "dataset": "sold", "owner": "tests", "description": "made for a test"}
    return Contract.model_validate({**whole, "source": source, "tables": tables})


def write(folder: Path, day: date, cities: Iterable[str], header: str = "id,at,city", more: str = "") -> None:
    """A day's file: one line for each city, each of a shop of its own."""
    lines = [f"s{number},{day} 10:00:00,{city}{more}\n" for number, city in enumerate(cities)]
    folder.mkdir(exist_ok=True)
    (folder / f"{day}.csv").write_text(f"{header}\n{''.join(lines)}")


def held(lake: Lake, contract: Contract) -> list[tuple[str | None, int, str]]:
    """What rules hold; everything must be accounted for, whatever is held."""
    store = ObjectStore.open(lake.settings)
    found = accounts(lake.catalog, store, contract)
    assert [problem for each in found for problem in each.problems] == []
    assert dataset_is_current(lake.catalog, store, contract)
    return [(h.table, h.batch, h.reason) for h in holds(lake.catalog, store, [contract]) if h.is_automatic]


def days_in(lake: Lake, contract: Contract) -> list[date]:
    rows = lake.table(contract.silver_table("fact_sold")).select("_unit").distinct().collect()
    return sorted(row["_unit"] for row in rows)


def decided(lake: Lake, contract: Contract, action: Action, batches: Sequence[int]) -> None:
    now = datetime(2024, 6, 1, tzinfo=UTC)
    draft = Decision(contract.name, 0, action, tuple(batches), "made for a test", "tests", now)
    append_decision(ObjectStore.open(lake.settings), draft)


def as_taken_in_one_run(new_lake: NewLake, contract: Contract, folder: Path) -> dict[str, str]:
    """The tables of a lake that never held anything."""
    lake = new_lake()
    free = contract.model_copy(update={"source": contract.source.model_copy(update={"volume": None, "drift": "allow"})})
    tables = {name: table.model_copy(update={"max_quarantined_share": 1}) for name, table in contract.tables.items()}
    free = free.model_copy(update={"tables": tables})
    land_files(lake, [free], folder)
    run(lake, [free])
    return fingerprints(lake, [free])


def test_a_poisoned_batch_is_held_and_its_neighbours_are_taken(lake: Lake, new_lake: NewLake, tmp_path: Path) -> None:
    strict = contract(quarantined=0.5)
    write(tmp_path, DAYS[0], ["x", "nowhere", "y"])
    write(tmp_path, DAYS[1], ["nowhere", "nowhere", "y"])
    write(tmp_path, DAYS[2], ["z"])
    land_files(lake, [strict], tmp_path)
    run(lake, [strict])
    reason = "2 of its 3 rows would go to quarantine: 66.7%, and the contract allows 50.0%"
    assert held(lake, strict) == [(f"silver.{name}", 2, reason) for name in TABLES]
    assert days_in(lake, strict) == [DAYS[0], DAYS[2]]

    write(tmp_path, DAYS[1], ["x", "nowhere", "y"])  # corrected at the source, and landed again
    land_files(lake, [strict], tmp_path)
    run(lake, [strict])
    assert held(lake, strict) == []
    assert fingerprints(lake, [strict]) == as_taken_in_one_run(new_lake, strict, tmp_path)


def test_a_held_batch_leaves_the_one_that_it_would_replace(lake: Lake, new_lake: NewLake, tmp_path: Path) -> None:
    strict = contract(quarantined=0.5)
    write(tmp_path, DAYS[0], ["x", "y"])
    land_files(lake, [strict], tmp_path)
    run(lake, [strict])
    before = fingerprints(lake, [strict])
    write(tmp_path, DAYS[0], ["nowhere", "nowhere"])
    land_files(lake, [strict], tmp_path)
    run(lake, [strict])
    assert [(table, batch) for table, batch, _ in held(lake, strict)] == [(f"silver.{name}", 2) for name in TABLES]
    assert fingerprints(lake, [strict]) == before

    decided(lake, strict, "release", [2])
    run(lake, [strict])
    assert held(lake, strict) == []
    assert lake.table(strict.silver_table("fact_sold")).count() == 0
    assert fingerprints(lake, [strict]) == as_taken_in_one_run(new_lake, strict, tmp_path)


def test_columns_that_are_not_expected_hold_a_batch(lake: Lake, new_lake: NewLake, tmp_path: Path) -> None:
    strict = contract(drift="block")
    write(tmp_path, DAYS[0], ["x"])
    write(tmp_path, DAYS[1], ["y"], "id,at,city,colour", ",red")
    write(tmp_path, DAYS[2], [""], "id,at,town")
    land_files(lake, [strict], tmp_path)
    run(lake, [strict])
    text = "its columns are not those of the contract: "
    reasons = {2: f"{text}new 'colour'", 3: f"{text}new 'town', missing 'city'"}
    assert held(lake, strict) == [(f"silver.{name}", batch, reasons[batch]) for name in TABLES for batch in (2, 3)]
    assert days_in(lake, strict) == [DAYS[0]]

    # A laxer contract takes what was held, in a run for which nothing new has landed, and says what it saw.
    lax = contract(drift="warn")
    assert not dataset_is_current(lake.catalog, ObjectStore.open(lake.settings), lax)
    reports = {str(report.table): report for report in run(lake, [lax])}
    assert {name: reports[f"silver.{name}"].drifted for name in TABLES} == dict.fromkeys(TABLES, 2)
    assert held(lake, lax) == []
    assert fingerprints(lake, [lax]) == as_taken_in_one_run(new_lake, lax, tmp_path)


@pytest.mark.parametrize("rows", in_turn(0, 2, 200))
def test_a_batch_of_unusual_size_is_held_until_it_is_released(
    lake: Lake, new_lake: NewLake, tmp_path: Path, rows: int
) -> None:
    watched = contract(volume={"days": 8, "min_days": 4})
    for number, day in enumerate(DAYS[:6]):
        write(tmp_path, day, ["x"] * (20 + number))
    land_files(lake, [watched], tmp_path)
    run(lake, [watched])
    write(tmp_path, DAYS[6], ["y"] * rows)
    write(tmp_path, DAYS[7], ["x"] * 25)
    land_files(lake, [watched], tmp_path)
    run(lake, [watched])
    [(one, batch, reason), (other, _, _)] = held(lake, watched)
    assert [one, other] == [f"silver.{name}" for name in TABLES] and batch == 7
    assert f"it has {rows} rows, and the 7 batches closest in time have 23 (median)" in reason
    assert days_in(lake, watched) == [*DAYS[:6], DAYS[7]]

    decided(lake, watched, "release", [7])
    run(lake, [watched])
    assert held(lake, watched) == []
    assert fingerprints(lake, [watched]) == as_taken_in_one_run(new_lake, watched, tmp_path)


def test_a_new_level_is_accepted_once_it_is_what_is_usual(lake: Lake, tmp_path: Path) -> None:
    watched = contract(volume={"days": 4, "min_days": 3})
    for number, day in enumerate(DAYS[:4]):
        write(tmp_path, day, ["x"] * (20 + number))
    land_files(lake, [watched], tmp_path)
    run(lake, [watched])
    held_after = []
    for day in DAYS[4:8]:
        write(tmp_path, day, ["x"] * 300)
        land_files(lake, [watched], tmp_path)
        run(lake, [watched])
        held_after.append(sorted({batch for _, batch, _ in held(lake, watched)}))
    assert held_after[0] == [5]
    assert held_after[-1] == []


def test_a_rebuild_keeps_what_the_table_has(lake: Lake, tmp_path: Path) -> None:
    from tests.integration.pipeline import rebuild

    write(tmp_path, DAYS[0], ["x"])
    write(tmp_path, DAYS[1], ["nowhere"])
    lax, strict = contract(), contract(quarantined=0.5)
    land_files(lake, [lax], tmp_path)
    run(lake, [lax])
    before = fingerprints(lake, [lax])
    for name in TABLES:
        rebuild(lake, strict, name)
    assert held(lake, strict) == []
    assert fingerprints(lake, [strict]) == before
