"""Base backups of the PostgreSQL server: all its databases at one moment, with the log that makes them one.

``databases/base/<id>/`` holds parts of a compressed tar, then ``manifest.json``, signed, and ``COMPLETE``, which names
its hash, last. Any later moment is reached from there along the archive of the log.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from lakehouse.backup.signing import Signer, check_signature
from lakehouse.backup.vault import Stored, Vault
from lakehouse.backup.wal import DATABASES, lsn_of
from lakehouse.core.errors import IntegrityError

FORMAT_VERSION = 1
BASES = f"{DATABASES}base/"
MANIFEST, COMPLETE, PRUNED = "manifest.json", "COMPLETE", "PRUNED"


@dataclass(frozen=True)
class Base:
    """A base backup. ``server`` is the number that ``initdb`` gave it, ``size_bytes`` the tar's before compression.

    It can be opened as of ``finished_at``, and of no earlier moment.
    """

    id: str
    server: str
    version: str
    timeline: int
    started_at: str
    finished_at: str
    start_lsn: str
    end_lsn: str
    segment_bytes: int
    size_bytes: int
    parts: tuple[Stored, ...]
    public_key: str = ""
    signature: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def finished(self) -> datetime:
        """When it was complete."""
        return datetime.fromisoformat(self.finished_at)

    @property
    def first_segment(self) -> int:
        """The number of the segment with which a recovery from it begins."""
        return lsn_of(self.start_lsn) // self.segment_bytes

    @property
    def stored_bytes(self) -> int:
        """What it takes in the bucket."""
        return sum(part.size_bytes for part in self.parts)

    def signed(self, signer: Signer) -> Base:
        """With a signature over everything else."""
        bare = replace(self, public_key=signer.public_key, signature="")
        return replace(bare, signature=signer.sign(bare.to_json()))

    def check(self, public_key: str, where: str) -> None:
        """Raise :class:`IntegrityError` unless it was signed with the key whose public part this is."""
        check_signature(replace(self, signature="").to_json(), self.signature, public_key, where)

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Base:
        """Read what :meth:`to_json` wrote; raises :class:`IntegrityError`."""
        try:
            value: dict[str, Any] = json.loads(data)
            if value["format_version"] != FORMAT_VERSION:
                raise ValueError(f"it has format {value['format_version']!r}, this version reads {FORMAT_VERSION}")
            return cls(**{**value, "parts": tuple(Stored(**part) for part in value["parts"])})
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"the manifest of a base backup cannot be read: {error}", where=where, todo="use another one"
            ) from None


def base_key(base_id: str, name: str) -> str:
    """Where a document or a part of a base backup is."""
    return f"{BASES}{base_id}/{name}"


def base_ids(vault: Vault) -> list[str]:
    """Every base backup that was begun, oldest first: ids begin with the time."""
    return vault.folders(BASES)


def is_complete(vault: Vault, base_id: str) -> bool:
    """Whether it is one: begun ones and such as are being removed are not."""
    return vault.head(base_key(base_id, COMPLETE)) is not None and vault.head(base_key(base_id, PRUNED)) is None


def complete_base_ids(vault: Vault) -> list[str]:
    """The complete ones, oldest first."""
    return [base_id for base_id in base_ids(vault) if is_complete(vault, base_id)]


def seal(vault: Vault, base: Base) -> None:
    """Write the manifest, and then that it is complete."""
    body = base.to_json()
    vault.put(base_key(base.id, MANIFEST), body)
    vault.put(base_key(base.id, COMPLETE), hashlib.sha256(body).hexdigest().encode())


def load_base(vault: Vault, base_id: str, public_key: str) -> Base:
    """A complete base backup whose manifest is the one that was signed. Raises :class:`IntegrityError`."""
    key = base_key(base_id, MANIFEST)
    sealed, data = vault.get(base_key(base_id, COMPLETE)), vault.get(key)
    if sealed.decode(errors="replace").strip() != hashlib.sha256(data).hexdigest():
        raise IntegrityError(
            "a base backup's manifest is not the one that it was completed with",
            where=vault.store.where(key),
            todo="use another one",
        )
    base = Base.from_json(data, vault.store.where(key))
    base.check(public_key, vault.store.where(key))
    return base
