"""What several unit tests share."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from tests.backup_lake import SmallLake, fill, make_lake

from lakehouse.core.settings import PROJECT_ROOT


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    """The project's own contracts, not compiled, in a folder of this test."""
    folder = tmp_path / "contracts"
    return Path(
        shutil.copytree(PROJECT_ROOT / "include" / "contracts", folder, ignore=shutil.ignore_patterns("index.json"))
    )


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server in this process, quiet."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def lake(endpoint: str, tmp_path: Path) -> SmallLake:
    """Two tables, one of them with deletes by position, three landed batches and a decision."""
    return fill(make_lake(endpoint, tmp_path))


@pytest.fixture
def unlocked(endpoint: str, tmp_path: Path) -> SmallLake:
    """The same, with backups in a bucket that locks nothing, and has no versions."""
    return fill(make_lake(endpoint, tmp_path, is_locking=False))
