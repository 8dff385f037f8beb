"""Upkeep on tables in files of this machine: what it takes away, and that all the rest can still be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pytest

from lakehouse.contracts.model import Upkeep
from lakehouse.core.errors import SettingsError, TableBusy
from lakehouse.core.failpoints import FailpointHit
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.engine import pointer, upkeep
from lakehouse.engine.pointer import FORK_PREFIX, UPKEEP_PREFIX, fork_name, is_fork, read_document
from lakehouse.engine.travel import UNDO_DAYS, rolled_back, undo_tag
from lakehouse.engine.upkeep import Budget, Care, House, Removed
from lakehouse.ledger.layout import Manifests
from lakehouse.ledger.references import references
from lakehouse.ledger.watermark import ATTEMPT_PROPERTY, STAMP_PROPERTY, Stamp, load_table

NAME = TableName("silver", "numbers")
MART = TableName("gold", "sums")
LATER = datetime.now(UTC) + timedelta(days=30)
POLICY = Upkeep(keep_snapshots="7d", min_snapshots=1)


class Locks:
    """Locks that are held, as far as this test says."""

    def check(self) -> None:
        """They are."""


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Any]:
    from pyiceberg.catalog.sql import SqlCatalog

    made = SqlCatalog(CATALOG, uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    for namespace in ("silver", "gold", "ops"):
        made.create_namespace(namespace)
    yield made
    made.engine.dispose()


@pytest.fixture
def house(catalog: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    @contextmanager
    def locked(*_: Any, **__: Any) -> Iterator[Locks]:
        yield Locks()

    monkeypatch.setattr(upkeep, "table_locks", locked)
    monkeypatch.setattr(upkeep, "removing_files", lambda _: nullcontext())
    monkeypatch.setattr(House, "_delete", lambda _, keys: [Path("/" + key).unlink() for key in keys])
    settings = Settings(home=tmp_path, contracts=tmp_path / "contracts", dbt=tmp_path / "dbt")
    made = House(settings, catalog, LATER, looks_for_orphans=False)
    made.__dict__["cares"] = {NAME: Care(POLICY)}
    return made


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": pa.array(values, pa.int64())})


def publish(catalog: Any, name: TableName, *values: int, attempt: str, upstream: dict[str, str] | None = None) -> int:
    """Append rows with a stamp; the snapshot."""
    key = (name.namespace, name.name)
    table = catalog.load_table(key) if catalog.table_exists(key) else catalog.create_table(key, numbers().schema)
    stamp = Stamp(attempt, upstream=upstream or {})
    table.append(numbers(*values), snapshot_properties={STAMP_PROPERTY: stamp.to_json(), ATTEMPT_PROPERTY: attempt})
    return int(table.current_snapshot().snapshot_id)


def content(catalog: Any, name: TableName, snapshot_id: int | None = None) -> list[int]:
    table = catalog.load_table((name.namespace, name.name))
    return sorted(table.scan(snapshot_id=snapshot_id).to_arrow()["n"].to_pylist())


def on_disk(tmp_path: Path) -> set[str]:
    return {str(path) for path in (tmp_path / "warehouse" / "silver").rglob("*") if path.is_file()}


def referenced(catalog: Any) -> set[str]:
    return {urlparse(each).path for each in references(catalog.load_table(("silver", "numbers")))}


def test_what_expires_takes_its_files_and_no_others(catalog: Any, house: House, tmp_path: Path) -> None:
    table = None
    for number in range(6):
        publish(catalog, NAME, number, number + 100, attempt=f"a{number}")
    table = catalog.load_table(("silver", "numbers"))
    table.overwrite(numbers(7), snapshot_properties={STAMP_PROPERTY: Stamp("a7").to_json()})
    snapshots = [snapshot.snapshot_id for snapshot in table.metadata.snapshots]
    table.manage_snapshots().create_tag(snapshots[2], "month").commit()
    before = {each: content(catalog, NAME, each) for each in (snapshots[2], snapshots[-1])}
    needs = house.needs(NAME)
    assert needs.expiry is not None and snapshots[2] not in needs.expiry.going
    doomed = {urlparse(file.key).path for file in needs.expired}
    files = on_disk(tmp_path)
    removed = house.expire(NAME, Budget())
    assert (removed.snapshots, removed.files, removed.left) == (len(needs.expiry.going), len(doomed), 0)
    assert on_disk(tmp_path) & files == files - doomed
    assert {each: content(catalog, NAME, each) for each in before} == before
    left = catalog.load_table(("silver", "numbers"))
    assert {s.snapshot_id for s in left.metadata.snapshots} == set(snapshots) - set(needs.expiry.going)
    old = {path for path in on_disk(tmp_path) if not path.endswith(".metadata.json")}
    assert old <= referenced(catalog), "what is left is needed"
    assert house.expire(NAME, Budget()) == Removed()


def test_a_look_changes_nothing(catalog: Any, house: House, tmp_path: Path) -> None:
    for number in range(4):
        publish(catalog, NAME, number, attempt=f"a{number}")
    before = (on_disk(tmp_path), catalog.load_table(("silver", "numbers")).metadata_location)
    assert house.needs(NAME).to_json()["expiry"]["files"] > 0
    assert (on_disk(tmp_path), catalog.load_table(("silver", "numbers")).metadata_location) == before


def test_no_more_files_go_than_may(catalog: Any, house: House, tmp_path: Path) -> None:
    for number in range(9):
        publish(catalog, NAME, number, attempt=f"a{number}")
        catalog.load_table(("silver", "numbers")).overwrite(
            numbers(number), snapshot_properties={STAMP_PROPERTY: Stamp(f"b{number}").to_json()}
        )
    whole = len(house.needs(NAME).expired)
    assert house.expire(NAME, Budget(0)) == Removed(left=whole)
    budget, seen = Budget(whole // 3), on_disk(tmp_path)
    removed = house.expire(NAME, budget)
    assert 0 < removed.files <= whole // 3 and removed.left == whole - removed.files
    assert budget.files == whole // 3 - removed.files
    assert len(seen - on_disk(tmp_path)) == removed.files
    assert content(catalog, NAME) == [8]
    while house.expire(NAME, Budget(whole)).snapshots:
        assert content(catalog, NAME) == [8]
    assert len(catalog.load_table(("silver", "numbers")).metadata.snapshots) == 1


def test_what_a_mart_has_not_read_stays(catalog: Any, house: House) -> None:
    (house.settings.dbt / "models" / "marts").mkdir(parents=True)
    (house.settings.dbt / "models" / "marts" / "m.yml").write_text(
        "models: [{name: sums, description: Sums., columns: []}]"
    )
    snapshots = [publish(catalog, NAME, number, attempt=f"a{number}") for number in range(6)]
    publish(catalog, MART, 1, attempt="m", upstream={str(NAME): "a2"})
    publish(catalog, TableName("gold", "dropped"), 1, attempt="d", upstream={str(NAME): "a0"})
    expiry = house.needs(NAME).expiry
    assert expiry is not None and expiry.going == tuple(snapshots[:2])
    assert expiry.kept[snapshots[2]] == "gold.sums was made of it"
    house.expire(NAME, Budget())
    assert content(catalog, NAME, snapshots[2]) == [0, 1, 2]


def test_nothing_expires_under_a_backup_or_a_writer(
    catalog: Any, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        publish(catalog, NAME, number, attempt=f"a{number}")
    before = on_disk(tmp_path)

    def busy(*_: Any, **__: Any) -> Any:
        raise TableBusy("a backup is being made")

    for lock in ("removing_files", "table_locks"):
        with monkeypatch.context() as patch, pytest.raises(TableBusy):
            patch.setattr(upkeep, lock, busy)
            house.expire(NAME, Budget())
    assert on_disk(tmp_path) == before


def test_a_run_that_died_after_the_commit_leaves_files_and_a_table_that_is_whole(
    catalog: Any, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        publish(catalog, NAME, number, attempt=f"a{number}")
    before = on_disk(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(FailpointHit):
        patch.setenv("LAKEHOUSE_FAILPOINTS", "maintain.before_expiry=raise")
        house.expire(NAME, Budget())
    assert on_disk(tmp_path) == before
    with monkeypatch.context() as patch, pytest.raises(FailpointHit):
        patch.setenv("LAKEHOUSE_FAILPOINTS", "maintain.expired=raise")
        house.expire(NAME, Budget())
    assert before < on_disk(tmp_path), "a metadata file more"
    assert content(catalog, NAME) == [0, 1, 2, 3]
    assert house.expire(NAME, Budget()) == Removed()


def test_two_names_share_files_and_neither_takes_them_from_the_other(
    catalog: Any, house: House, tmp_path: Path
) -> None:
    """As where a restore keeps what a table was: all that it names stays, and goes once the name is gone."""
    for number in range(4):
        publish(catalog, NAME, number, attempt=f"a{number}")
        catalog.load_table(("silver", "numbers")).overwrite(
            numbers(number), snapshot_properties={STAMP_PROPERTY: Stamp(f"b{number}").to_json()}
        )
    assert house.neighbours(catalog.load_table(("silver", "numbers"))) == [NAME]
    old = catalog.load_table(("silver", "numbers"))
    kept = TableName("ops", "kept_20260101t000000z_0a1b2c3d")
    catalog.register_table((kept.namespace, kept.name), old.metadata_location)  # by others, after the house was opened
    publish(catalog, NAME, 9, attempt="c")
    last = {STAMP_PROPERTY: Stamp("d").to_json()}
    catalog.load_table(("silver", "numbers")).overwrite(numbers(7), snapshot_properties=last)
    rows = {each.snapshot_id: content(catalog, kept, each.snapshot_id) for each in old.metadata.snapshots}
    assert len(rows) > 6 and house.tables([]) == [NAME], "what is kept is left as it is"
    before = on_disk(tmp_path)
    removed = house.expire(NAME, Budget())
    assert removed.snapshots >= 7 and 0 < removed.files == len(before - on_disk(tmp_path)), "what only it named"
    assert {each: content(catalog, kept, each) for each in rows} == rows
    assert set(map(_path, references(catalog.load_table((kept.namespace, kept.name))))) <= on_disk(tmp_path)
    assert content(catalog, NAME) == [7]
    pointer.forget(catalog, kept, catalog.load_table((kept.namespace, kept.name)).metadata_location)
    assert house.neighbours(catalog.load_table(("silver", "numbers"))) == [NAME]


def _path(uri: str) -> str:
    return urlparse(uri).path


def test_nothing_expires_while_somebody_works_on_a_fork(catalog: Any, house: House, tmp_path: Path) -> None:
    for number in range(4):
        publish(catalog, NAME, number, attempt=f"a{number}")
    fork = fork_name(NAME, UPKEEP_PREFIX)
    catalog.register_table((fork.namespace, fork.name), catalog.load_table(("silver", "numbers")).metadata_location)
    before = on_disk(tmp_path)
    assert (house.expire(NAME, Budget()), on_disk(tmp_path)) == (Removed(), before)


def test_the_lakes_own_tables_are_kept_up_too(catalog: Any, house: House) -> None:
    """They grow by a small file with each run, and no contract names them."""
    own = TableName("ops", "quality_results")
    for number in range(12):
        publish(catalog, own, number, attempt=f"a{number}")
    assert house.tables([]) == [own]
    needs = house.needs(own)
    assert needs.compaction is not None and needs.compaction.files == 12
    assert needs.expiry is not None and len(needs.expiry.going) == 12 - Upkeep().min_snapshots


@pytest.mark.parametrize("below", [True, False])
def test_a_table_below_another_is_a_neighbour(catalog: Any, house: House, below: bool) -> None:
    publish(catalog, NAME, 1, attempt="a")
    table = catalog.load_table(("silver", "numbers"))
    inner = f"{table.location()}/inner" if below else f"{table.location()}-2"
    catalog.create_table(("ops", "inner"), numbers().schema, location=inner).append(numbers(1))
    other = TableName("ops", "inner")
    assert house.neighbours(table) == ([other, NAME] if below else [NAME])
    assert house.neighbours(catalog.load_table(("ops", "inner"))) == ([other, NAME] if below else [other])


def test_a_table_whose_files_nobody_may_delete_keeps_them(catalog: Any, house: House) -> None:
    for number in range(4):
        publish(catalog, NAME, number, attempt=f"a{number}")
    assert house.needs(NAME).expiry is not None
    with catalog.load_table(("silver", "numbers")).transaction() as change:
        change.set_properties({"gc.enabled": "false"})
    assert house.needs(NAME).expiry is None and house.expire(NAME, Budget()) == Removed()


def test_a_rollback_can_be_undone_as_long_as_was_promised(catalog: Any, house: House) -> None:
    """Long after main left it, and no longer."""
    snapshots = [publish(catalog, NAME, number, attempt=f"a{number}") for number in range(5)]
    at, left = catalog.load_table(("silver", "numbers")).metadata_location, LATER - timedelta(days=UNDO_DAYS - 1)
    back = rolled_back(read_document(catalog, at), snapshots[1], undo_tag(snapshots[4], left), left)
    pointer.swap(catalog, [pointer.write_document(catalog, NAME, at, at, back)], upkeep._moved)
    expiry = house.needs(NAME).expiry
    assert expiry is not None and set(expiry.going) >= {snapshots[2], snapshots[3]}
    assert snapshots[4] not in expiry.going and expiry.kept[snapshots[4]].startswith("tag before-rollback-")
    house.expire(NAME, Budget())
    assert content(catalog, NAME, snapshots[4]) == [0, 1, 2, 3, 4] and content(catalog, NAME) == [0, 1]
    house.now = LATER + timedelta(days=2)
    later = house.needs(NAME).expiry
    assert later is not None and (later.going, later.tags) == ((snapshots[4],), (undo_tag(snapshots[4], left),))


def test_a_clock_that_runs_backwards_takes_nothing_more_away(catalog: Any, house: House) -> None:
    for number in range(4):
        publish(catalog, NAME, number, attempt=f"a{number}")
    house.now = datetime.now(UTC) - timedelta(days=400)
    assert house.needs(NAME).expiry is None and house.expire(NAME, Budget()) == Removed()
    house.now = LATER
    house.expire(NAME, Budget())
    document = read_document(catalog, catalog.load_table(("silver", "numbers")).metadata_location)
    times = [entry["timestamp-ms"] for entry in document["metadata-log"]]
    assert times == sorted(times) and document["last-updated-ms"] >= times[-1]


def test_the_log_of_former_metadata_is_as_long_as_icebergs(catalog: Any, house: House) -> None:
    publish(catalog, NAME, 1, attempt="a")
    with catalog.load_table(("silver", "numbers")).transaction() as change:
        change.set_properties({"write.metadata.previous-versions-max": "3"})
    for _ in range(5):
        at = catalog.load_table(("silver", "numbers")).metadata_location
        pointer.swap(
            catalog, [pointer.write_document(catalog, NAME, at, at, read_document(catalog, at))], upkeep._moved
        )
    last = catalog.load_table(("silver", "numbers"))
    assert len(last.metadata.metadata_log) == 3 and last.metadata.metadata_log[-1].metadata_file == at


def test_a_rebuild_that_waits_is_not_disturbed(catalog: Any, house: House) -> None:
    publish(catalog, NAME, 1, attempt="a")
    fork = fork_name(NAME)
    catalog.register_table((fork.namespace, fork.name), catalog.load_table(("silver", "numbers")).metadata_location)
    assert house.needs(NAME).skipped == "a rebuild of it waits to be confirmed"


def test_the_fork_of_a_run_that_died_is_forgotten(catalog: Any, house: House, tmp_path: Path) -> None:
    publish(catalog, NAME, 1, attempt="a")
    fork = fork_name(NAME, UPKEEP_PREFIX)
    catalog.register_table((fork.namespace, fork.name), catalog.load_table(("silver", "numbers")).metadata_location)
    before = on_disk(tmp_path)
    assert is_fork(fork) and fork != fork_name(NAME, FORK_PREFIX)
    assert house.tables(()) == [NAME]
    house.forget_fork(NAME)
    house.forget_fork(NAME)
    assert load_table(catalog, fork) is None and on_disk(tmp_path) == before


def test_only_tables_that_are_there_can_be_asked_for(catalog: Any, house: House) -> None:
    publish(catalog, NAME, 1, attempt="a")
    assert house.tables(["silver.numbers"]) == [NAME]
    with pytest.raises(SettingsError, match="there is no table silver.letters"):
        house.tables(["silver.letters"])


def test_small_files_are_seen(catalog: Any, house: House) -> None:
    for number in range(12):
        publish(catalog, NAME, number, attempt=f"a{number}")
    needs = house.needs(NAME)
    assert needs.writes and needs.compaction is not None and needs.compaction.files == 12 and needs.cost > 1.15
    table = catalog.load_table(("silver", "numbers"))
    layout = Manifests(table.io).layout(table, table.current_snapshot())
    assert (layout.live_rows, len(layout.files), len(layout.manifest_bytes)) == (12, 12, 12)
    assert layout.size_bytes == sum(Path(urlparse(file.path).path).stat().st_size for file in layout.files)


def test_metadata_of_expired_snapshots_is_as_iceberg_wants_it(catalog: Any, house: House) -> None:
    for number in range(4):
        publish(catalog, NAME, number, attempt=f"a{number}")
    house.expire(NAME, Budget())
    table = catalog.load_table(("silver", "numbers"))
    document = read_document(catalog, table.metadata_location)
    assert [entry["snapshot-id"] for entry in document["snapshot-log"]] == [table.metadata.current_snapshot_id]
    assert document["metadata-log"][-1]["metadata-file"] != table.metadata_location
    table.append(numbers(9))
    assert content(catalog, NAME) == [0, 1, 2, 3, 9], "others go on from it"


def test_what_is_referred_to_is_what_the_walk_of_references_finds(catalog: Any, house: House) -> None:
    for number in range(3):
        publish(catalog, NAME, number, attempt=f"a{number}")
    table = catalog.load_table(("silver", "numbers"))
    table.overwrite(numbers(7))
    assert set(house.named(table)) == set(references(table))
    assert len(set(house.named(table))) > 12
