"""`make guards`: each guard is switched off in turn, and a test that relies on it has to turn red.

Not collected with the other tests, which are its detectors: they are run here with everything in place, and then once
for every guard without it. A detector that stays green without its guard is an error, since nobody would notice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.backup_lake import SmallLake, fill, make_lake
from tests.faults import test_watch
from tests.faults.lost_reply import test_mutants
from tests.integration import test_breakers, test_damaged_landing, test_publish
from tests.servers import NewLake
from tests.unit import test_backup, test_fsck_lake, test_ledger_logs, test_restore
from tests.unit.conftest import endpoint

from lakehouse.backup import prune
from lakehouse.backup import verify as verification
from lakehouse.backup.sets import Manifest
from lakehouse.backup.vault import Vault
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine import bronze, lock, silver
from lakehouse.engine import publish as protocol
from lakehouse.engine.publish import Job, Lake, Published, Target
from lakehouse.engine.tables import TableSpec, qualified
from lakehouse.ledger.journal import Journal
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import Head, load_table
from lakehouse.records.layout import Layout
from lakehouse.records.reader import read_records
from lakehouse.recovery import fsck
from lakehouse.recovery.files import Bringing

__all__ = ["endpoint"]
hasty, proxy = test_watch.hasty, test_watch.proxy
Mutant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Detector:
    """A test of another module, with what its parameters are."""

    test: Callable[..., None]
    given: Mapping[str, Any]
    fixtures: Mapping[str, str] = field(default_factory=dict)
    """The fixtures of this module that stand for those of the test's own."""

    @property
    def name(self) -> str:
        values = "-".join(str(value) for value in self.given.values())
        return f"{self.test.__name__}[{values}]" if values else self.test.__name__


def detector(test: Callable[..., None], **given: Any) -> Detector:
    return Detector(test, given)


def no_lock(patch: pytest.MonkeyPatch) -> None:
    """Nobody waits for anybody."""
    patch.setattr(lock, "_acquire", lambda *_: None)
    patch.setattr(lock.HeldLocks, "check", lambda _: None)


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """Main is set to the branch, whatever it is by then."""

    def force(target: Target) -> None:
        table = load_table(target.lake.catalog, target.table)
        written = table.snapshot_by_name(target.branch) if table else None
        assert written is not None
        target.lake.spark.sql(
            f"ALTER TABLE {qualified(target.table)} REPLACE BRANCH `main` AS OF VERSION {written.snapshot_id}"
        )

    patch.setattr(protocol, "_fast_forward", force)


def no_base(patch: pytest.MonkeyPatch) -> None:
    """Main is not looked at before it is moved, nor does it matter what it is moved over."""
    no_fence(patch)
    original = protocol.head_of

    def as_it_was(table: Any, *more: Any) -> Any:
        head = original(table, *more)
        return replace(head, snapshot_id=bases.setdefault(str(table.name()), head.snapshot_id))

    bases: dict[str, int | None] = {}
    patch.setattr(protocol, "head_of", as_it_was)


def no_ledger(patch: pytest.MonkeyPatch) -> None:
    """What the table has consumed is not read."""
    original = protocol._ensure_table

    def unread(lake: Lake, spec: TableSpec) -> Head:
        return Head(original(lake, spec).snapshot_id, None)

    patch.setattr(protocol, "_ensure_table", unread)


def no_read_back(patch: pytest.MonkeyPatch) -> None:
    """What is answered to the fast-forward is taken for what it says."""

    def trust(target: Target, refused: Exception | None) -> Published:
        table = load_table(target.lake.catalog, target.table)
        if refused is not None or table is None:
            raise refused or AssertionError("no table")
        written = table.metadata.refs[target.branch].snapshot_id
        return Published(target.table, target.attempt, written, 1, 1, records_added=1, records_deleted=0)

    patch.setattr(protocol, "_confirmed", trust)


class _Ungated:
    def __init__(self, work: Any) -> None:
        self.stamps, self.write = work.stamps, work.write

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        pass


def no_gate(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the branch."""
    original = protocol._attempt

    def ungated(lake: Lake, job: Job, *more: Any) -> Any:
        class Anyhow:
            def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> Any:
                work = job.plan(attempt, heads)
                return work and _Ungated(work)

        return original(lake, Anyhow(), *more)  # type: ignore[arg-type]

    patch.setattr(protocol, "_attempt", ungated)


def no_sha256(patch: pytest.MonkeyPatch) -> None:
    """Bronze reads a landed file as it is. Spark's workers get this function by value."""

    def trusting(settings: Settings, layout: Layout, tasks: Sequence[bronze.FileTask]) -> Iterator[Any]:
        store = ObjectStore.open(settings)
        for task in tasks:
            found = store.head(task.key)
            assert found is not None
            with store.reading(task.key, found.etag) as stream:
                for records in read_records(stream, layout, task.compression):
                    yield bronze.with_provenance(records, layout, task)

    patch.setattr(bronze, "_read", trusting)


def no_upload_check(patch: pytest.MonkeyPatch) -> None:
    """What was uploaded is taken for what was announced."""
    original = ObjectStore._send_parts

    def trusting(*given: Any) -> Any:
        return original(*given)[0], True

    patch.setattr(ObjectStore, "_send_parts", trusting)


def no_breaker(patch: pytest.MonkeyPatch) -> None:
    """No batch is judged."""
    patch.setattr(silver, "tripped", lambda *_: {})


def no_condition(patch: pytest.MonkeyPatch) -> None:
    """An entry of the landing log is written over whatever is there."""

    def put(store: ObjectStore, key: str, body: bytes) -> bool:
        store.client.put_object(Bucket=store.bucket, Key=key, Body=body)
        return True

    patch.setattr(ObjectStore, "put_if_absent", put)


def no_watch(patch: pytest.MonkeyPatch) -> None:
    """Whether S3 answers is left to Iceberg."""
    patch.setattr(test_watch, "while_s3_answers", lambda _, work: work())


def no_hash_of_a_set(patch: pytest.MonkeyPatch) -> None:
    """An object of a backup is whatever is there."""
    patch.setattr(verification, "difference", lambda *_: "")


def no_signature(patch: pytest.MonkeyPatch) -> None:
    """Whoever writes into the bucket of backups makes sets."""
    patch.setattr(Manifest, "check", lambda *_: None)


def no_lock_of_objects(patch: pytest.MonkeyPatch) -> None:
    """What is stored can be removed at once."""
    original = Vault.open
    patch.setattr(Vault, "open", classmethod(lambda _, *given: replace(original(*given), lock_days=0)))


def any_set_is_verified(patch: pytest.MonkeyPatch) -> None:
    """The newest set counts as verified."""
    patch.setattr(prune, "last_verified", lambda _, complete: max(complete, default=""))


def no_last_verified(patch: pytest.MonkeyPatch) -> None:
    """The policy alone says which sets stay."""
    original = prune.decide
    patch.setattr(prune, "decide", lambda cuts, _, *more: original(cuts, "", *more))


def no_walk_after_a_restore(patch: pytest.MonkeyPatch) -> None:
    """What was brought back is taken for all that the tables need."""
    patch.setattr(Bringing, "verify", lambda *_: None)


def no_faults_of_a_restore(patch: pytest.MonkeyPatch) -> None:
    """What the backup has lost is left out."""
    patch.setattr(Bringing, "require_all", lambda _: None)


def no_hash_of_the_lake(patch: pytest.MonkeyPatch) -> None:
    """A file of the lake is whatever is there."""
    patch.setattr(fsck.Walk, "_problem", lambda *_: "")


def no_copies_of_entries(patch: pytest.MonkeyPatch) -> None:
    """Only the entries of logs are looked at, not the segments that are read in their place."""
    patch.setattr(Journal, "segments", lambda _: [])


def on(test: Callable[..., None], fixtures: Mapping[str, str], **given: Any) -> Detector:
    """A unit test, with fixtures of this module for its own."""
    return Detector(test, given, fixtures)


MOVED = detector(test_publish.test_main_that_moved_is_not_overwritten)
MOVED_LAST = detector(test_publish.test_main_that_moves_at_the_last_moment_is_not_overwritten)
LOCKED = detector(test_publish.test_a_held_lock_is_waited_for_and_its_holder_named)
TAKEN_OUT = detector(test_publish.test_an_acknowledged_commit_that_is_taken_out_is_put_back)
DAMAGED = detector(test_damaged_landing.test_a_damaged_object_is_named_and_nothing_is_published, damage="changed")
UNUSUAL = detector(test_breakers.test_a_held_batch_leaves_the_one_that_it_would_replace)
BEHIND = detector(test_ledger_logs.test_a_writer_that_is_behind_decides_anew_and_takes_the_next_number)

SMALL, UNLOCKED = {"lake": "small"}, {"unlocked": "small_unlocked"}
PRUNED = on(test_backup.test_prune_takes_what_no_kept_set_needs_and_never_the_last_verified, UNLOCKED)
SEGMENTS = on(
    test_fsck_lake.test_a_segment_that_is_not_its_entries_is_named_and_made_anew,
    {"logged": "in_segments"},
    how="says something else",
)

GUARDS: Mapping[str, tuple[Mutant, Detector]] = {
    "lock": (no_lock, LOCKED),
    "fence: the fast-forward": (no_fence, MOVED_LAST),
    "fence: the recorded base": (no_base, MOVED),
    "ledger check": (no_ledger, detector(test_publish.test_nothing_pending_commits_nothing)),
    "read-back": (no_read_back, TAKEN_OUT),
    "put back": (test_mutants.not_put_back, TAKEN_OUT),
    "gate": (no_gate, detector(test_publish.test_a_failed_gate_leaves_main_and_keeps_the_branch)),
    "sha256 of what is read": (no_sha256, DAMAGED),
    "sha256 of what is landed": (
        no_upload_check,
        detector(test_ledger_logs.test_an_upload_whose_content_differs_stores_nothing),
    ),
    "breaker": (no_breaker, UNUSUAL),
    "one entry a number": (no_condition, BEHIND),
    "watch over S3": (no_watch, detector(test_watch.test_work_ends_when_s3_does)),
    "sha256 of what a set holds": (
        no_hash_of_a_set,
        on(test_backup.test_every_damaged_object_is_named_and_the_next_set_heals_it, SMALL, how="flipped"),
    ),
    "signature of a set": (no_signature, on(test_backup.test_a_set_that_somebody_else_signed_is_not_ours, SMALL)),
    "object lock": (
        no_lock_of_objects,
        on(test_backup.test_a_locked_set_stays_and_its_objects_cannot_be_removed, SMALL),
    ),
    "prune: one is verified": (any_set_is_verified, PRUNED),
    "prune: the last verified stays": (no_last_verified, PRUNED),
    "restore: the backup is whole": (
        no_faults_of_a_restore,
        on(test_restore.test_a_backup_that_lost_a_file_is_not_swapped_in, UNLOCKED),
    ),
    "restore: the walk before the swap": (
        no_walk_after_a_restore,
        on(test_restore.test_a_set_that_lacks_what_its_tables_name_is_not_swapped_in, SMALL),
    ),
    "fsck: what files are": (no_hash_of_the_lake, SEGMENTS),
    "fsck: copies of log entries": (no_copies_of_entries, SEGMENTS),
}
DETECTORS = {each.name: each for _, each in GUARDS.values()}


@pytest.fixture(scope="module")
def shared(new_lake: NewLake) -> Lake:
    """The lake of the detectors that are about publishing."""
    return new_lake()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> TableName:
    """A table that no other test uses."""
    return TableName("ops", "g_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[-50:].lower())


@pytest.fixture
def store(new_settings: Callable[[], Settings]) -> ObjectStore:
    """An empty bucket."""
    return ObjectStore.open(new_settings())


@pytest.fixture
def small(endpoint: str, tmp_path: Path) -> SmallLake:
    """A lake without a JVM, whose backups are locked."""
    return fill(make_lake(endpoint, tmp_path))


@pytest.fixture
def small_unlocked(endpoint: str, tmp_path: Path) -> SmallLake:
    """The same without locks."""
    return fill(make_lake(endpoint, tmp_path, is_locking=False))


@pytest.fixture
def in_segments(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallLake:
    """A log of several segments."""
    return test_fsck_lake.in_segments(test_fsck_lake.unbacked(endpoint, tmp_path), monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def outcome(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What became of each guard; a table at the end."""
    found: dict[str, str] = {}
    yield found
    width = max(map(len, GUARDS))
    lines = [f"{guard:{width}}  {found.get(guard, '-'):12}  {test.name}" for guard, (_, test) in GUARDS.items()]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join([f"{'without':{width}}  {'the test is':12}", *lines]))


def call(request: pytest.FixtureRequest, each: Detector) -> Callable[[], None]:
    """A test with the fixtures that it names, which are made now."""
    wanted = [name for name in inspect.signature(each.test).parameters if name not in each.given]
    made = {name: request.getfixturevalue(each.fixtures.get(name, name)) for name in wanted}
    return partial(each.test, **made, **each.given)


@pytest.mark.parametrize("name", DETECTORS)
def test_all_guards_in_place(request: pytest.FixtureRequest, name: str) -> None:
    call(request, DETECTORS[name])()


@pytest.mark.parametrize("guard", GUARDS)
def test_without(request: pytest.FixtureRequest, guard: str, outcome: dict[str, str]) -> None:
    mutant, each = GUARDS[guard]
    outcome[guard] = "NOT NOTICED"
    act, red = call(request, each), ""
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        try:
            act()
        except (Exception, pytest.fail.Exception) as error:
            red = f"{type(error).__name__}: {error}"
    print(red)
    assert red, f"{each.name} is green without the {guard}"
    outcome[guard] = "red"
