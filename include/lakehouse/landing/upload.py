"""Bytes into the landing bucket, under the key that their SHA-256 gives. The same bytes are stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lakehouse.core.errors import IntegrityError
from lakehouse.core.failpoints import failpoint
from lakehouse.ledger.log import object_key
from lakehouse.ledger.store import ContentMismatch, ObjectStore, Reader

SMALL_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024

Opener = Callable[[], AbstractContextManager[Reader]]


@dataclass(frozen=True)
class Measured:
    """What a file holds. ``body`` is kept where it is small, so that it is read once."""

    size_bytes: int
    sha256: str
    body: bytes | None = None


def measure(opener: Opener, expected_bytes: int) -> Measured:
    """Read a file once, in pieces. Raises :class:`ContentMismatch` when it changes meanwhile."""
    digest, size, pieces = hashlib.sha256(), 0, []
    with opener() as stream:
        while piece := stream.read(_CHUNK_BYTES):
            digest.update(piece)
            size += len(piece)
            if size > expected_bytes:
                break  # somebody appends faster than we read
            if expected_bytes <= SMALL_BYTES:
                pieces.append(piece)
    if size != expected_bytes:
        raise ContentMismatch("the file grew or shrank while it was read")
    return Measured(size, digest.hexdigest(), b"".join(pieces) if size <= SMALL_BYTES else None)


def upload(
    store: ObjectStore, source: str, measured: Measured, opener: Opener, young: timedelta = timedelta(hours=1)
) -> str:
    """Store a file's bytes unless they are there, and return their key.

    What is there and not ``young`` may have been staged by a landing that died: it is stored anew, so that nobody takes
    it for a leftover before this landing is logged. Raises :class:`ContentMismatch` when the file no longer holds what
    was measured; nothing is stored then.
    """
    key = object_key(source, measured.sha256)
    failpoint("land.before_upload", source)
    if measured.size_bytes <= SMALL_BYTES:
        body = _body(measured, opener)
        if not store.put_if_absent(key, body) and not _is_young(store, key, measured.size_bytes, young):
            store.put(key, body)
    elif store.head(key) is None or not _is_young(store, key, measured.size_bytes, young):
        with opener() as stream:
            store.put_stream(key, stream, measured.size_bytes, measured.sha256)
    failpoint("land.after_upload", source)
    return key


def _is_young(store: ObjectStore, key: str, size_bytes: int, young: timedelta) -> bool:
    """Whether an object was written a short while ago. Raises :class:`IntegrityError` where its size is wrong."""
    found = store.head(key)
    if found is None or found.size_bytes != size_bytes:
        raise IntegrityError(
            f"a landed object has {found.size_bytes if found else 0} bytes, its key says {size_bytes}",
            where=f"s3://{store.bucket}/{key}",
            todo="the object is damaged: bring it back from a backup set, or remove it and land again",
        )
    return found.modified_at is not None and datetime.now(UTC) - found.modified_at < young


def _body(measured: Measured, opener: Opener) -> bytes:
    if measured.body is not None:
        return measured.body
    again = measure(opener, measured.size_bytes)
    if again.sha256 != measured.sha256 or again.body is None:
        raise ContentMismatch("the file changed while it was read")
    return again.body
