"""The files of the lake as they are now, by name, in any of its buckets, with the versions that the server kept."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lakehouse.backup.places import Places
from lakehouse.backup.vault import WHOLE_BYTES, Vault
from lakehouse.core.errors import IntegrityError
from lakehouse.ledger.store import ObjectStore

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Head:
    """What the server says of a file. ``sha256`` is '' unless the server keeps it of the whole."""

    size_bytes: int
    etag: str
    sha256: str


@dataclass(frozen=True)
class Body:
    """A file that was read to its end. ``content`` is its bytes, or the place where they are for now."""

    size_bytes: int
    etag: str
    sha256: str
    content: bytes | Path

    @property
    def data(self) -> bytes:
        """The bytes themselves."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content


@dataclass(frozen=True)
class LakeFiles:
    """Reads by name. A name that leads out of the lake's buckets raises :class:`IntegrityError`."""

    lake: ObjectStore
    places: Places

    def store(self, uri: str) -> tuple[ObjectStore, str]:
        """The bucket of a file, and its key there."""
        bucket, key = self.places.split(uri)
        return self.lake.in_bucket(bucket), key

    def vault(self, uri: str, near: Vault) -> tuple[Vault, str]:
        """The same as a place to store to."""
        store, key = self.store(uri)
        return Vault(store, 0, near.now), key

    def head(self, uri: str) -> Head | None:
        """What is there, None if nothing."""
        store, key = self.store(uri)
        head = partial(store.client.head_object, Bucket=store.bucket, Key=key, ChecksumMode="ENABLED")
        try:
            found = store.ask(key, head)
        except IntegrityError:
            return None
        checksum = found.get("ChecksumSHA256", "")
        is_in_parts = "-" in checksum or "-" in found["ETag"]  # then it is a hash of hashes, whatever it looks like
        sha256 = base64.b64decode(checksum).hex() if checksum and not is_in_parts else ""
        return Head(found["ContentLength"], found["ETag"], sha256)

    @contextmanager
    def reading(self, uri: str, version: str = "") -> Iterator[Body | None]:
        """A file read whole: in memory, or on disk where it is large. None where it is missing."""
        store, key = self.store(uri)
        conditions: dict[str, Any] = {"VersionId": version} if version else {}
        get = partial(store.client.get_object, Bucket=store.bucket, Key=key, **conditions)
        try:
            found = store.ask(key, get)
        except IntegrityError:
            yield None
            return
        size, etag = found["ContentLength"], found["ETag"]
        if size <= WHOLE_BYTES:
            data = store.ask(key, found["Body"].read, size)
            yield Body(len(data), etag, hashlib.sha256(data).hexdigest(), data)
            return
        found["Body"].close()
        with tempfile.NamedTemporaryFile(prefix="lakehouse-fsck-") as file:
            digest, size = hashlib.sha256(), 0
            with store.streaming(key, **conditions) as (stream, _):
                while piece := stream.read(_CHUNK_BYTES):
                    digest.update(piece)
                    size += len(piece)
                    file.write(piece)
            file.flush()
            yield Body(size, etag, digest.hexdigest(), Path(file.name))

    def versions(self, uri: str) -> list[str]:
        """The versions of a file that the server still has, the newest first; none in a bucket without versions."""
        store, key = self.store(uri)
        pages = iter(store.client.get_paginator("list_object_versions").paginate(Bucket=store.bucket, Prefix=key))
        found: list[str] = []  # "null" is what was there before versions were kept
        while page := store.ask(key, lambda: next(pages, None)):
            found += [each["VersionId"] for each in page.get("Versions", []) if each["Key"] == key]
        return found

    def is_versioned(self, uri: str) -> bool:
        """Whether the bucket of a file keeps what is replaced."""
        store, key = self.store(uri)
        answer = store.ask(key, partial(store.client.get_bucket_versioning, Bucket=store.bucket))
        return answer.get("Status") == "Enabled"
