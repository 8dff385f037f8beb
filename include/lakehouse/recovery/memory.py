"""What earlier checks of the lake saw: size, hash and ETag of every file that was read, so that any change is noticed.

Append-only: each check adds one record of what was new to it, under ``fsck/``, in the bucket of backups where there is
one, else in the landing bucket. Files never change, so the first word about one is the truth; a later record of the
same hash brings its new ETag, after a repair for example.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lakehouse.backup.vault import Vault
from lakehouse.core.errors import IntegrityError

FORMAT_VERSION = 1
PREFIX = "fsck/"


@dataclass(frozen=True)
class Seen:
    """A file as it was when it was read from the first byte to the last, and nothing was wrong with it."""

    uri: str
    size_bytes: int
    sha256: str
    etag: str
    at: str


@dataclass
class Memory:
    """All records; ``damaged`` are those that cannot be read, which are then known as little as if never written."""

    vault: Vault
    files: dict[str, Seen] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    _new: dict[str, Seen] = field(default_factory=dict)

    @classmethod
    def read(cls, vault: Vault) -> Memory:
        """Every record, oldest first."""
        found = cls(vault)
        for key in sorted(vault.keys(PREFIX)):
            try:
                for seen in load(key, vault.get(key)):
                    found._take(seen)
            except IntegrityError:
                found.damaged.append(vault.store.where(key))
        return found

    def _take(self, seen: Seen) -> None:
        before = self.files.get(seen.uri)
        if before is None or before.sha256 == seen.sha256:
            self.files[seen.uri] = seen

    def add(self, seen: Seen) -> None:
        """Remember a file. Threads need no lock: each file is looked at by one."""
        before = self.files.get(seen.uri)
        if before is None or (before.sha256 == seen.sha256 and before.etag != seen.etag):
            self._new[seen.uri] = seen

    def write(self, at: datetime) -> int:
        """Keep what is new; returns how many files that are."""
        if not self._new:
            return 0
        body = dump(list(self._new.values()), at)
        name = f"{at:%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(4)}-{hashlib.sha256(body).hexdigest()[:16]}"
        self.vault.put(f"{PREFIX}{name}.jsonl.gz", body)
        for seen in self._new.values():
            self._take(seen)
        count, self._new = len(self._new), {}
        return count


def dump(files: list[Seen], at: datetime) -> bytes:
    """A record: a line that says what it is, then a line for each file."""
    head = json.dumps({"format_version": FORMAT_VERSION, "at": at.isoformat(), "files": len(files)})
    lines = (json.dumps([each.uri, each.size_bytes, each.sha256, each.etag], ensure_ascii=False) for each in files)
    return gzip.compress("\n".join([head, *lines, ""]).encode(), compresslevel=6, mtime=0)


def load(key: str, body: bytes) -> Iterator[Seen]:
    """Read what :func:`dump` wrote under this key, which has its hash. Raises :class:`IntegrityError`."""
    if hashlib.sha256(body).hexdigest()[:16] not in key:
        raise IntegrityError("a record of an earlier check is not the one that was written", where=key)
    head, *lines = gzip.decompress(body).decode().splitlines()
    said = json.loads(head)
    if said["format_version"] != FORMAT_VERSION:
        raise IntegrityError(
            f"a record of an earlier check has format {said['format_version']!r}, this version reads {FORMAT_VERSION}",
            where=key,
            todo="use the version of the lakehouse that wrote it, or upgrade",
        )
    return (_seen(json.loads(line), said["at"]) for line in lines)


def _seen(value: list[Any], at: str) -> Seen:
    uri, size_bytes, sha256, etag = value
    return Seen(uri, size_bytes, sha256, etag, at)
