"""The configuration of a Spark Connect server: that of a job, and what makes it end the work of clients that are gone.

A client that is killed cannot say so. Its statement would go on for minutes, and its session keep its rows for an hour.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import lakehouse
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.core.spark_conf import IN_PROCESS, base_conf, catalog_conf
from lakehouse.core.spark_place import ConnectAddress

CODE = "spark.lakehouse.code"
"""Which code the server's Python workers have: they import it once, and keep it."""
_GONE = {
    # A client that lives is never away for longer than it takes to ask again, which it does after each stream.
    "spark.connect.execute.manager.detachedTimeout": "10s",
    "spark.connect.execute.manager.maintenanceInterval": "5s",
    "spark.connect.execute.reattachable.senderMaxStreamDuration": "20s",
    "spark.connect.session.manager.maintenanceInterval": "15s",
}
_WRITER_IDLE, _READER_IDLE = "15m", "8h"


def server_conf(settings: Settings, *, read_only: bool) -> dict[str, str]:
    """What a Connect server of this lake is started with; its token comes with the environment."""
    catalog = catalog_conf(settings, read_only=read_only) | {"spark.sql.defaultCatalog": CATALOG}
    return {
        **base_conf(settings),
        **IN_PROCESS,
        **catalog,
        **settings.spark_conf,
        "spark.app.name": f"lakehouse {'reader' if read_only else 'jobs'}",
        "spark.driver.memory": settings.connect_reader_memory if read_only else settings.spark_driver_memory,
        "spark.connect.grpc.binding.address": "127.0.0.1",
        # With an own class loader for each session, nothing that was generated or started for one serves the next:
        # neither compiled code nor Python workers. Clients bring no classes.
        "spark.sql.artifact.isolation.enabled": "false",
        "spark.connect.session.manager.defaultSessionTimeout": _READER_IDLE if read_only else _WRITER_IDLE,
        # What a session kept is dropped when the collector finds it; a server that is idle collects nothing.
        "spark.cleaner.periodicGC.interval": "10min",
        **_GONE,
        CODE: code_fingerprint(),
    }


def server_address(settings: Settings, *, read_only: bool) -> ConnectAddress | None:
    """Where the server for jobs, or for readers, is; None where the settings name none."""
    port = settings.connect_reader_port if read_only else settings.connect_port
    url = settings.connect_reader if read_only else settings.spark_master
    if url.startswith("sc://"):
        return ConnectAddress.parse(url, "LAKEHOUSE_CONNECT_READER" if read_only else "LAKEHOUSE_SPARK_MASTER")
    return ConnectAddress.local(port) if port else None


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """A hash of the package's code as it is on disk."""
    root = Path(lakehouse.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
