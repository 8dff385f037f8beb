"""``lakehouse snapshots``, ``tag`` and ``rollback``, as a person says them; on the catalog of :mod:`test_rollback`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import Result
from pydantic import SecretStr
from tests.unit.test_rollback import QUARANTINE, SOURCE, TABLE, Place, place, three
from typer.testing import CliRunner

from lakehouse.cli import travel
from lakehouse.cli.main import app
from lakehouse.contracts.model import Tags
from lakehouse.core.errors import SettingsError, TableBusy
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.ledger.decisions import read_decisions
from lakehouse.ledger.points import publications

__all__ = ["place", "three"]
Call = Callable[..., Result]


@pytest.fixture
def call(three: tuple[Place, list[int]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Runs a command on the table with three publications; errors are raised."""
    mine = three[0].settings.model_copy(update={"postgres_port": 1, "catalog_password": SecretStr("b")})
    for module in ("travel", "run"):
        monkeypatch.setattr(f"lakehouse.cli.{module}.settings", lambda: mine)
    monkeypatch.setattr("lakehouse.ledger.watermark.open_catalog", lambda _: three[0].catalog)
    monkeypatch.setattr(travel, "user_name", lambda _: "ada")
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object, answer: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(each) for each in arguments], input=answer)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    yield run


def test_snapshots_are_listed_newest_first_with_their_tags(three: tuple[Place, list[int]], call: Call) -> None:
    _, heads = three
    call("tag", TABLE, "mine", "--at", heads[1])
    found = json.loads(call("snapshots", TABLE, "--json").stdout)
    assert [each["snapshot"] for each in found][:3] == heads[::-1]
    assert [each["rows"] for each in found] == [4, 3, 2, 1]
    assert (found[0]["consumed"], found[0]["refs"], found[1]["refs"]) == ({SOURCE: 3}, ["main"], ["mine"])
    shown = call("snapshots", TABLE, "--limit", 1).stdout
    assert str(heads[2]) in shown and str(heads[1]) not in shown and f"{SOURCE}#3" in shown
    assert "and 3 older ones" in shown


def test_a_dry_run_says_all_and_does_nothing(three: tuple[Place, list[int]], call: Call) -> None:
    place, heads = three
    said = call("rollback", TABLE, "--to", heads[1], "--dry-run").stdout
    assert f"{TABLE} goes back to snapshot {heads[1]}" in said and "4 rows now, 3 then" in said
    assert f"{QUARANTINE} goes along" in said
    assert f"consumed {SOURCE} through #2 (now #3)" in said
    assert "batches #3 leave the table, and are held" in said and "Nothing was done." in said
    assert place.head() == heads[2] and read_decisions(place.store, SOURCE) == []


def test_marts_that_follow_are_named(three: tuple[Place, list[int]]) -> None:
    place, _ = three
    silver, mart = TableName("silver", "dim_customer"), TableName("gold", "sales_star")
    for name in (silver, mart):
        place.publish("a1", name)
    current = Settings()
    [line] = travel._downstream(current, place.plan("2100-01-01", silver))
    assert "gold.sales_star" in line
    [line] = travel._downstream(current, place.plan("2100-01-01", mart))
    assert "makes gold.sales_star anew from silver" in line


def test_only_what_was_seen_is_done(three: tuple[Place, list[int]], call: Call) -> None:
    place, heads = three
    token = json.loads(call("rollback", TABLE, "--to", heads[1], "--dry-run", "--json").stdout)["token"]
    place.take("a4", 3)
    with pytest.raises(SettingsError, match="changed since the dry run"):
        call("rollback", TABLE, "--to", heads[1], "--yes", "--if-seen", token)
    token = json.loads(call("rollback", TABLE, "--to", heads[1], "--dry-run", "--json").stdout)["token"]
    done = json.loads(call("rollback", TABLE, "--to", heads[1], "--yes", "--if-seen", token, "--json").stdout)
    assert done["published"] == heads[1] and done["kept"].keys() == {str(TABLE), str(QUARANTINE)}
    assert place.head() == heads[1]


def test_a_person_is_asked_and_told_how_to_take_it_back(three: tuple[Place, list[int]], call: Call) -> None:
    place, heads = three
    assert call("rollback", TABLE, "--to", heads[1], answer="n\n").exit_code == 1
    assert place.head() == heads[2]
    said = call("rollback", TABLE, "--to", heads[1], "--reason", "prices were in cents", answer="y\n").stdout
    [decision] = read_decisions(place.store, SOURCE)
    assert (decision.reason, decision.by) == ("prices were in cents", "ada")
    command = next(line for line in said.splitlines() if "takes it back" in line).split("`")[1]
    said = call(*command.split()[1:], "--yes").stdout
    assert "batches #3 come back, and are released" in said and place.head() == heads[2]
    assert "nothing to do" in call("rollback", TABLE, "--to", heads[2], "--yes").stdout


def test_tags_are_made_kept_and_dropped(three: tuple[Place, list[int]], call: Call) -> None:
    place, heads = three
    assert "would be tagged v1" in call("tag", TABLE, "v1", "--dry-run").stdout
    assert f"snapshot {heads[2]} is tagged v1" in call("tag", TABLE, "v1", "--keep", "30d").stdout
    refs = place.catalog.load_table(str(TABLE)).metadata.refs
    assert refs["v1"].max_ref_age_ms == pytest.approx(30 * 86_400_000, abs=3_600_000)
    with pytest.raises(SettingsError, match="has a tag 'v1' already"):
        call("tag", TABLE, "v1")
    assert json.loads(call("tag", TABLE, "v1", "--drop", "--json").stdout)["dropped"] == ["v1"]
    assert "v1" not in place.catalog.load_table(str(TABLE)).metadata.refs
    with pytest.raises(SettingsError, match="has no tag"):
        call("tag", TABLE, "main2", "--drop")


@pytest.mark.parametrize(
    "name",
    [
        "main",
        "123",
        "daily-2024-04-01",
        "attempt_x",
        "baseline-1",
        "before-rollback-1",
        "2024-04-01",
        "20240401",
        "2024-W13",
        "a b",
        "a\n",
        "[bold]",
        "../a",
        "",
    ],
)
def test_names_that_are_not_a_persons(call: Call, name: str) -> None:
    with pytest.raises(SettingsError):
        call("tag", TABLE, name)


def test_the_tag_of_a_rollback_can_be_dropped_and_is_nobodys_to_give(
    three: tuple[Place, list[int]], call: Call
) -> None:
    place, heads = three
    kept = json.loads(call("rollback", TABLE, "--to", heads[1], "--yes", "--json").stdout)["kept"][str(TABLE)]
    call("tag", TABLE, kept, "--drop")
    assert kept not in place.catalog.load_table(str(TABLE)).metadata.refs
    with pytest.raises(SettingsError, match="cannot be a tag of yours"):
        call("tag", TABLE, kept)


@pytest.mark.parametrize(
    "to", ["", "\u00b2", "\u0663", "9" * 5000, "-1", "1e3", "main; DROP", "2024-13-01", "99999-01-01"]
)
def test_what_is_no_time_snapshot_or_tag_is_said(three: tuple[Place, list[int]], call: Call, to: str) -> None:
    place, heads = three
    with pytest.raises(SettingsError):
        call("rollback", TABLE, "--to", to, "--yes")
    assert place.head() == heads[2]


@pytest.mark.parametrize("zone", ["+05:30", "-08:00", "Z", ""])
def test_a_time_is_meant_where_it_says(three: tuple[Place, list[int]], call: Call, zone: str) -> None:
    """The moment of the second publication, as clocks of other places show it; UTC where nothing is said."""
    place, heads = three
    [at] = [
        head.at for head in publications(place.catalog.load_table(str(TABLE))) if head.snapshot.snapshot_id == heads[1]
    ]
    there = at.astimezone(datetime.fromisoformat(f"2024-01-01T00:00:00{zone or 'Z'}").tzinfo).replace(tzinfo=None)
    said = json.loads(call("rollback", TABLE, "--to", f"{there.isoformat()}{zone}", "--dry-run", "--json").stdout)
    assert said["to"]["snapshot_id"] == heads[1]


@pytest.mark.parametrize("words", [[], [TABLE], [TABLE, "a", "--due"], [TABLE, "a", "--keep", "soon"]])
def test_what_makes_no_sense_is_said(call: Call, words: list[object]) -> None:
    with pytest.raises(SettingsError):
        call("tag", *words)


def test_due_tags_are_made_for_every_table_and_a_busy_one_waits(
    three: tuple[Place, list[int]], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, heads = three
    place.publish("a1", QUARANTINE)
    found = [(TABLE, Tags()), (QUARANTINE, Tags())]
    monkeypatch.setattr(travel, "_policies", lambda *_: iter(found))
    assert "No tag is due; 2 tables" in call("tag", "--due").stdout  # no day has ended yet
    monkeypatch.setattr(travel, "SystemClock", lambda: _Tomorrow())
    assert "Nothing was changed" in call("tag", "--due", "--dry-run").stdout

    @contextmanager
    def busy(_: Any, names: list[Any], **__: Any) -> Iterator[Any]:
        if names == [QUARANTINE]:
            raise TableBusy("it is worked on")
        yield type("Locks", (), {"check": staticmethod(lambda: None)})

    monkeypatch.setattr("lakehouse.engine.travel.table_locks", busy)
    with pytest.raises(TableBusy, match="1 tables were not tagged"):
        call("tag", "--due")
    tags = {name: ref.snapshot_id for name, ref in place.catalog.load_table(str(TABLE)).metadata.refs.items()}
    assert [tags[name] for name in tags if name.startswith("daily-")] == [heads[2]]


class _Tomorrow:
    def now(self) -> Any:
        return datetime.now(UTC) + timedelta(days=1)


def test_every_table_of_every_contract_has_a_policy(three: tuple[Place, list[int]], call: Call) -> None:
    place, _ = three
    for name in (
        "bronze.retail_sales",
        "silver.dim_customer",
        "quarantine.dim_customer",
        "gold.sales_star",
        "ops.runs",
    ):
        place.publish("a1", TableName.parse(name))
    found = {str(name): policy for name, policy in travel._policies(travel.settings(), place.catalog)}
    assert sorted(found) == ["bronze.retail_sales", "gold.sales_star", "quarantine.dim_customer", "silver.dim_customer"]
    assert all(policy.daily == 7 for policy in found.values())
