"""Damage to the lake and to its backups, played one at a time and taken back: what a check did not name is returned."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.backup_lake import SmallLake

from lakehouse.backup.sets import BackupSet
from lakehouse.core.clock import FixedClock
from lakehouse.core.settings import CATALOG
from lakehouse.ledger.retention_lock import keeping_files
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog
from lakehouse.recovery.fsck import check_from
from lakehouse.recovery.repair import Repair, plan_repair, repair
from lakehouse.recovery.report import Report

if TYPE_CHECKING:
    from lakehouse.engine.publish import Lake

HOWS = ("deleted", "truncated", "flipped", "swapped")
KINDS = (
    "metadata", "former_metadata", "manifest_list", "manifest", "data", "position_deletes", "deletion_vector",
    "statistics", "log", "landed",
)  # fmt: skip
MERGE_ON_READ = "'write.delete.mode'='merge-on-read', 'write.update.mode'='merge-on-read'"


@dataclass
class World:
    """A lake with every kind of file, at least two of each, and what each file's bytes are."""

    lake: SmallLake
    files: dict[str, list[str]] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)

    @property
    def client(self) -> Any:
        return self.lake.s3

    def check(self, *, is_read: bool = True) -> Report:
        """One look at everything."""
        clock = FixedClock(self.lake.now)
        return check_from(self.lake.settings, self.lake.catalog.engine, clock, (), lambda _: is_read)

    def repair(self) -> Repair:
        """Everything that has a good copy, as the command does it."""
        settings, engine, clock = self.lake.settings, self.lake.catalog.engine, FixedClock(self.lake.now)
        with keeping_files(settings):
            return repair(settings, engine, clock, (), plan_repair(settings, engine, clock, (), lambda *_: None))

    def learn(self, found: BackupSet) -> None:
        """Which files there are, by kind, from a set; and their bytes, from the lake."""
        self.files.clear()
        for uri, entry in found.files().items():
            self.files.setdefault(entry.kind, []).append(uri)
            self.bodies[uri] = self.now(uri) or b""

    def now(self, uri: str) -> bytes | None:
        """The bytes of a file as they are."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())
        except self.client.exceptions.NoSuchKey:
            return None

    def put(self, uri: str, body: bytes | None) -> None:
        """Make a file this, or nothing."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if body is None:
            self.client.delete_object(Bucket=bucket, Key=key)
        else:
            self.client.put_object(Bucket=bucket, Key=key, Body=body)

    def choose(self, kind: str, how: str, chance: random.Random) -> dict[str, bytes | None]:
        """Some file of a kind and what becomes of it; two where they are exchanged."""
        there = sorted(self.files[kind])
        if how == "swapped":
            one, other = chance.sample([uri for uri in there if self._is_unlike(uri, there)], 2)
            while self.bodies[one] == self.bodies[other]:
                one, other = chance.sample(there, 2)
            return {one: self.bodies[other], other: self.bodies[one]}
        uri = chance.choice(there)
        return {uri: spoiled(self.bodies[uri], how, chance)}

    def _is_unlike(self, uri: str, others: Iterable[str]) -> bool:
        return any(self.bodies[uri] != self.bodies[other] for other in others)

    @contextmanager
    def damaged(self, changes: dict[str, bytes | None]) -> Iterator[None]:
        """The lake with this damage; afterwards everything is as it was, repaired or not."""
        for uri, body in changes.items():
            self.put(uri, body)
        try:
            yield
        finally:
            for uri in changes:
                if self.now(uri) != self.bodies[uri]:
                    self.put(uri, self.bodies[uri])


def spoiled(body: bytes, how: str, chance: random.Random) -> bytes | None:
    """These bytes gone, cut short, or with one bit flipped."""
    if how == "deleted":
        return None
    place = chance.randrange(len(body))
    if how == "truncated":
        return body[:place]
    return body[:place] + bytes([body[place] ^ (1 << chance.randrange(8))]) + body[place + 1 :]


def unnamed(world: World, how: str, kind: str, chance: random.Random, look: Callable[[], Report]) -> list[str]:
    """The files that a check did not name, or named although they were whole."""
    changes = world.choose(kind, how, chance)
    with world.damaged(changes):
        found = {damage.uri for damage in look().damages}
    return sorted(found ^ changes.keys())


def fill(lake: Lake) -> World:
    """Format 3 with deletion vectors and format 2 with position deletes, statistics, and two landed batches."""
    for name, version in (("vectors", 3), ("positions", 2)):
        table = f"{CATALOG}.ops.{name}"
        lake.spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {CATALOG}.ops")
        lake.spark.sql(
            f"CREATE TABLE {table} (n bigint, text string) USING iceberg PARTITIONED BY (truncate(100, n)) "
            f"TBLPROPERTIES ('format-version'='{version}', {MERGE_ON_READ})"
        )
        for start in (0, 200):
            rows = f"SELECT id, string(id) FROM range({start}, {start + 200}, 1, 1)"
            lake.spark.sql(f"INSERT INTO {table} {rows}")
            lake.spark.sql(f"DELETE FROM {table} WHERE n >= {start} AND n % 7 = 1")
            lake.spark.sql(f"CALL {CATALOG}.system.compute_table_stats(table => 'ops.{name}')")
    world = World(SmallLake(lake.settings, open_catalog(lake.settings)))
    for day in (1, 2):
        world.lake.land(b"id\n%d\n" % day, day)
    world.lake.decide()
    return world


def backup_store(world: World) -> ObjectStore:
    """The bucket of backups."""
    return ObjectStore.of_backups(world.lake.settings)
