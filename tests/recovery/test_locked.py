"""Inside the lock's window nobody takes a backup away: not who writes it, not who prunes, not the server's root.

On the second MinIO of the local stack, with the identities that `lakehouse up` makes. After each attack the set is
verified as good, and its tables are read out of it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from tests.backup_lake import AT, SmallLake, catalog_at
from tests.faults.s3_proxy import S3Fault, S3Proxy

from lakehouse.backup import room
from lakehouse.backup.prune import Policy, plan_prune, run_prune
from lakehouse.backup.sets import BackupSet, complete_ids, load_set
from lakehouse.backup.signing import public_key_of
from lakehouse.backup.vault import Stored, Vault
from lakehouse.backup.verify import Share, put_back, verify
from lakehouse.core.errors import IntegrityError, SettingsError, StackError
from lakehouse.core.settings import Settings
from lakehouse.ledger.store import ObjectStore
from lakehouse.stack import backup_access, buckets, credentials
from lakehouse.stack.backup_access import Place

NOTHING = Policy(hours=0, daily=0, weekly=0, monthly=0, yearly=0)
DOCUMENTS = ("plan.json", "files.jsonl.gz", "manifest.json", "COMPLETE")
REFUSED = ("AccessDenied", "InvalidRequest", "MethodNotAllowed", "BucketNotEmpty", "InvalidBucketState")


@pytest.fixture(scope="module")
def place(servers: Settings) -> Place:
    """The server of backups as its root sees it."""
    secrets = credentials.load_or_create(servers).backups
    endpoint, days = servers.backup_s3_endpoint, servers.backup_lock_days
    return Place(endpoint, servers.s3_region, servers.backup_bucket, days, secrets)


def new_lake(servers: Settings, folder: Path) -> SmallLake:
    """A lake with two tables, a landed file and a decision."""
    mark = uuid.uuid4().hex[:10]
    settings = servers.model_copy(update={"landing_bucket": f"landing-{mark}", "warehouse_bucket": f"warehouse-{mark}"})
    buckets.create(settings)
    made = SmallLake(settings, catalog_at(settings, folder / f"{mark}.db"))
    made.table("silver.dim_shop")
    made.table("gold.sales", 5)
    made.land(b"id\n1\n")
    made.decide()
    return made


@pytest.fixture(scope="module")
def lake(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    return new_lake(servers, tmp_path_factory.mktemp("locked"))


@pytest.fixture(scope="module")
def made(lake: SmallLake) -> BackupSet:
    """A set, made as whoever writes backups."""
    return lake.back_up()


@pytest.fixture(autouse=True)
def whole(lake: SmallLake, made: BackupSet, tmp_path: Path) -> Iterator[None]:
    """After each test the set is there, verified as good, and its tables are read out of it."""
    yield
    assert complete_ids(lake.vault)[0] == made.id
    assert lake.verify(made).damages == ()
    assert lake.read_in_place(made, tmp_path) == lake.contents()


def stored_of(lake: SmallLake, made: BackupSet) -> list[Stored]:
    """Every object of the set, its documents among them, in the version that was stored."""
    keys = [f"sets/{made.id}/{name}" for name in DOCUMENTS]
    documents = [lake.vault.head(key, lake.vault.versions(key)[-1]) for key in keys]
    return [*(each for entry in made.files().values() for each in entry.objects), *(each for each in documents if each)]


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def as_root(place: Place) -> Any:
    return place.client(place.secrets.root_key_id, place.secrets.root_secret)


def as_user(place: Place, name: str) -> Any:
    return place.client(*place.users[name])


def refusal(act: Callable[[], Any]) -> str:
    """What the server answers; '' where it did what it was asked."""
    try:
        answer = act()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    errors = answer.get("Errors") or [{"Code": ""}]
    return str(errors[0]["Code"])


Attack = Callable[[Any, str, Stored], Callable[[], Any]]


def retention(mode: str, days: int, **more: Any) -> Attack:
    kept = {"Mode": mode, "RetainUntilDate": AT + timedelta(days=days)}
    return lambda s3, bucket, it: (
        lambda: s3.put_object_retention(Bucket=bucket, Key=it.key, VersionId=it.version, Retention=kept, **more)
    )


ON_OBJECTS: dict[str, Attack] = {
    "delete": lambda s3, bucket, it: lambda: s3.delete_object(Bucket=bucket, Key=it.key),
    "delete the version": lambda s3, bucket, it: (
        lambda: s3.delete_object(Bucket=bucket, Key=it.key, VersionId=it.version)
    ),
    "delete with bypass": lambda s3, bucket, it: (
        lambda: s3.delete_object(Bucket=bucket, Key=it.key, VersionId=it.version, BypassGovernanceRetention=True)
    ),
    "delete many": lambda s3, bucket, it: (
        lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": it.key, "VersionId": it.version}]})
    ),
    "shorten": retention("COMPLIANCE", 1),
    "loosen": retention("GOVERNANCE", 60, BypassGovernanceRetention=True),
    "lock for ever": retention("COMPLIANCE", 20_000),
}
SOON = {"Rules": [{"ID": "soon", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}
OPEN = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::lake-backups/*"}
]}  # fmt: skip
ON_THE_BUCKET: dict[str, Callable[[Any, str], Any]] = {
    "lock": lambda s3, bucket: s3.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
    ),
    "versions": lambda s3, bucket: s3.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
    ),
    "lifecycle": lambda s3, bucket: s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=SOON),
    "policy": lambda s3, bucket: s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(OPEN)),
    "bucket": lambda s3, bucket: s3.delete_bucket(Bucket=bucket),
    "another bucket": lambda s3, bucket: s3.create_bucket(Bucket=f"{bucket}-2"),
}


def test_the_writer_takes_nothing_away(lake: SmallLake, made: BackupSet, place: Place) -> None:
    s3, objects = as_user(place, backup_access.WRITER), stored_of(lake, made)
    assert len(objects) > 15 and all(each.version and each.locked_until for each in objects)
    for how, attack in ON_OBJECTS.items():
        said = {refusal(attack(s3, place.bucket, each)) for each in objects}
        assert said <= {"AccessDenied", "InvalidRequest"}, how


def test_nobody_but_root_changes_the_bucket(place: Place) -> None:
    for who in place.users:
        s3 = as_user(place, who)
        said = {what: refusal(partial(act, s3, place.bucket)) for what, act in ON_THE_BUCKET.items()}
        assert said == dict.fromkeys(ON_THE_BUCKET, "AccessDenied"), who


def test_a_lock_holds_for_root_and_the_pruner(lake: SmallLake, made: BackupSet, place: Place) -> None:
    objects = stored_of(lake, made)
    for s3 in (as_root(place), as_user(place, backup_access.PRUNER)):
        for how in ("delete the version", "delete with bypass", "delete many", "shorten", "loosen"):
            said = {refusal(ON_OBJECTS[how](s3, place.bucket, each)) for each in objects}
            assert said <= {"InvalidRequest", "AccessDenied"}, how


def test_root_cannot_remove_the_bucket_or_its_versions(place: Place) -> None:
    s3 = as_root(place)
    for what in ("bucket", "versions"):
        assert refusal(lambda what=what: ON_THE_BUCKET[what](s3, place.bucket)) in REFUSED


def test_the_reader_reads_only(lake: SmallLake, made: BackupSet, place: Place) -> None:
    s3, it = as_user(place, backup_access.READER), stored_of(lake, made)[0]
    assert s3.get_object(Bucket=place.bucket, Key=it.key, VersionId=it.version)["ContentLength"] == it.size_bytes
    for act in (*ON_OBJECTS.values(), lambda s3, bucket, it: lambda: s3.put_object(Bucket=bucket, Key="new", Body=b"")):
        assert refusal(act(s3, place.bucket, it)) in ("AccessDenied", "InvalidRequest")
    reader = Vault.open(lake.settings.as_backup_reader(), lake.now)
    assert verify(reader, made.id, public_key_of(lake.settings), Share(), lake.now).is_good


def covered(lake: SmallLake, made: BackupSet, objects: list[Stored]) -> None:
    """The set is there, with every byte that was stored; verify names what lies over it; and it can be taken back."""
    vault = lake.vault
    assert complete_ids(vault) == [made.id]
    again = load_set(vault, made.id, public_key_of(lake.settings))
    assert again.manifest == made.manifest and again.files() == made.files()
    assert all(len(vault.body(each)) == each.size_bytes for entry in made.files().values() for each in entry.objects)
    damages = lake.verify(made).damages
    good = {damage.key: sha256_of(vault.get(damage.key, damage.good_version)) for damage in damages}
    assert good == {each.key: each.sha256 for each in objects}
    assert set(put_back(vault, damages)) == {each.key for each in objects}


def test_what_the_writer_lays_over_a_set_is_named_and_taken_back(
    lake: SmallLake, made: BackupSet, place: Place
) -> None:
    s3, objects = as_user(place, backup_access.WRITER), stored_of(lake, made)
    for each in objects:
        s3.put_object(Bucket=place.bucket, Key=each.key, Body=b"not what was stored")
    covered(lake, made, objects)


def test_what_root_or_the_pruner_marks_as_deleted_is_named_and_taken_back(
    lake: SmallLake, made: BackupSet, place: Place
) -> None:
    objects = stored_of(lake, made)
    for number, each in enumerate(objects):
        s3 = as_user(place, backup_access.PRUNER) if number % 2 else as_root(place)
        assert refusal(lambda s3=s3, key=each.key: s3.delete_object(Bucket=place.bucket, Key=key)) == ""
    covered(lake, made, objects)


def test_what_went_in_parts_is_laid_on_top_in_parts_and_taken_by_who_sends_it_whole(
    lake: SmallLake, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's checksum of an object tells of its parts, and sets have it."""
    body, key = bytes(range(256)) * 80_000, f"objects/{uuid.uuid4()}"
    source, vault = ObjectStore.for_copies(lake.settings), lake.vault
    source.put("large", body)
    with monkeypatch.context() as small:
        small.setattr(room, "AT_ONCE_BYTES", 1)
        stored = vault.carry(source, "large", key, len(body), room.Room())
    assert stored.checksum.endswith("-2") and vault.head(key) == replace(stored, sha256="")
    as_user(place, backup_access.WRITER).put_object(Bucket=place.bucket, Key=key, Body=b"over it")
    on_top = vault.lay_on_top(key, stored.version)
    assert on_top.checksum == stored.checksum and vault.get(key) == body
    again = vault.carry(source, "large", key, len(body), room.Room())
    assert again == on_top and again.sha256 == sha256_of(body)


def test_forged_marks_and_records_hide_nothing(lake: SmallLake, made: BackupSet, place: Place) -> None:
    s3 = as_user(place, backup_access.WRITER)
    s3.put_object(Bucket=place.bucket, Key=f"sets/{made.id}/PRUNED", Body=b"")
    s3.put_object(Bucket=place.bucket, Key=f"verified/{made.id}/99991231T000000.json", Body=b"{")
    s3.put_object(Bucket=place.bucket, Key="sets/99991231T000000Z-forged/COMPLETE", Body=b"0" * 64)
    assert made.id in complete_ids(lake.vault)
    assert lake.back_up().manifest.parent == made.id
    # A set that nobody can read stops pruning, until whoever may delete has looked at it.
    public_key, forged = public_key_of(lake.settings), "sets/99991231T000000Z-forged/COMPLETE"
    with pytest.raises(IntegrityError, match="is missing"):
        plan_prune(Vault.open(lake.settings.as_backup_pruner(), lake.now), NOTHING, public_key)
    [version] = lake.vault.versions(forged)
    as_user(place, backup_access.PRUNER).delete_object(Bucket=place.bucket, Key=forged, VersionId=version)


def test_prune_keeps_what_was_verified_and_says_what_is_locked(
    lake: SmallLake, made: BackupSet, place: Place, tmp_path: Path
) -> None:
    second, third = lake.back_up(), lake.back_up()
    assert lake.verify(second).is_good
    public_key = public_key_of(lake.settings)
    pruner = Vault.open(lake.settings.as_backup_pruner(), lake.now)
    plan = plan_prune(pruner, NOTHING, public_key)
    reasons = {fate.set_id: fate.reason for fate in plan.fates}
    assert reasons[third.id] == "the newest" and reasons[second.id] == "the newest that was verified"
    assert reasons[made.id].startswith("locked until") and plan.going == ()
    # With a clock that is far ahead, the server still knows better, and no set is lost.
    late = replace(pruner, now=lake.now + timedelta(days=400))
    plan = plan_prune(late, NOTHING, public_key)
    assert made.id in plan.going and second.id not in plan.going and third.id not in plan.going
    assert run_prune(late, plan) == len(plan.objects)
    with pytest.raises(SettingsError, match="is locked"):
        late.delete(stored_of(lake, made)[0])
    assert {made.id, second.id, third.id} <= set(complete_ids(lake.vault))


def test_no_set_goes_before_one_was_verified_and_then_the_pruner_removes_what_is_free(
    servers: Settings, place: Place, tmp_path: Path
) -> None:
    """In a bucket of its own, without locks in force."""
    own = replace(place, bucket=f"backups-{uuid.uuid4().hex[:10]}")
    backup_access.make(own)
    try:
        free = servers.model_copy(update={"backup_bucket": own.bucket, "backup_lock_days": 0})
        lake = new_lake(free, tmp_path)
        sets = [lake.back_up()]
        lake.table("gold.sales", 4)
        sets.append(lake.back_up())
        pruner, public_key = Vault.open(free.as_backup_pruner(), lake.now), public_key_of(free)
        with pytest.raises(SettingsError, match="no set has been verified"):
            plan_prune(pruner, NOTHING, public_key)
        assert lake.verify(sets[1]).is_good
        with pytest.raises(SettingsError, match="refused access"):
            lake.vault.delete(stored_of(lake, sets[0])[0])
        plan = plan_prune(pruner, NOTHING, public_key)
        assert plan.going == (sets[0].id,) and run_prune(pruner, plan) == 0
        assert complete_ids(lake.vault) == [sets[1].id] and lake.verify(sets[1]).is_good
        assert lake.read_in_place(sets[1], tmp_path) == lake.contents()
    finally:
        backup_access.make(place)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/list-users", 503), ("PUT", "/import-iam", 503), ("HEAD", "/", 403)],
    ids=["still-reading", "still-starting", "forgotten"],
)
def test_a_server_that_has_just_started_is_given_its_identities_again(
    place: Place, method: str, path: str, status: int
) -> None:
    """One that reads its users from its disk takes others and forgets them."""
    host, _, port = place.endpoint.removeprefix("http://").partition(":")
    proxy, sent = S3Proxy(host, int(port)), []

    def concerns(asked: str, at: str) -> bool:
        sent.append(at)
        return asked == method and path in at and (asked != "HEAD" or "import-iam" in "".join(sent))

    try:
        with proxy.armed(S3Fault(concerns, status, times=1)):
            backup_access.make(replace(place, endpoint=f"http://{host}:{proxy.port}"))
    finally:
        proxy.close()


def test_a_server_that_does_not_take_an_identity_is_reported(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_access, "_KNOWN_SECONDS", 0.5)
    other = replace(place.secrets, writer="a")  # too short for MinIO, which says nothing of it
    with pytest.raises(StackError, match=r"cannot be made: it does not know backup-writer \(403\)"):
        backup_access.make(replace(place, secrets=other))
    backup_access.make(place)


def test_doctor_sees_who_could_destroy_backups(servers: Settings, place: Place) -> None:
    assert backup_access.problem(servers) == "" and backup_access.weaknesses(servers) == ()
    secrets = place.secrets
    weak = servers.model_copy(update={"backup_s3_access_key_id": secrets.root_key_id,
        "backup_s3_secret_access_key": type(servers.backup_s3_secret_access_key)(secrets.root_secret)})  # fmt: skip
    assert backup_access.weaknesses(weak) == ("who writes backups may delete them",)
    unlocked = f"plain-{uuid.uuid4().hex[:10]}"
    boto3.client("s3", endpoint_url=place.endpoint, aws_access_key_id=secrets.root_key_id,
        aws_secret_access_key=secrets.root_secret).create_bucket(Bucket=unlocked)  # fmt: skip
    plain = weak.model_copy(update={"backup_bucket": unlocked})
    assert "the bucket has no object lock" in backup_access.weaknesses(plain)
    assert "has no bucket nowhere" in backup_access.problem(weak.model_copy(update={"backup_bucket": "nowhere"}))
