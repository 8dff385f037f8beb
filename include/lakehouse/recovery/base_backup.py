"""A base backup of the local PostgreSQL: streamed over the replication protocol into the bucket of backups."""

from __future__ import annotations

import json
import secrets
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from lakehouse.backup.bases import Base, base_key, seal
from lakehouse.backup.signing import signer_of
from lakehouse.backup.vault import WHOLE_BYTES, Stored, Vault
from lakehouse.core.clock import Clock
from lakehouse.core.errors import SettingsError, StackError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.settings import Settings
from lakehouse.ledger.store import read_fully
from lakehouse.stack import credentials, external, postgres
from lakehouse.stack.roles import BACKUP

if TYPE_CHECKING:
    import psycopg

_READ = ("backup_label", "backup_manifest")
_GZIP = 31  # zlib's way of asking for gzip's own header
_LEVEL = 3


@dataclass(frozen=True)
class Server:
    """What a server says of itself over the replication protocol."""

    number: str
    version: str
    segment_bytes: int
    is_archiving: bool


def back_up(settings: Settings, clock: Clock) -> Base:
    """Make a base backup of the local server. Runs beside everything else.

    Raises :class:`SettingsError` where the server is not ours, :class:`StackError` where it cannot be copied.
    """
    require_ours(settings)
    signer, at = signer_of(settings), clock.now()
    vault = Vault.open(settings, at)
    password = credentials.load_or_create(settings).passwords.backup
    server = _ask(settings, password)
    base_id = f"{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    stream = _Parts(vault, base_id)
    with _copying(settings, password, base_id) as copy:
        documents = stream.take(copy)
    failpoint("databases.before_seal")
    base = _base(base_id, server, documents, at, clock.now(), stream).signed(signer)
    seal(vault, base)
    return base


def require_ours(settings: Settings) -> None:
    """Raise :class:`SettingsError` unless PostgreSQL is the local stack's own."""
    if external.is_postgres_external(settings):
        raise SettingsError(
            "PostgreSQL is not ours",
            where=f"{settings.postgres_host}:{settings.postgres_port}",
            untouched="it; backup sets have the catalog, whoever runs the server",
            todo="have its operator back Airflow's database up",
        )


def _ask(settings: Settings, password: str) -> Server:
    import psycopg

    try:
        with psycopg.connect(
            host=settings.postgres_host,
            port=settings.postgres_port,
            user=BACKUP,
            password=password,
            autocommit=True,
            connect_timeout=10,
            replication="true",
        ) as connection:
            number = _one(connection, b"IDENTIFY_SYSTEM")
            size = _one(connection, b"SHOW wal_segment_size")
            is_archiving = _one(connection, b"SHOW archive_mode") != "off"
            version = str(connection.info.parameter_status("server_version"))
    except psycopg.OperationalError as error:
        raise _not_copied(str(error)) from None
    if not is_archiving:
        raise StackError(
            "PostgreSQL does not archive its log: it was started before there was a place for backups",
            untouched="everything",
            todo="run `lakehouse up`: it starts PostgreSQL anew, and then do this again",
        )
    return Server(number, version, _bytes(size), is_archiving)


def _one(connection: psycopg.Connection, question: bytes) -> str:
    """The first word of an answer; no types are known over this protocol."""
    row = connection.execute(question).fetchone()
    answer = row[0] if row else b""
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def _bytes(size: str) -> int:
    return int(size[:-2]) * {"MB": 1 << 20, "GB": 1 << 30}[size[-2:]]


@contextmanager
def _copying(settings: Settings, password: str, label: str) -> Iterator[BinaryIO]:
    """The tar of the whole server as it comes. Raises :class:`StackError` unless it came to its end."""
    command = [
        str(postgres.binaries() / "pg_basebackup"),
        "--pgdata=-",
        "--format=tar",
        "--wal-method=fetch",
        "--checkpoint=fast",
        "--manifest-checksums=SHA256",
        "--no-password",
        f"--label={label}",
        f"--host={settings.postgres_host}",
        f"--port={settings.postgres_port}",
        f"--username={BACKUP}",
    ]
    environment = {**postgres.environment(), "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10"}
    with tempfile.TemporaryFile() as told:
        with subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=told) as process:
            try:
                yield cast(BinaryIO, process.stdout)
            except tarfile.TarError as error:
                process.kill()
                raise _not_copied(_said(told) or str(error)) from None
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise _not_copied(_said(told))


def _said(told: IO[bytes]) -> str:
    told.seek(0)
    return told.read().decode(errors="replace").strip()[-500:]


def _not_copied(reason: str) -> StackError:
    return StackError(
        f"the databases cannot be copied: {reason.strip()}",
        untouched="earlier base backups, and the archive of the log",
        todo="check `lakehouse status`; `lakehouse up` gives the role for backups its rights; then do this again",
    )


@dataclass
class _Parts:
    """Compresses what comes, and stores it in parts; memory stays at one part."""

    vault: Vault
    base_id: str
    parts: list[Stored] = field(default_factory=list)
    size_bytes: int = 0
    _packer: Any = field(default_factory=lambda: zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP))
    _waiting: bytearray = field(default_factory=bytearray)
    _source: BinaryIO | None = None

    def take(self, source: BinaryIO) -> Mapping[str, bytes]:
        """Store a whole tar; returns the documents in it that say what it is."""
        self._source = source
        found = {}
        with tarfile.open(fileobj=cast(BinaryIO, self), mode="r|") as tar:
            for member in tar:
                if member.name in _READ and (content := tar.extractfile(member)):
                    found[member.name] = content.read()
        while self.read(1 << 20):
            pass  # what follows the archive's end
        self._waiting += self._packer.flush()
        self._store(bytes(self._waiting))
        return found

    def read(self, size: int) -> bytes:
        """As of a file: what is read is kept."""
        data = read_fully(cast(BinaryIO, self._source), size)
        self.size_bytes += len(data)
        self._waiting += self._packer.compress(data)
        while len(self._waiting) >= WHOLE_BYTES:
            self._store(bytes(self._waiting[:WHOLE_BYTES]))
            del self._waiting[:WHOLE_BYTES]
        return data

    def _store(self, body: bytes) -> None:
        key = base_key(self.base_id, f"base.tar.gz.{len(self.parts):05d}")
        self.parts.append(self.vault.put(key, body))
        failpoint("databases.after_part")


def _base(
    base_id: str, server: Server, documents: Mapping[str, bytes], began: datetime, ended: datetime, stream: _Parts
) -> Base:
    if missing := [name for name in _READ if name not in documents]:
        raise _not_copied(f"the copy has no {' and no '.join(missing)}")
    spans = json.loads(documents["backup_manifest"])["WAL-Ranges"]
    return Base(
        base_id,
        server.number,
        server.version,
        spans[-1]["Timeline"],
        began.isoformat(),
        ended.isoformat(),
        spans[0]["Start-LSN"],
        spans[-1]["End-LSN"],
        server.segment_bytes,
        stream.size_bytes,
        tuple(stream.parts),
    )
