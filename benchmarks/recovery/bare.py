"""The same objects through the same client without any of our work: no hash, no list, no lock, nothing looked into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

from lakehouse.ledger.store import CONNECTIONS
from lakehouse.ledger.watched import WORKERS

Place = tuple[str, str]
"""Bucket and key."""


def client(endpoint: str, key_id: str, secret: str) -> Any:
    """boto3's client with as many connections as ours has. It neither makes checksums nor looks at those of answers."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            max_pool_connections=CONNECTIONS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def copy(source: Any, target: Any, objects: Iterable[tuple[Place, Place]]) -> int:
    """Read each object whole and write it; returns the bytes."""

    def one(places: tuple[Place, Place]) -> int:
        (bucket, key), (target_bucket, target_key) = places
        body = source.get_object(Bucket=bucket, Key=key)["Body"].read()
        target.put_object(Bucket=target_bucket, Key=target_key, Body=body)
        return len(body)

    return _in_threads(one, objects)


def download(source: Any, objects: Iterable[Place]) -> int:
    """Read each object whole and forget it; returns the bytes."""

    def one(place: Place) -> int:
        return len(source.get_object(Bucket=place[0], Key=place[1])["Body"].read())

    return _in_threads(one, objects)


def _in_threads(act: Callable[[Any], int], items: Iterable[Any]) -> int:
    with ThreadPoolExecutor(WORKERS) as pool:
        return sum(pool.map(act, items))
