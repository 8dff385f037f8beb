"""How backups stand: what is overdue, in words, and how little is asked to know it. On moto's server, no JVM."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.backup_lake import SmallLake
from tests.drills import a_drill, drilled
from typer.testing import CliRunner

from lakehouse.backup.drill_report import render_report
from lakehouse.backup.drills import Drill, write_drill
from lakehouse.backup.signing import public_key_of, signer_of
from lakehouse.backup.status import Limits, Seen, Status, exposure_of, read_status
from lakehouse.cli import drill as cli
from lakehouse.cli.main import app
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.settings import Settings

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def set_at(moment: datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%SZ}-00000000"


def stand(lake: SmallLake, at: datetime, seen: Seen | None = None) -> Status:
    return read_status(lake.vault, public_key_of(lake.settings), Limits.of(lake.settings), at, seen)


def drill(lake: SmallLake, at: datetime, **given: Any) -> Drill:
    """A drill that began at a moment, with its record in the vault."""
    times = {"id": set_at(at), "started_at": at.isoformat(), "finished_at": at.isoformat()}
    made = a_drill(**times, **given).signed(signer_of(lake.settings))
    write_drill(lake.vault, made, render_report(made))
    return made


def test_what_would_be_lost_is_known_from_the_times_of_sets() -> None:
    cuts = [NOON + timedelta(minutes=minutes) for minutes in (0, 10, 20, 45, 55)]
    finished = {set_at(cut): cut + timedelta(minutes=2) for cut in cuts}
    found = exposure_of(finished, NOON + timedelta(minutes=58))
    assert (found.now, found.worst, found.sets) == (timedelta(minutes=3), timedelta(minutes=27), 5)
    assert found.since == NOON
    later = exposure_of(finished, NOON + timedelta(days=2, minutes=40))
    assert later.worst == later.now > timedelta(days=1), "the gap of now counts, and older ones no more"
    assert later.since == NOON + timedelta(minutes=40)
    alone = exposure_of({set_at(NOON): NOON}, NOON + timedelta(minutes=7))
    assert (alone.now, alone.worst, alone.sets) == (timedelta(minutes=7), timedelta(minutes=7), 1)


def test_nothing_is_overdue_where_all_was_done(lake: SmallLake) -> None:
    made = lake.back_up()
    lake.verify(made)
    drill(lake, lake.now)
    found = stand(lake, lake.now + timedelta(minutes=5))
    assert found.overdue == ()
    assert found.last and (found.last.id, found.last.tables) == (made.id, 2)
    assert found.exposure and found.exposure.now == timedelta(minutes=5)
    said = json.loads(found.to_json())
    assert said["set"]["id"] == made.id and said["rpo"]["now_seconds"] == 300
    assert (said["drill"]["rto_all_seconds"], said["verification"]["is_good"]) == (61.0, True)


def test_each_thing_that_is_overdue_is_said(lake: SmallLake) -> None:
    assert stand(lake, lake.now).overdue == (
        "there is no complete backup set: make one with `lakehouse backup create`",
    )
    made = lake.back_up()
    assert stand(lake, lake.now).overdue == (), "nothing was verified or drilled yet, and need not be so soon"
    late = stand(lake, lake.now + timedelta(days=9)).overdue
    assert [words.split(":")[0] for words in late] == [
        "the last complete set is 9 d old, the goal is 15 min",
        "no set has been verified yet",
        "no drill has succeeded yet",
    ]
    lake.days += 9
    made = lake.back_up()
    assert [words.split(":")[0] for words in stand(lake, lake.now).overdue] == [
        "no set has been verified yet",
        "no drill has succeeded yet",
    ], "new sets each day make nothing of it less late"
    lake.verify(made)
    drill(lake, lake.now, rto_all_seconds=5 * 3600.0)
    late = stand(lake, lake.now + timedelta(days=9)).overdue
    assert late[1:] == (
        "the last verification was 9 d ago",
        "the last good drill was 9 d ago, the limit is 8 d",
        "a restore of everything takes 5 h by the last good drill, the goal is 4 h",
    )


def test_a_failed_drill_and_damage_are_said_at_once(lake: SmallLake) -> None:
    made = lake.back_up()
    good = drill(lake, lake.now)
    bad = drill(lake, lake.now + timedelta(minutes=1), tables=(drilled(problems=("2 rows are missing",)),))
    key = next(iter(made.files().values())).copy.key
    lake.vault.store.client.put_object(Bucket=lake.settings.backup_bucket, Key=key, Body=b"other")
    lake.verify(made)
    found = stand(lake, lake.now + timedelta(minutes=2))
    assert found.drill == bad and found.good_drill == good
    assert [words[:40] for words in found.overdue] == [
        "the last verification found 1 damaged fi",
        "the last drill failed: silver.dim_shop: ",
    ]


def test_what_never_changes_is_read_once(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks every few seconds."""
    lake.verify(lake.back_up())
    drill(lake, lake.now)
    seen, asked = Seen(), Counter[str]()
    first = stand(lake, lake.now, seen)
    for name in ("get", "list_after", "folders"):
        original = getattr(type(lake.vault.store), name)

        def counting(self: Any, *given: Any, _name: str = name, _original: Any = original, **more: Any) -> Any:
            asked[_name] += 1
            return _original(self, *given, **more)

        monkeypatch.setattr(type(lake.vault.store), name, counting)
    assert stand(lake, lake.now, seen) == first
    assert asked == {"list_after": 3}
    newer = lake.back_up()
    found = stand(lake, lake.now, seen)
    assert found.last and found.last.id == newer.id and len(seen.finished) == 2


def test_an_emptied_bucket_is_noticed(unlocked: SmallLake) -> None:
    lake = unlocked
    lake.back_up()
    seen = Seen()
    assert stand(lake, lake.now, seen).last
    client, bucket = lake.vault.store.client, lake.settings.backup_bucket
    for key in lake.vault.keys(""):
        client.delete_object(Bucket=bucket, Key=key)
    assert stand(lake, lake.now, seen).overdue[0].startswith("there is no complete backup set")


def test_a_drill_of_somebody_else_is_not_believed(lake: SmallLake) -> None:
    lake.back_up()
    made = a_drill(id=set_at(lake.now), public_key=public_key_of(lake.settings), signature="A" * 86)
    write_drill(lake.vault, made, "<script>")
    with pytest.raises(IntegrityError, match="the record of a drill was not signed"):
        stand(lake, lake.now)


def test_the_command_ends_with_7_where_something_is_overdue(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "settings", lambda: lake.settings)
    runner = CliRunner()
    result = runner.invoke(app, ["backup", "status", "--json"])
    assert isinstance(result.exception, IntegrityError) and "there is no complete backup set" in str(result.exception)
    assert json.loads(result.stdout)["set"] is None
    monkeypatch.setattr(cli, "settings", lambda: Settings(home=lake.settings.home))
    result = runner.invoke(app, ["backup", "status"])
    assert isinstance(result.exception, SettingsError) and "LAKEHOUSE_BACKUP_BUCKET" in str(result.exception)
