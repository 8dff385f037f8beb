"""Restores of a small lake: planned, carried out, undone, into other buckets, out of a damaged backup. No JVM."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.backup_lake import SOURCE, SmallLake, catalog_at, content_of
from typer.testing import CliRunner

from lakehouse.backup.copying import in_threads
from lakehouse.backup.sets import BackupSet, Entry
from lakehouse.cli import restore as cli
from lakehouse.cli.main import app
from lakehouse.core.clock import FixedClock
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.failpoints import FailpointHit
from lakehouse.ledger.log import Batch, read_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.recovery.choose import Wanted
from lakehouse.recovery.restore import Restored, RestorePlan, carry_out, plan_restore, undo
from lakehouse.recovery.target import Target

EVERYTHING = Wanted(everything=True)


def landed(lake: SmallLake) -> list[Batch]:
    return read_log(ObjectStore.open(lake.settings), SOURCE)


def objects(lake: SmallLake) -> set[str]:
    stores = [ObjectStore.open(lake.settings, lake.settings.warehouse_bucket), ObjectStore.open(lake.settings)]
    return {each.where(found.key) for each in stores for found in each.list_after("")}


def here(lake: SmallLake) -> Target:
    return Target.at(lake.settings, lake.catalog.engine)


def plan(lake: SmallLake, what: Wanted = EVERYTHING, target: Target | None = None) -> RestorePlan:
    return plan_restore(lake.settings, FixedClock(lake.now), what, target=target or here(lake))


def restore(lake: SmallLake, what: Wanted = EVERYTHING, target: Target | None = None) -> Restored:
    place = target or here(lake)
    return carry_out(lake.settings, FixedClock(lake.now), plan(lake, what, place), target=place)


def test_a_lake_that_lost_its_files_is_as_it_was(lake: SmallLake) -> None:
    before = lake.contents()
    lake.back_up()
    lake.empty()
    done = restore(lake)
    assert lake.contents() == before
    assert done.tables == ()
    assert plan(lake).is_empty


def test_tables_go_back_and_forth(lake: SmallLake) -> None:
    before = lake.contents()
    lake.back_up()
    lake.table("silver.dim_shop", 7)
    after = lake.contents()
    done = restore(lake)
    assert done.tables == ("silver.dim_shop",)
    assert lake.contents() == before
    undo(here(lake))
    assert lake.contents() == after
    undo(here(lake))
    assert lake.contents() == before


def test_into_other_buckets_and_an_empty_catalog(lake: SmallLake, tmp_path: Path) -> None:
    before = lake.contents()
    lake.back_up()
    lake.empty()
    settings = lake.settings.model_copy(update={"warehouse_bucket": "new-w", "landing_bucket": "new-l"})
    for bucket in ("new-w", "new-l"):
        lake.s3.create_bucket(Bucket=bucket)
    catalog = catalog_at(settings, tmp_path / "other.db")
    target = Target.at(settings, catalog.engine)
    restore(lake, target=target)
    assert {name: content_of(catalog.load_table(name)) for name in before} == before
    assert plan(lake, target=target).is_empty


def test_dropped_table_comes_back_and_goes_again(lake: SmallLake) -> None:
    before = lake.contents()
    lake.back_up()
    lake.catalog.drop_table("gold.sales")
    restore(lake, Wanted(("gold",)))
    assert lake.contents() == before
    undo(here(lake))
    assert not lake.catalog.table_exists("gold.sales")
    undo(here(lake))
    assert lake.contents() == before


def test_a_scratch_lake_shares_a_bucket_below_a_prefix(lake: SmallLake, tmp_path: Path) -> None:
    before, stored = lake.contents(), objects(lake)
    lake.back_up()
    catalog = catalog_at(lake.settings, tmp_path / "scratch.db")
    target = Target.at(lake.settings, catalog.engine, prefix="drills/one/")
    done = restore(lake, target=target)
    assert {name: content_of(catalog.load_table(name)) for name in before} == before
    assert done.copied.files > 10
    added = objects(lake) - stored
    assert added and all("/drills/one/" in name for name in added) and stored <= objects(lake)


def test_nothing_is_live_before_all_is(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lake.contents()
    lake.back_up()
    lake.empty()
    for name in lake.tables:
        lake.catalog.drop_table(name)
    for point in ("begun", "before_copy", "after_copy", "after_logs", "after_files", "before_swap"):
        with monkeypatch.context() as armed, pytest.raises(FailpointHit, match=point):
            armed.setenv("LAKEHOUSE_FAILPOINTS", f"restore.{point}=raise")
            restore(lake)
        assert not any(lake.catalog.table_exists(name) for name in lake.tables), point
    restore(lake)
    assert lake.contents() == before


def test_a_restore_that_died_after_the_swap_is_done(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lake.contents()
    lake.back_up()
    lake.table("gold.sales", 1)
    with monkeypatch.context() as armed, pytest.raises(FailpointHit):
        armed.setenv("LAKEHOUSE_FAILPOINTS", "restore.after_swap=raise")
        restore(lake)
    assert lake.contents() == before and plan(lake).is_empty
    assert [str(note.table) for note in here(lake).rows.kept()] == ["gold.sales"]


def test_files_with_other_bytes_are_damage_and_are_replaced(lake: SmallLake) -> None:
    before, made = lake.contents(), lake.back_up()
    bucket = lake.settings.warehouse_bucket
    entries = {entry.kind: entry for entry in made.files().values() if f"//{bucket}/" in entry.uri}
    assert {"data", "metadata", "manifest_list", "manifest", "position_deletes"} <= entries.keys()
    for entry in entries.values():
        lake.s3.put_object(Bucket=bucket, Key=entry.uri.split("/", 3)[3], Body=b"x" * entry.copy.size_bytes)
    done = restore(lake, Wanted(everything=True, thorough=True))
    assert {entry.uri for entry in entries.values()} == set(done.replaced)
    assert lake.contents() == before
    shorter = entries["data"].uri
    lake.s3.put_object(Bucket=bucket, Key=shorter.split("/", 3)[3], Body=b"x")
    assert plan(lake).replaced == (shorter,)
    restore(lake)
    assert lake.contents() == before


def test_a_backup_that_lost_a_file_is_not_swapped_in(unlocked: SmallLake) -> None:
    lake = unlocked
    made = lake.back_up()
    lake.table("gold.sales", 1)
    lake.table("silver.dim_shop", 1)
    after, rows = lake.contents(), here(lake).rows.read()
    kinds = {entry.kind: entry for entry in made.files().values() if entry.kind != "former_metadata"}
    assert len(kinds) == 7
    for lost in kinds.values():
        live = ObjectStore.open(lake.settings, lost.uri.split("/")[2])
        body, key = lake.vault.get(lost.copy.key), lost.uri.split("/", 3)[3]
        lake.s3.delete_object(Bucket=lake.settings.backup_bucket, Key=lost.copy.key)
        live.delete(key)
        with pytest.raises(IntegrityError, match="of the backup are missing or damaged") as raised:
            restore(lake)
        assert lost.copy.key in raised.value.where
        assert here(lake).rows.read() == rows and not here(lake).rows.kept()
        for store, name in ((lake.vault.store, lost.copy.key), (live, key)):
            store.put(name, body)
    assert lake.contents() == after


def test_a_set_that_lacks_what_its_tables_name_is_not_swapped_in(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the set lists is brought back and whole; only the files themselves say that one more is needed."""
    made, listed = lake.back_up(), BackupSet.files
    lacking = next(uri for uri, entry in made.files().items() if entry.kind == "data")
    lake.empty()
    rows = here(lake).rows.read()

    def files(found: BackupSet) -> dict[str, Entry]:
        there = {uri: entry for uri, entry in listed(found).items() if uri != lacking}
        return {u: replace(e, refs=tuple(ref for ref in e.refs if ref != lacking)) for u, e in there.items()}

    with monkeypatch.context() as patch:
        patch.setattr(BackupSet, "files", files)
        with pytest.raises(IntegrityError, match="missing or damaged") as raised:
            restore(lake)
        assert f"{lacking}, which" in raised.value.where and "was not brought back" in raised.value.where
        assert here(lake).rows.read() == rows and not here(lake).rows.kept()


def test_the_version_that_was_stored_is_taken(lake: SmallLake) -> None:
    before, made = lake.contents(), lake.back_up()
    for entry in made.files().values():
        lake.s3.put_object(Bucket=lake.settings.backup_bucket, Key=entry.copy.key, Body=b"damage")
    lake.empty()
    restore(lake)
    assert lake.contents() == before


def test_logs_are_filled_and_never_rewritten(lake: SmallLake) -> None:
    log, bucket = landed(lake), lake.settings.landing_bucket
    lake.back_up()
    lake.land(b"id\n4\n", 4)
    after = landed(lake)
    lake.s3.delete_object(Bucket=bucket, Key="log/shop.orders/000000000002.json")
    lake.s3.put_object(Bucket=bucket, Key="log/shop.orders/000000000003.json", Body=b"{ cut short")
    assert plan(lake).missing_logs.files == 2
    restore(lake)
    assert landed(lake) == after and log == after[:3]
    other = json.dumps({"number": 2, "source": "shop.orders"}).encode()
    lake.s3.put_object(Bucket=bucket, Key="log/shop.orders/000000000002.json", Body=other)
    with pytest.raises(IntegrityError, match="another entry under a number"):
        restore(lake)
    assert lake.s3.get_object(Bucket=bucket, Key="log/shop.orders/000000000002.json")["Body"].read() == other


def test_until_all_entries_are_there_nobody_can_land(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    log = landed(lake)
    lake.back_up()
    lake.empty()
    only_last = monkeypatch.context()
    with only_last as patched, pytest.raises(FailpointHit):
        patched.setattr("lakehouse.recovery.files.in_threads", stops_after_the_last)
        restore(lake)
    with pytest.raises(IntegrityError, match="number 1 was expected"):
        lake.land(b"id\n5\n", 5)
    restore(lake)
    assert landed(lake) == log


def stops_after_the_last(act: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Threads, until entries of logs are written that are not the last ones."""
    if getattr(act, "__name__", "") == "_log_entry":
        raise FailpointHit("stopped")
    return in_threads(act, items)


def test_a_moment_is_exact_out_of_a_later_set(lake: SmallLake) -> None:
    def now() -> datetime:
        return datetime.fromtimestamp(max(t.metadata.last_updated_ms for t in tables()) / 1000, UTC)

    def tables() -> list[Any]:
        return [lake.catalog.load_table(name) for name in lake.tables]

    wanted, at = lake.contents(), now()
    time.sleep(0.01)
    lake.table("silver.dim_shop", 6)
    lake.table("gold.sales", 2)
    made = lake.back_up()
    lake.table("gold.sales", 1)
    after = lake.contents()
    what = Wanted(everything=True, at=at)
    first = plan(lake, what)
    assert {each.aim.found.id for each in first.tables} == {made.id} and not first.older
    assert plan(lake, what).token == first.token
    carry_out(lake.settings, FixedClock(lake.now), first, target=here(lake))
    assert lake.contents() == wanted
    assert plan(lake, what).is_empty
    undo(here(lake), ["gold.sales"])
    assert lake.contents() == {**wanted, "gold.sales": after["gold.sales"]}
    with pytest.raises(SettingsError, match="as of 2001"):
        plan(lake, Wanted(("gold.sales",), at=datetime(2001, 1, 1, tzinfo=UTC)))


def test_a_moment_after_the_last_set_is_as_of_that_set(lake: SmallLake) -> None:
    before, made = lake.contents(), lake.back_up()
    lake.table("gold.sales", 1)
    what = Wanted(everything=True, at=lake.now + timedelta(hours=5))
    seen = plan(lake, what)
    assert seen.older == {"gold.sales": 5 * 3600.0, "silver.dim_shop": 5 * 3600.0}
    assert {each.aim.found.id for each in seen.tables} == {made.id}
    carry_out(lake.settings, FixedClock(lake.now), seen, target=here(lake))
    assert lake.contents() == before


def test_silver_and_its_quarantine_go_together(lake: SmallLake) -> None:
    lake.table("quarantine.dim_shop", 1)
    before = lake.contents()
    lake.back_up()
    lake.table("quarantine.dim_shop", 2)
    lake.table("silver.dim_shop", 2)
    lake.table("gold.sales", 2)
    sales = content_of(lake.catalog.load_table("gold.sales"))
    done = restore(lake, Wanted(("silver.dim_shop",)))
    assert set(done.tables) == {"silver.dim_shop", "quarantine.dim_shop"}
    assert lake.contents() == {**before, "gold.sales": sales}


def test_kept_tables_are_in_no_backup(lake: SmallLake) -> None:
    lake.back_up()
    lake.table("gold.sales", 1)
    restore(lake)
    made = lake.back_up()
    assert {each.table for each in made.manifest.tables} == set(lake.tables)
    assert not [each for each in made.manifest.namespaces if "kept" in each[1]]


def test_what_is_asked_for_is_checked() -> None:
    for wrong in (
        {},
        {"everything": True, "names": ("gold",)},
        {"everything": True, "set_id": "x", "snapshot": 1},
        {"names": ("gold",), "snapshot": 1},
        {"names": ("gold.a", "gold.b"), "snapshot": 1},
        {"everything": True, "at": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is what is wrong
    ):
        with pytest.raises(SettingsError):
            Wanted(**wrong)  # type: ignore[arg-type]


def test_the_commands_plan_restore_and_undo(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "settings", lambda: lake.settings)
    monkeypatch.setattr(cli, "_target", lambda: here(lake))

    def say(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exception is None, done.exception
        return done.stdout

    before, made = lake.contents(), lake.back_up()
    lake.table("gold.sales", 2)
    after = lake.contents()
    planned = json.loads(say("restore", "--all", "--dry-run", "--json"))
    assert planned["set"] == made.id and planned["kept"] == ["gold.sales"] and "restored" not in planned
    [sales] = [each for each in planned["tables"] if each["table"] == "gold.sales"]
    assert (sales["rows_before"], sales["rows_after"]) == (5, 3)
    assert "gold.sales: 5 rows now, 3 then" in say("restore", "gold", "--dry-run") and lake.contents() == after
    done = json.loads(say("restore", "--all", "--yes", "--json", "--if-seen", planned["token"]))
    assert done["restored"] == ["gold.sales"] and done["verified"]["files"] > 10 and lake.contents() == before
    wrong = CliRunner().invoke(app, ["restore", "--all", "--yes", "--if-seen", planned["token"]])
    assert isinstance(wrong.exception, SettingsError) and "dry run" in str(wrong.exception)
    assert "nothing to do" in say("restore", "--all", "--yes")
    assert "gold.sales" in say("kept") and done["id"] in say("kept", "--json")
    assert "becomes again what it was" in say("restore", "--undo", "--dry-run") and lake.contents() == before
    assert "Done" in say("restore", "--undo", "--yes") and lake.contents() == after
    assert "let go" in say("kept", done["id"], "--drop", "--yes")
    assert "Nothing is kept" in say("kept") and lake.contents() == after
