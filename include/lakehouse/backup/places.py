"""Where a file of the lake lies in the backup's bucket. Nothing outside the lake's own two buckets is ever copied."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlparse

from lakehouse.core.errors import IntegrityError
from lakehouse.core.settings import Settings

OBJECTS = "objects"
QUERY = "query"
_DIGITS = 16


class Moves(Protocol):
    """Says where a file of the lake is in a copy of it."""

    def moved(self, uri: str) -> str:
        """The name of a file that is kept as it is."""
        ...

    def moved_text(self, text: str) -> str | None:
        """The same of a text that may be the beginning of a name only; None where it is of another place."""
        ...


@dataclass(frozen=True)
class Places:
    """The buckets of the lake by role, and that of its backups."""

    warehouse: str
    landing: str
    backup: str

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """Those that the settings name."""
        return cls(settings.warehouse_bucket, settings.landing_bucket, settings.backup_bucket)

    def split(self, uri: str) -> tuple[str, str]:
        """The bucket and key of a file of the lake. Raises :class:`IntegrityError` where it lies elsewhere."""
        self.require_inside([uri])
        parts = urlparse(uri, allow_fragments=False)
        return parts.netloc, uri.partition("://")[2].partition("/")[2]

    def require_inside(self, uris: Iterable[str]) -> None:
        """Raise :class:`IntegrityError` naming all files that lie outside the lake's buckets."""
        outside = [uri for uri in uris if not self._is_inside(uri)]
        if outside:
            more = f" and {len(outside) - 20} more" if len(outside) > 20 else ""
            raise IntegrityError(
                f"{len(outside)} references lead out of the lake's buckets",
                where=", ".join(outside[:20]) + more,
                untouched="all backups; no set was completed",
                todo="a set holds only what is in the warehouse and the landing bucket: write these tables anew there",
            )

    def _is_inside(self, uri: str) -> bool:
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        is_plain = posixpath.normpath(key) == key and not key.startswith(("/", ".."))
        return scheme == "s3" and bucket in (self.warehouse, self.landing) and is_plain

    def copy_key(self, uri: str) -> str:
        """Where the bytes of a file are kept as they are. A lake that moved to other buckets has other files there."""
        bucket, key = self.split(uri)
        return f"{OBJECTS}/{bucket}/{key}"

    def query_key(self, uri: str, sha256: str) -> str:
        """Where a rewritten form of it with this content lies; equal forms of several sets are one object."""
        folder, _, name = self.copy_key(uri).removeprefix(f"{OBJECTS}/").rpartition("/")
        return f"{QUERY}/{folder}/{sha256[:_DIGITS]}/{name}"

    def uri(self, key: str) -> str:
        """An object of the backup's bucket, as metadata names it."""
        return f"s3://{self.backup}/{key}"

    def moved(self, uri: str) -> str:
        """Where a file of the lake is read that is kept as it is. Keeps the order of names in one bucket."""
        return self.uri(self.copy_key(uri))

    def moved_text(self, text: str) -> str | None:
        """The same of a text that may be the beginning of a name only; None where it is of another place."""
        if text.startswith((f"s3://{self.warehouse}/", f"s3://{self.landing}/")):
            return self.uri(f"{OBJECTS}/{text.removeprefix('s3://')}")
        return None


@dataclass(frozen=True)
class Relocation:
    """Where a lake that is restored has its files: under the same keys, below ``prefix``, in these buckets."""

    source: Places
    warehouse: str
    landing: str
    prefix: str = ""

    @property
    def is_same(self) -> bool:
        """Whether every file goes where it was: then nothing is rewritten."""
        there = (self.source.warehouse, self.source.landing, "")
        return (self.warehouse, self.landing, self.prefix) == there

    def place(self, uri: str) -> tuple[str, str]:
        """The bucket and the key where a file of the lake goes."""
        bucket, key = self.source.split(uri)
        return (self.warehouse if bucket == self.source.warehouse else self.landing), f"{self.prefix}{key}"

    def moved(self, uri: str) -> str:
        """Where a file of the lake goes. Keeps the order of names in one bucket."""
        bucket, key = self.place(uri)
        return f"s3://{bucket}/{key}"

    def moved_text(self, text: str) -> str | None:
        """The same of a text that may be the beginning of a name only; None where it is of another place."""
        for bucket, becomes in ((self.source.warehouse, self.warehouse), (self.source.landing, self.landing)):
            if text.startswith(f"s3://{bucket}/"):
                return f"s3://{becomes}/{self.prefix}{text.removeprefix(f's3://{bucket}/')}"
        return None
