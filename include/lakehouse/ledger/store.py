"""A bucket as this project uses it: whole objects, conditional creation, listings that start after a key.

Plain S3 only, so that any S3 server will do. Import lazily where start-up time counts: boto3 is slow to import.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar, cast

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    NoCredentialsError,
)

from lakehouse.core.errors import IntegrityError, LakehouseError, SettingsError, TransientError
from lakehouse.core.settings import Settings
from lakehouse.ledger.watched import in_time

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

CONNECTIONS = 16
PART_BYTES = 16 * 1024 * 1024
_MOST_PARTS = 9_000
_ABSENT = ("404", "NoSuchKey", "NoSuchVersion", "NotFound")
_TAKEN = ("412", "PreconditionFailed")
_CONFLICT = ("409", "ConditionalRequestConflict")
_DAMAGED = ("BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch")
_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "ExpiredToken", "InvalidToken")
_CONFLICT_TRIES = 10
_TRIES = 4
_UNTOUCHED = "whatever was landed or published before"
_SLOWEST_BYTES_PER_SECOND = 64 * 1024
"""What a server must manage at least, beside the time that every request has."""
_PIECE_BYTES = 256 * 1024
_LARGE_PIECE_BYTES = 1024 * 1024
_ASKED_FIRST_BYTES = 1024 * 1024
"""Only of larger bodies a server is asked first whether it wants them: to send smaller ones is quicker than to ask."""
_NAME = "lakehouse"
"""How servers see who asks. The client's own way of saying it takes a tenth of the time of a small request."""
Answer = TypeVar("Answer")


class ContentMismatch(LakehouseError):
    """The bytes that arrived are not those that were announced; nothing was stored."""

    exit_code = 4
    is_retryable = True


class NotAsAnnounced(ContentMismatch):
    """What was read has another size or another hash than was said of it."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing or a HEAD says of an object: `etag` names one state of it, `modified_at` is its time in UTC."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime | None = None


@cache
def _client(
    endpoint: str, region: str, key_id: str, secret: str, timeout_seconds: float, *, hashes_bodies: bool
) -> S3Client:
    """The client of a server. Making one takes longer than most requests, and a run asks for it dozens of times."""
    style: dict[str, Any] = {"addressing_style": "path" if endpoint else "auto"}
    if not hashes_bodies:
        style["payload_signing_enabled"] = False
    client = boto3.client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region,
        aws_access_key_id=key_id or None,
        aws_secret_access_key=secret or None,
        config=Config(
            s3=cast(Any, style),
            user_agent=_NAME,
            max_pool_connections=CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            connect_timeout=min(5, timeout_seconds / 2),
            read_timeout=timeout_seconds / 2,
            tcp_keepalive=True,
            response_checksum_validation="when_supported" if hashes_bodies else "when_required",
        ),
    )
    client.meta.events.register_last("before-call.s3", _send_along)
    return client


def _send_along(params: Mapping[str, Any], **_: Any) -> None:
    """A small body goes along with its request, without a question whether the server wants it."""
    body = params.get("body")
    if isinstance(body, (io.BytesIO, Outgoing)) and body.getbuffer().nbytes <= _ASKED_FIRST_BYTES:
        params["headers"].pop("Expect", None)


class Outgoing:
    """A body that is sent from where it lies, in large pieces, without being copied."""

    def __init__(self, body: bytes | memoryview) -> None:
        self._body, self._at = memoryview(body), 0

    def __len__(self) -> int:
        return len(self._body)

    def getbuffer(self) -> memoryview:
        """All of it."""
        return self._body

    def read(self, size: int = -1, /) -> memoryview:
        """What comes next: more than was asked for, since each piece costs a call of the system."""
        end = len(self._body) if size < 0 else self._at + max(size, _LARGE_PIECE_BYTES)
        piece = self._body[self._at : end]
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As of any file: a request that is tried again begins anew."""
        self._at = offset + (0, self._at, len(self._body))[whence]
        return self._at

    def tell(self) -> int:
        """As of any file."""
        return self._at


def _client_of(settings: Settings, *, hashes_bodies: bool = True) -> S3Client:
    secret = settings.s3_secret_access_key.get_secret_value()
    return _client(
        settings.s3_endpoint,
        settings.s3_region,
        settings.s3_access_key_id,
        secret,
        settings.s3_timeout_seconds,
        hashes_bodies=hashes_bodies,
    )


class Reader(Protocol):
    """Whatever can be read in pieces."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class ObjectStore:
    """One bucket. Errors name bucket and key, never a credential.

    No request takes longer than ``timeout_seconds``, tries included, plus what its size may need.
    """

    client: S3Client
    bucket: str
    timeout_seconds: float
    credentials: str = "LAKEHOUSE_S3_*"

    @classmethod
    def open(cls, settings: Settings, bucket: str | None = None) -> ObjectStore:
        """The bucket (default: the landing bucket) on the server that the settings name. Opens no connection yet."""
        return cls(_client_of(settings), bucket or settings.landing_bucket, settings.s3_timeout_seconds)

    @classmethod
    def for_copies(cls, settings: Settings) -> ObjectStore:
        """The landing bucket, for whoever announces the SHA-256 of what is written, and takes that of what is read.

        The client hashes nothing once more: neither to sign it, nor, unless it is asked, to compare checksums.
        """
        client = _client_of(settings, hashes_bodies=False)
        return cls(client, settings.landing_bucket, settings.s3_timeout_seconds)

    @classmethod
    def of_backups(cls, settings: Settings) -> ObjectStore:
        """The bucket of backups, on its own server and with its own credentials where these are set.

        Whoever writes there announces the SHA-256 of every body in a signed header, and whoever reads there compares
        it: the client hashes nothing once more, for the signature or against the server's own checksum.
        """
        client = _client(
            settings.backup_s3_endpoint or settings.s3_endpoint,
            settings.backup_s3_region or settings.s3_region,
            settings.backup_s3_access_key_id or settings.s3_access_key_id,
            (
                settings.backup_s3_secret_access_key.get_secret_value()
                or settings.s3_secret_access_key.get_secret_value()
            ),
            settings.s3_timeout_seconds,
            hashes_bodies=False,
        )
        return cls(client, settings.backup_bucket, settings.s3_timeout_seconds, "LAKEHOUSE_BACKUP_S3_*")

    def in_bucket(self, bucket: str) -> ObjectStore:
        """Another bucket of the same server."""
        return replace(self, bucket=bucket)

    def get(self, key: str, **conditions: Any) -> bytes:
        """A whole object. Raises :class:`IntegrityError` where it is missing."""
        found = self.ask(key, lambda: self.client.get_object(Bucket=self.bucket, Key=key, **conditions))
        return self.ask(key, found["Body"].read, found["ContentLength"])

    def read_into(self, key: str, memory: memoryview, **conditions: Any) -> str:
        """Read a whole object into memory that is there; returns its SHA-256.

        Raises :class:`NotAsAnnounced` where its size is not that of the memory, and :class:`IntegrityError` where it is
        missing. Fresh memory for each object would cost more time than reading: the system clears it page by page.
        """
        found = self.ask(key, lambda: self.client.get_object(Bucket=self.bucket, Key=key, **conditions))
        if found["ContentLength"] != len(memory):
            found["Body"].close()
            raise NotAsAnnounced(
                f"an object has {found['ContentLength']} bytes, {len(memory)} were expected", where=self.where(key)
            )
        return self.ask(key, lambda: _read_into(found["Body"], memory), len(memory))

    def digest(self, key: str, **conditions: Any) -> tuple[str, int]:
        """The SHA-256 and the size of an object, read whole. Raises :class:`IntegrityError` where it is missing."""
        found = self.ask(key, lambda: self.client.get_object(Bucket=self.bucket, Key=key, **conditions))
        return self.ask(key, lambda: _digest(found["Body"]), found["ContentLength"])

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """Many small objects, in the order of ``keys``."""
        if len(keys) < 2:
            return [self.get(key) for key in keys]
        with ThreadPoolExecutor(min(8, len(keys))) as pool:
            return list(pool.map(self.get, keys))

    @contextmanager
    def reading(self, key: str, etag: str) -> Iterator[BinaryIO]:
        """Stream an object in one known state; raises :class:`ContentMismatch` when it has another by now."""
        try:
            with self.streaming(key, IfMatch=etag) as (stream, _):
                yield stream
        except Taken:
            raise ContentMismatch("the object changed while it was read", where=self.where(key)) from None

    @contextmanager
    def streaming(self, key: str, **conditions: Any) -> Iterator[tuple[BinaryIO, int]]:
        """Stream an object, and say how large it is. Raises :class:`Taken` where a condition does not hold."""
        found = self.ask(key, lambda: self.client.get_object(Bucket=self.bucket, Key=key, **conditions))
        stream = _GuardedStream(self, key, found["Body"])
        try:
            yield cast(BinaryIO, stream), found["ContentLength"]
        finally:
            if not stream.is_waiting:  # to close what another thread still reads would wait for it
                found["Body"].close()

    def head(self, key: str) -> ObjectInfo | None:
        """What is stored under a key, None if nothing."""
        try:
            found = self.ask(key, lambda: self.client.head_object(Bucket=self.bucket, Key=key))
        except IntegrityError:
            return None
        return ObjectInfo(key, found["ContentLength"], found["ETag"], found["LastModified"])

    def list_after(self, prefix: str, start_after: str = "", delimiter: str = "") -> Iterator[ObjectInfo]:
        """The objects below a prefix whose keys are greater than ``start_after``, in the order of their keys.

        With a delimiter, only those that have none of it after the prefix.
        """
        pages = iter(
            self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix, StartAfter=start_after, Delimiter=delimiter
            )
        )
        while page := self.ask(prefix, lambda: next(pages, None)):
            for entry in page.get("Contents", []):
                yield ObjectInfo(entry["Key"], entry["Size"], entry["ETag"], entry["LastModified"])

    def folders(self, prefix: str) -> list[str]:
        """The names of what lies directly below a prefix, in order."""
        pages = iter(
            self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/")
        )
        found: list[str] = []
        while page := self.ask(prefix, lambda: next(pages, None)):
            found += [each["Prefix"].removeprefix(prefix).rstrip("/") for each in page.get("CommonPrefixes", [])]
        return found

    def has_object_lock(self, absent: Sequence[str]) -> bool:
        """Whether the bucket can lock objects; ``absent`` are the answers of servers that cannot."""

        def look() -> bool:
            try:
                answer = self.client.get_object_lock_configuration(Bucket=self.bucket)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in absent:
                    return False
                raise
            return answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"

        return self.ask("", look)

    def put_if_absent(self, key: str, body: bytes) -> bool:
        """Create an object; False where one is there. Of two that try at once, exactly one gets True.

        The server checks the SHA-256 of what arrives.
        """
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        for _ in range(_CONFLICT_TRIES):
            try:
                self.ask(
                    key,
                    lambda: self.client.put_object(
                        Bucket=self.bucket, Key=key, Body=body, IfNoneMatch="*", ChecksumSHA256=digest
                    ),
                    len(body),
                )
                return True
            except Taken:
                return False
            except Conflict:
                continue  # another writer's PUT of this key is under way; the answer is open
        raise TransientError("another writer keeps creating this object", where=self.where(key), todo="run it again")

    def put(self, key: str, body: bytes) -> None:
        """Store an object, in place of one that is there. The server checks the SHA-256 of what arrives."""
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        put = partial(self.client.put_object, Bucket=self.bucket, Key=key, ChecksumSHA256=digest)
        self.ask(key, lambda: put(Body=body), len(body))

    def delete(self, key: str) -> None:
        """Delete an object; nothing to do where there is none."""
        self.ask(key, lambda: self.client.delete_object(Bucket=self.bucket, Key=key))

    def put_stream(self, key: str, stream: Reader, size_bytes: int, sha256: str) -> None:
        """Upload a stream in parts; memory stays at one part. Nothing is stored unless size and SHA-256 agree."""
        part_bytes = max(PART_BYTES, -(-size_bytes // _MOST_PARTS))
        begin = self.ask(key, lambda: self.client.create_multipart_upload(Bucket=self.bucket, Key=key))
        upload_id = begin["UploadId"]
        try:
            parts, is_whole = self._send_parts(key, upload_id, stream, part_bytes, size_bytes, sha256)
            if not is_whole:
                raise ContentMismatch("the content changed while it was uploaded", where=self.where(key))
            end = partial(self.client.complete_multipart_upload, Bucket=self.bucket, Key=key, UploadId=upload_id)
            self.ask(key, lambda: end(MultipartUpload={"Parts": parts}), size_bytes)
        except BaseException:
            self.abort(key, upload_id)
            raise

    def _send_parts(
        self, key: str, upload_id: str, stream: Reader, part_bytes: int, size_bytes: int, sha256: str
    ) -> tuple[list[CompletedPartTypeDef], bool]:
        parts: list[CompletedPartTypeDef] = []
        digest, sent = hashlib.sha256(), 0
        while body := read_fully(stream, part_bytes):
            digest.update(body)
            sent += len(body)
            number = len(parts) + 1
            send = partial(self.client.upload_part, Bucket=self.bucket, Key=key, UploadId=upload_id)
            answer = self.ask(key, partial(send, PartNumber=number, Body=body), len(body))
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            if sent > size_bytes:
                return parts, False
        return parts, sent == size_bytes and digest.hexdigest() == sha256

    def abort(self, key: str, upload_id: str) -> None:
        """Give up an upload in parts."""
        try:
            self.ask(key, lambda: self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id))
        except LakehouseError:
            return  # the error that led here is the one to report; servers clear old uploads by lifecycle rule

    def where(self, key: str) -> str:
        """How messages name an object."""
        return f"s3://{self.bucket}/{key}"

    def ask(self, key: str, request: Callable[[], Answer], size_bytes: int = 0) -> Answer:
        """The answer to a request about a key that sends or gets so many bytes; an error when it takes too long."""
        seconds = self.timeout_seconds + size_bytes / _SLOWEST_BYTES_PER_SECOND
        with self._errors(key):
            return in_time(request, seconds, lambda: self._away(f"no whole answer in {seconds:.0f} s", key))

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise _translate(error, self.where(key), self) from None
        except (ConnectionError, HTTPClientError) as error:
            raise self._away(type(error).__name__, key) from None
        except FlexibleChecksumError:
            raise NotAsAnnounced("an object is not what its server's checksum says", where=self.where(key)) from None
        except NoCredentialsError:
            raise SettingsError(
                "there are no credentials for the S3 server",
                where=self.where(key),
                todo=f"run `lakehouse up`, or set the key and the secret of {self.credentials}",
            ) from None
        except BotoCoreError as error:
            raise TransientError(
                f"the S3 request failed: {type(error).__name__}",
                where=self.where(key),
                untouched=_UNTOUCHED,
                todo="run it again",
            ) from None

    def _away(self, kind: str, key: str) -> TransientError:
        return TransientError(
            f"the S3 server does not answer ({kind})",
            where=f"{self.where(key)} at {self.client.meta.endpoint_url}",
            untouched=_UNTOUCHED,
            todo="check `lakehouse status`; `lakehouse up` starts the local servers; then run it again",
        )


class _GuardedStream:
    """A body whose read errors are the project's own."""

    def __init__(self, store: ObjectStore, key: str, body: Reader) -> None:
        self._store, self._key, self._body = store, key, body
        self.is_waiting = False
        self._ahead = io.BytesIO()

    def read(self, size: int = -1, /) -> bytes:
        """As of any file. Small pieces are cut from larger ones: each request may cost a thread."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE_BYTES), b""))
        data = self._ahead.read(size)
        while len(data) < size and (fetched := self._fetch(max(size - len(data), _PIECE_BYTES))):
            self._ahead = io.BytesIO(fetched)
            data += self._ahead.read(size - len(data))
        return data

    def _fetch(self, size: int) -> bytes:
        self.is_waiting = True
        return self._store.ask(self._key, partial(self._read, size), size)

    def _read(self, size: int) -> bytes:
        try:
            return self._body.read(size)
        finally:
            self.is_waiting = False


class Taken(LakehouseError):
    """The condition of a request did not hold."""


class Conflict(LakehouseError):
    """A conditional request met another one that is under way."""


def _translate(error: ClientError, where: str, store: ObjectStore) -> LakehouseError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code == "NoSuchBucket":
        return SettingsError(
            f"there is no bucket {store.bucket!r}",
            where=where,
            todo="run `lakehouse up`, or create it, or check its name",
        )
    if code in _REFUSED:
        return SettingsError(
            f"the S3 server refused access ({code})", where=where, todo=f"check the {store.credentials} credentials"
        )
    if code in _ABSENT:
        return IntegrityError(
            "an object is missing",
            where=where,
            todo="check the bucket in the settings, or bring the object back from a backup",
        )
    known: dict[tuple[str, ...], type[LakehouseError]] = {
        _TAKEN: Taken,
        _CONFLICT: Conflict,
        _DAMAGED: ContentMismatch,
    }
    for codes, leaf in known.items():
        if code in codes:
            return leaf(f"the S3 server answered {code}", where=where)
    return TransientError(
        f"the S3 server answered {code or 'an error'}", where=where, untouched=_UNTOUCHED, todo="run it again"
    )


def read_fully(stream: Reader, size: int) -> bytes:
    """Exactly ``size`` bytes unless the stream ends before."""
    pieces, missing = [], size
    while missing and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _read_into(body: Reader, memory: memoryview) -> str:
    digest, size = hashlib.sha256(), 0
    while piece := body.read(_LARGE_PIECE_BYTES):
        digest.update(piece)
        memory[size : size + len(piece)] = piece
        size += len(piece)
    return digest.hexdigest()


def _digest(body: Reader) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while piece := body.read(_LARGE_PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size
