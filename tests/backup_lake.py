"""A small lake without a JVM: Iceberg v2 tables by PyIceberg, a catalog in SQLite, and logs, on moto's server."""

from __future__ import annotations

import hashlib
import io
import json
import random
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import SecretStr

from lakehouse.backup.create import create_from
from lakehouse.backup.records import Verification, write_record
from lakehouse.backup.sets import BackupSet
from lakehouse.backup.signing import new_key, public_key_of, signer_of
from lakehouse.backup.vault import Vault
from lakehouse.backup.verify import Share, verify
from lakehouse.core.clock import FixedClock
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.ledger.decisions import Decision, append_decision
from lakehouse.ledger.log import Batch, LandedFile, append, object_key
from lakehouse.ledger.store import ObjectStore

AT = datetime.now(UTC).replace(microsecond=0)  # a server locks nothing into the past
SOURCE = "shop.orders"


@dataclass
class SmallLake:
    """The lake, its backups, and a clock that goes on a day with each set."""

    settings: Settings
    catalog: Any
    days: int = 0
    tables: dict[str, Any] = field(default_factory=dict)

    @property
    def now(self) -> datetime:
        return AT + timedelta(days=self.days)

    @property
    def vault(self) -> Vault:
        return Vault.open(self.settings, self.now)

    @property
    def s3(self) -> Any:
        return ObjectStore.open(self.settings).client

    def table(self, name: str, rows: int = 3, **properties: str) -> Any:
        """A table with some rows; the same again appends."""
        names = [f"{name}-{n}" for n in range(rows)]
        content = pa.table({"id": pa.array(range(rows), pa.int64()), "city": pa.array(names, pa.string())})
        if name not in self.tables:
            namespace = name.partition(".")[0]
            self.catalog.create_namespace_if_not_exists(namespace)
            self.tables[name] = self.catalog.create_table(name, content.schema, properties=properties)
        self.tables[name].append(content)
        return self.tables[name]

    def land(self, body: bytes, day: int = 1) -> str:
        """A batch of one file; returns the key of its bytes."""
        store, sha256 = ObjectStore.open(self.settings), hashlib.sha256(body).hexdigest()
        key = object_key(SOURCE, sha256)
        store.put(key, body)
        file = LandedFile("orders.csv", key, len(body), sha256, "csv", None)
        append(store, Batch(SOURCE, 0, date(2026, 3, day), "slice", (file,), None, None, AT))
        return key

    def decide(self) -> None:
        """An entry of the decision log."""
        append_decision(ObjectStore.open(self.settings), Decision(SOURCE, 0, "hold", (1,), "why", "who", AT))

    def back_up(self, **options: Any) -> BackupSet:
        """The next set, a day later."""
        self.days += 1
        return create_from(self.settings, self.catalog.engine, FixedClock(self.now), **options)

    def verify(self, found: BackupSet, share: Share = Share()) -> Verification:  # noqa: B008 - a frozen value
        """A recorded verification of a set."""
        record = verify(self.vault, found.id, public_key_of(self.settings), share, self.now)
        write_record(self.vault, record, signer_of(self.settings))
        return record

    def read_in_place(self, found: BackupSet, folder: Path) -> dict[str, list[dict[str, Any]]]:
        """Every table of a set, registered in a scratch catalog of its own, with nothing of the lake at hand."""
        return read_in_place(self.settings, found, folder)

    def contents(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of every table as they are now."""
        return {name: content_of(self.catalog.load_table(name)) for name in self.tables}

    def empty(self) -> None:
        """Everything in the lake's own buckets is gone."""
        for bucket in (self.settings.warehouse_bucket, self.settings.landing_bucket):
            for entry in self.s3.list_objects_v2(Bucket=bucket).get("Contents", []):
                self.s3.delete_object(Bucket=bucket, Key=entry["Key"])

    def position_deletes(self, name: str, *positions: int) -> None:
        """Delete rows of the table's first data file as Spark's merge-on-read does in format 2."""
        add_position_deletes(self, name, positions)


def fill(made: SmallLake) -> SmallLake:
    """Two tables, one of them with deletes by position, three landed batches and a decision."""
    made.table("silver.dim_shop")
    made.table("silver.dim_shop")
    made.table("gold.sales", 5)
    made.position_deletes("gold.sales", 1, 3)
    for day in (1, 2, 3):
        made.land(b"id\n%d\n" % day, day)
    made.decide()
    return made


def with_backups(settings: Settings, lock_days: int = 2, **more: Any) -> Settings:
    """The same with a bucket of backups that locks, and a key; ``more`` is set besides."""
    made = settings.model_copy(
        update={
            "backup_bucket": settings.warehouse_bucket.replace("warehouse", "backup"),
            "backup_signing_key": SecretStr(new_key()[0]),
            "backup_lock_days": lock_days,
            **more,
        }
    )
    ObjectStore.of_backups(made).client.create_bucket(Bucket=made.backup_bucket, ObjectLockEnabledForBucket=True)
    return made


def make_lake(endpoint: str, folder: Path, *, is_locking: bool = True) -> SmallLake:
    """An empty lake with buckets of its own."""
    mark = uuid.uuid4().hex[:10]
    settings = Settings(
        home=folder,
        s3_endpoint=endpoint,
        s3_access_key_id="a",
        s3_secret_access_key=SecretStr("b"),
        landing_bucket=f"landing-{mark}",
        warehouse_bucket=f"warehouse-{mark}",
        backup_bucket=f"backup-{mark}",
        backup_s3_access_key_id="c",
        backup_s3_secret_access_key=SecretStr("d"),
        backup_signing_key=SecretStr(new_key()[0]),
        backup_lock_days=5,
    )
    client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b")
    for bucket in (settings.landing_bucket, settings.warehouse_bucket):
        client.create_bucket(Bucket=bucket)
    client.create_bucket(Bucket=settings.backup_bucket, ObjectLockEnabledForBucket=is_locking)
    return SmallLake(settings, catalog_at(settings, folder / f"{mark}.db"))


def catalog_at(settings: Settings, path: Path) -> Any:
    """A catalog in SQLite."""
    from pyiceberg.catalog.sql import SqlCatalog

    return SqlCatalog(
        CATALOG,
        uri=f"sqlite:///{path}",
        warehouse=settings.warehouse,
        **{
            "s3.endpoint": settings.s3_endpoint,
            "s3.region": settings.s3_region,
            "s3.access-key-id": settings.s3_access_key_id,
            "s3.secret-access-key": settings.s3_secret_access_key.get_secret_value(),
        },
    )


def read_in_place(settings: Settings, found: BackupSet, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table of a set."""
    return {name: content_of(table) for name, table in tables_in_place(settings, found, folder).items()}


def tables_in_place(settings: Settings, found: BackupSet, folder: Path) -> dict[str, Any]:
    """Every table of a set, from a scratch catalog that knows nothing but the set and who may read it."""
    reader = settings.as_backup_reader()
    place = {
        "s3_endpoint": reader.backup_s3_endpoint or reader.s3_endpoint,
        "s3_access_key_id": reader.backup_s3_access_key_id or reader.s3_access_key_id,
    }
    if reader.backup_s3_access_key_id:
        place |= {"s3_secret_access_key": reader.backup_s3_secret_access_key}
    scratch = catalog_at(settings.model_copy(update=place), folder / f"scratch-{uuid.uuid4().hex}.db")
    tables = {}
    for table in found.manifest.tables:
        scratch.create_namespace_if_not_exists(table.table.partition(".")[0])
        tables[table.table] = scratch.register_table(table.table, table.query_metadata)
    return tables


def content_of(table: Any) -> list[dict[str, Any]]:
    """A table's rows, in a fixed order."""
    return sorted(table.scan().to_arrow().to_pylist(), key=lambda row: json.dumps(row, default=str))


def add_position_deletes(lake: SmallLake, name: str, positions: tuple[int, ...]) -> None:
    """A position delete file with its manifest, and a snapshot that has it."""
    from pyiceberg.manifest import (
        DataFile,
        DataFileContent,
        FileFormat,
        ManifestContent,
        ManifestEntry,
        ManifestEntryStatus,
        ManifestWriterV2,
        write_manifest_list,
    )
    from pyiceberg.typedef import Record

    class DeletesWriter(ManifestWriterV2):
        def content(self) -> ManifestContent:
            return ManifestContent.DELETES

        @property
        def _meta(self) -> dict[str, str]:
            return {**super()._meta, "content": "deletes"}

    table = lake.catalog.load_table(name)
    metadata, snapshot = table.metadata, table.current_snapshot()
    place, mark = f"{metadata.location}/data", uuid.uuid4()
    data_file = next(iter(table.scan().plan_files())).file.file_path
    buffer = io.BytesIO()
    names = pa.schema([pa.field("file_path", pa.string(), False), pa.field("pos", pa.int64(), False)])
    pq.write_table(pa.table([[data_file] * len(positions), list(positions)], schema=names), buffer)
    with table.io.new_output(f"{place}/{mark}-deletes.parquet").create() as stream:
        stream.write(buffer.getvalue())
    bounds = {2147483546: data_file.encode(), 2147483545: min(positions).to_bytes(8, "little")}
    deletes = DataFile.from_args(
        _table_format_version=2,
        content=DataFileContent.POSITION_DELETES,
        file_path=f"{place}/{mark}-deletes.parquet",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=len(positions),
        file_size_in_bytes=len(buffer.getvalue()),
        lower_bounds=bounds,
        upper_bounds=bounds,
    )
    deletes.spec_id = 0
    new_id, sequence = random.randrange(2**40), metadata.last_sequence_number + 1  # noqa: S311 - an id
    output = table.io.new_output(f"{metadata.location}/metadata/{mark}-m0.avro")
    with DeletesWriter(metadata.spec(), metadata.schema(), output, new_id, "deflate") as writer:
        entry = ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, snapshot_id=new_id, data_file=deletes)
        writer.add_entry(entry)
    listed = f"{metadata.location}/metadata/snap-{new_id}-{mark}.avro"
    output = table.io.new_output(listed)
    with write_manifest_list(2, output, new_id, snapshot.snapshot_id, sequence, "deflate") as manifests:
        manifests.add_manifests([*snapshot.manifests(table.io), writer.to_manifest_file()])
    document = json.loads(metadata.model_dump_json(by_alias=True, exclude_none=True))
    total = str(snapshot.summary["total-records"])
    summary = {"operation": "delete", "total-records": total, "total-position-deletes": str(len(positions))}
    added = {
        "snapshot-id": new_id,
        "parent-snapshot-id": snapshot.snapshot_id,
        "sequence-number": sequence,
        "timestamp-ms": snapshot.timestamp_ms + 1,
        "manifest-list": listed,
        "summary": summary,
        "schema-id": 0,
    }
    document["snapshots"].append(added)
    document |= {"current-snapshot-id": new_id, "last-sequence-number": sequence}
    document["refs"]["main"]["snapshot-id"] = new_id
    document["snapshot-log"].append({"timestamp-ms": added["timestamp-ms"], "snapshot-id": new_id})
    document["last-updated-ms"] = max(document["last-updated-ms"], added["timestamp-ms"])
    document["metadata-log"] = [
        *document.get("metadata-log", []),
        {"timestamp-ms": document["last-updated-ms"], "metadata-file": table.metadata_location},
    ]
    target = f"{metadata.location}/metadata/00009-{mark}.metadata.json"
    with table.io.new_output(target).create() as stream:
        stream.write(json.dumps(document).encode())
    lake.catalog.drop_table(name)
    lake.tables[name] = lake.catalog.register_table(name, target)
