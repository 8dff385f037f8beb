"""The bucket of backups: objects are stored once, checked by the server, locked where the bucket has object lock."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from botocore.exceptions import ClientError

from lakehouse.backup.room import Room
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.settings import Settings
from lakehouse.ledger.store import NotAsAnnounced, ObjectStore, Outgoing, Reader, Taken, read_fully

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

WHOLE_BYTES = 32 * 1024 * 1024
"""Up to this size an object is held in memory, and sent in one request."""
PART_BYTES = 16 * 1024 * 1024
_MOST_PARTS = 9_000
_CHUNK_BYTES = 1024 * 1024
_PARTS = "-"
"""What a server's checksum of an object of parts has before their number."""
_LOCKED = ("InvalidRequest", "ObjectLocked")
_NO_LOCK = ("ObjectLockConfigurationNotFoundError", "NotImplemented", "MethodNotAllowed")


class OtherBytes(IntegrityError):
    """Under a key that is written once, there are other bytes."""


@dataclass(frozen=True)
class Stored:
    """An object of the vault, as it was when it was stored.

    ``checksum`` is what the server calls it by, '' where it keeps none; ``version`` is '' in a bucket without versions,
    and ``locked_until`` ISO text, '' without a lock. ``is_confirmed``: it was stored just now, and the server answered
    with the hash of what arrived.
    """

    key: str
    size_bytes: int
    sha256: str
    checksum: str = ""
    version: str = ""
    locked_until: str = ""
    is_confirmed: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Vault:
    """The bucket, and until when what is stored or used again now is locked.

    Whoever may write can lay another version over a key, and whoever may delete a mark that it is gone. Where the
    server keeps versions neither takes anything away: sets know versions and hashes, and are read by them.
    """

    store: ObjectStore
    lock_days: int
    now: datetime
    has_versions: bool = False

    @classmethod
    def open(cls, settings: Settings, now: datetime) -> Vault:
        """The vault that the settings name; looks once whether its bucket can lock objects."""
        settings.require_backups()
        store = ObjectStore.of_backups(settings)
        can_lock = _can_lock(store)
        return cls(store, settings.backup_lock_days if can_lock else 0, now, has_versions=can_lock)

    @property
    def is_locking(self) -> bool:
        """Whether objects are locked."""
        return self.lock_days > 0

    def get(self, key: str, version: str = "") -> bytes:
        """A whole object, or one version of it. Raises :class:`IntegrityError` where there is none."""
        return self.store.get(key, **_version(version))

    def digest(self, key: str, version: str = "") -> tuple[str, int]:
        """The SHA-256 and the size of an object, read whole. Raises :class:`IntegrityError` where there is none."""
        return self.store.digest(key, **_version(version))

    def body(self, stored: Stored) -> bytes:
        """A whole object as it was stored, whatever lies over it now. Raises :class:`IntegrityError`."""
        return self.find(stored.key, stored.sha256)

    def find(self, key: str, sha256: str) -> bytes:
        """The bytes with this hash under a key: those that are there now, else an older version of them."""
        for body in self.bodies(key):
            if hashlib.sha256(body).hexdigest() == sha256:
                return body
        raise IntegrityError(
            "what was stored under this key is not there any more",
            where=self.store.where(key),
            todo="use another set; `lakehouse backup verify` says what this one lacks",
        )

    def bodies(self, key: str) -> Iterator[bytes]:
        """What is under a key now, and then what lies below it, newest first. Only who goes on asks for that."""
        try:
            yield self.get(key)
        except IntegrityError:
            pass  # missing, or marked as deleted
        for version in self.versions(key):
            yield self.get(key, version)

    def versions(self, key: str) -> list[str]:
        """Every version of a key that the server has, newest first; none in a bucket without versions."""
        pages = self._version_pages(key) if self.has_versions else iter(())
        return [_known(each["VersionId"]) for page in pages for each in page.get("Versions", []) if each["Key"] == key]

    @contextmanager
    def reading(self, key: str, version: str = "") -> Iterator[BinaryIO]:
        """Stream an object."""
        with self.store.streaming(key, **_version(version)) as (stream, _):
            yield stream

    def head(self, key: str, version: str = "") -> Stored | None:
        """What is there now, its hash unknown unless the server keeps it whole; None where there is nothing."""
        head = partial(self.store.client.head_object, Bucket=self.store.bucket, Key=key, ChecksumMode="ENABLED")
        try:
            found = self.store.ask(key, lambda: head(**_version(version)))
        except IntegrityError:
            return None
        checksum = found.get("ChecksumSHA256", "")
        until = found.get("ObjectLockRetainUntilDate")
        return Stored(
            key,
            found["ContentLength"],
            "" if not checksum or _PARTS in checksum else base64.b64decode(checksum).hex(),
            checksum,
            _known(found.get("VersionId")),
            until.astimezone(UTC).isoformat() if until else "",
        )

    def put(self, key: str, body: bytes | memoryview, *, sha256: str = "", anew: bool = False) -> Stored:
        """Store a body once. What is there already must be the same; with ``anew`` it is replaced, as a new version."""
        digest = sha256 or hashlib.sha256(body).hexdigest()
        checksum = base64.b64encode(bytes.fromhex(digest)).decode()
        condition: dict[str, Any] = {} if anew else {"IfNoneMatch": "*"}
        lock, until = self._lock()
        put = partial(
            self.store.client.put_object,
            Bucket=self.store.bucket,
            Key=key,
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=checksum,
        )
        try:
            sent = cast(Any, Outgoing(body))
            answer = self.store.ask(key, lambda: put(Body=sent, **condition, **lock), len(body))
        except Taken:
            return self._take(Stored(key, len(body), digest, checksum))
        version, is_confirmed = _known(answer.get("VersionId")), answer.get("ChecksumSHA256") == checksum
        return Stored(key, len(body), digest, checksum, version, until, is_confirmed)

    def carry(
        self,
        source: ObjectStore,
        source_key: str,
        key: str,
        size_bytes: int,
        room: Room,
        *,
        sha256: str = "",
        version: str = "",
        anew: bool = False,
    ) -> Stored:
        """Store an object of another store, which is read once: in one request where there is room, else in parts.

        Raises :class:`NotAsAnnounced` where its size, its hash if that is known, or else the checksum that its server
        has of it is another; nothing is stored then.
        """
        asked: dict[str, Any] = _version(version) if sha256 else {**_version(version), "ChecksumMode": "ENABLED"}
        with room.holding(size_bytes) as memory:
            if memory is not None:
                digest = source.read_into(source_key, memory, **asked)
                _require_announced(sha256 in ("", digest), source.where(source_key))
                return self.put(key, memory, sha256=digest, anew=anew)
        with source.streaming(source_key, **asked) as (stream, _):
            return self.put_stream(key, stream, size_bytes, sha256=sha256, anew=anew)

    def put_stream(self, key: str, stream: Reader, size_bytes: int, *, sha256: str = "", anew: bool = False) -> Stored:
        """Store a large body as it comes, in parts: memory stays at one part, and every byte is read once.

        Raises :class:`NotAsAnnounced` where its size, or its hash if that is known, is another; nothing is stored.
        """
        part_bytes = max(PART_BYTES, -(-size_bytes // _MOST_PARTS))
        lock, until = self._lock()
        begin = partial(
            self.store.client.create_multipart_upload, Bucket=self.store.bucket, Key=key, ChecksumAlgorithm="SHA256"
        )
        upload_id = self.store.ask(key, lambda: begin(**lock))["UploadId"]
        try:
            parts, sent, digest = self._send_parts(key, upload_id, stream, min(part_bytes, size_bytes) or 1)
            _require_announced(sent == size_bytes and sha256 in ("", digest), key)
            stored = Stored(key, sent, digest, _composite(parts))
            return self._complete(stored, upload_id, parts, until, anew=anew)
        except BaseException:
            self.store.abort(key, upload_id)
            raise

    def is_due(self, stored: Stored) -> bool:
        """Whether less than the lock's days are left of an object's lock.

        A little more than that is locked each time, so that not every set asks for every object.
        """
        return self.is_locking and (not stored.locked_until or _moment(stored.locked_until) < self._least)

    def extended(self, stored: Stored) -> Stored:
        """The same object, locked for the lock's days from now on. Asks the server only where that is due."""
        if not self.is_due(stored):
            return stored
        lock, until = self._lock()
        retention: Any = {"Mode": "COMPLIANCE", "RetainUntilDate": lock["ObjectLockRetainUntilDate"]}
        extend = partial(self.store.client.put_object_retention, Bucket=self.store.bucket, Key=stored.key)
        self.store.ask(stored.key, lambda: extend(Retention=retention, **_version(stored.version)))
        return replace(stored, locked_until=until)

    def lay_on_top(self, key: str, version: str) -> Stored:
        """Make a version what is there now again: a copy of it, in the parts in which it was stored."""
        found = self.head(key, version)
        size_bytes = found.size_bytes if found else 0
        with self.reading(key, version) as stream:
            if found and _is_of_parts(found):
                return self.put_stream(key, stream, size_bytes, anew=True)
            return self.put(key, read_fully(stream, size_bytes), anew=True)

    def delete(self, stored: Stored) -> None:
        """Remove the version that was stored, for good. Raises :class:`SettingsError` where that is refused."""
        delete = partial(self.store.client.delete_object, Bucket=self.store.bucket, Key=stored.key)

        def act() -> None:
            try:
                delete(**_version(stored.version))
            except ClientError as error:  # MinIO has no code of its own for a lock, AWS refuses access
                if error.response.get("Error", {}).get("Code") not in _LOCKED:
                    raise
                raise SettingsError(
                    "the object is locked",
                    where=self.store.where(stored.key),
                    untouched="the object",
                    todo="wait until its lock has passed",
                ) from None

        self.store.ask(stored.key, act)

    def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix: which sets there are is the one thing that a listing is asked."""
        return [found.key for found in self.store.list_after(prefix)]

    def folders(self, prefix: str) -> list[str]:
        """The names of what lies directly below a prefix, also of what was marked as deleted."""
        if not self.has_versions:
            return self.store.folders(prefix)
        pages = self._version_pages(prefix, "/")
        found = [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", [])]
        return [name.removeprefix(prefix).rstrip("/") for name in found]

    def _version_pages(self, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
        pages = iter(
            self.store.client.get_paginator("list_object_versions").paginate(
                Bucket=self.store.bucket, Prefix=prefix, Delimiter=delimiter
            )
        )
        while page := self.store.ask(prefix, lambda: next(pages, None)):
            yield cast(dict[str, Any], page)

    @property
    def _least(self) -> datetime:
        return self.now + timedelta(days=self.lock_days)

    def _lock(self) -> tuple[Mapping[str, Any], str]:
        """What a request says to lock an object, and until when that is."""
        if not self.is_locking:
            return {}, ""
        until = (self._least + timedelta(days=max(1, self.lock_days // 4))).replace(microsecond=0)
        return {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}, until.isoformat()

    def _take(self, mine: Stored) -> Stored:
        """What somebody stored under this key before: a set that was cut short. Raises where it is something else."""
        found = self.head(mine.key)
        is_same = found is not None and found.size_bytes == mine.size_bytes
        if found is None or not is_same or not self._has(found, mine):
            raise OtherBytes(
                "the backup has other bytes under this key",
                where=self.store.where(mine.key),
                untouched="what is there; the set is not complete",
                todo="see `lakehouse backup verify`; the next set after it replaces what it names",
            )
        return self.extended(replace(found, sha256=mine.sha256, checksum=found.checksum or mine.checksum))

    def _has(self, found: Stored, mine: Stored) -> bool:
        """By what the server calls it; where it keeps no hash, or that of other parts than ours, by its bytes."""
        return found.checksum == mine.checksum != "" or self.store.digest(mine.key)[0] == mine.sha256

    def _send_parts(
        self, key: str, upload_id: str, stream: Reader, part_bytes: int
    ) -> tuple[list[CompletedPartTypeDef], int, str]:
        parts: list[CompletedPartTypeDef] = []
        whole, sent = hashlib.sha256(), 0
        memory = memoryview(bytearray(part_bytes))
        while size := _fill(stream, memory):
            body = memory[:size]
            whole.update(body)
            sent += size
            number = len(parts) + 1
            checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()
            send = partial(self.store.client.upload_part, Bucket=self.store.bucket, Key=key, UploadId=upload_id)
            send = partial(send, PartNumber=number, Body=cast(Any, Outgoing(body)), ChecksumSHA256=checksum)
            answer = self.store.ask(key, send, size)
            parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum})
        return parts, sent, whole.hexdigest()

    def _complete(
        self, stored: Stored, upload_id: str, parts: list[CompletedPartTypeDef], until: str, *, anew: bool
    ) -> Stored:
        condition: dict[str, Any] = {} if anew else {"IfNoneMatch": "*"}
        end = partial(
            self.store.client.complete_multipart_upload, Bucket=self.store.bucket, Key=stored.key, UploadId=upload_id
        )
        try:
            answer = self.store.ask(
                stored.key, lambda: end(MultipartUpload={"Parts": parts}, **condition), stored.size_bytes
            )
        except Taken:
            self.store.abort(stored.key, upload_id)
            return self._take(stored)
        return replace(stored, version=_known(answer.get("VersionId")), locked_until=until)


def _fill(stream: Reader, memory: memoryview) -> int:
    """Read into memory until it is full or the stream ends; returns how much that was."""
    size = 0
    while size < len(memory) and (piece := stream.read(min(_CHUNK_BYTES, len(memory) - size))):
        memory[size : size + len(piece)] = piece
        size += len(piece)
    return size


def _require_announced(is_same: bool, where: str) -> None:
    if not is_same:
        raise NotAsAnnounced("a file is not what was announced", where=where)


def _composite(parts: list[CompletedPartTypeDef]) -> str:
    """What S3 calls an object of parts by: the hash of their hashes, and their number."""
    digests = b"".join(base64.b64decode(part["ChecksumSHA256"]) for part in parts)
    return f"{base64.b64encode(hashlib.sha256(digests).digest()).decode()}{_PARTS}{len(parts)}"


def _is_of_parts(stored: Stored) -> bool:
    return _PARTS in stored.checksum


def _version(version: str) -> dict[str, Any]:
    return {"VersionId": version} if version else {}


def _known(version: str | None) -> str:
    return "" if version in (None, "null") else str(version)


@lru_cache(maxsize=1024)
def _moment(text: str) -> datetime:
    """A lock's end; all that was stored in one second has the same."""
    return datetime.fromisoformat(text)


def _can_lock(store: ObjectStore) -> bool:
    return store.has_object_lock(_NO_LOCK)
