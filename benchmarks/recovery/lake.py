"""A lake of a given size, made without a JVM: Iceberg tables with files of the usual sizes, and landed files.

Bytes are random, so nothing on the way can make them fewer. Of a lake's bytes about 40% are in files of 64 to 128 MB,
55% in files of 1 to 16 MB, and 5% in a long tail of small ones; a tenth of the middle landed as source files.
"""

from __future__ import annotations

import hashlib
import io
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.core.settings import Settings
from lakehouse.ledger.log import Batch, LandedFile, append, object_key
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog

MB = 10**6
SOURCE = "shop.orders"
_TABLES = 8
_FILES_OF_A_COMMIT = 12
_ROW_BYTES = 4096
_SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("payload", pa.binary())])
_AT = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Lake:
    """What was made so far. ``chance`` has a fixed seed, so that two runs make files of the same sizes."""

    settings: Settings
    chance: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - sizes, not secrets
    batches: int = 0
    _pool: bytes = field(default_factory=lambda: np.random.default_rng(7).bytes(160 * MB), repr=False)
    _catalog: Any = None

    def make(self, size_bytes: int) -> None:
        """All tables and the log."""
        self._catalog = open_catalog(self.settings)
        self._catalog.create_tables()
        self._catalog.create_namespace("silver")
        for number in range(_TABLES):
            self._catalog.create_table(f"silver.table_{number}", _SCHEMA)
        self.grow(size_bytes)

    def grow(self, size_bytes: int) -> None:
        """So many bytes more, spread over tables and landed files as above."""
        sizes = [*self._sizes(int(size_bytes * 0.4), 64 * MB, 128 * MB), *self._tail(int(size_bytes * 0.05))]
        sizes += self._sizes(int(size_bytes * 0.5), 1 * MB, 16 * MB)
        self.chance.shuffle(sizes)
        for start in range(0, len(sizes), _FILES_OF_A_COMMIT):
            self._commit(f"silver.table_{start // _FILES_OF_A_COMMIT % _TABLES}", sizes[start:][:_FILES_OF_A_COMMIT])
        for size in self._sizes(int(size_bytes * 0.05), 1 * MB, 16 * MB):
            self._land(size)

    def objects(self) -> list[tuple[str, str, int]]:
        """Every object of the lake: bucket, key and size."""
        store = ObjectStore.open(self.settings)
        return [
            (bucket, found.key, found.size_bytes)
            for bucket in (self.settings.warehouse_bucket, self.settings.landing_bucket)
            for found in store.in_bucket(bucket).list_after("")
        ]

    def empty(self) -> None:
        """Nothing is left in the lake's buckets; its catalog stays."""
        for bucket in (self.settings.warehouse_bucket, self.settings.landing_bucket):
            self._clear(bucket)

    def make_bucket(self, name: str) -> None:
        """A further bucket on the lake's server."""
        ObjectStore.open(self.settings).client.create_bucket(Bucket=name)

    def remove_bucket(self, name: str) -> None:
        """Remove it with all that it has."""
        self._clear(name)
        ObjectStore.open(self.settings).client.delete_bucket(Bucket=name)

    def _clear(self, bucket: str) -> None:
        store = ObjectStore.open(self.settings, bucket)
        keys = [{"Key": found.key} for found in store.list_after("")]
        for start in range(0, len(keys), 1000):
            batch: Any = {"Objects": keys[start : start + 1000], "Quiet": True}
            store.client.delete_objects(Bucket=bucket, Delete=batch)

    def _sizes(self, total: int, least: int, most: int) -> list[int]:
        """Sizes between two limits; what is left below the least one is a file of its own."""
        sizes: list[int] = []
        while (left := total - sum(sizes)) > 0:
            sizes.append(min(left, self.chance.randint(least, most)))
        return sizes

    def _tail(self, total: int) -> Iterator[int]:
        """Small files, most of them very small."""
        while total > 0:
            size = min(total, 4096 + int(self.chance.paretovariate(1.1) * 8192) % MB)
            yield size
            total -= size

    def _commit(self, name: str, sizes: list[int]) -> None:
        table = self._catalog.load_table(name)
        store = ObjectStore.open(self.settings, self.settings.warehouse_bucket)
        uris = []
        for size in sizes:
            uri = f"{table.location()}/data/{uuid.uuid4()}.parquet"
            store.client.put_object(
                Bucket=store.bucket, Key=uri.partition(f"{store.bucket}/")[2], Body=self._file(size)
            )
            uris.append(uri)
        table.add_files(uris)

    def _file(self, size: int) -> bytes:
        """A Parquet file of about so many bytes."""
        rows = max(1, size // (_ROW_BYTES + 12))
        start = self.chance.randrange(len(self._pool) - rows * _ROW_BYTES)
        ends = pa.array(np.arange(rows + 1, dtype=np.int32) * _ROW_BYTES).buffers()[1]
        payload = pa.Array.from_buffers(
            pa.binary(), rows, [None, ends, pa.py_buffer(self._pool).slice(start, rows * _ROW_BYTES)]
        )
        ids = np.arange(rows, dtype=np.int64) + self.chance.randrange(2**40)
        out = io.BytesIO()
        content = pa.table({"id": pa.array(ids), "payload": payload}, schema=_SCHEMA)
        pq.write_table(content, out, compression="none", use_dictionary=False)
        return out.getvalue()

    def _land(self, size: int) -> None:
        start = self.chance.randrange(len(self._pool) - size)
        body = self._pool[start : start + size]
        sha256 = hashlib.sha256(body).hexdigest()
        key, store = object_key(SOURCE, sha256), ObjectStore.open(self.settings)
        store.put(key, body)
        self.batches += 1
        day = date(2026, 3, 1) + timedelta(days=self.batches)
        append(
            store,
            Batch(
                SOURCE, 0, day, "slice", (LandedFile("orders.csv", key, size, sha256, "csv", None),), None, None, _AT
            ),
        )
