"""Snapshots that are held, by a rule or a person: what the tables show, and how it is resolved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from pyspark.sql import SparkSession
from spark_jobs import silver
from tests.integration.test_worked_example import environment, session_of
from typer.testing import CliRunner

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.errors import BatchesHeld
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings, settings
from lakehouse.engine.publish import Lake
from lakehouse.engine.silver import Silver
from lakehouse.engine.snapshots import held_snapshots
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.decisions import read_decisions
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import load_table

TABLE = "silver.dim_listed"
DAYS = [f"2024-03-{day:02}" for day in range(1, 10)]
Call = Callable[..., Result]


def definition(share: float = 0.5) -> dict[str, object]:
    column = {"type": "string", "description": "made for a test"}
    dimension = {
        "kind": "dimension",
        "description": "made for a test",
        "key": ["id"],
        "effective_time": "_unit",
        "max_close_share": share,
        "columns": {"id": {**column, "nullable": False}, "city": column},
        "rules": [{"name": "city_known", "check": "city <> 'nowhere'", "description": "made for a test"}],
    }
    source = {
        "connector": "files",
        "kind": "snapshot",
        "format": "jsonl",
        "pattern": "{date}.jsonl",
        "columns": {name: {"description": "made for a test"} for name in ("id", "city")},
    }
    whole = {"format": 1, "domain": "test", "dataset": "listed", "owner": "tests", "description": "made for a test"}
    return {**whole, "source": source, "tables": {"dim_listed": dimension}}


def say(folder: Path, share: float = 0.5) -> None:
    """Write the contract."""
    path = folder / "contracts" / "test" / "listed.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(definition(share), sort_keys=False))


@pytest.fixture
def project(lake: Lake, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the contract, whose commands work on the lake of this test, in the JVM that is there."""
    say(tmp_path)
    mine = lake.settings.model_copy(update={"contracts": tmp_path / "contracts"})
    for name, value in environment(mine).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "120")

    @contextmanager
    def session(current: Settings, name: str, *, read_only: bool = False, **_: Any) -> Iterator[SparkSession]:
        yield session_of(spark, current, read_only=read_only)

    monkeypatch.setattr("lakehouse.engine.run.session", session)
    monkeypatch.setattr("lakehouse.engine.session.session", session)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def call(project: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command, as the program does."""
    from lakehouse.cli.main import app

    def run(*arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=answer)

    return run


def send(call: Call, project: Path, day: str, keys: Sequence[int], *, more: str = "") -> None:
    """Land a day, and another time where it has landed."""
    path = project / "sent" / f"{day}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"id": f"k{key}", "city": day}) + "\n" for key in keys) + more)
    assert call("land", "test.listed", "--root", str(path.parent)).exit_code == 0


def take(call: Call) -> Result:
    return call("run", "test.listed", "--no-gold", "--json")


def listed(lake: Lake, day: str) -> set[str]:
    """The keys that were valid on a day; everything must be accounted for."""
    contract = Contract.model_validate(definition())
    found = accounts(lake.catalog, ObjectStore.open(lake.settings), contract)
    assert [problem for each in found for problem in each.problems] == []
    at = f"effective_from <= TIMESTAMP '{day}' AND coalesce(effective_to > TIMESTAMP '{day}', true)"
    return {row.id for row in lake.table(contract.silver_table("dim_listed")).where(at).collect()}


def held(call: Call) -> list[tuple[str, str, bool]]:
    found = json.loads(call("held", "--json").stdout)
    assert all(each["reason"] and each["since"] and each["todo"] for each in found)
    return [(each["name"], each["state"], each["is_automatic"]) for each in found]


def test_a_truncated_snapshot_is_held_until_it_is_right_or_released(lake: Lake, project: Path, call: Call) -> None:
    send(call, project, DAYS[0], range(10))
    assert take(call).exit_code == 0
    send(call, project, DAYS[1], range(3))
    result = take(call)
    assert result.exit_code == BatchesHeld.exit_code == 9
    [found] = json.loads(result.stdout)["held"]
    assert "would close 7 of the 10 keys of batch 1 (2024-03-01), such as id='k3'" in found["reason"]
    assert (found["name"], found["table"]) == ("test.listed#2", TABLE)
    assert len(listed(lake, DAYS[1])) == 10

    again = take(call)  # nothing to do, and still no success
    assert again.exit_code == 9 and json.loads(again.stdout)["tables"] == []
    assert "lakehouse release 'test.listed#2'" in call("run", "test.listed", "--no-gold").stdout
    assert silver.PROGRAM.run(["test.listed"], Lake(lake.spark, settings())) == 9

    send(call, project, DAYS[2], range(2))  # measured against the first day: the second is not live
    assert take(call).exit_code == 9
    assert held(call) == [("test.listed#2", "held", True), ("test.listed#3", "held", True)]

    send(call, project, DAYS[1], range(4, 10))  # the second day, corrected
    assert take(call).exit_code == 9
    assert held(call) == [("test.listed#3", "held", True)]
    assert listed(lake, DAYS[2]) == listed(lake, DAYS[1]) == {f"k{key}" for key in range(4, 10)}

    said = call("release", "test.listed#3", "--reason", "they closed the shop")
    assert said.exit_code == 0 and "test.listed#3 is released (decision 1)" in said.stdout
    assert "released already" in call("release", "test.listed#3", "--reason", "again").stdout
    [decision] = read_decisions(ObjectStore.open(lake.settings), "test.listed")
    assert (decision.action, decision.batches, decision.reason) == ("release", (3,), "they closed the shop")
    assert decision.by and decision.at.tzinfo
    assert take(call).exit_code == 0
    assert held(call) == [] and listed(lake, DAYS[2]) == {"k0", "k1"}
    assert "Nothing is held" in call("held").stdout


def test_a_bad_restatement_leaves_what_the_table_has(lake: Lake, project: Path, call: Call) -> None:
    """A held batch supersedes nothing; what was applied stays, in a rebuild too, whatever comes before it."""
    send(call, project, DAYS[0], range(4))
    send(call, project, DAYS[2], range(6))
    assert take(call).exit_code == 0
    send(call, project, DAYS[2], [])
    assert take(call).exit_code == 9
    assert held(call) == [("test.listed#3", "held", True)] and len(listed(lake, DAYS[2])) == 6
    send(call, project, DAYS[2], range(6), more="{not json}\n")
    assert take(call).exit_code == 9
    assert [name for name, _, _ in held(call)] == ["test.listed#3", "test.listed#4"] and len(listed(lake, DAYS[2])) == 6
    send(call, project, DAYS[1], range(20))  # late, and fine by itself; the day after it closes 70% of it
    assert take(call).exit_code == 9
    assert len(listed(lake, DAYS[1])) == 20 and len(listed(lake, DAYS[2])) == 6
    assert call("rebuild", TABLE, "--yes").exit_code == 0
    assert len(listed(lake, DAYS[1])) == 20 and len(listed(lake, DAYS[2])) == 6
    call("release", "test.listed#3", "--reason", "it was empty")
    assert take(call).exit_code == 9  # batch 4 came after it, and cannot be read
    assert [name for name, _, _ in held(call)] == ["test.listed#4"] and listed(lake, DAYS[2]) == set()


def test_a_day_that_closes_few_keys_is_judged_by_its_comparison(
    lake: Lake, project: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot of the day before is read from bronze only where the day could be held."""
    looked: list[frozenset[int]] = []

    def spy(silver: Silver, candidates: frozenset[int], *rest: Any) -> Mapping[int, str]:
        looked.append(candidates)
        return held_snapshots(silver, candidates, *rest)

    monkeypatch.setattr("lakehouse.engine.silver.held_snapshots", spy)
    send(call, project, DAYS[0], range(10))
    assert take(call).exit_code == 0
    send(call, project, DAYS[1], range(5, 12))  # closes exactly what the contract allows
    looked.clear()
    assert take(call).exit_code == 0
    assert looked == [frozenset()] and listed(lake, DAYS[1]) == {f"k{key}" for key in range(5, 12)}
    send(call, project, DAYS[2], [5, 6])
    looked.clear()
    assert take(call).exit_code == 9
    assert looked == [frozenset(), frozenset({3})] and len(listed(lake, DAYS[2])) == 7
    table = load_table(lake.catalog, Contract.model_validate(definition()).silver_table("dim_listed"))
    assert table is not None and table.refs().keys() == {"main"}


def test_rows_of_the_batch_that_counts_instead_are_refused(lake: Lake, project: Path, call: Call) -> None:
    """A day lands twice before it is taken; the second is held only once the table was compared with it."""
    send(call, project, DAYS[0], range(10))
    assert take(call).exit_code == 0
    send(call, project, DAYS[1], range(9), more=json.dumps({"id": "k9", "city": "nowhere"}))
    send(call, project, DAYS[1], [1])
    assert take(call).exit_code == 9
    assert held(call) == [("test.listed#3", "held", True)] and len(listed(lake, DAYS[1])) == 10
    assert [row.id for row in lake.table(TableName("quarantine", "dim_listed")).collect()] == ["k9"]


def test_a_higher_share_lets_go_what_was_held(lake: Lake, project: Path, call: Call) -> None:
    send(call, project, DAYS[0], range(10))
    send(call, project, DAYS[1], range(4))
    assert take(call).exit_code == 9 and len(listed(lake, DAYS[1])) == 10
    say(project, share=0.6)
    assert load_contracts(project / "contracts")["test.listed"].tables["dim_listed"].max_close_share == 0.6
    assert take(call).exit_code == 0
    assert len(listed(lake, DAYS[1])) == 4


def test_a_person_holds_releases_and_discards(lake: Lake, project: Path, call: Call) -> None:
    send(call, project, DAYS[0], range(3))
    send(call, project, DAYS[1], range(4))
    send(call, project, DAYS[1], range(5))
    assert take(call).exit_code == 0 and len(listed(lake, DAYS[1])) == 5
    said = call("hold", "test.listed#3", "--reason", "looks odd")
    assert "batch 2 of the same unit counts again" in said.stdout
    assert take(call).exit_code == 0 and len(listed(lake, DAYS[1])) == 4
    assert held(call) == [("test.listed#3", "held", False)]
    assert "held already" in call("hold", "test.listed#3", "--reason", "again").stdout

    preview = call("discard", "test.listed#3", "--reason", "wrong", "--dry-run")
    assert preview.exit_code == 0 and "Nothing was decided" in preview.stdout
    assert call("discard", "test.listed#3", "--reason", "wrong", answer="n\n").exit_code == 1
    assert held(call) == [("test.listed#3", "held", False)]
    assert call("discard", "test.listed#3", "--reason", "wrong", answer="y\n").exit_code == 0
    assert held(call) == [("test.listed#3", "discarded", False)]
    assert "discarded already" in call("discard", "test.listed#3", "--reason", "wrong", "--yes").stdout
    refused = call("release", "test.listed#3", "--reason", "no")
    assert "a discard is final" in str(refused.exception)
    assert take(call).exit_code == 0 and len(listed(lake, DAYS[1])) == 4


def test_a_trim_is_shown_and_asked_for_and_its_batches_are_past_deciding(lake: Lake, project: Path, call: Call) -> None:
    for day in range(3):
        send(call, project, DAYS[day], range(day, 4))
    assert take(call).exit_code == 0
    bronze = Contract.model_validate(definition()).bronze_table
    trim = ("trim", "test.listed", "--before", DAYS[2])
    shown = call(*trim, "--dry-run")
    assert "1 batches with 4 rows lie before 2024-03-03" in shown.stdout and "test.listed#2 stays" in shown.stdout
    assert call(*trim, answer="n\n").exit_code == 1 and lake.table(bronze).count() == 9
    assert "lost 4 rows" in call(*trim, "--yes").stdout
    assert lake.table(bronze).count() == 5 and len(listed(lake, DAYS[0])) == 4
    assert "was trimmed from bronze" in str(call("discard", "test.listed#1", "--reason", "x", "--yes").exception)
    assert "is not a date" in str(call("trim", "test.listed", "--before", "soon").exception)
    assert take(call).exit_code == 0


def test_a_snapshot_from_before_the_horizon_is_held_and_only_discarded(lake: Lake, project: Path, call: Call) -> None:
    for day in range(2):
        send(call, project, DAYS[day], range(day, 3))
    assert take(call).exit_code == 0
    assert call("trim", "test.listed", "--before", DAYS[5], "--yes").exit_code == 0
    send(call, project, DAYS[3], [])  # later than all that was taken; empty, so no row of it is refused
    assert take(call).exit_code == 9 and len(listed(lake, DAYS[8])) == 2
    [found] = json.loads(call("held", "--json").stdout)
    assert "before the horizon 2024-03-06 00:00 UTC" in found["reason"] and "lakehouse discard" in found["todo"]
    assert "cannot be released" in str(call("release", "test.listed#3", "--reason", "x").exception)
    send(call, project, DAYS[6], [2, 3])  # measured against the second day
    assert take(call).exit_code == 9 and listed(lake, DAYS[6]) == {"k2", "k3"}
    assert call("discard", "test.listed#3", "--reason", "x", "--yes").exit_code == 0
    assert take(call).exit_code == 0 and listed(lake, DAYS[3]) == {"k1", "k2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("release", "test.listed", "--reason", "x"), "names no batch"),
        (("hold", "test.nothing#1", "--reason", "x"), "no contract is called test.nothing"),
        (("discard", "test.listed#7", "--reason", "x"), "has no batch 7: nothing has landed"),
    ],
)
def test_what_is_wrong_is_said(call: Call, arguments: tuple[str, ...], message: str) -> None:
    assert message in str(call(*arguments).exception)
