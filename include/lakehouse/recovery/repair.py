"""Damaged files brought back, each from its own good copy, under its own name. Nothing else of the lake is touched.

What is replaced is kept: as a version where the bucket has versions, else as a copy under ``damaged/`` in the bucket of
backups, or in the landing bucket where there is none.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lakehouse.backup.copying import Told, in_threads
from lakehouse.backup.places import Places
from lakehouse.backup.vault import WHOLE_BYTES, Vault
from lakehouse.core.clock import Clock
from lakehouse.core.errors import IntegrityError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.settings import Settings
from lakehouse.ledger.store import ObjectStore
from lakehouse.recovery.fsck import check_from
from lakehouse.recovery.known import GoodCopy
from lakehouse.recovery.lakefiles import LakeFiles
from lakehouse.recovery.report import LakeDamage, Report

if TYPE_CHECKING:
    from sqlalchemy import Engine

DAMAGED = "damaged/"
_ROUNDS = 5
"""A document that is back shows what was hidden below it: metadata, list, manifest, file, and once more at the end."""


@dataclass(frozen=True)
class Mended:
    """A file that is back. ``kept`` is where its damaged bytes are now, '' where there were none."""

    uri: str
    source: str
    sha256: str
    kept: str


@dataclass(frozen=True)
class Repair:
    """What was brought back, and the lake as it was looked at after that."""

    mended: tuple[Mended, ...]
    after: Report

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"repaired": [asdict(each) for each in self.mended], "after": self.after.to_json()}


def plan_repair(settings: Settings, engine: Engine, clock: Clock, tables: Sequence[str], told: Told) -> Report:
    """The damage as it is now: every byte is read. Needs the lock that keeps files."""
    return check_from(settings, engine, clock, tables, lambda _: True, told)


def repair(
    settings: Settings,
    engine: Engine,
    clock: Clock,
    tables: Sequence[str],
    plan: Report,
    told: Told = lambda *_: None,
) -> Repair:
    """Bring back what has a good copy, and look again, until nothing more can be done. Needs the same lock."""
    mender = _Mender.of(settings, clock.now(), told)
    mended: dict[str, Mended] = {}
    after = plan
    for _ in range(_ROUNDS):
        open_ones = [each for each in after.damages if each.copy and each.uri not in mended]
        if not open_ones:
            break
        mended |= {each.uri: each for each in in_threads(mender.mend, open_ones)}
        failpoint("repair.after_files")
        after = check_from(settings, engine, clock, tables, mended.__contains__, told)
    return Repair(tuple(mended[uri] for uri in sorted(mended)), after)


@dataclass(frozen=True)
class _Mender:
    files: LakeFiles
    near: Vault
    stamp: str
    told: Told

    @classmethod
    def of(cls, settings: Settings, now: datetime, told: Told) -> _Mender:
        landing = ObjectStore.open(settings)
        near = Vault.open(settings, now) if settings.backup_bucket else Vault(landing, 0, now)
        return cls(LakeFiles(landing, Places.of(settings)), near, f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}", told)

    def mend(self, damage: LakeDamage) -> Mended:
        """Bring one file back. The server checks the hash of what it gets, and then it is read again."""
        copy = damage.copy
        if copy is None:
            raise ValueError(f"{damage.uri} has no good copy")
        kept = self._keep(damage.uri)
        failpoint("repair.before_file", damage.uri)
        self._put(damage.uri, copy)
        self.told("repairing", 1, copy.stored.size_bytes)
        with self.files.reading(damage.uri) as body:
            if body is None or body.sha256 != copy.stored.sha256:
                raise IntegrityError(
                    "a file was written and is not what was written",
                    where=damage.uri,
                    untouched="its damaged bytes, which were kept" + (f" at {kept}" if kept else ""),
                    todo="look at the server of the lake's buckets, then run `lakehouse repair` again",
                )
        return Mended(damage.uri, copy.source, copy.stored.sha256, kept)

    def _put(self, uri: str, copy: GoodCopy) -> None:
        target, key = self.files.vault(uri, self.near)
        source = self.near if copy.is_backup else target
        stored = copy.stored
        if copy.body is not None:
            target.put(key, copy.body, sha256=stored.sha256, anew=True)
            return
        if stored.size_bytes <= WHOLE_BYTES:
            # The hash of what was found good goes along: the server refuses anything else.
            target.put(key, source.get(stored.key, stored.version), sha256=stored.sha256, anew=True)
            return
        with source.reading(stored.key, stored.version) as stream:
            target.put_stream(key, stream, stored.size_bytes, sha256=stored.sha256, anew=True)

    def _keep(self, uri: str) -> str:
        """Put the damaged bytes aside; returns where they are."""
        head = self.files.head(uri)
        if head is None:
            return ""
        if self.files.is_versioned(uri):
            return f"{uri} as an older version"
        store, key = self.files.store(uri)
        aside = f"{DAMAGED}{self.stamp}/{store.bucket}/{key}"
        if head.size_bytes <= WHOLE_BYTES:
            self.near.put(aside, store.get(key))
        else:
            with store.streaming(key) as (stream, size):
                self.near.put_stream(aside, stream, size)
        return self.near.store.where(aside)
