"""Who may do what with backups: a bucket that locks, and identities that cannot take back what they gave.

MinIO takes policies and users as one archive, the one that ``mc admin cluster iam import`` sends, so no program and no
further library is needed. Every step may be repeated; nothing is ever removed.
"""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakehouse.core.errors import StackError
from lakehouse.core.settings import Settings
from lakehouse.stack import buckets
from lakehouse.stack.credentials import BackupSecrets

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "lake-backups"
"""The bucket of backups where the settings name none."""
WRITER, PRUNER, READER = "backup-writer", "backup-pruner", "backup-reader"
_IMPORT, _USERS = "minio/admin/v3/import-iam", "minio/admin/v3/list-users"
_DONE = 200
_SECONDS, _KNOWN_SECONDS = 10, 10
_OF_THE_BUCKET = (
    "s3:DeleteBucket",
    "s3:ForceDeleteBucket",
    "s3:DeleteBucketPolicy",
    "s3:PutBucketPolicy",
    "s3:PutBucketObjectLockConfiguration",
    "s3:PutBucketVersioning",
    "s3:PutLifecycleConfiguration",
    "s3:PutReplicationConfiguration",
)
_DELETES = ("s3:DeleteObject", "s3:DeleteObjectVersion")
_NO_LOCK = ("ObjectLockConfigurationNotFoundError", "NotImplemented", "MethodNotAllowed")
_DENIED = ("AccessDenied", "403")
Document = dict[str, Any]


def policies(bucket: str, lock_days: int) -> dict[str, Document]:
    """What each identity may do, by its name.

    Nobody but root extends a lock by much more than sets need: else it would hold what nobody wants, and for good.
    """
    place, objects = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"
    too_long = {"NumericGreaterThan": {"s3:object-lock-remaining-retention-days": str(2 * lock_days + 2)}}
    reads = [
        _allow(place, "GetBucketLocation", "GetBucketObjectLockConfiguration", "ListBucket", "ListBucketVersions"),
        _allow(objects, "GetObject", "GetObjectVersion", "GetObjectRetention"),
    ]
    writes = [
        _allow(objects, "PutObject", "PutObjectRetention", "AbortMultipartUpload", "ListMultipartUploadParts"),
    ]
    # Only the mark that says that a set is being removed.
    marks = [
        _allow(f"{place}/sets/*/PRUNED", "PutObject", "PutObjectRetention"),
        _allow(objects, "DeleteObject", "DeleteObjectVersion"),
    ]
    never = [
        _deny([place], *_OF_THE_BUCKET),
        _deny([objects], "s3:BypassGovernanceRetention"),
        {**_deny([objects], "s3:PutObjectRetention"), "Condition": too_long},
        _deny([], "admin:*"),
    ]
    kept = [*never, _deny([objects], *_DELETES)]
    return {
        WRITER: _policy([*reads, *writes, *kept]),
        PRUNER: _policy([*reads, *marks, *never]),
        READER: _policy([*reads, *kept, _deny([objects], "s3:PutObject", "s3:PutObjectRetention")]),
    }


def _policy(statements: list[Document]) -> Document:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(resource: str, *actions: str) -> Document:
    return {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": [resource]}


def _deny(resources: list[str], *actions: str) -> Document:
    return {"Effect": "Deny", "Action": list(actions), **({"Resource": resources} if resources else {})}


@dataclass(frozen=True)
class Place:
    """A MinIO for backups, as its root sees it."""

    endpoint: str
    region: str
    bucket: str
    lock_days: int
    secrets: BackupSecrets = field(repr=False)

    @property
    def users(self) -> dict[str, tuple[str, str]]:
        """The access key of each identity, and its secret."""
        secrets = self.secrets
        return {
            WRITER: (secrets.writer_id, secrets.writer),
            PRUNER: (secrets.pruner_id, secrets.pruner),
            READER: (secrets.reader_id, secrets.reader),
        }

    def client(self, key_id: str, secret: str) -> S3Client:
        """A client with somebody's credentials."""
        return buckets.client_at(self.endpoint, self.region, key_id, secret)


def make(place: Place) -> None:
    """Make the bucket and the identities, or correct them. Raises :class:`StackError` where the server refuses."""
    import tenacity

    root = place.client(place.secrets.root_key_id, place.secrets.root_secret)
    buckets.create_one(root, place.bucket, is_locking=True)
    if not has_lock(root, place.bucket):
        raise StackError(
            f"bucket {place.bucket} cannot lock objects",
            where=place.endpoint,
            untouched="what is in it",
            todo="name another bucket with LAKEHOUSE_BACKUP_BUCKET: a lock can only be had from the beginning",
        )
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(_KNOWN_SECONDS),
        wait=tenacity.wait_fixed(0.2),
        retry=tenacity.retry_if_result(bool),
        retry_error_callback=lambda last: last.outcome.result() if last.outcome else "",
    )
    if reason := retrying(_import, place, _archive(place)):
        raise _refused(place, reason)


def _archive(place: Place) -> bytes:
    users = place.users
    files = {
        "policies.json": policies(place.bucket, place.lock_days),
        "users.json": {key_id: {"secretKey": secret, "status": "enabled"} for key_id, secret in users.values()},
        "user_mappings.json": {key_id: {"version": 1, "policy": name} for name, (key_id, _) in users.items()},
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"iam-assets/{name}", json.dumps(content))
    return packed.getvalue()


def _import(place: Place, archive: bytes) -> str:
    """Send the identities; why they are not known after that, or nothing.

    A server that has just started takes users while it still reads from its disk those that it has, and forgets the
    new ones when that ends. Its list of users is what it gives only then, so it is asked for that first.
    """
    for method, path, body in (("GET", _USERS, b""), ("PUT", _IMPORT, archive)):
        if (status := _as_root(place, method, path, body)) != _DONE:
            return f"it answered {status}"
    # It says nothing of a user that it did not take; so each is tried.
    return next(filter(None, (_not_known(place, name, *keys) for name, keys in place.users.items())), "")


def _as_root(place: Place, method: str, path: str, body: bytes) -> int:
    """Send a request to the server's administration, signed as any request to S3 is; the status of the answer."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from botocore.exceptions import HTTPClientError
    from botocore.httpsession import URLLib3Session

    request = AWSRequest(method, f"{place.endpoint}/{path}", data=body)
    root = Credentials(place.secrets.root_key_id, place.secrets.root_secret)
    S3SigV4Auth(root, "s3", place.region).add_auth(request)
    try:
        return int(URLLib3Session(timeout=_SECONDS).send(request.prepare()).status_code)
    except HTTPClientError as error:
        raise _refused(place, type(error).__name__) from None


def _not_known(place: Place, name: str, key_id: str, secret: str) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        place.client(key_id, secret).head_bucket(Bucket=place.bucket)
    except (BotoCoreError, ClientError) as error:
        return f"it does not know {name} ({buckets.code_of(error) or type(error).__name__})"
    return ""


def _refused(place: Place, reason: str) -> StackError:
    return StackError(
        f"the identities for backups cannot be made: {reason}",
        where=place.endpoint,
        untouched="the backups",
        todo="see whether a MinIO answers there that takes its root credentials; then run it again",
    )


def has_lock(s3: S3Client, bucket: str) -> bool:
    """Whether a bucket can lock objects."""
    from botocore.exceptions import ClientError

    try:
        found = s3.get_object_lock_configuration(Bucket=bucket)
    except ClientError as error:
        if buckets.code_of(error) in _NO_LOCK:
            return False
        raise
    return found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"


def problem(settings: Settings) -> str:
    """Why backups cannot be used by who writes them, in one line; empty when they can."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        is_there = buckets.exists(_client(settings), settings.backup_bucket)
    except ClientError as error:
        return f"it refuses the credentials or the request ({buckets.code_of(error)})"
    except (BotoCoreError, ValueError) as error:
        return f"it does not answer ({type(error).__name__})"
    return "" if is_there else f"it has no bucket {settings.backup_bucket}"


def weaknesses(settings: Settings) -> tuple[str, ...]:
    """What would let somebody with the writer's credentials destroy backups. Asks for deletes that take nothing:
    of a version that was never there, and of a key that no set has.
    """
    s3, bucket = _client(settings), settings.backup_bucket
    found = [] if has_lock(s3, bucket) else ["the bucket has no object lock"]
    probe = {"Bucket": bucket, "Key": f"probe/{uuid.uuid4()}"}
    if _may_delete(s3, VersionId=str(uuid.uuid4()), **probe) or _may_delete(s3, **probe):
        found.append("who writes backups may delete them")
    return tuple(found)


def _may_delete(s3: S3Client, **probe: Any) -> bool:
    from botocore.exceptions import ClientError

    try:
        s3.delete_object(**probe)
    except ClientError as error:
        return buckets.code_of(error) not in _DENIED
    return True


def _client(settings: Settings) -> S3Client:
    """As whoever writes backups."""
    return buckets.client_at(
        settings.backup_s3_endpoint or settings.s3_endpoint,
        settings.backup_s3_region or settings.s3_region,
        settings.backup_s3_access_key_id or settings.s3_access_key_id,
        settings.backup_s3_secret_access_key.get_secret_value() or settings.s3_secret_access_key.get_secret_value(),
    )
