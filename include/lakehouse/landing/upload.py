"""Bytes into the landing bucket, under the key that their SHA-256 gives. The same bytes are stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

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


def upload(store: ObjectStore, source: str, measured: Measured, opener: Opener) -> str:
    """Store a file's bytes unless they are there, and return their key.

    Raises :class:`ContentMismatch` when the file no longer holds what was measured; nothing is stored then.
    """
    key = object_key(source, measured.sha256)
    failpoint("land.before_upload")
    if measured.size_bytes <= SMALL_BYTES:
        is_new = store.put_if_absent(key, _body(measured, opener))
    else:
        is_new = store.head(key) is None
        if is_new:
            with opener() as stream:
                store.put_stream(key, stream, measured.size_bytes, measured.sha256)
    if not is_new:
        _require_size(store, key, measured.size_bytes)
    failpoint("land.after_upload")
    return key


def _body(measured: Measured, opener: Opener) -> bytes:
    if measured.body is not None:
        return measured.body
    again = measure(opener, measured.size_bytes)
    if again.sha256 != measured.sha256 or again.body is None:
        raise ContentMismatch("the file changed while it was read")
    return again.body


def _require_size(store: ObjectStore, key: str, size_bytes: int) -> None:
    found = store.head(key)
    if found is None or found.size_bytes != size_bytes:
        raise IntegrityError(
            f"a landed object has {found.size_bytes if found else 0} bytes, its key says {size_bytes}",
            where=f"s3://{store.bucket}/{key}",
            todo="the object is damaged: bring it back from a backup set, or remove it and land again",
        )
