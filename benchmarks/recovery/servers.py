"""The servers of the benchmark: the lake's PostgreSQL and MinIO, and a second MinIO that can be emptied for backups."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import SecretStr

from lakehouse.backup.signing import new_key
from lakehouse.core.settings import Settings, load_settings
from lakehouse.ledger.store import ObjectStore
from lakehouse.stack import buckets, down, minio, ports, up
from lakehouse.stack.model import StackStatus
from lakehouse.stack.processes import Record, record_of, start, stop, wait_until_ready

BARE = "bare"
BACKUPS = "backups"
_START_SECONDS = 30.0


@dataclass
class BackupServer:
    """A MinIO on loopback that each round finds empty: what is locked there can be removed in no other way."""

    folder: Path
    cache: Path
    port: int = field(default_factory=ports.any_free)
    key_id: str = "benchmark"
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    record: Record | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        assert self.record is not None
        return self.record.pid

    def restart(self, settings: Settings) -> None:
        """Empty, with a bucket that locks for backups and one for bare copies."""
        self.stop()
        data = self.folder / "data"
        data.mkdir(parents=True)
        program = minio.require(minio.find_or_build(self.cache, None))
        command = minio.command(program, data, self.port, ports.any_free(), self.folder / "certificates")
        process = start(command, minio.environment(self.key_id, self.secret), self.folder / "minio.log", None)
        self.record = record_of(process, str(data), self.port, "benchmark")
        answers = wait_until_ready(process, lambda: ports.is_answered(ports.LOOPBACK, self.port), _START_SECONDS)
        assert answers, f"MinIO did not start; see {self.folder / 'minio.log'}"
        mine = settings.model_copy(
            update={
                "s3_endpoint": self.endpoint,
                "s3_access_key_id": self.key_id,
                "s3_secret_access_key": SecretStr(self.secret),
                "landing_bucket": BARE,
                "warehouse_bucket": BARE,
            }
        )
        buckets.create(mine)
        ObjectStore.open(mine).client.create_bucket(Bucket=BACKUPS, ObjectLockEnabledForBucket=True)

    def stop(self) -> None:
        """End it, and remove what it holds."""
        if self.record is not None:
            stop(self.record, [(signal.SIGTERM, 10.0)])
            self.record = None
        shutil.rmtree(self.folder / "data", ignore_errors=True)


@dataclass(frozen=True)
class Stand:
    """Everything that a round needs: settings of the lake with its backups, and the processes of the servers."""

    settings: Settings
    backups: BackupServer
    lake_pids: tuple[int, ...]

    @property
    def servers(self) -> list[psutil.Process]:
        """All S3 and database servers, the children of PostgreSQL among them."""
        roots = [psutil.Process(pid) for pid in (*self.lake_pids, self.backups.pid)]
        return [each for root in roots for each in (root, *root.children(recursive=True))]


@contextmanager
def stand(folder: Path) -> Iterator[Stand]:
    """Servers of their own for the block; everything is removed at its end."""
    os.chmod(folder, 0o711)  # noqa: S103 - PostgreSQL runs as another account when started by root
    home = folder / "home"
    settings = _own_settings(home)
    backups = BackupServer(folder / "backups", settings.cache)
    try:
        status = up(settings)
        backups.restart(settings)
        mine = _own_settings(home).model_copy(
            update={
                "backup_bucket": BACKUPS,
                "backup_s3_endpoint": backups.endpoint,
                "backup_s3_access_key_id": backups.key_id,
                "backup_s3_secret_access_key": SecretStr(backups.secret),
                "backup_signing_key": SecretStr(new_key()[0]),
                "backup_lock_days": 30,
            }
        )
        yield Stand(mine, backups, _pids(status))
    finally:
        backups.stop()
        down(settings)


def _own_settings(home: Path) -> Settings:
    """What the caller's environment says of servers is left out."""
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_") and name != "LAKEHOUSE_CACHE"]:
        del os.environ[name]
    return load_settings(home)


def _pids(status: StackStatus) -> tuple[int, ...]:
    return tuple(server.pid for server in status.servers if server.pid)
