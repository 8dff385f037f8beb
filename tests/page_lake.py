"""A lake for tests of the page: metadata made in memory, logs in a dictionary, and every request counted."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lakehouse.contracts.index import compile_index
from lakehouse.core.errors import IntegrityError, TransientError
from lakehouse.core.names import TableName
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.ledger.decisions import Action, Decision, append_decision
from lakehouse.ledger.log import Batch, LandedFile, append
from lakehouse.ledger.store import ObjectInfo, ObjectStore
from lakehouse.ledger.watermark import STAMP_PROPERTY, Consumed, Stamp
from lakehouse.page.declared import Declarations
from lakehouse.page.known import Known
from lakehouse.page.refresh import Refresher

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from lakehouse.page.servers import BackupPlace

NOW = datetime(2024, 4, 10, 12, tzinfo=UTC)
DBT = PROJECT_ROOT / "include" / "dbt"


@dataclass
class Clock:
    """A clock that a test moves."""

    at: datetime = NOW

    def now(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


@dataclass
class MemoryStore:
    """As much of an object store as journals need."""

    bucket: str = "landing"
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    is_away: bool = False

    def get(self, key: str) -> bytes:
        self._count("get")
        return self.objects[key]

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def list_after(self, prefix: str, start_after: str = "", delimiter: str = "") -> Iterator[ObjectInfo]:
        self._count("list")
        for key in sorted(self.objects):
            if key.startswith(prefix) and key > start_after:
                yield ObjectInfo(key, len(self.objects[key]), "etag")

    def put_if_absent(self, key: str, body: bytes) -> bool:
        if key in self.objects:
            return False
        self.objects[key] = body
        return True

    def _count(self, what: str) -> None:
        self.requests[what] += 1
        if self.is_away:
            raise TransientError("the S3 server does not answer", todo="check `lakehouse status`")

    @property
    def store(self) -> ObjectStore:
        return cast(ObjectStore, self)


@dataclass
class FakeLake:
    """The servers as the page sees them."""

    memory: MemoryStore = field(default_factory=MemoryStore)
    places: dict[TableName, str] = field(default_factory=dict)
    made: dict[str, Table] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    is_catalog_away: bool = False
    backups: BackupPlace | None = None

    @property
    def store(self) -> ObjectStore:
        return self.memory.store

    def pointers(self) -> Mapping[TableName, str]:
        self.requests["pointers"] += 1
        if self.is_catalog_away:
            raise TransientError("the catalog cannot be reached", todo="check `lakehouse status`")
        return dict(self.places)

    def table(self, name: TableName, location: str) -> Table:
        self.requests["metadata"] += 1
        if self.memory.is_away:
            raise TransientError("the warehouse cannot be reached", todo="check `lakehouse status`")
        if location not in self.made:
            raise IntegrityError("a metadata file is missing", where=location)
        return self.made[location]

    def close(self) -> None:
        self.requests["close"] += 1

    def publish(self, name: str, *snapshots: Mapping[str, Any], **more: Any) -> Table:
        """Let a table have these snapshots from now on."""
        table = iceberg(name, snapshots, **more)
        self.made[table.metadata_location] = table
        self.places[TableName.parse(name)] = table.metadata_location
        return table


def snapshot(stamp: Stamp | None = None, rows: int = 0, at: datetime = NOW, **summary: Any) -> dict[str, Any]:
    """One snapshot's summary, with the time of its commit."""
    said = {"operation": "append", "total-records": str(rows), "total-data-files": "2", "total-files-size": "4096"}
    if stamp is not None:
        said[STAMP_PROPERTY] = stamp.to_json()
    return {"at": at, "summary": {**said, **summary}}


def consumed(source: str, through: int, attempt: str = "a1", **more: Any) -> Stamp:
    """The stamp of a table that took a source's batches up to a number."""
    return Stamp(attempt, "f" * 32, {source: Consumed(through)}, **more)


def iceberg(
    name: str,
    snapshots: Sequence[Mapping[str, Any]],
    tags: Mapping[str, int] | None = None,
    columns: Mapping[str, str] | None = None,
    comment: str = "made for a test",
) -> Table:
    """A table whose ``main`` had these snapshots as heads, one after the other. Tags name them by their place."""
    from pyiceberg.table import Table
    from pyiceberg.table.metadata import TableMetadataUtil

    location = f"s3://warehouse/warehouse/{name.replace('.', '/')}"
    heads = [(1000 + place, each) for place, each in enumerate(snapshots)]
    made = [_snapshot(place, number, each, location) for place, (number, each) in enumerate(heads)]
    fields = [
        {"id": place, "name": column, "type": kind, "required": False, "doc": f"About {column}."}
        for place, (column, kind) in enumerate((columns or {"id": "string", "_batch": "long"}).items(), 1)
    ]
    refs: dict[str, Any] = {tag: {"snapshot-id": heads[place][0], "type": "tag"} for tag, place in (tags or {}).items()}
    if heads:
        refs["main"] = {"snapshot-id": heads[-1][0], "type": "branch"}
    metadata = {
        "format-version": 2,
        "table-uuid": str(uuid.uuid4()),
        "location": location,
        "last-sequence-number": len(made),
        "last-updated-ms": _ms(NOW),
        "last-column-id": len(fields),
        "schemas": [{"type": "struct", "schema-id": 0, "fields": fields}],
        "current-schema-id": 0,
        "partition-specs": [{"spec-id": 0, "fields": []}],
        "default-spec-id": 0,
        "last-partition-id": 999,
        "sort-orders": [{"order-id": 0, "fields": []}],
        "default-sort-order-id": 0,
        "properties": {"comment": comment},
        "snapshots": made,
        "snapshot-log": [{"snapshot-id": each["snapshot-id"], "timestamp-ms": each["timestamp-ms"]} for each in made],
        "refs": refs,
        **({"current-snapshot-id": heads[-1][0]} if heads else {}),
    }
    at = f"{location}/metadata/{uuid.uuid4()}.metadata.json"
    namespace, _, table = name.partition(".")
    return Table((namespace, table), TableMetadataUtil.parse_obj(metadata), at, cast(Any, None), cast(Any, None))


def _snapshot(place: int, number: int, each: Mapping[str, Any], location: str) -> dict[str, Any]:
    return {
        "snapshot-id": number,
        **({"parent-snapshot-id": number - 1} if place else {}),
        "sequence-number": place + 1,
        "timestamp-ms": _ms(each["at"]) + place,
        "manifest-list": f"{location}/metadata/snap-{number}.avro",
        "summary": each["summary"],
        "schema-id": 0,
    }


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def land(memory: MemoryStore, source: str, unit: date, landed_at: datetime = NOW, kind: str = "slice") -> int:
    """One more batch; returns its number."""
    digest = uuid.uuid4().hex * 2
    file = LandedFile("x.csv", f"objects/{source}/{digest}", 1000, digest, "csv", None)
    draft = Batch(source, 0, unit, cast(Any, kind), (file,), None, None, landed_at, 10)
    _, written = append(memory.store, draft)
    assert written is not None
    return written.number


def decide(memory: MemoryStore, source: str, action: Action, batch: int, reason: str = "looks odd") -> None:
    """One more decision."""
    append_decision(memory.store, Decision(source, 0, action, (batch,), reason, "ada", NOW))


def refresher(lake: FakeLake, contracts: Path, clock: Clock | None = None, dbt: Path = DBT) -> Refresher:
    """What reads this lake, with the contracts of a folder, whose index is compiled if it is not there."""
    if not (contracts / "index.json").exists():
        compile_index(contracts)
    return Refresher(lambda: lake, Declarations(contracts, dbt), clock or Clock())


def read(reader: Refresher, known: Known | None = None) -> Known:
    """What is known after a refresh."""
    known = known or Known()
    for latest in reader.run(known):
        known = latest
    return known
