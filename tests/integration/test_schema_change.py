"""A contract that changes: what is free needs no rebuild and opens no version; what is not is refused, and rebuilt."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.pipeline import all_tables, fingerprints, heads, land_files, run
from typer.testing import CliRunner

from lakehouse.contracts.model import Contract
from lakehouse.core.errors import ConcurrentCommit, ContractError, SettingsError
from lakehouse.core.failpoints import FailpointHit
from lakehouse.engine.fork import fork_name
from lakehouse.engine.plan import plan
from lakehouse.engine.publish import Lake
from lakehouse.engine.rebuild import drop_rebuild, prepare_rebuild, publish_rebuild, undo_rebuild
from lakehouse.ledger.recorded import contract_history
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table

if TYPE_CHECKING:
    from tests.servers import NewLake

RAW: dict[str, Any] = {
    "format": 1,
    "domain": "shop",
    "dataset": "people",
    "owner": "somebody",
    "description": "People and what they bought.",
    "source": {
        "connector": "files",
        "kind": "slice",
        "pattern": "people/{date}.csv",
        "columns": {name: {"description": f"The {name}."} for name in ("id", "at", "name", "city", "tier", "size")},
    },
    "tables": {
        "dim_person": {
            "kind": "dimension",
            "description": "People.",
            "key": ["person"],
            "effective_time": "at",
            "tie_breakers": [{"column": "at"}],
            "partition": ["bucket(2, person)"],
            "sort": ["person"],
            "columns": {
                "person": {"type": "int", "expression": "id", "nullable": False, "description": "Number."},
                "name": {"type": "string", "history": 1, "description": "Name."},
                "city": {"type": "string", "history": 2, "classification": "pii", "description": "Town."},
                "tier": {"type": "string", "history": 3, "description": "Tier."},
            },
            "order": {"at": {"type": "timestamp", "nullable": False, "description": "When."}},
        },
        "fact_visit": {
            "kind": "fact",
            "description": "Visits.",
            "key": ["person", "at"],
            "columns": {
                "person": {"type": "int", "expression": "id", "nullable": False, "description": "Number."},
                "at": {"type": "timestamp", "nullable": False, "description": "When."},
                "size": {"type": "int", "description": "Pieces."},
                "price": {"type": "decimal(6,2)", "expression": "size", "description": "Price."},
            },
            "rules": [{"name": "positive", "check": "size >= 0", "description": "Not below zero."}],
            "references": [{"column": "person_key", "table": "dim_person", "key": ["person"]}],
        },
    },
}
DAYS = {
    "2024-01-01": "id,at,name,city,tier,size\n1,2024-01-01 10:00:00,Ann,York,gold,5\n"
    "2,2024-01-01 11:00:00,Bo,Bath,,3\n",
    "2024-01-02": "id,at,name,city,tier,size\n1,2024-01-02 10:00:00,Ann,Hull,silver,6\n",
    "2024-01-03": "id,at,name,city,tier,size\n2,2024-01-03 10:00:00,Bob,Bath,gold,7\n",
}

Edit = Callable[[dict[str, Any]], None]


def edited(*edits: Edit) -> Contract:
    raw = copy.deepcopy(RAW)
    for edit in edits:
        edit(raw)
    return Contract.model_validate(raw)


def dim(raw: dict[str, Any]) -> dict[str, Any]:
    return raw["tables"]["dim_person"]  # type: ignore[no-any-return]


def fact(raw: dict[str, Any]) -> dict[str, Any]:
    return raw["tables"]["fact_visit"]  # type: ignore[no-any-return]


def land(lake: Lake, contract: Contract, root: Path, *days: str, **files: str) -> None:
    folder = root / "people"
    folder.mkdir(exist_ok=True)
    for day in days:
        (folder / f"{day}.csv").write_text(files.get("text") or DAYS[day], "utf-8")
    land_files(lake, [contract], root)


def rows(lake: Lake, contract: Contract, name: str) -> list[tuple[Any, ...]]:
    found = lake.table(contract.silver_table(name))
    return sorted((tuple(row) for row in found.collect()), key=str)


def replace_columns(table: dict[str, Any], names: dict[str, str], **more: dict[str, Any]) -> None:
    """Rename columns in a raw table, by contract; the expressions stay as they were."""
    columns = {}
    for name, spec in table["columns"].items():
        new = names.get(name, name)
        moved = {"renamed_from": name, "expression": spec.get("expression", name)} if new != name else {}
        columns[new] = {**spec, **moved}
    table["columns"] = columns | more
    for field in ("key", "sort"):
        table[field] = [names.get(name, name) for name in table.get(field, [])]


def rename(raw: dict[str, Any]) -> None:
    """The key, a type 2 column that is classified, and a type 3 column; the partition follows the key."""
    replace_columns(dim(raw), {"person": "number", "city": "town", "tier": "level"})
    dim(raw)["partition"] = ["bucket(2, number)"]
    replace_columns(fact(raw), {"size": "pieces"})
    fact(raw)["rules"][0]["check"] = "pieces >= 0"


def widen(raw: dict[str, Any]) -> None:
    dim(raw)["columns"]["person"]["type"] = "long"
    fact(raw)["columns"]["person"]["type"] = "long"
    fact(raw)["columns"]["price"]["type"] = "decimal(12,2)"


def reorder(raw: dict[str, Any]) -> None:
    for table in (dim(raw), fact(raw)):
        table["columns"] = dict(reversed(table["columns"].items()))


def add(raw: dict[str, Any]) -> None:
    """A column that no file had yet, in the middle, with a rule that rows without it pass."""
    raw["source"]["columns"]["phone"] = {"description": "Telephone.", "classification": "pii"}
    columns = list(dim(raw)["columns"].items())
    phone = {"type": "string", "expression": "trim(phone)", "classification": "pii", "description": "Telephone."}
    dim(raw)["columns"] = dict([*columns[:2], ("phone", phone), *columns[2:]])
    rule = {"name": "phone_short", "check": "length(phone) < 20", "description": "Telephone numbers are short."}
    dim(raw)["rules"] = [rule]
    fact(raw)["columns"]["phone"] = {**phone, "expression": "phone"}


def plans(lake: Lake, contract: Contract) -> dict[str, Any]:
    found = plan(lake.catalog, ObjectStore.open(lake.settings), [contract])
    return {str(one.table): one for one in found}


def fresh(new_lake: NewLake, contract: Contract, root: Path) -> Lake:
    lake = new_lake()
    land_files(lake, [contract], root)
    run(lake, [contract])
    return lake


def field_ids(lake: Lake, contract: Contract, name: str) -> dict[str, int]:
    table = load_table(lake.catalog, contract.silver_table(name))
    assert table is not None
    return {column.name: column.field_id for column in table.schema().columns}


def test_free_changes_one_after_another(new_lake: NewLake, tmp_path: Path) -> None:
    lake, first = new_lake(), edited()
    land(lake, first, tmp_path, "2024-01-01", "2024-01-02")
    run(lake, [first])
    before = {name: rows(lake, first, name) for name in first.tables}
    ids = field_ids(lake, first, "dim_person")
    for edits in ([rename], [widen, rename], [widen, reorder, rename]):
        contract = edited(*edits)
        found = plans(lake, contract)
        assert found and all(one.verdict == "free" for one in found.values())
        run(lake, [contract])
        assert plans(lake, contract) == {}
        columns = [c for c in lake.table(contract.silver_table("dim_person")).columns if c[0] != "_"]
        assert columns[:2] == (["number", "name"] if reorder not in edits else ["level", "previous_level"])
        now = {name: sorted(map(len, rows(lake, contract, name))) for name in contract.tables}
        assert now == {name: sorted(map(len, found)) for name, found in before.items()}
    land(lake, contract, tmp_path, "2024-01-03")
    run(lake, [contract])
    names = {"number": "person", "town": "city", "level": "tier", "previous_level": "previous_tier"}
    assert field_ids(lake, contract, "dim_person") == {
        name: ids[names.get(name, name)] for name in field_ids(lake, contract, "dim_person")
    }
    other = fresh(new_lake, contract, tmp_path)
    assert fingerprints(lake, [contract]) == fingerprints(other, [contract])


WITH_PHONE = "id,at,name,city,tier,size,phone\n2,2024-01-03 10:00:00,Bob,Bath,gold,7, 123 \n"


def test_a_column_that_no_batch_had_is_added_for_free(new_lake: NewLake, tmp_path: Path) -> None:
    lake, first, more = new_lake(), edited(), edited(add)
    land(lake, first, tmp_path, "2024-01-01")
    run(lake, [first])
    before = len(rows(lake, first, "dim_person"))
    assert {name: one.verdict for name, one in plans(lake, more).items()} == {
        **dict.fromkeys(("bronze.shop_people", "silver.dim_person", "silver.fact_visit"), "free"),
    }
    run(lake, [more])  # nothing is pending but the contract
    assert plans(lake, more) == {} and len(rows(lake, more, "dim_person")) == before
    columns = lake.table(more.silver_table("dim_person")).columns
    assert columns[:4] == ["person", "name", "phone", "city"]
    land(lake, more, tmp_path, "2024-01-02")
    land(lake, more, tmp_path, "2024-01-03", text=WITH_PHONE)
    run(lake, [more])
    phones = lake.table(more.silver_table("dim_person")).where("phone IS NOT NULL").collect()
    assert [(row.person, row.phone) for row in phones] == [(2, "123")]
    assert fingerprints(lake, [more]) == fingerprints(fresh(new_lake, more, tmp_path), [more])
    table = load_table(lake.catalog, more.silver_table("dim_person"))
    assert table is not None and table.properties["write.metadata.metrics.column.phone"] == "none"
    steps = [[(change.what, change.subject) for change in step.changes] for step in contract_history(table)]
    assert steps == [[("first contract", "")], [("column added", "phone"), ("rule added", "phone_short")]]


def test_a_column_that_bronze_can_fill_needs_a_rebuild(new_lake: NewLake, tmp_path: Path) -> None:
    """The files had it before the contract did; a rebuild finds it in what was not expected."""
    lake, first, more = new_lake(), edited(), edited(add)
    land(lake, first, tmp_path, "2024-01-01")
    land(lake, first, tmp_path, "2024-01-03", text=WITH_PHONE)
    run(lake, [first])
    found = plans(lake, more)
    assert found["silver.dim_person"].verdict == found["silver.fact_visit"].verdict == "rebuild"
    before = heads(lake, all_tables([first]))
    with pytest.raises(ContractError, match="bronze can fill it"):
        run(lake, [more])
    assert heads(lake, all_tables([first])) == before
    for name in more.tables:
        prepared = prepare_rebuild(lake, more, name)
        difference = prepared.difference
        opened = 1 if name == "dim_person" else 0  # phone is of type 2, and was seen on the third
        assert (difference.added, difference.removed, difference.changed) == (opened, 0, 1)
        assert difference.columns_added == ("phone",)
        sample = difference.samples[0]
        assert sample.values["phone"] == (None, "***") and sample.row["person"] == "2"
        publish_rebuild(lake, prepared)
    assert fingerprints(lake, [more]) == fingerprints(fresh(new_lake, more, tmp_path), [more])
    assert plans(lake, more) == {} and run(lake, [more]) == []


def retype(raw: dict[str, Any]) -> None:
    """Incompatible, of columns that also partition and sort the tables."""
    columns = dim(raw)["columns"]
    columns["person"] |= {"type": "string"}
    columns["city"] |= {"history": 1}
    columns["name"] |= {"history": 2}
    fact(raw)["columns"]["person"] |= {"type": "string"}


def test_what_does_not_fit_is_refused_and_rebuilt_and_taken_back(new_lake: NewLake, tmp_path: Path) -> None:
    lake, first, other = new_lake(), edited(), edited(retype)
    land(lake, first, tmp_path, "2024-01-01", "2024-01-02")
    run(lake, [first])
    land(lake, first, tmp_path, "2024-01-03")
    tables, dim_table = all_tables([first]), first.silver_table("dim_person")
    before, content, old_rows = heads(lake, tables), fingerprints(lake, [first]), rows(lake, first, "dim_person")
    assert plans(lake, other)[str(dim_table)].verdict == "refused"
    with pytest.raises(ContractError, match="type of the column person: int → string") as raised:
        run(lake, [other])
    assert "shop/people.yaml" in raised.value.where and "lakehouse rebuild" in raised.value.todo
    assert heads(lake, tables) == before

    prepared = prepare_rebuild(lake, other, "dim_person")
    difference = prepared.difference
    before |= {table: head for table, head in heads(lake, tables).items() if before[table] is None}  # made empty
    assert heads(lake, tables) == before and fingerprints(lake, [first]) == content
    assert difference.removed == difference.added + 1 == 3  # the key's hash is of another type; Ann did not move
    assert all(sample.values["city"] != (None, "York") for sample in difference.samples)
    drop_rebuild(lake, prepared)
    assert load_table(lake.catalog, fork_name(dim_table)) is None and heads(lake, tables) == before

    for name in other.tables:
        publish_rebuild(lake, prepare_rebuild(lake, other, name))
    run(lake, [other])
    assert fingerprints(lake, [other]) == fingerprints(fresh(new_lake, other, tmp_path), [other])
    then = lake.spark.sql(f"SELECT * FROM lakehouse.{dim_table} VERSION AS OF {before[dim_table]}")
    assert sorted((tuple(row) for row in then.collect()), key=str) == old_rows

    for name in first.tables:
        undone = undo_rebuild(lake, first, name)
        assert (undone.snapshot_id, undone.consumed_through) == (before[undone.table], 2)
    assert fingerprints(lake, [first]) == content
    assert [row[: len(old_rows[0])] for row in rows(lake, first, "dim_person")] == old_rows
    with pytest.raises(ContractError, match="int → string"):
        run(lake, [other])
    with pytest.raises(SettingsError, match="no rebuild"):
        undo_rebuild(lake, first, "dim_person")
    run(lake, [first])
    assert fingerprints(lake, [first]) == fingerprints(fresh(new_lake, first, tmp_path), [first])


def test_a_table_that_moved_is_not_overwritten(
    new_lake: NewLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one whose rebuild dies is what it was before the pointer moved, and what it became after."""
    lake, first = new_lake(), edited()
    land(lake, first, tmp_path, "2024-01-01")
    run(lake, [first])
    before = heads(lake, all_tables([first]))
    for point, has_moved in (("before", False), ("after", True)):
        prepared = prepare_rebuild(lake, first, "dim_person")
        with monkeypatch.context() as patch, pytest.raises(FailpointHit):
            patch.setenv("LAKEHOUSE_FAILPOINTS", f"rebuild.{point}_swap=raise")
            publish_rebuild(lake, prepared)
        assert (heads(lake, [prepared.table]) != {prepared.table: before[prepared.table]}) is has_moved
    shown = prepare_rebuild(lake, first, "dim_person")
    prepared = prepare_rebuild(lake, first, "dim_person")
    with pytest.raises(ConcurrentCommit, match="another rebuild of the table took its place"):
        publish_rebuild(lake, shown)
    drop_rebuild(lake, shown)
    difference = prepared.difference
    assert (difference.added, difference.removed, difference.changed, difference.same) == (0, 0, 0, 2)
    land(lake, first, tmp_path, "2024-01-02")
    run(lake, [first])
    content = fingerprints(lake, [first])
    with pytest.raises(ConcurrentCommit, match="changed since"):
        publish_rebuild(lake, prepared)
    drop_rebuild(lake, prepared)
    assert fingerprints(lake, [first]) == content


@dataclass(frozen=True)
class Commands:
    lake: Lake
    file: Path

    def write(self, *edits: Edit) -> Contract:
        contract = edited(*edits)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(contract.dump()), "utf-8")
        return contract

    def do(self, *arguments: str, code: int = 0, answer: str = "") -> str:
        from lakehouse.cli.main import app

        result = CliRunner().invoke(app, arguments, input=answer)
        assert result.exit_code == code, result.output + repr(result.exception)
        return result.stdout


@pytest.fixture
def commands(new_lake: NewLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands, on a lake whose contracts are in a folder."""
    import lakehouse.cli.main  # noqa: F401 - before its settings are replaced, or modules keep these for good

    lake = new_lake()
    mine = lake.settings.model_copy(update={"contracts": tmp_path / "contracts"})

    @contextmanager
    def session(*_: Any, **__: Any) -> Iterator[Any]:
        yield lake.spark

    monkeypatch.setattr("lakehouse.cli.plan.settings", lambda: mine)
    monkeypatch.setattr("lakehouse.core.settings.settings", lambda: mine)
    monkeypatch.setattr("lakehouse.engine.session.session", session)
    return Commands(lake, tmp_path / "contracts" / "shop" / "people.yaml")


def type_1(raw: dict[str, Any]) -> None:
    """The town of a person, which is classified, without its versions."""
    dim(raw)["columns"]["city"]["history"] = 1


def test_plan_rebuild_and_history_as_a_person_sees_them(commands: Commands, tmp_path: Path) -> None:
    lake, first = commands.lake, commands.write()
    assert "creates it" in commands.do("plan")
    land(lake, first, tmp_path, "2024-01-01", "2024-01-02")
    run(lake, [first])
    assert "as its contract says" in commands.do("plan")
    commands.write(widen)
    told = json.loads(commands.do("plan", "--json"))
    assert told["verdict"] == "free" and {one["table"] for one in told["tables"]} == {
        "silver.dim_person",
        "silver.fact_visit",
    }
    commands.write(retype)
    assert "int → string" in commands.do("plan", code=3)
    changed = commands.write(type_1)
    assert "history of the column city: 2 → 1" in commands.do("plan", code=10)

    before, table = heads(lake, all_tables([first])), "silver.dim_person"
    shown = commands.do("rebuild", table, "--dry-run")
    assert "0 rows added, 1 removed, 1 changed" in shown and "nothing was published" in shown
    assert "***" in shown and "York" not in shown and "Hull" not in shown
    commands.do("rebuild", table, code=1, answer="n\n")
    assert [h for t, h in heads(lake, all_tables([first])).items() if before[t] not in (h, None)] == []
    told = json.loads(commands.do("rebuild", table, "--yes", "--json"))
    assert told["published"] == heads(lake, [first.silver_table("dim_person")])[first.silver_table("dim_person")]
    assert (told["difference"]["removed"], told["difference"]["changed"]) == (1, 1)
    assert "as its contract says" in commands.do("plan")
    steps = json.loads(commands.do("contract", "history", table, "--json"))
    assert [change["what"] for change in steps[1]["changes"]] == ["history of the column"]
    assert steps[1]["snapshot_after"] == told["published"]
    assert "history of the column city: 2 → 1" in commands.do("contract", "history", table)
    assert "Take the contract back" in commands.do("rebuild", table, "--undo", "--yes")
    assert heads(lake, [first.silver_table("dim_person")]) == {
        first.silver_table("dim_person"): before[first.silver_table("dim_person")]
    }
    commands.do("plan", code=10)
    with pytest.raises(ContractError):
        run(lake, [changed])
