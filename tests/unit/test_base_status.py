"""How far the databases can be brought back: by what is in the bucket and what PostgreSQL writes. On moto's server."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from tests.backup_lake import SmallLake, make_lake
from tests.unit.test_wal import SERVER, SIZE, name, segment
from typer.testing import CliRunner

from lakehouse.backup import base_status, wal
from lakehouse.backup.base_status import Databases, SeenBases, Writing, ask, asking, look, read_databases
from lakehouse.backup.bases import Base, base_ids, base_key, seal
from lakehouse.backup.records import read_records
from lakehouse.backup.signing import public_key_of, signer_of
from lakehouse.backup.status import Limits, Seen, Status, read_status
from lakehouse.cli import backup as backup_cli
from lakehouse.cli import doctor
from lakehouse.cli import drill as status_cli
from lakehouse.cli.main import app
from lakehouse.core.errors import IntegrityError, SettingsError, TransientError
from lakehouse.core.settings import Settings

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def empty(endpoint: str, tmp_path: Any) -> SmallLake:
    """A lake without tables, and its place for backups."""
    return make_lake(endpoint, tmp_path)


def a_base(lake: SmallLake, at: datetime, *, first: int = 3, timeline: int = 1, server: str = SERVER) -> Base:
    """A complete base backup of one part: it begins and ends in one segment of the log."""
    base_id = f"{at:%Y%m%dT%H%M%SZ}-{first:04x}{timeline:04x}"
    part = lake.vault.put(base_key(base_id, "base.tar.gz.00000"), base_id.encode())
    start, end = (f"{first * SIZE + offset >> 32:X}/{first * SIZE + offset & 0xFFFFFFFF:X}" for offset in (40, 288))
    times = (at.isoformat(), at.isoformat())
    base = Base(base_id, server, "18.4", timeline, *times, start, end, SIZE, 10, (part,))
    signed = base.signed(signer_of(lake.settings))
    seal(lake.vault, signed)
    return signed


def archive(lake: SmallLake, *numbers: int, timeline: int = 1) -> None:
    for number in numbers:
        wal.store(lake.vault, SERVER, name(timeline, number), segment(timeline, number))


def writes(number: int, at: datetime, **given: Any) -> Writing:
    """A server that writes a segment, and was started two days ago."""
    known: dict[str, Any] = {"timeline": 1, "started_at": at - 2 * DAY, "is_archiving": True, "timeout": 5 * MINUTE}
    return Writing(server=SERVER, segment=number, segment_bytes=SIZE, **{**known, **given})


def stands(lake: SmallLake, writing: Writing, seen: SeenBases | None = None) -> Databases:
    ids = base_ids(lake.vault)
    return read_databases(lake.vault, public_key_of(lake.settings), lambda: writing, ids, (), seen or SeenBases())


def status(lake: SmallLake, writing: Writing, at: datetime, seen: Seen | None = None) -> Status:
    key, limits = public_key_of(lake.settings), Limits.of(lake.settings)
    return read_status(lake.vault, key, limits, at, seen, lambda: writing)


def came(found: Databases) -> datetime:
    """When the server's clock says that the newest segment came."""
    assert found.archived
    return found.archived.at


def test_an_idle_server_is_not_behind_however_old_its_newest_segment(empty: SmallLake) -> None:
    base = a_base(empty, empty.now)
    archive(empty, 3, 4)
    found = stands(empty, writes(5, empty.now))
    assert (found.base, found.waiting, found.is_behind) == (base, 0, False)
    later = came(found) + 20 * HOUR
    assert found.lag(later) == timedelta() and found.overdue(later, 2 * DAY, None) == []
    assert "the newest segment came 20 h ago, none waits" in found.words(later)


def test_full_segments_that_wait_are_late_after_two_timeouts(empty: SmallLake) -> None:
    a_base(empty, empty.now)
    archive(empty, 3, 4)
    found = stands(empty, writes(8, empty.now))
    assert found.waiting == 3 and found.lag(came(found) + 9 * MINUTE) == 9 * MINUTE
    assert found.overdue(came(found) + 10 * MINUTE, 2 * DAY, None) == []
    [words] = found.overdue(came(found) + 11 * MINUTE, 2 * DAY, None)
    assert words.startswith("the log of the databases is archived up to 11 min ago only, the limit is 10 min: ")
    assert words.endswith("the newest segment came 11 min ago, 3 wait")
    at = came(found) + HOUR
    young = replace(found, writing=writes(8, empty.now, started_at=at - 9 * MINUTE))
    assert young.overdue(at, 2 * DAY, None) == [], "it was stopped, and begins to archive again"


def test_a_failure_of_postgresql_counts_also_where_nothing_was_ever_archived(empty: SmallLake) -> None:
    failing = writes(4, empty.now, failed_at=empty.now)
    found = stands(empty, failing)
    assert (found.base, found.archived, found.waiting, found.reaches) == (None, None, None, None)
    [words] = found.overdue(empty.now, 2 * DAY, None)
    assert "archived up to 2 d ago only" in words and "no segment is archived yet, the last try failed at" in words
    assert found.overdue(empty.now, 2 * DAY, empty.now - DAY) == [words], "the first base backup has some time"
    assert len(found.overdue(empty.now, 2 * DAY, empty.now - 3 * DAY)) == 2
    base = a_base(empty, empty.now)
    assert stands(empty, failing).reaches == base.finished, "a base backup holds the log that it needs"


def test_a_server_that_does_not_archive_is_told(empty: SmallLake) -> None:
    a_base(empty, empty.now)
    found = stands(empty, writes(4, empty.now, is_archiving=False))
    assert found.overdue(empty.now, 2 * DAY, None) == ["PostgreSQL does not archive its log: run `lakehouse up`"]
    assert found.lag(empty.now) is None


def test_an_old_base_backup_and_one_that_leads_nowhere_are_told(empty: SmallLake) -> None:
    at = empty.now
    a_base(empty, at - 3 * DAY)
    archive(empty, 3)
    old = "the last base backup of the databases is 3 d old, the limit is 2 d"
    assert stands(empty, writes(4, at)).overdue(at, 2 * DAY, None) == [old]
    other = replace(writes(4, at), server="5")
    assert stands(empty, other).base is None, "a data folder that was made anew"
    # A recovery to a moment within segment 3 undid what the newer base backup has.
    a_base(empty, at, first=6)
    assert stands(empty, writes(7, at)).overdue(at, 2 * DAY, None) == []
    fork = writes(4, at, timeline=2)
    assert stands(empty, fork).base is None, "nobody knows yet where this timeline began"
    wal.store(empty.vault, SERVER, "00000002.history", f"1\t0/{3 * SIZE + 400:X}\tno reason\n".encode())
    assert stands(empty, fork).overdue(at, 2 * DAY, None) == [old]
    assert a_base(empty, at + MINUTE, first=4, timeline=2) == stands(empty, fork).base


def test_a_postgresql_that_is_away_leaves_what_the_bucket_says(empty: SmallLake) -> None:
    base = a_base(empty, empty.now)
    archive(empty, 3)

    def away() -> Writing:
        raise TransientError("the catalog database cannot be reached")

    found = look(empty.vault, public_key_of(empty.settings), away)
    assert found.base == base and found.waiting is None and found.lag(empty.now) is None
    assert found.overdue(empty.now, 2 * DAY, None) == [], "the server itself is what wants a look"
    assert "PostgreSQL did not say what waits: the catalog database cannot be reached" in found.words(came(found))
    assert found.overdue(empty.now + 3 * DAY, 2 * DAY, None) == [
        "the last base backup of the databases is 3 d old, the limit is 2 d"
    ]
    nowhere = Settings(home=empty.settings.home, postgres_port=1, reader_password="x", catalog_password="y")  # type: ignore[arg-type]
    with pytest.raises((TransientError, SettingsError)):
        ask(nowhere)
    assert asking(nowhere) is not None
    assert asking(nowhere.model_copy(update={"postgres_host": "db.example.com"})) is None


def test_little_is_asked_again_and_a_lost_archive_is_noticed(
    empty: SmallLake, endpoint: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make_lake(endpoint, tmp_path, is_locking=False)
    a_base(lake, lake.now)
    archive(lake, 3, 4)
    seen, asked, listed = SeenBases(), Counter[str](), list[str]()
    first = stands(lake, writes(5, lake.now), seen)
    original = wal.Vault.get

    def getting(self: Any, key: str, version: str = "") -> bytes:
        asked["get"] += 1
        return original(self, key, version)

    store_type = type(lake.vault.store)
    list_after = store_type.list_after

    def listing(self: Any, prefix: str, start_after: str = "", delimiter: str = "") -> Any:
        for info in list_after(self, prefix, start_after, delimiter):
            listed.append(info.key)
            yield info

    monkeypatch.setattr(wal.Vault, "get", getting)
    monkeypatch.setattr(store_type, "list_after", listing)
    assert stands(lake, writes(5, lake.now), seen) == first
    assert (asked, listed) == ({}, [])
    archive(lake, 5)
    newer = stands(lake, writes(6, lake.now), seen)
    assert newer.archived and newer.archived.name == name(1, 5) and len(listed) == 1
    for number in (3, 4, 5):
        lake.vault.store.delete(wal.key_of(SERVER, name(1, number)))
    assert stands(lake, writes(6, lake.now), seen).archived is None


def test_status_says_it_in_json_and_names_damage(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lake.back_up()
    base = a_base(lake, lake.now - HOUR)
    archive(lake, 3, 5)
    monkeypatch.setattr(backup_cli, "settings", lambda: lake.settings)
    monkeypatch.setattr(backup_cli, "SystemClock", lambda: SimpleNamespace(now=lambda: lake.now))
    done = CliRunner().invoke(app, ["backup", "verify", "--json"])
    assert isinstance(done.exception, IntegrityError) and "1 files of the databases' backups" in str(done.exception)
    said = json.loads(done.stdout)
    assert (said["set_id"], said["databases"][0]["set_id"]) == (made.id, base.id)
    seen = Seen()
    found = status(lake, writes(6, lake.now), lake.now, seen)
    assert found == status(lake, writes(6, lake.now), lake.now, seen)
    assert found.verification and found.verification.set_id == made.id, "a record of a base backup is of no set"
    assert found.overdue == ("the last verification found 1 damaged files of the databases' backups",)
    told = json.loads(found.to_json())["databases"]
    assert told["base"]["id"] == base.id and told["base_age_seconds"] == 3600
    assert (told["segments_waiting"], told["damages"], told["problem"]) == (0, 1, "")
    assert told["newest_segment"]["name"] == name(1, 5) and told["lag_seconds"] == 0
    archive(lake, 4)
    assert status(lake, writes(6, lake.now), lake.now).overdue, "nobody has looked again"
    monkeypatch.setattr(backup_cli, "SystemClock", lambda: SimpleNamespace(now=lambda: lake.now + MINUTE))
    assert CliRunner().invoke(app, ["backup", "verify", "--all"]).exception is None
    assert status(lake, writes(6, lake.now), lake.now + MINUTE).overdue == ()
    nobody = read_status(lake.vault, public_key_of(lake.settings), Limits.of(lake.settings), lake.now)
    assert nobody.databases is None and json.loads(nobody.to_json())["databases"] is None


def test_the_command_says_how_the_databases_stand_also_without_a_set(
    empty: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = empty.now
    a_base(empty, now - HOUR)
    archive(empty, 3)
    monkeypatch.setattr(status_cli, "settings", lambda: empty.settings)
    monkeypatch.setattr(base_status, "asking", lambda settings: lambda: writes(4, now, started_at=now - 3 * DAY))
    monkeypatch.setattr(status_cli, "SystemClock", lambda: SimpleNamespace(now=lambda: now))
    done = CliRunner().invoke(app, ["backup", "status"])
    assert isinstance(done.exception, IntegrityError) and "there is no complete backup set" in str(done.exception)
    assert "databases: base backup: 1 h ago; log: the newest segment came" in done.stdout
    monkeypatch.setattr(base_status, "asking", lambda settings: lambda: writes(4, now, is_archiving=False))
    done = CliRunner().invoke(app, ["backup", "status"])
    assert "! PostgreSQL does not archive its log" in done.stdout


def test_the_doctor_warns_and_never_fails(empty: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(given: Settings = empty.settings, **writing: Any) -> list[tuple[str, str]]:
        monkeypatch.setattr(base_status, "asking", lambda _: lambda: writes(4, empty.now, **writing))
        return [(check.result, check.detail) for check in doctor._databases(given)]

    [(result, detail)] = found()
    assert result == "warn" and "none that leads to the databases" in detail
    a_base(empty, datetime.now(empty.now.tzinfo) - MINUTE)
    archive(empty, 3)
    [(result, detail)] = found()
    assert result == "ok" and "base backup: 1 min" in detail
    [(result, detail)] = found(is_archiving=False)
    assert result == "warn" and "PostgreSQL does not archive its log" in detail
    [(result, detail)] = found(empty.settings.model_copy(update={"backup_bucket": "not-there"}))
    assert result == "warn" and detail == "nobody could look: there is no bucket 'not-there'"
    assert found(empty.settings.model_copy(update={"backup_bucket": ""})) == []
    monkeypatch.undo()
    external = empty.settings.model_copy(update={"postgres_server": "external"})
    assert list(doctor._databases(external)) == []


def test_base_backups_are_verified_where_there_is_no_set(empty: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_cli, "settings", lambda: empty.settings)

    def verify(*words: str) -> Any:
        return CliRunner().invoke(app, ["backup", "verify", "--all", *words])

    done = verify()
    assert isinstance(done.exception, SettingsError) and "there is no complete backup set" in str(done.exception)
    base = a_base(empty, empty.now)
    archive(empty, 3, 4)
    done = verify()
    assert done.exception is None, done.exception
    assert f"{base.id}: 3 files looked at, 3 read whole" in done.stdout and "no complete backup set yet" in done.stdout
    said = json.loads(verify("--json").stdout)
    assert (said["set_id"], said["files"], said["damages"]) == ("", 0, [])
    assert [each["set_id"] for each in said["databases"]] == [base.id]
    assert [record.is_good for record in read_records(empty.vault, base.id, public_key_of(empty.settings))] == [
        True,
        True,
    ]
    key = wal.key_of(SERVER, name(1, 3))
    body = bytearray(empty.vault.get(key))
    body[-1] ^= 1
    empty.vault.store.put(key, bytes(body))
    done = verify("--json")
    assert isinstance(done.exception, IntegrityError) and "1 files of the databases' backups" in str(done.exception)
    assert [damage["key"] for damage in json.loads(done.stdout)["databases"][0]["damages"]] == [key]
    done = verify("20260304T120000Z-00000000")
    assert isinstance(done.exception, SettingsError), "a set that is named must be there"
