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
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint or None,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id or None,
        aws_secret_access_key=settings.s3_secret_access_key.get_secret_value() or None,
        config=Config(connect_timeout=3, read_timeout=10, retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
    )


def buckets_of(settings: Settings) -> tuple[str, ...]:
    """The buckets that the lakehouse needs."""
    return settings.landing_bucket, settings.warehouse_bucket


def create(settings: Settings, timeout_seconds: float = 30.0) -> None:
    """Create the buckets unless they exist, waiting for a server that is only just starting."""
    from botocore.exceptions import BotoCoreError, ClientError

    s3 = client(settings)
    deadline = time.monotonic() + timeout_seconds
    for bucket in buckets_of(settings):
        while True:
            try:
                _create_one(s3, bucket)
                break
            except ClientError as error:
                if _code(error) not in _NOT_YET or time.monotonic() > deadline:
                    raise _refused(settings, bucket, _code(error)) from None
            except BotoCoreError as error:
                raise _refused(settings, bucket, str(error)) from None
            time.sleep(_POLL_SECONDS)


def _create_one(s3: S3Client, bucket: str) -> None:
    if not _exists(s3, bucket):
        s3.create_bucket(Bucket=bucket)


def _exists(s3: S3Client, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if _code(error) in _MISSING:
            return False
        raise
    return True


def problem(settings: Settings) -> str:
    """Why the lakehouse cannot use the S3 server, in one line; empty when it can."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        s3 = client(settings)
        missing = [bucket for bucket in buckets_of(settings) if not _exists(s3, bucket)]
    except ClientError as error:
        return f"it refuses the credentials or the request ({_code(error)})"
    except (BotoCoreError, ValueError) as error:
        return f"it does not answer ({type(error).__name__})"
    return f"it has no bucket {' and '.join(missing)}" if missing else ""


def _code(error: Exception) -> str:
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _refused(settings: Settings, bucket: str, reason: str) -> StackError:
    return StackError(
        f"bucket {bucket} cannot be created: {reason}",
        where=settings.s3_endpoint,
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
