"""A replay after a change of row rules: the tables that a rebuild gives, and that the new rules give from the start."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.pipeline import all_tables, fingerprints, heads, land_files, quarantine, run
from tests.integration.test_pipeline_order import KINDS, UNITS, make_content, write
from tests.turns import in_turn
from typer.testing import CliRunner

from lakehouse.contracts.model import Contract
from lakehouse.core.errors import ConcurrentCommit, ContractError, SettingsError
from lakehouse.core.failpoints import FailpointHit
from lakehouse.core.names import TableName
from lakehouse.engine.changes import changed_members, changed_units, changes_since
from lakehouse.engine.plan import silver_plan
from lakehouse.engine.publish import Lake
from lakehouse.engine.rebuild import drop_forks, fork_table, undo_rebuild
from lakehouse.engine.replay import Replay, judge_anew, publish_replay
from lakehouse.engine.run import run_bronze
from lakehouse.engine.silver import Silver, run_silver
from lakehouse.engine.tables import quarantine_spec, silver_spec
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.decisions import Action, Decision, append_decision
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table, read_head

if TYPE_CHECKING:
    from tests.servers import NewLake

RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "city": {"rules": [("city_known", "city <> 'nowhere'")]},
    "stricter": {"rules": [("city_known", "city <> 'nowhere'"), ("not_y", "city <> 'y'")]},
    "other city": {"rules": [("city_known", "city <> 'y'"), ("city_named", "length(city) > 0")]},
    "needed": {"columns": {"city": {"nullable": False}, "name": {"nullable": False}}},
    "listed": {"columns": {"segment": {"valid": {"values": ["s"]}}, "size": {"valid": {"max": 1}}}},
    "later": {"rules": [("not_y", "city <> 'y'")], "future_allowance": "3d"},
}


def ruled(kind: str, rules: str, *, noted: bool = False) -> Contract:
    """The contract of a kind with one set of row rules, where its tables have the columns.

    ``noted`` adds a column that no record has.
    """
    raw = KINDS[kind].dump()
    said = RULES[rules]
    raw["source"]["columns"] |= {"note": {"description": "made for a test"}} if noted else {}
    for table in raw["tables"].values():
        table["columns"] |= {"note": {"type": "string", "description": "made for a test"}} if noted else {}
        found = said.get("rules", ())
        table["rules"] = [{"name": name, "check": check, "description": "made for a test"} for name, check in found]
        for column, spec in said.get("columns", {}).items():
            if column in table["columns"]:
                table["columns"][column] = {**table["columns"][column], **spec}
        if "future_allowance" in said and table["kind"] == "dimension":
            table["future_allowance"] = said["future_allowance"]
    return Contract.model_validate(raw)


def replay(lake: Lake, contract: Contract, name: str) -> Replay:
    found = judge_anew(lake, contract, name)
    publish_replay(lake, found)
    return found


def whole(lake: Lake, table: TableName) -> list[str]:
    return sorted(str(row) for row in lake.table(table).collect()) if load_table(lake.catalog, table) else []


def require_as_rebuilt(lake: Lake, contract: Contract, name: str) -> None:
    """Rows, provenance, quarantine and stamp are those of a rebuild; every row is accounted for."""
    through = read_head(lake.catalog, contract.bronze_table).consumed(contract.name).through
    forks = [fork_table(lake, spec) for spec in (silver_spec(contract, name), quarantine_spec(contract, name))]
    try:
        run_silver(Silver(lake, contract, name, through, {fork.table: fork.name for fork in forks}), rebuild=True)
        for fork in forks:
            assert whole(lake, fork.table) == whole(lake, fork.name)
        stands, rebuilt = (read_head(lake.catalog, each).stamp for each in (forks[0].table, forks[0].name))
        assert stands and rebuilt and replace(stands, attempt="") == replace(rebuilt, attempt="")
    finally:
        drop_forks(lake, forks)
    found = accounts(lake.catalog, ObjectStore.open(lake.settings), contract)
    assert [problem for each in found for problem in each.problems] == []


def decide(lake: Lake, contract: Contract, action: Action, batch: int) -> None:
    draft = Decision(contract.name, 0, action, (batch,), "made for a test", "tests", datetime(2024, 6, 1, tzinfo=UTC))
    append_decision(ObjectStore.open(lake.settings), draft)


def scenes(chance: random.Random, kind: str) -> list[list[tuple[date, list[dict[str, Any]]]]]:
    """What lands between one set of rules and the next: some units twice, and in any order."""
    sent = [(unit, make_content(chance, kind)[unit]) for unit in chance.sample(UNITS, len(UNITS))]
    sent += [(unit, make_content(chance, kind)[unit]) for unit in chance.sample(UNITS, 2)]
    if kind == "slice":  # by one allowance it lies too far in the future
        sent[0][1][0]["at"] = (datetime.now(UTC) + timedelta(hours=36)).isoformat()
    return [sent[:5], sent[5:7], sent[7:]]


def replay_all(lake: Lake, contract: Contract, *, is_last: bool) -> int:
    """Replay the tables that need it; how many batches had rows that came in or went out."""
    store, moved = ObjectStore.open(lake.settings), 0
    for name in contract.tables:
        if silver_plan(lake.catalog, store, contract, name).verdict == "replay":
            moved += len(replay(lake, contract, name).verdicts.moved)
            if is_last:
                require_as_rebuilt(lake, contract, name)
    return moved


@pytest.mark.parametrize("kind", in_turn(*KINDS))
def test_a_replay_gives_what_a_rebuild_gives(
    kind: str, new_lake: NewLake, tmp_path: Path, chance: random.Random
) -> None:
    """Rules loosened, tightened and swapped; held, superseded and pending batches; runs before and after."""
    lake, fresh = new_lake(), new_lake()
    picked = chance.sample(sorted(RULES), 3)
    contracts = [ruled(kind, each, noted=each != picked[0]) for each in picked]
    print(picked)
    touched, former = 0, contracts[0]
    for number, (scene, contract) in enumerate(zip(scenes(chance, kind), contracts, strict=True)):
        for unit, rows in scene:
            write(tmp_path, kind, unit, rows)
        for each in (lake, fresh):
            land_files(each, [contract], tmp_path)
            if number == 1:  # decided, and not yet taken
                decide(each, contract, "hold", 2)
        if number == 0 or chance.random() < 0.5:
            run(lake, [former])
        else:
            run_bronze(lake, contract)
        touched, former = touched + replay_all(lake, contract, is_last=number == 2), contract
    for each in (lake, fresh):
        run(each, contracts[-1:])
    assert fingerprints(lake, contracts[-1:]) == fingerprints(fresh, contracts[-1:])
    assert quarantine(lake, contracts[-1:]) == quarantine(fresh, contracts[-1:])
    assert touched


DAY = {"name": "b", "size": "1", "segment": "s", "born": "b", "operation": "U", "sequence": "1"}


def days(root: Path, *cities: str) -> None:
    """A file for each unit, with a line for each city, each of a key of its own."""
    for unit, line in zip(UNITS, cities, strict=False):
        at = f"{unit}T08:00:00Z"
        write(root, "slice", unit, [{"id": f"k{i}", "at": at, "city": c, **DAY} for i, c in enumerate(line.split())])


def sold(rules: str, share: float) -> Contract:
    """The fact alone, with a limit."""
    raw = ruled("slice", rules).dump()
    raw["tables"] = {"fact_fed": {**raw["tables"]["fact_fed"], "max_quarantined_share": share}}
    return Contract.model_validate(raw)


def held(lake: Lake) -> list[int]:
    stamp = read_head(lake.catalog, TableName("silver", "fact_fed")).stamp
    assert stamp is not None
    return sorted(stamp.held)


def test_breakers_judge_again_what_they_hold_and_nothing_that_was_taken(lake: Lake, tmp_path: Path) -> None:
    name, strict, other, free = "fact_fed", sold("city", 0.5), sold("other city", 0.5), sold("none", 0.5)
    days(tmp_path, "x nowhere y", "nowhere nowhere y", "y y x")
    land_files(lake, [strict], tmp_path)
    run(lake, [strict])
    assert held(lake) == [2]
    # Two of three rows of the third day break the new rules. It was taken, and stays; the second is taken now.
    with pytest.raises(ContractError, match="replay: rule changed city_known") as raised:
        run(lake, [other])
    assert "`lakehouse replay silver.fact_fed`" in raised.value.todo
    verdicts = replay(lake, other, name).verdicts
    assert (verdicts.coming, verdicts.going) == ({1: 1}, {1: 1, 3: 2})
    assert verdicts.rules() == {"city_known": (1, 3)}
    require_as_rebuilt(lake, other, name)
    assert held(lake) == []
    # Only rows that are held break these rules. Without the rules the run takes the day; nothing else is to be judged.
    days(tmp_path, "x x", "x", "x", "x y y")
    land_files(lake, [other], tmp_path)
    run(lake, [other])
    assert held(lake) == [7]
    assert silver_plan(lake.catalog, ObjectStore.open(lake.settings), free, name).verdict == "free"
    run(lake, [free])
    assert held(lake) == [] and lake.table(free.silver_table(name)).count() == 7


STEPS = ("publish.branched", "publish.deleted", "publish.before_fast_forward", "publish.after_fast_forward")
POINTS = {"fact_fed": (*STEPS, "rebuild.before_swap"), "dim_fed": ("publish.appended", "rebuild.before_swap")}


@pytest.mark.parametrize("name", in_turn(*POINTS))
def test_a_replay_that_breaks_changes_nothing_and_the_next_one_completes_it(
    name: str, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what marts see of it: only the unit, or the members, of which a row came in or went out."""
    days(tmp_path, "x nowhere y", "x x x", "y y")  # the latest go out
    before, after = ruled("slice", "city"), ruled("slice", "later")
    land_files(lake, [before], tmp_path)
    run(lake, [before])
    tables = [before.silver_table(name), TableName("quarantine", name)]
    stood, rows = heads(lake, tables), [whole(lake, table) for table in tables]
    attempt = {str(tables[0]): _attempt(lake, tables[0])}
    for point in POINTS[name]:
        with monkeypatch.context() as patch, pytest.raises(FailpointHit):
            patch.setenv("LAKEHOUSE_FAILPOINTS", f"{point}=raise")
            patch.setattr("lakehouse.engine.replay.drop_forks", lambda *_: None)  # a process that is killed leaves them
            replay(lake, after, name)
        assert heads(lake, tables) == stood
    assert [whole(lake, table) for table in tables] == rows
    found = judge_anew(lake, after, name)
    with monkeypatch.context() as patch, pytest.raises(FailpointHit):
        patch.setenv("LAKEHOUSE_FAILPOINTS", "rebuild.after_swap=raise")
        publish_replay(lake, found)
    with pytest.raises(ConcurrentCommit, match="changed since it was judged"):
        publish_replay(lake, found)
    with pytest.raises(SettingsError, match="nothing to replay"):
        replay(lake, after, name)
    require_as_rebuilt(lake, after, name)
    since = changes_since(lake, attempt, {str(tables[0]): _attempt(lake, tables[0])})
    assert since is not None and len(since) == 1
    if name == "fact_fed":
        assert changed_units(lake, since[0]) == [UNITS[0], UNITS[2]]
    else:
        keys = {row["id"] for row in lake.table(tables[0]).join(changed_members(lake, since[0]), "_key").collect()}
        assert keys == {"k0", "k1", "k2"}
    undo_rebuild(lake, after, name)
    assert [whole(lake, table) for table in tables] == rows


def _attempt(lake: Lake, table: TableName) -> str:
    stamp = read_head(lake.catalog, table).stamp
    return stamp.attempt if stamp else ""


def test_a_quarantine_that_a_dead_run_left_is_not_taken_for_what_was_refused(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are published before its table: those of a day that was sent again may be there already."""
    name, before, after = "fact_fed", ruled("slice", "city"), ruled("slice", "stricter")
    days(tmp_path, "nowhere x", "nowhere y", "nowhere x")
    land_files(lake, [before], tmp_path)
    run(lake, [before])
    days(tmp_path, "x x")
    land_files(lake, [before], tmp_path)
    with monkeypatch.context() as patch, pytest.raises(FailpointHit):
        patch.setenv("LAKEHOUSE_FAILPOINTS", "publish.after_fast_forward@quarantine.fact_fed=raise")
        run(lake, [before])
    decide(lake, before, "discard", 4)  # so the first day counts as it was, and its refused row is gone
    assert "_batch=1," not in " ".join(whole(lake, TableName("quarantine", name)))
    replay(lake, after, name)
    require_as_rebuilt(lake, after, name)


@dataclass(frozen=True)
class Commands:
    lake: Lake
    folder: Path

    def write(self, contract: Contract) -> Contract:
        path = self.folder / contract.domain / f"{contract.dataset}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contract.dump()), "utf-8")
        return contract

    def do(self, *arguments: str, code: int = 0, answer: str = "") -> str:
        from lakehouse.cli.main import app

        result = CliRunner().invoke(app, arguments, input=answer)
        assert result.exit_code == code, result.output + repr(result.exception)
        return result.stdout


@pytest.fixture
def commands(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands, on a lake whose contracts are in a folder."""
    mine = lake.settings.model_copy(update={"contracts": tmp_path / "contracts"})
    for area in ("plan", "replay"):
        monkeypatch.setattr(f"lakehouse.cli.{area}.settings", lambda: mine)
    return Commands(lake, tmp_path / "contracts")


def test_replay_as_a_person_sees_it(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, table, first = commands.lake, "silver.fact_fed", commands.write(ruled("slice", "city"))
    days(tmp_path, "x nowhere y", "x x x", "y nowhere x")
    land_files(lake, [first], tmp_path)
    run(lake, [first])

    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("a JVM was started")

    monkeypatch.setattr("lakehouse.engine.session.session", none)
    assert "those that its rows were judged by" in commands.do("replay", table)
    assert json.loads(commands.do("replay", table, "--json"))["published"] is None
    raw = ruled("slice", "city").dump()
    raw["tables"]["fact_fed"]["columns"]["city"]["expression"] = "upper(city)"
    commands.write(Contract.model_validate(raw))
    result = CliRunner().invoke(app_of(), ["replay", table])
    assert isinstance(result.exception, ContractError) and "`lakehouse rebuild silver.fact_fed`" in str(
        result.exception
    )

    @contextmanager
    def session(*_: Any, **__: Any) -> Iterator[Any]:
        yield lake.spark

    monkeypatch.setattr("lakehouse.engine.session.session", session)
    changed, stood = commands.write(ruled("slice", "other city")), heads(lake, all_tables([first]))
    assert "`lakehouse replay silver.fact_fed`" in commands.do("plan", code=10)
    shown = commands.do("replay", table, "--dry-run")
    assert "of 9 rows 2 come in and 2 go out; in quarantine: 2 → 2" in shown and "nothing was published" in shown
    assert "test.slice#1" in shown and "test.slice#2" not in shown and "city_known" in shown
    commands.do("replay", table, code=1, answer="n\n")
    assert heads(lake, all_tables([first])) == stood
    told = json.loads(commands.do("replay", table, "--yes", "--json"))
    assert told["published"] == read_head(lake.catalog, changed.silver_table("fact_fed")).snapshot_id
    assert (told["verdicts"]["coming"], told["report"]["rows_added"], told["report"]["rows_removed"]) == (2, 4, 4)
    assert "those that its rows were judged by" in commands.do("replay", table)


def app_of() -> Any:
    from lakehouse.cli.main import app

    return app
