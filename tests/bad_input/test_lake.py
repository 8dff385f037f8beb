"""All cases of all formats through one run on real servers: landing, bronze, silver, quarantine, accounting.

Every case has a day of its own, with two files: the case's and a neighbour's, whose rows must be published whatever
the case is. The rows of all days are looked up once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from tests.bad_input.cases import CASES
from tests.bad_input.making import csv_of, event, jsonl_of, parquet_of, row, table_of
from tests.bad_input.model import CONTRACTS, ENDINGS, NEIGHBOURS, SOURCES, Case, Source, contract_of, units
from tests.integration.pipeline import run
from tests.servers import NewLake

from lakehouse.core import names
from lakehouse.core.names import TableName, quote
from lakehouse.engine.publish import Lake
from lakehouse.landing.land import Request, land
from lakehouse.landing.results import LandResult
from lakehouse.ledger.accounting import Account, accounts
from lakehouse.ledger.store import ObjectStore

pytestmark = pytest.mark.timeout(900)
UNITS = units(CASES)
NEIGHBOUR = "-neighbour"
FEW = 50


@dataclass(frozen=True)
class Outcome:
    """What a run made of all cases, by the name of a file: published rows, and rows that went elsewhere."""

    landed: LandResult
    published: Counter[str]
    quarantined: dict[str, dict[int, tuple[str, ...]]]
    rejected: dict[str, list[Row]]
    rows: Counter[str]
    accounts: dict[Source, list[Account]]


@pytest.fixture(scope="module")
def outcome(new_lake: NewLake, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The one run."""
    root = tmp_path_factory.mktemp("bad")
    _write(root)
    lake = new_lake()
    lake = replace(lake, settings=lake.settings.model_copy(update={"contracts": CONTRACTS}))
    contracts = [contract_of(source) for source in SOURCES]
    landed = land(lake.settings, contracts, Request(root=str(root)))
    run(lake, contracts)
    store = ObjectStore.open(lake.settings)
    found = {source: accounts(lake.catalog, store, contract_of(source)) for source in SOURCES}
    return Outcome(landed, _published(lake), _quarantined(lake), _rejected(lake), _rows(lake), found)


def _write(root: Path) -> None:
    for source in SOURCES:
        (root / source).mkdir()
    for case in CASES:
        folder, unit = root / case.source, UNITS[case.id]
        (folder / case.file_name(unit)).write_bytes(case.content)
        (folder / _neighbour(case)).write_bytes(_good(case.source, unit))


def _neighbour(case: Case) -> str:
    return f"{UNITS[case.id]}{NEIGHBOUR}{ENDINGS[case.source]}"


def _good(source: Source, unit: date) -> bytes:
    """A sound file, another for each day."""
    ids = [f"{unit}-{at}" for at in range(NEIGHBOURS)]
    if source == "rows":
        return parquet_of(table_of(id=ids))
    return jsonl_of(*(event(name) for name in ids)) if source == "events" else csv_of(*(row(name) for name in ids))


def _bronze(lake: Lake) -> DataFrame:
    """Where each record of any source is from, and what became of it in bronze."""
    columns = [names.UNIT, names.BATCH, names.FILE, names.RECORD, names.LINE, names.REJECTED]
    parts = [lake.table(contract_of(source).bronze_table).select(*columns) for source in SOURCES]
    return parts[0].union(parts[1]).union(parts[2])


def _rows(lake: Lake) -> Counter[str]:
    counted = _bronze(lake).groupBy(names.FILE).count().collect()
    return Counter({each[names.FILE]: each["count"] for each in counted})


def _rejected(lake: Lake) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    rows = _bronze(lake).where(F.col(names.REJECTED).isNotNull())
    for each in rows.orderBy(names.FILE, names.RECORD).collect():
        found.setdefault(each[names.FILE], []).append(each)
    return found


def _quarantined(lake: Lake) -> dict[str, dict[int, tuple[str, ...]]]:
    found: dict[str, dict[int, tuple[str, ...]]] = {}
    for source in SOURCES:
        table = TableName("quarantine", f"fact_bad_{source}")
        for each in lake.table(table).select(names.FILE, names.RECORD, names.RULES).collect():
            found.setdefault(each[names.FILE], {})[each[names.RECORD]] = tuple(each[names.RULES])
    return found


def _published(lake: Lake) -> Counter[str]:
    """Published rows by file: a fact knows its unit, its key says which of the two files it is from."""
    found: Counter[str] = Counter()
    for source in SOURCES:
        table = lake.table(contract_of(source).silver_table(f"fact_bad_{source}"))
        is_neighbour = F.col("id").rlike("^r?20[0-9]{2}-").alias("is_neighbour")
        for each in table.groupBy(quote(names.UNIT), is_neighbour).count().collect():
            found[f"{source} {each[names.UNIT]} {each['is_neighbour']}"] = each["count"]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_each_record_of_the_case_is_where_it_should_be(case: Case, outcome: Outcome) -> None:
    name, unit = case.file_name(UNITS[case.id]), UNITS[case.id]
    refused = outcome.rejected.get(name, [])
    published = outcome.published[f"{case.source} {unit} False"]
    quarantined = outcome.quarantined.get(name, {})
    assert outcome.rows[name] == published + len(quarantined) + len(refused)
    if case.before_damage:
        assert case.rejected[0].reason in refused[-1][names.REJECTED]
        return
    assert published == case.good
    assert quarantined == case.quarantined
    assert [(each[names.RECORD], each[names.LINE]) for each in refused] == [(r.record, r.line) for r in case.rejected]
    assert all(one.reason in each[names.REJECTED] for one, each in zip(case.rejected, refused, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_neighbours_of_the_case_are_published(case: Case, outcome: Outcome) -> None:
    assert outcome.published[f"{case.source} {UNITS[case.id]} True"] == NEIGHBOURS
    assert outcome.rows[_neighbour(case)] == NEIGHBOURS


def test_all_landed(outcome: Outcome) -> None:
    assert len(outcome.landed.of("landed")) == len(CASES) == len(UNITS)
    assert not outcome.landed.refused_files and not outcome.landed.ignored_files


@pytest.mark.parametrize("source", SOURCES)
def test_every_row_is_accounted_for(source: Source, outcome: Outcome) -> None:
    (account,) = outcome.accounts[source]
    mine = [case for case in CASES if case.source == source]
    assert account.problems == () and account.pending_batches == 0
    assert account.received == sum(outcome.rows[name] for case in mine for name in _files(case))
    assert account.rejected == sum(len(outcome.rejected.get(name, [])) for case in mine for name in _files(case))
    assert account.published == sum(n for key, n in outcome.published.items() if key.startswith(f"{source} "))


def _files(case: Case) -> tuple[str, str]:
    return case.file_name(UNITS[case.id]), _neighbour(case)
