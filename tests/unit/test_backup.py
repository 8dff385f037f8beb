"""Backup sets of a small lake: made, gone on with, read in place, verified, and pruned. On moto's server, no JVM."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr
from tests.backup_lake import AT, SOURCE, SmallLake
from typer.testing import CliRunner

from lakehouse.backup import copying, room, vault
from lakehouse.backup.create import create_from
from lakehouse.backup.prune import Policy, decide, plan_prune, run_prune
from lakehouse.backup.records import read_records, write_record
from lakehouse.backup.sets import COMPLETE, BackupSet, complete_ids, load_set, require_known, set_ids, set_key
from lakehouse.backup.signing import Signer, check_signature, new_key, public_key_of, signer_of
from lakehouse.backup.verify import Share, put_back
from lakehouse.cli import backup as cli
from lakehouse.cli.main import app
from lakehouse.core.clock import FixedClock
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.failpoints import FailpointHit
from lakehouse.core.settings import Settings

POINTS = (
    "after_plan", "after_metadata", "after_copy", "after_copies", "before_manifest", "before_complete"
)  # fmt: skip


CUT = datetime(2026, 3, 4, 12, tzinfo=UTC)
NOTHING = Policy(0, 0, 0, 0, 0)


def kinds(found: BackupSet) -> set[str]:
    return {entry.kind for entry in found.files().values()}


def requests(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that are read from the lake from now on."""
    read: list[str] = []

    def note(name: str) -> None:
        act = getattr(copying.ObjectStore, name)

        def noting(self: Any, key: str, *rest: Any, **conditions: Any) -> Any:
            if self.bucket != lake.settings.backup_bucket:
                read.append(key)
            return act(self, key, *rest, **conditions)

        monkeypatch.setattr(copying.ObjectStore, name, noting)

    for name in ("get", "read_into", "streaming"):
        note(name)
    return read


def test_a_set_is_read_in_place_when_the_lake_is_gone(lake: SmallLake, tmp_path: Path) -> None:
    lake.catalog.load_table("silver.dim_shop").manage_snapshots().create_tag(
        lake.catalog.load_table("silver.dim_shop").current_snapshot().snapshot_id, "kept"
    ).commit()
    before = lake.contents()
    assert [len(rows) for rows in before.values()] == [6, 3]
    made = lake.back_up()
    assert kinds(made) == {
        "metadata", "former_metadata", "manifest_list", "manifest", "data", "position_deletes", "log", "landed"
    }  # fmt: skip
    assert {table.table: table.rows for table in made.manifest.tables} == {"gold.sales": 3, "silver.dim_shop": 6}
    lake.empty()
    assert lake.read_in_place(made, tmp_path) == before
    assert lake.verify(made).is_good


def test_originals_are_kept_byte_for_byte_and_locked(lake: SmallLake) -> None:
    made = lake.back_up()
    for uri, entry in made.files().items():
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        original = lake.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert lake.vault.get(entry.copy.key) == original
        head = lake.vault.head(entry.copy.key)
        assert head and head.locked_until == entry.copy.locked_until >= (lake.now + timedelta(days=5)).isoformat()


def test_the_next_set_reads_only_what_is_new(lake: SmallLake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lake.back_up()
    table = lake.table("gold.sales", 2)
    key = lake.land(b"id\n9\n", 4)
    read = requests(lake, monkeypatch)
    made = lake.back_up()
    new = [name for name in read if "silver" not in name]
    assert len(read) == len(new) and key in new and table.metadata_location.partition("/warehouse/")[2] in " ".join(new)
    assert not [name for name in new if "deletes" in name]
    assert (made.manifest.new_files, made.manifest.parent) == (len(new), made.manifest.parent)
    assert lake.read_in_place(made, tmp_path) == lake.contents()
    assert lake.verify(made).is_good
    again = lake.back_up()
    assert again.manifest.new_files == 0 and again.manifest.files == made.manifest.files


def test_schema_evolution_deletes_drops_and_new_tables_between_sets(lake: SmallLake, tmp_path: Path) -> None:
    from pyiceberg.types import LongType

    sets = [(lake.back_up(), lake.contents())]
    with lake.tables["silver.dim_shop"].update_schema() as change:
        change.add_column("staff", LongType())
        change.rename_column("city", "town")
    lake.tables["silver.dim_shop"].delete("id = 1")
    lake.table("gold.empty", 0)
    sets.append((lake.back_up(), lake.contents()))
    lake.catalog.drop_table("gold.sales")
    del lake.tables["gold.sales"]
    sets.append((lake.back_up(), lake.contents()))
    lake.empty()
    for made, contents in sets:
        assert lake.read_in_place(made, tmp_path) == contents
        assert lake.verify(made).is_good


@pytest.mark.parametrize("point", POINTS)
def test_a_set_that_is_cut_short_goes_on(
    point: str, lake: SmallLake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(copying, "_PROGRESS_SECONDS", 0)
    with monkeypatch.context() as armed, pytest.raises(FailpointHit):
        armed.setenv("LAKEHOUSE_FAILPOINTS", f"backup.{point}=raise")
        lake.back_up()
    [begun] = set_ids(lake.vault)
    assert complete_ids(lake.vault) == []
    before = lake.contents()
    lake.table("gold.sales", 4)  # after the cut: not in the set
    read = requests(lake, monkeypatch)
    made = lake.back_up()
    assert made.id == begun == complete_ids(lake.vault)[0]
    if point in ("after_copies", "before_manifest", "before_complete"):
        assert [name for name in read if "log/" not in name and "decisions/" not in name] == []
    assert lake.read_in_place(made, tmp_path) == before
    assert lake.verify(made).is_good


def test_a_begun_set_whose_files_are_gone_gives_way_to_a_new_cut(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as armed, pytest.raises(FailpointHit):
        armed.setenv("LAKEHOUSE_FAILPOINTS", "backup.after_plan=raise")
        lake.back_up()
    lake.catalog.purge_table("gold.sales")
    del lake.tables["gold.sales"]
    made = lake.back_up()
    assert made.id != set_ids(lake.vault)[0]
    assert lake.read_in_place(made, tmp_path) == lake.contents()


def test_large_files_go_in_parts(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(range(256)) * 60_000
    monkeypatch.setattr(room, "AT_ONCE_BYTES", 1024 * 1024)
    monkeypatch.setattr(vault, "PART_BYTES", 6 * 1024 * 1024)
    key = lake.land(body, 5)
    made = lake.back_up()
    entry = made.files()[f"s3://{lake.settings.landing_bucket}/{key}"]
    assert lake.vault.get(entry.copy.key) == body and entry.copy.checksum.endswith("-3")
    assert lake.verify(made).is_good


def test_what_the_lake_lacks_or_has_damaged_is_named_and_no_set_is_made(lake: SmallLake) -> None:
    landing, key = lake.settings.landing_bucket, lake.land(b"id\n7\n", 4)
    lake.s3.put_object(Bucket=landing, Key=key, Body=b"id\n8\n")
    lost = next(iter(lake.tables["silver.dim_shop"].scan().plan_files())).file.file_path
    bucket, _, name = lost.removeprefix("s3://").partition("/")
    lake.s3.delete_object(Bucket=bucket, Key=name)
    with pytest.raises(copying.FilesMissing) as error:
        lake.back_up()
    assert lost in str(error.value) and key in str(error.value) and "2 files" in str(error.value)
    assert complete_ids(lake.vault) == []


def test_references_out_of_the_lake_are_refused(lake: SmallLake) -> None:
    lake.settings = lake.settings.model_copy(update={"warehouse_bucket": "elsewhere"})
    with pytest.raises(IntegrityError, match="2 references lead out of the lake's buckets"):
        lake.back_up()


def test_a_shortened_log_is_refused(lake: SmallLake) -> None:
    lake.back_up()
    lake.s3.delete_object(Bucket=lake.settings.landing_bucket, Key=f"log/{SOURCE}/{3:012d}.json")
    with pytest.raises(IntegrityError, match="entry 3 was consumed and is not there"):
        lake.back_up()


def overwrite(lake: SmallLake, key: str, body: bytes) -> None:
    lake.s3.put_object(Bucket=lake.settings.backup_bucket, Key=key, Body=body)


def flip(body: bytes) -> bytes:
    return body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 4]) + body[len(body) // 2 + 1 :]


@pytest.mark.parametrize("how", ["deleted", "truncated", "flipped"])
def test_every_damaged_object_is_named_and_the_next_set_heals_it(how: str, lake: SmallLake, tmp_path: Path) -> None:
    """Each object of the set in turn, of every kind, original or rewritten."""
    made = lake.back_up()
    objects = [(entry, stored) for entry in made.files().values() for stored in entry.objects]
    assert len(objects) > 25
    for _, stored in objects:
        body = lake.vault.get(stored.key)
        if how == "deleted":
            lake.s3.delete_object(Bucket=lake.settings.backup_bucket, Key=stored.key)
        else:
            overwrite(lake, stored.key, body[:-1] if how == "truncated" else flip(body))
    record = lake.verify(made)
    damaged = {damage.key: damage for damage in record.damages}
    assert damaged.keys() == {stored.key for _, stored in objects}
    for entry, stored in objects:
        found = damaged[stored.key]
        assert (found.uri, found.kind, found.good_version) == (entry.uri, entry.kind, stored.version)
        assert found.tables or entry.kind == "decisions"
    data = [damage for damage in record.damages if damage.kind == "data" and "dim_shop" in damage.uri]
    assert {damage.tables for damage in data} == {("silver.dim_shop",)} and all(each.snapshots for each in data)
    healed = lake.back_up()
    assert lake.verify(healed).is_good and lake.verify(made).is_good
    assert lake.read_in_place(healed, tmp_path) == lake.contents()


def test_swapped_files_are_found_by_the_servers_checksum_without_being_read(lake: SmallLake) -> None:
    made = lake.back_up()
    first, second = [entry.copy for entry in made.files().values() if entry.kind == "landed"][:2]
    bodies = lake.vault.get(first.key), lake.vault.get(second.key)
    for stored, body in ((first, bodies[1]), (second, bodies[0])):
        lake.s3.put_object(Bucket=lake.settings.backup_bucket, Key=stored.key, Body=body, ChecksumAlgorithm="SHA256")
    nothing = next(share for n in range(97) if not any((share := Share(n, 97)).has(x.key) for x in (first, second)))
    assert {damage.key for damage in lake.verify(made, nothing).damages} == {first.key, second.key}
    assert {damage.key for damage in lake.verify(made).damages} == {first.key, second.key}


def test_all_shares_together_read_everything() -> None:
    keys = [f"objects/{n}" for n in range(500)]
    shares = [Share.of_day(AT + timedelta(days=day), 7) for day in range(7)]
    assert sorted(key for share in shares for key in keys if share.has(key)) == sorted(keys)
    assert all(Share().has(key) for key in keys)


@pytest.mark.parametrize("name", ["plan.json", "files.jsonl.gz", "manifest.json", "COMPLETE"])
def test_damaged_documents_are_named(name: str, unlocked: SmallLake) -> None:
    lake, made = unlocked, unlocked.back_up()
    key = f"sets/{made.id}/{name}"
    overwrite(lake, key, flip(lake.vault.get(key)))
    record = lake.verify(made)
    assert [name in damage.key or name == "COMPLETE" for damage in record.damages] == [True]
    lake.s3.delete_object(Bucket=lake.settings.backup_bucket, Key=key)
    assert [damage.key for damage in lake.verify(made).damages] == [key]


@pytest.mark.parametrize("name", ["plan.json", "files.jsonl.gz", "manifest.json", "COMPLETE"])
def test_documents_that_something_lies_over_are_named_and_still_used(name: str, lake: SmallLake) -> None:
    made = lake.back_up()
    key = f"sets/{made.id}/{name}"
    [version] = lake.vault.versions(key)
    for cover in (
        lambda: overwrite(lake, key, flip(lake.vault.get(key))),
        lambda: lake.s3.delete_object(Bucket=lake.settings.backup_bucket, Key=key),
    ):
        cover()
        [damage] = lake.verify(made).damages
        assert (damage.key, damage.kind, damage.good_version) == (key, "document", version)
        assert complete_ids(lake.vault) == [made.id]
        assert load_set(lake.vault, made.id, public_key_of(lake.settings)).files() == made.files()
    assert lake.back_up().manifest.parent == made.id
    assert put_back(lake.vault, lake.verify(made).damages) == (key,)
    assert lake.verify(made).is_good


def test_complete_without_files(lake: SmallLake) -> None:
    made = lake.back_up()
    for prefix in ("objects/", "query/"):
        for key in lake.vault.keys(prefix):
            lake.s3.delete_object(Bucket=lake.settings.backup_bucket, Key=key)
    record = lake.verify(made)
    assert {each.key for each in record.damages} == {x.key for e in made.files().values() for x in e.objects}


def test_a_set_that_somebody_else_signed_is_not_ours(lake: SmallLake) -> None:
    made = lake.back_up()
    with pytest.raises(IntegrityError, match="not signed with our key"):
        load_set(lake.vault, made.id, new_key()[1])
    forged = replace(made.manifest, files=1)
    with pytest.raises(IntegrityError, match="not signed with our key"):
        forged.check(public_key_of(lake.settings), "here")


def test_a_set_of_a_later_format_is_refused(lake: SmallLake) -> None:
    made = lake.back_up()
    value = {**json.loads(made.manifest.to_json()), "format_version": 2}
    with pytest.raises(IntegrityError, match="format 2, this version reads 1"):
        type(made.manifest).from_json(json.dumps(value).encode(), "here")


def test_a_key_that_is_none_is_a_setting(lake: SmallLake) -> None:
    for text, message in (("", "no key to sign"), ("abc", "no key of 32 bytes"), ("ü", "no key of 32 bytes")):
        wrong = lake.settings.model_copy(update={"backup_signing_key": type(lake.settings.backup_signing_key)(text)})
        with pytest.raises(SettingsError, match=message):
            create_from(wrong, lake.catalog.engine, FixedClock(AT))


def test_backups_need_a_place_of_their_own(lake: SmallLake) -> None:
    for bucket, message in (("", "no place for backups"), (lake.settings.landing_bucket, "is a bucket of the lake")):
        with pytest.raises(SettingsError, match=message):
            lake.settings.model_copy(update={"backup_bucket": bucket}).require_backups()


def test_the_fate_of_sets() -> None:
    cuts = [(f"{day:03d}", CUT - timedelta(days=day)) for day in range(120)]
    fates = {fate.set_id: fate for fate in decide(cuts, "050", Policy(0, 3, 2, 2, 1), CUT)}
    kept = {set_id: fate.reason for set_id, fate in fates.items() if fate.is_kept}
    assert kept == {
        "000": "the newest", "001": "daily", "002": "daily", "050": "the newest that was verified"
    } | {set_id: reason for set_id, reason in kept.items() if reason in ("weekly", "monthly")}  # fmt: skip
    assert [fate.reason for fate in fates.values()].count("no rule keeps it") == 120 - len(kept)
    assert {fate.is_kept for fate in decide(cuts[:2], "", NOTHING, CUT)} == {True, False}


def test_prune_takes_what_no_kept_set_needs_and_never_the_last_verified(unlocked: SmallLake, tmp_path: Path) -> None:
    lake, key = unlocked, public_key_of(unlocked.settings)
    first = lake.back_up()
    with pytest.raises(SettingsError, match="no set has been verified"):
        plan_prune(lake.vault, NOTHING, key)
    assert lake.verify(first).is_good
    lake.catalog.drop_table("gold.sales")
    del lake.tables["gold.sales"]
    second, contents = lake.back_up(), lake.contents()
    third = lake.back_up()
    said = replace(read_records(lake.vault, first.id, key)[0], set_id=third.id)
    write_record(lake.vault, said, None)
    write_record(lake.vault, said, Signer(Ed25519PrivateKey.generate()))
    write_record(lake.vault, replace(said, at=said.at + "1"), None)
    plan = plan_prune(lake.vault, NOTHING, key)  # what others say of the third is not taken for a verification
    assert plan.going == (second.id,) and not plan.objects  # the first is the newest that was verified
    assert lake.verify(third).is_good
    plan = plan_prune(lake.vault, NOTHING, key)
    assert set(plan.going) == {first.id, second.id}
    assert plan.objects and all("sales" in stored.key for stored in plan.objects)
    assert run_prune(lake.vault, plan) == 0
    assert complete_ids(lake.vault) == [third.id] == set_ids(lake.vault)
    assert lake.verify(third).is_good and lake.read_in_place(third, tmp_path) == contents
    assert not [key for key in lake.vault.keys("objects/") if "sales" in key]


def test_a_prune_that_is_cut_short_goes_on(unlocked: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, key = unlocked, public_key_of(unlocked.settings)
    lake.back_up()
    lake.catalog.drop_table("gold.sales")
    kept = lake.back_up()
    assert lake.verify(kept).is_good
    with monkeypatch.context() as armed, pytest.raises(FailpointHit):
        armed.setenv("LAKEHOUSE_FAILPOINTS", "backup.after_unseal=raise")
        run_prune(lake.vault, plan_prune(lake.vault, NOTHING, key))
    assert complete_ids(lake.vault) == [kept.id] and len(set_ids(lake.vault)) == 2
    run_prune(lake.vault, plan_prune(lake.vault, NOTHING, key))
    assert set_ids(lake.vault) == [kept.id]
    assert not [name for name in lake.vault.keys("objects/") if "sales" in name]


def test_a_locked_set_stays_and_its_objects_cannot_be_removed(lake: SmallLake) -> None:
    first = lake.back_up()
    second = lake.back_up()
    assert lake.verify(second).is_good
    plan = plan_prune(lake.vault, NOTHING, public_key_of(lake.settings))
    fates = {fate.set_id: fate for fate in plan.fates}
    assert plan.going == () and fates[first.id].reason.startswith("locked until")
    with pytest.raises(SettingsError, match="refused access"):
        lake.vault.delete(next(iter(second.files().values())).copy)


def test_reused_files_are_locked_for_longer(lake: SmallLake) -> None:
    first = lake.back_up()
    lake.days += 10
    second = lake.back_up()
    for uri, entry in second.files().items():
        before = first.files()[uri]
        for stored, was in zip(entry.objects, before.objects, strict=True):
            head = lake.vault.head(stored.key)
            assert head and head.version == was.version
            assert head.locked_until == stored.locked_until > was.locked_until


@pytest.mark.parametrize("name", ["files.jsonl.gz", "manifest.json"])
def test_a_set_that_cannot_be_read_is_passed_over_by_the_next(name: str, unlocked: SmallLake, tmp_path: Path) -> None:
    lake = unlocked
    first, second = lake.back_up(), lake.back_up()
    overwrite(lake, f"sets/{second.id}/{name}", b"{}")
    third = lake.back_up()
    assert third.manifest.parent == first.id and lake.verify(third).is_good
    assert lake.read_in_place(third, tmp_path) == lake.contents()


def test_a_full_set_reads_everything_again_and_stores_it_once(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = lake.back_up()
    read = requests(lake, monkeypatch)
    again = lake.back_up(is_full=True)
    assert len(read) >= len(first.files()) and again.manifest.parent == first.id
    versions = [{x.version for e in made.files().values() for x in e.objects} for made in (first, again)]
    assert versions[0] == versions[1]


def test_the_commands_say_what_there_is(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "settings", lambda: lake.settings)

    def say(*words: str) -> str:
        done = CliRunner().invoke(app, ["backup", *words])
        assert done.exception is None, done.exception
        return done.stdout

    made = lake.back_up()
    assert made.id in say("list") and "silver.dim_shop" in say("show") and "3 batches, 1 decisions" in say("show")
    assert "0 damaged" in say("verify", "--all")
    [listed] = json.loads(say("list", "--json"))
    assert (listed["id"], listed["tables"], listed["verified"][-4:]) == (made.id, 2, "good")
    overwrite(lake, next(iter(made.files().values())).copy.key, b"")
    done = CliRunner().invoke(app, ["backup", "verify", made.id])
    assert isinstance(done.exception, IntegrityError) and "1 files" in str(done.exception)
    assert "0 bytes" in done.stdout and "still whole" in done.stdout


def test_a_new_key_signs_and_is_checked() -> None:
    done = CliRunner().invoke(app, ["backup", "key"])
    values = dict(line.split("=") for line in done.stdout.split())
    private, public = (values[f"LAKEHOUSE_BACKUP_{name}_KEY"] for name in ("SIGNING", "PUBLIC"))
    signer = signer_of(Settings(backup_signing_key=SecretStr(private)))
    assert signer.public_key == public == public_key_of(Settings(backup_public_key=public))
    check_signature(b"text", signer.sign(b"text"), public, "here")
    for data, signature in ((b"other", signer.sign(b"text")), (b"text", "?"), (b"text", "")):
        with pytest.raises(IntegrityError, match="not signed"):
            check_signature(data, signature, public, "here")


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_folder_that_is_gone_as_a_whole_is_missed(unlocked: SmallLake, which: int) -> None:
    sets = [unlocked.back_up() for _ in range(3)]
    vault, gone = unlocked.vault, sets[which].id
    for key in vault.keys(f"sets/{gone}/"):
        unlocked.s3.delete_object(Bucket=unlocked.settings.backup_bucket, Key=key)
    left = [each for each in sets if each.id != gone]
    assert complete_ids(vault) == [each.id for each in left]
    record = unlocked.verify(left[-1])
    assert record.is_good and [damage.key for damage in record.others] == [set_key(gone, COMPLETE)]
    with pytest.raises(IntegrityError, match="is gone"):
        require_known(vault, gone)
