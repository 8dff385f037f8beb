"""``diff`` and ``history`` on a real lake, held against reading both snapshots whole."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml
from pyiceberg.io.pyarrow import PyArrowFileIO
from tests.integration.pipeline import land_files, rebuild, run
from typer.testing import CliRunner

from lakehouse.cli import history
from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.encoding import canonical_text
from lakehouse.core.errors import SettingsError
from lakehouse.core.names import TableName
from lakehouse.core.types import DataType
from lakehouse.engine.tables import business_types
from lakehouse.ledger.changes import key_changes
from lakehouse.ledger.diff import Diff, diff
from lakehouse.ledger.points import publications, resolve
from lakehouse.ledger.reading import Subject, key_versions, parse_key, subject_of

if TYPE_CHECKING:
    from tests.servers import NewLake

    from lakehouse.engine.publish import Lake

DIM, FACT = TableName("silver", "dim_person"), TableName("silver", "fact_visit")
TEXT = DataType("string")
FIRST, SECOND, BEFORE = date(2024, 3, 29), date(2024, 3, 30), date(2024, 3, 28)
Row = dict[str, Any]


def column(kind: str = "string", **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": "made for a test", **more}


def contract(**renamed: str) -> Contract:
    """A feed of people with a key of two columns and all kinds of attributes; and their visits."""
    attributes = {
        "born": column(history=0),
        "name": column(history=1, classification="pii"),
        renamed.get("city", "city"): column(history=2, expression="city"),
        "size": column("double", history=2),
        "segment": column(history=3),
    }
    if "note" in renamed:
        attributes[renamed["note"]] = column(history=1, expression="city")
    order = {"at": column("timestamp", nullable=False), "operation": column()}
    keys = {"land": column(nullable=False), "id": column("long", nullable=False)}
    person = {
        "kind": "dimension",
        "description": "made for a test",
        "key": ["land", "id"],
        "columns": {**keys, **attributes},
        "effective_time": "at",
        "order": order,
        "tie_breakers": [{"column": "operation"}],
        "deletion": {"column": "operation", "values": ["D"]},
    }
    visit = {
        "kind": "fact",
        "description": "made for a test",
        "key": ["land", "id", "at"],
        "columns": {**keys, "at": column("timestamp", nullable=False), "size": column("double")},
    }
    source = {
        "connector": "files",
        "kind": "slice",
        "format": "jsonl",
        "pattern": "test/people/{date}.jsonl",
        "columns": {
            name: {"description": "made for a test", "classification": "pii" if name == "name" else "internal"}
            for name in ("land", "id", "born", "name", "city", "size", "segment", "at", "operation")
        },
    }
    whole = {"format": 1, "domain": "test", "dataset": "people", "owner": "tests", "description": "made for a test"}
    tables = {DIM.name: person, FACT.name: visit}
    return Contract.model_validate({**whole, "source": source, "tables": tables})


def person(key: int, at: str, operation: str = "U", **values: Any) -> Row:
    given = {"born": "b", "name": "Ada", "city": "x", "size": "1", "segment": "s", **values}
    return {"land": "de", "id": str(key), "at": f"2024-03-{at}:00+00:00", "operation": operation, **given}


@dataclass
class World:
    """A lake, the files of its source, and its contract."""

    lake: Lake
    root: Path
    contract: Contract = field(default_factory=contract)

    def take(self, **units: Sequence[Row]) -> None:
        """Land units (by their day in March) and publish them."""
        for unit, rows in units.items():
            path = self.root / "test" / "people" / f"2024-03-{unit.removeprefix('d')}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        land_files(self.lake, [self.contract], self.root)
        run(self.lake, [self.contract])

    def subject(self, name: TableName = DIM) -> Subject:
        return subject_of(self.lake.catalog, [self.contract], name)

    def diff(self, start: int, end: int, name: TableName = DIM, **how: Any) -> Diff:
        """Between two of the heads that main had."""
        subject = self.subject(name)
        heads = publications(subject.table)
        return diff(subject, heads[start], heads[end], **how)


FIRST_DAY = [
    person(1, "29T08:00"),
    person(2, "29T08:00", name="Bob"),
    person(3, "29T08:00"),
    person(4, "29T08:00", city=None),
    person(5, "29T08:00"),
]
SECOND_DAY = [
    person(1, "30T08:00", city="y", name="Eve"),
    person(2, "30T09:00", name="Bea"),
    person(3, "30T08:00", "D"),
    person(4, "30T08:00", city=""),
    person(6, "30T08:00"),
]


@pytest.fixture(scope="module")
def world(new_lake: NewLake, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four heads of main: empty; the first day; the second; late data and a correction of the second."""
    made = World(new_lake(), tmp_path_factory.mktemp("people"))
    made.take(d29=FIRST_DAY)
    made.take(d30=SECOND_DAY)
    corrected = [person(1, "30T08:00", city="z", name="Eve"), *SECOND_DAY[1:]]
    made.take(d28=[person(2, "28T08:00", city="w", name="Bob"), person(5, "28T07:00")], d30=corrected)
    assert len(publications(made.subject().table)) == 4
    return made


def ids(found: Diff, what: str) -> list[int]:
    return sorted(sample.natural["id"] for sample in found.samples if sample.what == what)


def test_a_day_in_order(world: World) -> None:
    found = world.diff(1, 2)
    assert dict(found.keys) == {"opened": 1, "closed": 1, "changed": 3, "past": 0}
    assert dict(found.rows) == {"opened": 3, "closed": 3, "overwritten": 1} and found.late_keys == 0
    assert (ids(found, "opened"), ids(found, "closed"), ids(found, "changed")) == ([6], [3], [1, 2, 4])
    changed = {s.natural["id"]: {v.column: (v.old, v.new) for v in s.values} for s in found.samples if s.values}
    assert changed[1]["city"] == ("x", "y") and changed[1]["name"] == ("***", "***")
    assert changed[2] == {"name": ("***", "***")}
    assert changed[4]["city"] == (None, "")
    shown = world.diff(1, 2, show_classified=True)
    assert {(v.old, v.new) for s in shown.samples for v in s.values if v.column == "name"} == {
        ("Ada", "Eve"),
        ("Bob", "Bea"),
    }


def test_late_data_and_a_correction(world: World) -> None:
    found = world.diff(2, 3)
    assert dict(found.keys) == {"opened": 0, "closed": 0, "changed": 1, "past": 2} and found.late_keys == 3
    assert ids(found, "changed") == [1] and ids(found, "past") == [2, 5]
    by_id = {sample.natural["id"]: sample for sample in found.samples}
    assert [(row.what, row.columns) for row in by_id[1].rows] == [("rewritten", ("city",))]
    assert [row.what for row in by_id[2].rows] == ["inserted"]
    assert [row.what for row in by_id[5].rows] == ["inserted", "removed"]


def test_from_nothing_and_over_several_publications(world: World) -> None:
    assert dict(world.diff(0, 1).keys) == {"opened": 5, "closed": 0, "changed": 0, "past": 0}
    whole = world.diff(1, 3)
    assert dict(whole.keys) == {"opened": 1, "closed": 1, "changed": 3, "past": 1} and whole.late_keys == 2


def test_facts(world: World) -> None:
    found = world.diff(1, 3, FACT)
    assert dict(found.keys) == {"added": 7, "removed": 0, "changed": 0}
    assert found.unchanged == 0


def test_nothing_changed(world: World) -> None:
    found = world.diff(2, 2)
    assert found.is_empty and found.samples == () and found.files_opened == 0 and found.files_shared > 0


def test_one_key(world: World) -> None:
    key = parse_key(world.subject().spec, ["de", "1"])
    found = world.diff(1, 2, key=key, limit=5)
    assert [sample.natural["id"] for sample in found.samples] == [1]
    assert sum(found.keys.values()) == 1
    assert world.diff(1, 2, key=parse_key(world.subject().spec, ["fr", "1"])).is_empty


def test_how_the_knowledge_of_a_key_evolved(world: World) -> None:
    subject = world.subject()
    key = parse_key(subject.spec, ["de", "2"])
    steps = key_changes(subject, key, show_classified=True)
    told = [[(row.what, str(row.new and row.new["name"])) for row in step.change.rows] for step in steps]
    assert told == [[("opened", "Bob")], [("overwritten", "Bea")], [("inserted", "Bea")]]
    assert [step.change.is_late for step in steps] == [False, False, True]
    heads = publications(subject.table)
    assert [step.point.snapshot for step in steps] == [head.snapshot for head in heads[1:]]
    for at, head in enumerate(heads):
        cities = [version["city"] for version in key_versions(subject, key, head)]
        assert cities == [[], ["x"], ["x"], ["w", "x"]][at]
    early = datetime(2024, 3, 28, 12, tzinfo=UTC)
    assert [key_versions(subject, key, head, early) != [] for head in heads] == [False, False, False, True]
    end = key_versions(subject, key)[0]["effective_to"]
    assert [v["city"] for v in key_versions(subject, key, valid_at=end)] == ["x"]


# What the command line says


@pytest.fixture
def ask(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command on the world's lake."""
    path = tmp_path / "test" / "people.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(world.contract.dump()))
    mine = world.lake.settings.model_copy(update={"contracts": tmp_path})
    monkeypatch.setattr(history, "settings", lambda: mine)
    app = typer.Typer()
    history.register(app)

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False)

    return invoke


def moments(world: World) -> list[str]:
    return [head.at.isoformat() for head in publications(world.subject().table)]


def test_the_commands(world: World, ask: Callable[..., Any]) -> None:
    times = moments(world)
    told = ask("diff", str(DIM), "--from", times[1], "--to", times[2], "--limit", "1")
    assert told.exit_code == 0
    assert "keys: 1 opened, 1 closed, 3 changed, 0 past" in told.stdout and "… and 2 more" in told.stdout
    assert "Eve" not in told.stdout and "***" in told.stdout
    late = ask("diff", str(DIM), "--from", times[2])
    assert (
        "versions rewritten in the past, of the keys above" in late.stdout and "3 with a rewritten past" in late.stdout
    )
    as_json = json.loads(ask("diff", str(DIM), "--from", times[1], "--to", times[2], "--json").stdout)
    assert as_json["keys"]["changed"] == 3 and as_json["more"]["changed"] == 0
    same = ask("diff", str(DIM), "--from", times[2], "--to", times[2])
    assert same.exit_code == 0 and "no change" in same.stdout
    fact = ask("diff", str(FACT), "--from", publications(world.subject(FACT).table)[1].at.isoformat())
    assert "7 added" in fact.stdout

    key = ("--key", "de", "--key", "2")
    versions = json.loads(ask("history", str(DIM), *key, "--json").stdout)
    assert [v["city"] for v in versions] == ["w", "x"] and {v["name"] for v in versions} == {"***"}
    known = json.loads(ask("history", str(DIM), *key, "--known-at", times[1], "--show-classified", "--json").stdout)
    assert [(v["city"], v["name"]) for v in known] == [("x", "Bob")]
    assert known == json.loads(
        ask("history", str(DIM), *key, "--as-of", times[1], "--show-classified", "--json").stdout
    )
    valid = json.loads(ask("history", str(DIM), *key, "--valid-at", "2024-03-28T12:00", "--json").stdout)
    assert [v["city"] for v in valid] == ["w"]
    both = ask("history", str(DIM), *key, "--valid-at", "2024-03-28T12:00", "--known-at", times[2])
    assert both.exit_code == 1 and "had none then" in both.stdout
    steps = json.loads(ask("history", str(DIM), *key, "--changes", "--json").stdout)
    assert [step["is_late"] for step in steps] == [False, False, True]
    told = ask("history", str(DIM), *key, "--changes").stdout
    assert told.count("past rewritten") == 1 and "Bea" not in told and "city=w" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diff", "silver.dim_nobody", "--from", "2024-01-01"], "no silver table of any contract"),
        (["diff", "gold.sales_star", "--from", "2024-01-01"], "no silver table of any contract"),
        (["diff", str(DIM), "--from", "2024-01-01"], "had no snapshot yet at 2024-01-01"),
        (["diff", str(DIM), "--from", "no_such_tag"], "no snapshot id, tag, branch or time"),
        (["diff", str(DIM), "--from", "123456"], "has no snapshot 123456"),
        (["diff", str(DIM), "--from", "main", "--key", "de"], "the key has 2 parts, 1 were given"),
        (["history", str(DIM), "--key", "de", "--key", "one"], "'one' is no long, which id is"),
        (["history", str(DIM), "--key", "de", "--key", "1", "--valid-at", "soon"], "'soon' is no time"),
        (["history", str(DIM), "--key", "de", "--key", "1", "--changes", "--known-at", "main"], "shows all times"),
        (["history", str(FACT), "--key", "de"], "is a fact table"),
    ],
)
def test_what_cannot_be_asked(ask: Callable[..., Any], arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        ask(*arguments)
    assert raised.value.exit_code == 2


def test_the_first_time_may_not_be_the_later(world: World) -> None:
    with pytest.raises(SettingsError, match="--from is later than --to"):
        world.diff(3, 1)


# Against reading both snapshots whole


class Opened:
    """Counts the data files that PyIceberg's file system opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.paths: set[str] = set()
        inner = PyArrowFileIO.new_input

        def new_input(io: PyArrowFileIO, location: str) -> Any:
            if location.endswith(".parquet"):
                self.paths.add(location)
            return inner(io, location)

        patch.setattr(PyArrowFileIO, "new_input", new_input)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    yield Opened(monkeypatch)


def whole(subject: Subject, point: Any) -> dict[str, str]:
    """Every row of a snapshot by its identity, as canonical text."""
    kinds = business_types(subject.spec)
    identity = names.VERSION_KEY if subject.spec.kind == "dimension" else names.KEY
    rows = subject.table.scan(snapshot_id=point.snapshot.snapshot_id).to_arrow().to_pylist()
    return {row[identity]: str([canonical_text(kind, row[name]) for name, kind in kinds.items()]) for row in rows}


def test_as_reading_both_snapshots_whole(
    new_lake: NewLake, tmp_path: Path, chance: random.Random, opened: Opened
) -> None:
    """Random days, restated and late, a compaction and a rollback in between: for every pair of heads."""
    world = World(new_lake(), tmp_path)
    for _ in range(3):
        units = {f"d{day}": random_rows(chance, day) for day in chance.sample(range(20, 24), 2)}
        world.take(**units)
    spark = world.lake.spark
    spark.sql(f"CALL lakehouse.system.rewrite_data_files(table => '{DIM}', options => map('rewrite-all', 'true'))")
    world.take(d23=random_rows(chance, 23))
    for name in (DIM, FACT):
        subject = world.subject(name)
        back = publications(subject.table)[2].snapshot.snapshot_id
        spark.sql(f"CALL lakehouse.system.rollback_to_snapshot('{name}', {back})")
        subject = world.subject(name)
        heads = publications(subject.table)
        assert len(heads) == (7 if name == DIM else 6)
        tables = [whole(subject, head) for head in heads]
        for start in range(len(heads)):
            for end in range(start, len(heads)):
                opened.paths.clear()
                found = diff(subject, heads[start], heads[end], limit=1000)
                files = [
                    {t.file.file_path for t in subject.table.scan(snapshot_id=h.snapshot.snapshot_id).plan_files()}
                    for h in (heads[start], heads[end])
                ]
                check(found, tables[start], tables[end])
                assert len(opened.paths) == found.files_opened
                assert found.files_shared <= len(files[0] & files[1])
                assert found.files_opened + found.files_shared == len(files[0] | files[1])


def check(found: Diff, old: dict[str, str], new: dict[str, str]) -> None:
    """Counts by what happened, and that the keys' rows add up to them."""
    rows = dict(found.rows)
    came = sum(rows.get(what, 0) for what in ("opened", "inserted", "added"))
    changed = sum(rows.get(what, 0) for what in ("closed", "overwritten", "rewritten", "changed"))
    assert came == len(new.keys() - old.keys())
    assert rows.get("removed", 0) == len(old.keys() - new.keys())
    assert changed == sum(old[one] != new[one] for one in old.keys() & new.keys())
    assert sum(len(sample.rows) for sample in found.samples) == sum(rows.values())
    assert all(row.columns for sample in found.samples for row in sample.rows if row.old and row.new)


def random_rows(chance: random.Random, day: int) -> list[Row]:
    """Some of a day and some of the day before, at hours that its own unit doesn't have: facts have unique keys."""
    rows = {}
    for _ in range(8):
        key, late = chance.randint(1, 6), chance.choice([0, 0, 1])
        at = f"{day - late}T{chance.randint(10, 12) + 3 * late}:00"
        values = {"city": chance.choice([None, "", "x"]), "name": chance.choice("ab"), "size": chance.choice("12")}
        rows[key, at] = person(key, at, chance.choice("UUUD"), **values)
    return list(rows.values())


def test_columns_by_their_ids_then_expiry_and_another_table_of_the_name(world: World) -> None:
    """A renamed and an added column make no version different. Last, since it ends the world's history."""
    spark = world.lake.spark
    spark.sql(f"ALTER TABLE lakehouse.{DIM} RENAME COLUMN city TO town")
    world.contract = contract(city="town", note="note")
    rebuild(world.lake, world.contract, DIM.name)
    found = world.diff(3, -1)
    assert found.schema.added == ("note",) and dict(found.schema.renamed) == {"city": "town"}
    assert dict(found.rows) == {} and found.unchanged == spark.table(f"lakehouse.{DIM}").count()
    assert not found.is_empty
    older = world.diff(1, -1, show_classified=True)
    town = {v.column: (v.old, v.new) for s in older.samples if s.natural["id"] == 1 for v in s.values}["town"]
    assert town == ("x", "z")

    subject = world.subject()
    heads = publications(subject.table)
    spark.sql(f"ALTER TABLE lakehouse.{DIM} CREATE TAG month_end AS OF VERSION {heads[2].snapshot.snapshot_id}")
    assert resolve(world.subject().table, DIM, "month_end").snapshot == heads[2].snapshot
    spark.sql(f"ALTER TABLE lakehouse.{DIM} DROP TAG month_end")
    spark.sql(
        f"CALL lakehouse.system.expire_snapshots(table => '{DIM}', retain_last => 1, "
        f"older_than => TIMESTAMP '{heads[-1].at:%Y-%m-%d %H:%M:%S.%f}')"
    )
    kept = world.subject().table
    expired = kept.current_snapshot()
    assert expired is not None and expired.parent_snapshot_id is not None
    with pytest.raises(SettingsError, match=f"what {DIM} said at .* has expired"):
        resolve(kept, DIM, heads[1].at.isoformat())
    with pytest.raises(SettingsError, match=f"the snapshot {expired.parent_snapshot_id} of {DIM} has expired"):
        resolve(kept, DIM, str(expired.parent_snapshot_id))
    steps = key_changes(world.subject(), parse_key(subject.spec, ["de", "1"]))
    assert [step.is_earliest for step in steps] == [True] and len(steps[0].change.rows) == 2

    spark.sql(f"DROP TABLE lakehouse.{DIM}")
    run(world.lake, [world.contract])
    again = world.subject().table
    with pytest.raises(SettingsError, match="had no snapshot yet") as raised:
        resolve(again, DIM, heads[-1].at.isoformat())
    assert "dropped before is another table" in raised.value.where
    with pytest.raises(SettingsError, match="has no snapshot"):
        resolve(again, DIM, str(heads[-1].snapshot.snapshot_id))
