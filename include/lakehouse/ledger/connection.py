"""A connection to the catalog's database that holds locks for as long as it lives.

A server that no longer hears of a holder frees its locks within a minute.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

import psycopg

from lakehouse.core.errors import TransientError
from lakehouse.core.settings import Settings
from lakehouse.ledger.watermark import refused_login

_KEEPALIVE: Mapping[str, Any] = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


def connect(settings: Settings, purpose: str) -> psycopg.Connection:
    """A connection whose name says what it is for, and whose it is."""
    try:
        return psycopg.connect(
            host=settings.postgres_host,
            port=settings.postgres_port,
            dbname=settings.catalog_database,
            user=settings.catalog_user,
            password=settings.catalog_password.get_secret_value(),
            application_name=f"lakehouse-{purpose} {socket.gethostname()}:{os.getpid()}",
            connect_timeout=10,
            **_KEEPALIVE,
            # The server asks too: the lock of a machine that is gone would stand for hours.
            options=" ".join(f"-c tcp_{name}={value}" for name, value in _KEEPALIVE.items()),
            autocommit=True,
        )
    except psycopg.OperationalError as error:
        raise refused_login(str(error)) or TransientError(
            "the catalog database cannot be reached",
            where=f"{settings.postgres_host}:{settings.postgres_port}: {str(error).splitlines()[0]}",
            untouched="everything; nothing was written",
            todo="check `lakehouse status`; `lakehouse up` starts the local servers",
        ) from None
