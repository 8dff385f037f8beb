"""Bronze loses its old batches, and the tables go on as if it had not."""

from __future__ import annotations

import random
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.pipeline import fingerprints, land_files, rebuild, run
from tests.integration.test_pipeline_order import KINDS, UNITS, Row, column, make_content, write
from tests.turns import in_turn

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.errors import ConcurrentCommit, ContractError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.engine.baseline import BEYOND
from lakehouse.engine.plan import replay_plan, silver_plan
from lakehouse.engine.rebuild import prepare_rebuild, publish_rebuild, undo_rebuild
from lakehouse.engine.trim import Trim, horizon, plan_trim, run_trim
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.decisions import Action, Decision, append_decision
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import read_head

if TYPE_CHECKING:
    from tests.servers import NewLake

    from lakehouse.engine.publish import Lake

NOW = datetime.combine(UNITS[-1] + timedelta(days=1), time(), UTC)


def dimension_only(kind: str, **more: Any) -> Contract:
    """The source with its dimension alone."""
    plain = KINDS[kind].dump()
    plain["tables"] = {n: {**t, **more} for n, t in plain["tables"].items() if t["kind"] == "dimension"}
    return Contract.model_validate(plain)


def on_time(content: dict[Any, list[Row]]) -> dict[Any, list[Row]]:
    """The same, with nothing that took effect before its day."""
    for unit, rows in content.items():
        for row in rows:
            if "at" in row:
                row["at"] = datetime.combine(unit, time(8), UTC).isoformat()
    return content


def problems(lake: Lake, source: Contract) -> list[str]:
    found = accounts(lake.catalog, ObjectStore.open(lake.settings), source)
    assert found
    return [problem for each in found for problem in each.problems]


def decide(lake: Lake, source: Contract, action: Action, *batches: int) -> None:
    append_decision(ObjectStore.open(lake.settings), Decision(source.name, 0, action, batches, "why", "who", NOW))


@pytest.mark.parametrize("kind", in_turn("slice", "snapshot"))
def test_a_trimmed_source_gives_the_tables_of_a_whole_one(
    kind: str, new_lake: NewLake, tmp_path: Path, chance: random.Random
) -> None:
    """Late and corrected data after the horizon, and a rebuild; what lies before it is refused."""
    source = dimension_only(kind)
    [name] = source.tables
    trimmed, whole = new_lake(), new_lake()
    before, after = make_content(chance, kind), on_time(make_content(chance, kind))

    def send(places: list[int], content: Any) -> None:
        for place in places:
            write(tmp_path, kind, UNITS[place], content[UNITS[place]])
        for lake in (trimmed, whole):
            land_files(lake, [source], tmp_path)
            run(lake, [source])

    send([0, 1], before)
    send([3, 4], after)
    plan = plan_trim(trimmed, source, horizon(source, UNITS[2], NOW))
    assert set(plan.batches) == ({1} if kind == "snapshot" else {1, 2}) and plan.rows
    run_trim(trimmed, plan)
    assert trimmed.table(source.bronze_table).where(f"{names.BATCH} = 1").isEmpty()
    assert problems(trimmed, source) == [] and fingerprints(trimmed, [source]) == fingerprints(whole, [source])
    assert not plan_trim(trimmed, source, plan.before).batches

    send([2, 5], after)  # one late, one in order
    send([3], on_time(make_content(chance, kind)))  # corrected
    assert fingerprints(trimmed, [source]) == fingerprints(whole, [source])
    assert problems(trimmed, source) == []
    again = plan_trim(trimmed, source, horizon(source, UNITS[3], NOW))
    assert again.batches
    run_trim(trimmed, again)
    rebuild(trimmed, source, name)
    assert fingerprints(trimmed, [source]) == fingerprints(whole, [source])
    assert problems(trimmed, source) == []

    stood = fingerprints(trimmed, [source])
    write(tmp_path, kind, UNITS[0], after[UNITS[0]])
    land_files(trimmed, [source], tmp_path)
    [report] = [each for each in run(trimmed, [source]) if each.table == source.silver_table(name)]
    assert report.horizon == again.before.isoformat()
    if kind == "slice":
        assert report.beyond_horizon > 0 and report.beyond_horizon == report.quarantined
    else:  # nobody can tell what a whole snapshot would have changed, whatever is decided
        assert ["before the horizon" in why for why in report.held.values()] == [True]
        decide(trimmed, source, "release", *report.held)
        [report] = [each for each in run(trimmed, [source]) if each.table == source.silver_table(name)]
        assert len(report.held) == 1 and not report.beyond_horizon
    refused = trimmed.table(TableName("quarantine", name)).where(f"array_contains({names.RULES}, '{BEYOND}')")
    assert refused.count() == report.beyond_horizon
    assert fingerprints(trimmed, [source]) == stood and problems(trimmed, source) == []
    baseline = read_head(trimmed.catalog, source.silver_table(name)).baseline
    assert baseline and baseline.at == again.before


def test_what_must_not_be_trimmed_is_refused(lake: Lake, tmp_path: Path, chance: random.Random) -> None:
    source = dimension_only("snapshot", late_horizon="2d")
    with pytest.raises(SettingsError, match="could not be made anew"):
        horizon(KINDS["slice"], UNITS[1], NOW)
    with pytest.raises(SettingsError, match="does not say how long"):
        horizon(KINDS["snapshot"], None, NOW)
    with pytest.raises(SettingsError, match="lies in the future"):
        horizon(source, NOW.date() + timedelta(days=1), NOW)
    at = horizon(source, None, NOW)
    assert at == NOW - timedelta(days=2)
    write(tmp_path, "snapshot", UNITS[0], make_content(chance, "snapshot")[UNITS[0]])
    land_files(lake, [source], tmp_path)
    with pytest.raises(SettingsError, match="has not taken everything"):
        plan_trim(lake, source, at)


def said(key: str, place: int, city: str) -> Row:
    """What a slice says of a key from a day on."""
    at = datetime.combine(UNITS[place], time(8), UTC).isoformat()
    return {"id": key, "at": at, "city": city, "sequence": "1", "operation": "U"}


def towns(lake: Lake, source: Contract) -> dict[str, list[str]]:
    """The towns of each key, in order; everything must be accounted for."""
    assert problems(lake, source) == []
    [name] = source.tables
    rows = lake.table(source.silver_table(name)).orderBy("id", names.EFFECTIVE_FROM).collect()
    return {key: [row.city for row in rows if row.id == key] for key in sorted({row.id for row in rows})}


def set_back(lake: Lake, table: TableName, snapshot: int | None) -> None:
    call = f"CALL lakehouse.system.set_current_snapshot(table => '{table}', snapshot_id => {snapshot})"
    lake.spark.sql(call)


def test_a_trimmed_table_does_not_depend_on_what_is_decided_later(lake: Lake, tmp_path: Path) -> None:
    """Held batches are decided about first; batches that stay are restated, and never taken out."""
    source = dimension_only("slice")
    [name] = source.tables
    table = source.silver_table(name)

    def send(place: int, *rows: Row) -> None:
        write(tmp_path, "slice", UNITS[place], rows)
        land_files(lake, [source], tmp_path)

    def plan() -> Trim:
        return plan_trim(lake, source, horizon(source, UNITS[2], NOW))

    send(0, said("a", 3, "z"))  # taken back at once, and so it goes although it says something of the time since
    send(0, said("a", 0, "x"))
    send(1, said("b", 1, "y"))
    send(1, said("b", 1, "x"), said("b", 3, "y"))
    send(2, said("c", 1, "x"), said("c", 2, "y"))
    send(3, said("d", 1, "x"), said("d", 3, "y"))
    send(3, said("d", 3, "z"))
    decide(lake, source, "hold", 2, 5)
    run(lake, [source])
    with pytest.raises(SettingsError, match="slice#2, test.slice#5 is held") as refused:
        plan()
    assert "release or discard" in refused.value.todo
    decide(lake, source, "release", 2, 5)
    run(lake, [source])
    publish_rebuild(lake, prepare_rebuild(lake, source, name))
    stale = plan()
    decide(lake, source, "release", 2)
    with pytest.raises(ConcurrentCommit, match="went on while"):
        run_trim(lake, stale)
    run(lake, [source])
    former = read_head(lake.catalog, table).snapshot_id
    trim = plan()
    assert (set(trim.batches), set(trim.kept)) == ({1, 2, 3}, {4})
    run_trim(lake, trim)
    baseline = read_head(lake.catalog, table).baseline
    assert baseline and (dict(baseline.partly), baseline.passed) == ({4: 1, 5: 1}, (6,))
    with pytest.raises(SettingsError, match="trimmed since"):
        undo_rebuild(lake, source, name)

    stood = towns(lake, source)
    assert stood == {"a": ["x"], "b": ["x", "y"], "c": ["x", "y"], "d": ["z"]}
    send(1, said("b", 1, "z"), said("b", 3, "w"))  # what lies before the horizon is refused, the rest replaced
    send(0, said("a", 0, "z"), said("a", 4, "w"))
    run(lake, [source])
    restated = {"a": ["x", "w"], "b": ["x", "w"], "c": ["x", "y"], "d": ["z"]}
    assert towns(lake, source) == restated
    rebuild(lake, source, name)
    assert towns(lake, source) == restated
    decide(lake, source, "discard", 7, 8, 9)
    run(lake, [source])
    assert towns(lake, source) == {**stood, "d": ["y"]}  # the baseline has nothing of batch 6, which counts again

    last = read_head(lake.catalog, table).snapshot_id
    set_back(lake, table, former)
    with pytest.raises(ContractError, match="were trimmed, such as test.slice#2") as raised:
        run(lake, [source])
    assert "roll the table forward" in raised.value.todo and read_head(lake.catalog, table).snapshot_id == former
    set_back(lake, table, last)
    send(5, said("c", 5, "x"))  # what was discarded is still in the folder, and lands again
    run(lake, [source])
    assert towns(lake, source) == {**restated, "c": ["x", "y", "x"]}


def listed(*keys: str) -> list[Row]:
    return [{"id": key, "city": "x"} for key in keys]


def test_a_column_is_added_to_a_trimmed_table_and_none_is_renamed(lake: Lake, tmp_path: Path) -> None:
    source = dimension_only("snapshot")
    plain = source.dump()
    plain["source"]["columns"]["phone"] = {"description": "made for a test"}
    columns = plain["tables"]["dim_listed"]["columns"]
    columns["phone"] = column()
    more = Contract.model_validate(plain)
    columns["town"] = {**columns.pop("city"), "renamed_from": "city", "expression": "city"}
    plain["tables"]["dim_listed"]["rules"] = []
    renamed = Contract.model_validate(plain)
    for place, keys in enumerate(("ab", "abc", "bc")):
        write(tmp_path, "snapshot", UNITS[place], listed(*keys))
    land_files(lake, [source], tmp_path)
    run(lake, [source])
    run_trim(lake, plan_trim(lake, source, horizon(source, UNITS[2], NOW)))
    table = source.silver_table("dim_listed")
    assert silver_plan(lake.catalog, ObjectStore.open(lake.settings), more, "dim_listed").verdict == "free"
    write(tmp_path, "snapshot", UNITS[2], [{"id": "c", "city": "y", "phone": "1"}])
    land_files(lake, [more], tmp_path)
    run(lake, [more])
    assert towns(lake, more) == {"a": ["x"], "b": ["x"], "c": ["x", "y"]}
    rows = lake.table(table).where("phone IS NOT NULL OR NOT is_current")
    assert {(row.id, row.phone, row.is_current) for row in rows.collect()} == {
        ("a", None, False),
        ("b", None, False),
        ("c", None, False),
        ("c", "1", True),
    }
    head = read_head(lake.catalog, table)
    found = silver_plan(lake.catalog, ObjectStore.open(lake.settings), renamed, "dim_listed")
    assert found.verdict == "refused" and any("is kept as the contract said" in each.reason for each in found.changes)
    with pytest.raises(ContractError, match="column renamed town") as raised:
        run(lake, [renamed])
    assert "take the change back" in raised.value.todo and read_head(lake.catalog, table) == head
    ruled = more.dump()
    ruled["tables"]["dim_listed"]["rules"] = [
        {"name": "not_x", "check": "city <> 'x'", "description": "made for a test"}
    ]
    with pytest.raises(ContractError, match="rows that count were trimmed") as raised:
        replay_plan(lake.catalog, ObjectStore.open(lake.settings), Contract.model_validate(ruled), "dim_listed")
    assert "take the change back" in raised.value.todo
