"""Damage of every kind to every kind of file, in the lake and in its backups: named without exception, and repaired.

Spark writes one small lake; everything else is played without it. Whether the checks find anything is shown the other
way round, too: with each of them switched off, the same matrix fails.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.backup_lake import with_backups
from tests.recovery.damage import HOWS, KINDS, World, backup_store, fill, spoiled, unnamed
from typer.testing import CliRunner

from lakehouse.backup import verify as verification
from lakehouse.backup.iceberg import puffin_footer
from lakehouse.backup.roster import lost
from lakehouse.backup.sets import (
    COMPLETE,
    FILES,
    MANIFEST,
    PLAN,
    BackupSet,
    complete_ids,
    load_set,
    set_key,
)
from lakehouse.backup.signing import public_key_of
from lakehouse.backup.vault import Stored
from lakehouse.cli import fsck as commands
from lakehouse.cli.main import app
from lakehouse.recovery import fsck
from lakehouse.recovery.memory import PREFIX, Memory
from lakehouse.recovery.repair import DAMAGED

if TYPE_CHECKING:
    from tests.servers import NewLake

Cases = list[tuple[str, str]]
CASES: Cases = [(how, kind) for how in HOWS for kind in KINDS]


@pytest.fixture(scope="module")
def world(new_lake: NewLake) -> World:
    """The lake with two backup sets, the second of which has everything."""
    made = new_lake()
    world = fill(type(made)(made.spark, with_backups(made.settings)))
    world.lake.back_up()
    world.lake.land(b"id\n3\n", 3)
    world.learn(world.lake.back_up())
    assert {kind for kind in KINDS if len(world.files[kind]) > 1} == set(KINDS)
    assert world.check().damages == ()
    return world


@pytest.fixture
def unbacked(world: World) -> Iterator[World]:
    """The same lake as one that has no backups and that no check has seen."""
    settings = world.lake.settings
    world.lake.settings = settings.model_copy(update={"backup_bucket": ""})
    yield world
    landing = settings.landing_bucket
    for found in world.client.list_objects_v2(Bucket=landing, Prefix=PREFIX).get("Contents", []):
        world.client.delete_object(Bucket=landing, Key=found["Key"])
    world.lake.settings = settings


@pytest.mark.parametrize(("how", "kind"), CASES)
def test_damage_to_the_lake_is_named_and_repaired(world: World, how: str, kind: str, chance: random.Random) -> None:
    changes = world.choose(kind, how, chance)
    with world.damaged(changes):
        found = {damage.uri: damage for damage in world.check(is_read=kind in ("data", "landed")).damages}
        assert found.keys() == changes.keys()
        assert all(damage.kind == kind and damage.tables and damage.copy and damage.repair for damage in found.values())
        done = world.repair()
        assert {each.uri for each in done.mended} == changes.keys() and done.after.damages == ()
        assert {uri: world.now(uri) for uri in changes} == {uri: world.bodies[uri] for uri in changes}
        for each in done.mended:
            kept = each.kept.removeprefix(f"s3://{world.lake.settings.backup_bucket}/")
            assert kept.startswith(DAMAGED) if changes[each.uri] is not None else not kept
            assert not kept or world.lake.vault.get(kept) == changes[each.uri]
    if how == "swapped":
        assert all("they are those of" in damage.problem for damage in found.values())


@pytest.mark.parametrize("how", HOWS)
def test_what_no_set_has_is_known_by_the_check_before(unbacked: World, how: str, chance: random.Random) -> None:
    """No backups: what the first check saw is what later ones compare with."""
    first = unbacked.check()
    assert first.damages == () and len(first.by_structure) == first.compared["structure"] > 20
    second = unbacked.check(is_read=False)
    assert second.by_structure == () and second.compared["size and ETag"] > 0
    missed = {kind: unnamed(unbacked, how, kind, chance, lambda: unbacked.check(is_read=False)) for kind in KINDS}
    assert missed == dict.fromkeys(KINDS, [])


@pytest.mark.parametrize("how", ["deleted", "truncated", "swapped"])
def test_what_nobody_knows_is_judged_by_its_structure(
    unbacked: World, how: str, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a backup nor an earlier check: only what names a file says what it must be."""
    monkeypatch.setattr(Memory, "write", lambda *_: 0)
    # That there was an entry says only the next one, or a table that consumed it: the last ones here nobody would miss.
    newest = {uri.rpartition("/")[0]: uri for uri in sorted(unbacked.files["log"])}
    monkeypatch.setitem(unbacked.files, "log", sorted(set(unbacked.files["log"]) - set(newest.values())))
    kinds = [kind for kind in KINDS if kind != "former_metadata" or how == "truncated"]
    missed = {kind: unnamed(unbacked, how, kind, chance, unbacked.check) for kind in kinds}
    assert missed == dict.fromkeys(kinds, [])


def test_a_flipped_bit_is_found_where_the_format_has_a_checksum(
    unbacked: World, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what a writer says of itself in the footer of a vector's file there is none."""
    monkeypatch.setattr(Memory, "write", lambda *_: 0)
    assert unnamed(unbacked, "flipped", "landed", chance, unbacked.check) == []
    uri = chance.choice(sorted(unbacked.files["deletion_vector"]))
    body = unbacked.bodies[uri]
    blob = chance.choice(puffin_footer(body)[0]["blobs"])
    start, end = blob["offset"], blob["offset"] + blob["length"]
    flipped = spoiled(body[start:end], "flipped", chance)
    assert flipped is not None
    with unbacked.damaged({uri: body[:start] + flipped + body[end:]}):
        assert {damage.uri for damage in unbacked.check().damages} == {uri}


def test_without_a_copy_the_newest_whole_snapshot_is_named(unbacked: World) -> None:
    table = unbacked.lake.catalog.load_table("ops.positions")
    head, *former = sorted(table.snapshots(), key=lambda each: -each.timestamp_ms)
    newest = {task.file.file_path for task in table.scan().plan_files()} - {
        task.file.file_path for task in table.scan(snapshot_id=former[1].snapshot_id).plan_files()
    }
    with unbacked.damaged(dict.fromkeys(newest)):
        done = unbacked.repair()
        assert done.mended == () and {each.uri for each in done.after.damages} == newest
        for damage in done.after.damages:
            assert f"lakehouse rollback ops.positions --to {former[1].snapshot_id}" in damage.todo
            assert [hurt.snapshot_id for hurt in damage.hurts if hurt.is_current] == [head.snapshot_id]


def test_a_lost_pointer_names_the_newest_former_metadata(unbacked: World) -> None:
    table = unbacked.lake.catalog.load_table("ops.vectors")
    with unbacked.damaged({table.metadata_location: None}):
        (damage,) = (each for each in unbacked.check().damages if each.kind == "metadata")
    last = table.metadata.metadata_log[-1].metadata_file
    assert last in damage.todo and damage.tables == ("ops.vectors",)


def test_below_a_document_that_is_lost_everywhere_the_set_says_what_was_there(world: World) -> None:
    """The manifest is gone here, and its copy too; the data file below it is damaged as well, and still named."""
    manifest, entry = next(
        (uri, entry) for uri, entry in newest(world).files().items() if entry.kind == "manifest" and entry.refs
    )
    with world.damaged({manifest: None, entry.refs[0]: None}):
        monkey = pytest.MonkeyPatch()
        monkey.setattr(fsck.Walk, "good_copy", lambda *_: None)
        report = world.check()
        monkey.undo()
        found = {damage.uri: damage for damage in report.damages}
        assert found.keys() == {manifest, entry.refs[0]}
        assert newest(world).id in found[manifest].hidden and found[entry.refs[0]].hurts


def test_the_commands(world: World, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "settings", lambda: world.lake.settings)
    call = lambda *words: CliRunner().invoke(app, [*words])  # noqa: E731
    changes = world.choose("deletion_vector", "flipped", chance)
    (uri,) = changes
    with world.damaged(changes):
        told = call("fsck", "ops.vectors", "--json")
        assert getattr(told.exception, "exit_code", None) == 7
        (found,) = json.loads(told.stdout)["damages"]
        assert (found["uri"], found["repair"]) == (uri, "lakehouse repair ops.vectors")
        planned = call("repair", "ops.vectors", "--dry-run")
        assert planned.exit_code == 0 and uri in planned.stdout and world.now(uri) == changes[uri]
        done = call("repair", "ops.vectors", "--yes", "--json")
        assert done.exit_code == 0 and [each["uri"] for each in json.loads(done.stdout)["repaired"]] == [uri]
        assert world.now(uri) == world.bodies[uri]
    whole = call("fsck", "--all")
    assert whole.exit_code == 0 and "0 damaged" in whole.stdout
    assert "Nothing is to be repaired" in call("repair").stdout


OFF: dict[str, tuple[Callable[[pytest.MonkeyPatch], Any], str, str]] = {
    "hashes": (lambda patch: patch.setattr(fsck.Walk, "_problem", lambda *_: ""), "flipped", "data"),
    "presence": (lambda patch: patch.setattr(fsck.Walk, "_is_needed", lambda *_: False), "deleted", "statistics"),
    "heads": (lambda patch: patch.setattr(fsck.Walk, "_by_head", lambda *_: ""), "deleted", "data"),
    "references": (lambda patch: patch.setattr(fsck, "claims_of", lambda *_: []), "deleted", "manifest_list"),
    "logs": (lambda patch: patch.setattr(fsck, "log_claims", lambda *_: []), "truncated", "log"),
}


@pytest.mark.parametrize("check", OFF)
def test_without_a_check_the_matrix_fails(
    world: World, check: str, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_off, how, kind = OFF[check]
    assert unnamed(world, how, kind, chance, lambda: world.check(is_read=False)) == []
    switch_off(monkeypatch)
    assert unnamed(world, how, kind, chance, lambda: world.check(is_read=check == "hashes")) != []


@pytest.mark.parametrize("check", ["structure", "memory"])
def test_without_a_check_of_the_unknown_the_matrix_fails(
    unbacked: World, check: str, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    if check == "memory":
        unbacked.check()
        monkeypatch.setattr(Memory, "read", classmethod(lambda cls, vault: cls(vault)))
        how, kind = "deleted", "former_metadata"
    else:
        monkeypatch.setattr(Memory, "write", lambda *_: 0)
        monkeypatch.setattr(fsck, "structure_problem", lambda *_: "")
        how, kind = "swapped", "manifest_list"
        monkeypatch.setattr(fsck.Walk, "_sizes", lambda *_: "")
    assert unnamed(unbacked, how, kind, chance, unbacked.check) != []


def newest(world: World) -> BackupSet:
    vault = world.lake.vault
    return load_set(vault, complete_ids(vault)[-1], public_key_of(world.lake.settings))


def in_the_set(world: World) -> dict[tuple[str, bool], list[Stored]]:
    """The objects of the newest set by kind, originals and rewritten forms apart."""
    found: dict[tuple[str, bool], list[Stored]] = {}
    for entry in newest(world).files().values():
        for stored in entry.objects:
            found.setdefault((entry.kind, stored is entry.copy), []).append(stored)
    return found


def spoil(world: World, how: str, there: dict[tuple[str, bool], list[Stored]], chance: random.Random) -> set[str]:
    """Damage an object of each kind and form; returns the keys."""
    store, done = backup_store(world), {}
    for objects in there.values():
        if how != "swapped":
            stored = chance.choice(objects)
            done[stored.key] = spoiled(store.get(stored.key), how, chance)
            continue
        one, other = next((a, b) for a in chance.sample(objects, len(objects)) for b in objects if a.sha256 != b.sha256)
        done |= {one.key: store.get(other.key), other.key: store.get(one.key)}
    for key, body in done.items():
        if body is None:
            store.delete(key)
        else:
            store.client.put_object(Bucket=store.bucket, Key=key, Body=body)
    return set(done)


@pytest.mark.parametrize("how", HOWS)
def test_damage_to_a_set_is_named_and_the_next_set_heals_it(world: World, how: str, chance: random.Random) -> None:
    there = in_the_set(world)
    assert {kind for kind, _ in there} >= set(KINDS) and len(there) >= len(KINDS) + 5
    keys = spoil(world, how, there, chance)
    record = world.lake.verify(newest(world))
    assert {damage.key for damage in record.damages} == keys and record.others == ()
    assert all(damage.tables and damage.good_version for damage in record.damages)
    made = world.lake.back_up()
    again = world.lake.verify(made)
    assert again.is_good and again.others == ()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", [COMPLETE, MANIFEST, FILES, PLAN])
def test_damage_to_the_documents_of_a_set_is_named(world: World, name: str, how: str, chance: random.Random) -> None:
    """Of the set itself, and by the verification of another one."""
    store, vault = backup_store(world), world.lake.vault
    former, last = complete_ids(vault)[-2:]
    for mine, other in ((last, former), (former, last)):
        key = set_key(mine, name)
        body = store.get(key)
        with replaced(world, key, store.get(set_key(other, name)) if how == "swapped" else spoiled(body, how, chance)):
            if mine == last and not (name == COMPLETE and how == "deleted"):
                record = verification.verify(vault, mine, public(world), verification.Share(), vault.now)
                assert [damage.key.startswith(f"sets/{mine}/") for damage in record.damages] == [True]
                assert record.others == ()
            found = lost(vault, public(world), other, is_whole=True)
            assert [damage.key.split("/")[1] for damage in found] == [mine]


@pytest.mark.parametrize("which", ["newest", "link of the chain"])
def test_a_folder_that_is_marked_as_deleted_is_named_and_still_read(world: World, which: str) -> None:
    """The bucket keeps versions, as all with a lock do. Without them, the folder is gone: a unit test has that."""
    store, vault = backup_store(world), world.lake.vault
    sets = complete_ids(vault)
    gone = sets[-1] if which == "newest" else sets[len(sets) // 2]
    kept = {key: store.get(key) for key in vault.keys(f"sets/{gone}/")}
    assert len(kept) >= 4
    for key in kept:
        store.delete(key)
    try:
        other = next(each for each in reversed(sets) if each != gone)
        record = verification.verify(vault, other, public(world), verification.Share(), vault.now)
        assert record.is_good and [damage.key for damage in record.others] == [set_key(gone, COMPLETE)]
        assert complete_ids(vault) == sets and load_set(vault, gone, public(world)).files()
    finally:
        for key, body in kept.items():
            store.client.put_object(Bucket=store.bucket, Key=key, Body=body)


SILENT: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "bytes": lambda patch: patch.setattr(verification, "difference", lambda *_: ""),
    "presence": lambda patch: patch.setattr(verification._Walk, "_damaged", lambda *_: None),
}


@pytest.mark.parametrize("check", SILENT)
def test_without_a_check_the_matrix_of_backups_fails(
    world: World, check: str, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, store = newest(world), backup_store(world)
    stored = chance.choice(in_the_set(world)["data", True])
    body = store.get(stored.key)
    with replaced(world, stored.key, None if check == "presence" else spoiled(body, "flipped", chance)):
        vault = world.lake.vault
        look = lambda: verification.verify(vault, made.id, public(world), verification.Share(), vault.now)  # noqa: E731
        assert [damage.key for damage in look().damages] == [stored.key]
        SILENT[check](monkeypatch)
        assert look().damages == ()


def public(world: World) -> str:
    return public_key_of(world.lake.settings)


@contextmanager
def replaced(world: World, key: str, body: bytes | None) -> Iterator[None]:
    """An object of the backup's bucket as something else for a while."""
    store = backup_store(world)
    before = store.get(key)
    try:
        if body is None:
            store.delete(key)
        else:
            store.client.put_object(Bucket=store.bucket, Key=key, Body=body)
        yield
    finally:
        store.client.put_object(Bucket=store.bucket, Key=key, Body=before)


def test_versions_of_the_lakes_own_bucket_repair_it(unbacked: World, chance: random.Random) -> None:
    """The last test: what a bucket has kept stays in it, and would be a copy to the others."""
    client, bucket = unbacked.client, unbacked.lake.settings.warehouse_bucket
    unbacked.check()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for how in HOWS:
        changes = unbacked.choose("data", how, chance)
        with unbacked.damaged(changes):
            done = unbacked.repair()
            assert {each.uri for each in done.mended} == changes.keys() and done.after.damages == ()
            assert all("as an older version" in each.kept for each in done.mended if changes[each.uri] is not None)
