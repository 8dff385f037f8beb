"""A bucket as this project uses it: whole objects, conditional creation, listings that start after a key.

Plain S3 only, so that any S3 server will do. Import lazily where start-up time counts: boto3 is slow to import.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoCredentialsError

from lakehouse.core.errors import IntegrityError, LakehouseError, SettingsError, TransientError
from lakehouse.core.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

CONNECTIONS = 16
PART_BYTES = 16 * 1024 * 1024
_MOST_PARTS = 9_000
_ABSENT = ("404", "NoSuchKey", "NotFound")
_TAKEN = ("412", "PreconditionFailed")
_CONFLICT = ("409", "ConditionalRequestConflict")
_DAMAGED = ("BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch")
_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "ExpiredToken", "InvalidToken")
_CONFLICT_TRIES = 10


class ContentMismatch(LakehouseError):
    """The bytes that arrived are not those that were announced; nothing was stored."""

    exit_code = 4
    is_retryable = True


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing or a HEAD says of an object. ``etag`` names one state of it."""

    key: str
    size_bytes: int
    etag: str


class Reader(Protocol):
    """Whatever can be read in pieces."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class ObjectStore:
    """One bucket. Errors name bucket and key, never a credential."""

    client: S3Client
    bucket: str

    @classmethod
    def open(cls, settings: Settings, bucket: str | None = None) -> ObjectStore:
        """The bucket (default: the landing bucket) on the server that the settings name. Opens no connection yet."""
        secret = settings.s3_secret_access_key.get_secret_value()
        client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint or None,
            region_name=settings.s3_region,
            aws_access_key_id=settings.s3_access_key_id or None,
            aws_secret_access_key=secret or None,
            config=Config(
                s3={"addressing_style": "path" if settings.s3_endpoint else "auto"},
                max_pool_connections=CONNECTIONS,
                retries={"mode": "standard", "total_max_attempts": 4},
                connect_timeout=5,
                read_timeout=60,
                tcp_keepalive=True,
            ),
        )
        return cls(client, bucket or settings.landing_bucket)

    def in_bucket(self, bucket: str) -> ObjectStore:
        """Another bucket of the same server."""
        return replace(self, bucket=bucket)

    def get(self, key: str) -> bytes:
        """A whole object. Raises :class:`IntegrityError` where it is missing."""
        with self._errors(key):
            return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

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
            with self._errors(key):
                body = self.client.get_object(Bucket=self.bucket, Key=key, IfMatch=etag)["Body"]
        except _Taken:
            raise ContentMismatch("the object changed while it was read", where=self._where(key)) from None
        try:
            yield cast(BinaryIO, _GuardedStream(self, key, body))
        finally:
            body.close()

    def head(self, key: str) -> ObjectInfo | None:
        """What is stored under a key, None if nothing."""
        try:
            with self._errors(key):
                found = self.client.head_object(Bucket=self.bucket, Key=key)
        except IntegrityError:
            return None
        return ObjectInfo(key, found["ContentLength"], found["ETag"])

    def list_after(self, prefix: str, start_after: str = "", delimiter: str = "") -> Iterator[ObjectInfo]:
        """The objects below a prefix whose keys are greater than ``start_after``, in the order of their keys.

        With a delimiter, only those that have none of it after the prefix.
        """
        with self._errors(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix, StartAfter=start_after, Delimiter=delimiter
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield ObjectInfo(entry["Key"], entry["Size"], entry["ETag"])

    def put_if_absent(self, key: str, body: bytes) -> bool:
        """Create an object; False where one is there. Of two that try at once, exactly one gets True.

        The server checks the SHA-256 of what arrives.
        """
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        for _ in range(_CONFLICT_TRIES):
            try:
                with self._errors(key):
                    self.client.put_object(
                        Bucket=self.bucket, Key=key, Body=body, IfNoneMatch="*", ChecksumSHA256=digest
                    )
                return True
            except _Taken:
                return False
            except _Conflict:
                continue  # another writer's PUT of this key is under way; the answer is open
        raise TransientError("another writer keeps creating this object", where=self._where(key), todo="run it again")

    def put_stream(self, key: str, stream: Reader, size_bytes: int, sha256: str) -> None:
        """Upload a stream in parts; memory stays at one part. Nothing is stored unless size and SHA-256 agree."""
        part_bytes = max(PART_BYTES, -(-size_bytes // _MOST_PARTS))
        with self._errors(key):
            upload_id = self.client.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
        try:
            parts, is_whole = self._send_parts(key, upload_id, stream, part_bytes, size_bytes, sha256)
            if not is_whole:
                raise ContentMismatch("the content changed while it was uploaded", where=self._where(key))
            with self._errors(key):
                self.client.complete_multipart_upload(
                    Bucket=self.bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
                )
        except BaseException:
            self._abort(key, upload_id)
            raise

    def _send_parts(
        self, key: str, upload_id: str, stream: Reader, part_bytes: int, size_bytes: int, sha256: str
    ) -> tuple[list[CompletedPartTypeDef], bool]:
        parts: list[CompletedPartTypeDef] = []
        digest, sent = hashlib.sha256(), 0
        while body := _read_fully(stream, part_bytes):
            digest.update(body)
            sent += len(body)
            number = len(parts) + 1
            with self._errors(key):
                answer = self.client.upload_part(
                    Bucket=self.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body
                )
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            if sent > size_bytes:
                return parts, False
        return parts, sent == size_bytes and digest.hexdigest() == sha256

    def _abort(self, key: str, upload_id: str) -> None:
        try:
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)
        except (BotoCoreError, ClientError):
            return  # the error that led here is the one to report; servers clear old uploads by lifecycle rule

    def _where(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise _translate(error, self._where(key), self.bucket) from None
        except (ConnectionError, HTTPClientError) as error:
            raise _away(type(error).__name__, self._where(key), str(self.client.meta.endpoint_url)) from None
        except NoCredentialsError:
            raise SettingsError(
                "there are no credentials for the S3 server",
                where=self._where(key),
                todo="run `lakehouse up`, or set LAKEHOUSE_S3_ACCESS_KEY_ID and LAKEHOUSE_S3_SECRET_ACCESS_KEY",
            ) from None
        except BotoCoreError as error:
            raise TransientError(f"the S3 request failed: {type(error).__name__}", where=self._where(key)) from None


class _GuardedStream:
    """A body whose read errors are the project's own."""

    def __init__(self, store: ObjectStore, key: str, body: Reader) -> None:
        self._store, self._key, self._body = store, key, body

    def read(self, size: int = -1, /) -> bytes:
        with self._store._errors(self._key):
            return self._body.read(size) if size >= 0 else self._body.read()


class _Taken(LakehouseError):
    """A condition did not hold; never leaves this module."""


class _Conflict(LakehouseError):
    """A conditional request met another one; never leaves this module."""


def _translate(error: ClientError, where: str, bucket: str) -> LakehouseError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code == "NoSuchBucket":
        return SettingsError(
            f"there is no bucket {bucket!r}", where=where, todo="run `lakehouse up`, or create it, or check its name"
        )
    if code in _REFUSED:
        return SettingsError(
            f"the S3 server refused access ({code})", where=where, todo="check the LAKEHOUSE_S3_* credentials"
        )
    if code in _ABSENT:
        return IntegrityError(
            "an object is missing",
            where=where,
            todo="check the bucket in the settings, or bring the object back from a backup",
        )
    known: dict[tuple[str, ...], type[LakehouseError]] = {
        _TAKEN: _Taken,
        _CONFLICT: _Conflict,
        _DAMAGED: ContentMismatch,
    }
    for codes, leaf in known.items():
        if code in codes:
            return leaf(f"the S3 server answered {code}", where=where)
    return TransientError(f"the S3 server answered {code or 'an error'}", where=where, todo="run it again")


def _away(kind: str, where: str, endpoint: str) -> TransientError:
    return TransientError(
        f"the S3 server does not answer ({kind})",
        where=f"{where} at {endpoint}",
        todo="check `lakehouse status`; `lakehouse up` starts the local servers",
    )


def _read_fully(stream: Reader, size: int) -> bytes:
    """Exactly ``size`` bytes unless the stream ends before."""
    pieces, missing = [], size
    while missing and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
