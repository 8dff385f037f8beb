"""What the stack asks of an S3 server, whichever it is: does it answer, and are the buckets there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from lakehouse.core.errors import StackError
from lakehouse.core.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_POLL_SECONDS = 0.05
_MISSING = ("404", "NoSuchBucket")
_NOT_YET = ("503", "XMinioServerNotInitialized", "ServerNotInitialized", "ServiceUnavailable", "SlowDown")


def client(settings: Settings) -> S3Client:
    """A client for the settings' server."""
    secret = settings.s3_secret_access_key.get_secret_value()
    return client_at(settings.s3_endpoint, settings.s3_region, settings.s3_access_key_id, secret)


def client_at(endpoint: str, region: str, key_id: str, secret: str) -> S3Client:
    """A client for any server; it waits for no answer for long."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region,
        aws_access_key_id=key_id or None,
        aws_secret_access_key=secret or None,
        config=Config(connect_timeout=3, read_timeout=10, retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
    )


def buckets_of(settings: Settings) -> tuple[str, ...]:
    """The buckets that the lakehouse needs."""
    return settings.landing_bucket, settings.warehouse_bucket


def create(settings: Settings) -> None:
    """Create the buckets unless they exist, waiting for a server that is only just starting."""
    s3 = client(settings)
    for bucket in buckets_of(settings):
        create_one(s3, bucket)


def create_one(s3: S3Client, bucket: str, *, is_locking: bool = False, timeout_seconds: float = 30.0) -> None:
    """Create a bucket unless it exists, with object lock if that is wanted, waiting for a server that is starting."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            if not exists(s3, bucket):
                s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=is_locking)
            return
        except ClientError as error:
            if code_of(error) not in _NOT_YET or time.monotonic() > deadline:
                raise _refused(s3, bucket, code_of(error)) from None
        except BotoCoreError as error:
            raise _refused(s3, bucket, str(error)) from None
        time.sleep(_POLL_SECONDS)


def exists(s3: S3Client, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if code_of(error) in _MISSING:
            return False
        raise
    return True


def problem(settings: Settings) -> str:
    """Why the lakehouse cannot use the S3 server, in one line; empty when it can."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        s3 = client(settings)
        missing = [bucket for bucket in buckets_of(settings) if not exists(s3, bucket)]
    except ClientError as error:
        return f"it refuses the credentials or the request ({code_of(error)})"
    except (BotoCoreError, ValueError) as error:
        return f"it does not answer ({type(error).__name__})"
    return f"it has no bucket {' and '.join(missing)}" if missing else ""


def code_of(error: Exception) -> str:
    """The name that S3 gives an error, '' for other errors."""
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _refused(s3: S3Client, bucket: str, reason: str) -> StackError:
    return StackError(
        f"bucket {bucket} cannot be created: {reason}",
        where=s3.meta.endpoint_url,
        todo="see whose server answers there; `lakehouse status` shows ours",
    )


def server_time(settings: Settings) -> datetime | None:
    """What the S3 server's clock says, to the second; None when it cannot be asked. Refusals tell the time too."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer: Mapping[str, Any] = client(settings).head_bucket(Bucket=settings.landing_bucket)
    except ClientError as error:
        answer = error.response
    except (BotoCoreError, ValueError):
        return None
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) if date else None
