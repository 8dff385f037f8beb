"""Verification: every reference of a set is walked out of the set's own metadata, and every file is looked at.

Documents and Iceberg's own files are always read whole. Of data, the size and the server's checksum are asked for, and
a share is read whole each day, another one the next: within so many days every byte. No listing is ever trusted.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lakehouse.backup.copying import Told, in_threads
from lakehouse.backup.create import landed_files
from lakehouse.backup.iceberg import Kind, references
from lakehouse.backup.places import Places
from lakehouse.backup.records import Damage, Verification
from lakehouse.backup.roster import lost
from lakehouse.backup.sets import (
    MANIFEST,
    BackedUp,
    BackupSet,
    Entry,
    Files,
    load_set,
    set_key,
)
from lakehouse.backup.vault import Stored, Vault
from lakehouse.core.errors import IntegrityError
from lakehouse.ledger.decisions import decision_log
from lakehouse.ledger.log import landing_log

_LOOKED_INTO: tuple[Kind, ...] = ("metadata", "manifest_list", "manifest")


@dataclass(frozen=True)
class Share:
    """Which part of the data is read whole: the files whose number is this one, of so many."""

    number: int = 0
    of: int = 1

    @classmethod
    def of_day(cls, at: datetime, of: int) -> Share:
        """The share of a day: all files have their day within so many."""
        return cls(at.toordinal() % of, of)

    def has(self, key: str) -> bool:
        """Whether an object belongs to it."""
        return self.of == 1 or int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % self.of == self.number

    def __str__(self) -> str:
        return "" if self.of == 1 else f"{self.number + 1}/{self.of}"


def verify(
    vault: Vault, set_id: str, public_key: str, share: Share, at: datetime, told: Told = lambda *_: None
) -> Verification:
    """Look at everything that a set refers to. Damage is in the result, not raised."""
    look = _Look(vault, share, told)
    try:
        found = load_set(vault, set_id, public_key)
        files = found.files()
    except IntegrityError as error:
        look.damages.append(_unusable(vault, set_id, error))
    else:
        _Walk(look, found, files).run()
    others = lost(vault, public_key, set_id, is_whole=share.of == 1)
    return Verification(
        set_id, at.isoformat(), str(share), look.files, look.read, look.read_bytes, look.sorted_damages(), others
    )


def _unusable(vault: Vault, set_id: str, error: IntegrityError) -> Damage:
    """Without its documents nothing in a set can be trusted: which one it is, and what it hurts."""
    key = error.where.removeprefix(f"s3://{vault.store.bucket}/") or set_key(set_id, MANIFEST)
    return Damage(key, "", "document", f"{error.what}: the whole set is lost", tables=("every table",))


@dataclass
class _Look:
    """Looks at objects, each once, and remembers what is wrong."""

    vault: Vault
    share: Share
    told: Told
    damages: list[Damage] = field(default_factory=list)
    files: int = 0
    read: int = 0
    read_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def whole(self, stored: Stored, version: str = "") -> tuple[bytes | None, str]:
        """An object's bytes and what is wrong with it, '' if nothing."""
        try:
            body = self.vault.get(stored.key, version)
        except IntegrityError:
            return None, "it is missing"
        self._count(len(body))
        return body, difference(stored, len(body), hashlib.sha256(body).hexdigest())

    def problem(self, stored: Stored, *, is_read: bool) -> str:
        """What is wrong with an object, '' if nothing: by all its bytes, or by what the server says of it."""
        if not is_read:
            self._count()
            return self._by_head(stored)
        try:
            sha256, size = self.vault.digest(stored.key)
        except IntegrityError:
            return "it is missing"
        self._count(size)
        return difference(stored, size, sha256)

    def good_version(self, stored: Stored) -> str:
        """The version that was stored, if the server has it and it is whole; '' where there is none."""
        if not stored.version:
            return ""
        try:
            sha256, size = self.vault.digest(stored.key, stored.version)
        except IntegrityError:
            return ""
        return "" if difference(stored, size, sha256) else stored.version

    def sorted_damages(self) -> tuple[Damage, ...]:
        """In the order of keys."""
        return tuple(sorted(self.damages, key=lambda damage: (damage.key, damage.problem)))

    def _by_head(self, stored: Stored) -> str:
        head = self.vault.head(stored.key)
        if head is None:
            return "it is missing"
        if head.size_bytes != stored.size_bytes:
            return f"it has {head.size_bytes} bytes, {stored.size_bytes} were stored"
        is_other = stored.checksum and head.checksum and head.checksum != stored.checksum
        return "its checksum is not the one that was stored" if is_other else ""

    def _count(self, read_bytes: int | None = None) -> None:
        with self._lock:
            self.files += 1
            if read_bytes is not None:
                self.read += 1
                self.read_bytes += read_bytes
            self.told("verifying", self.files, self.read_bytes)


def difference(stored: Stored, size: int, sha256: str) -> str:
    """How bytes of this size and hash differ from those that were stored; '' where they do not."""
    if size != stored.size_bytes:
        return f"it has {size} bytes, {stored.size_bytes} were stored"
    return "" if sha256 == stored.sha256 else "its bytes are not those that were stored"


@dataclass
class _Walk:
    """From the pointers of a set's manifest to every file, by what the files say themselves.

    Twice: along the originals, which a restore brings back, and along the rewritten forms, which are read in place.
    """

    look: _Look
    found: BackupSet
    files: Files
    by_place: Mapping[str, tuple[Entry, Stored]] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    users: Mapping[str, list[Entry]] | None = None

    def __post_init__(self) -> None:
        manifest = self.found.manifest
        self.places = Places(manifest.warehouse, manifest.landing, self.found.vault.store.bucket)
        self.by_place = {
            self.places.uri(stored.key): (entry, stored) for entry in self.files.values() for stored in entry.objects
        }

    def run(self) -> None:
        """Documents, tables both ways, logs, and whatever else the list of files has."""
        self._documents()
        for tables in (self._originals(), self._rewritten()):
            waiting = list(tables)
            while waiting:
                waiting = [each for below in in_threads(self._into, waiting) for each in below]
        self._logs()
        rest = [(entry, stored) for entry in self.files.values() for stored in entry.objects]
        in_threads(self._leaf, [(entry, stored) for entry, stored in rest if stored.key not in self.reached])

    def _documents(self) -> None:
        for name, sha256 in self.found.documents.items():
            self._document(set_key(self.found.id, name), sha256)

    def _document(self, key: str, sha256: str) -> None:
        vault = self.found.vault
        try:
            is_same = hashlib.sha256(vault.get(key)).hexdigest() == sha256
            problem = "" if is_same else "its bytes are not those that were stored"
        except IntegrityError:
            problem = "it is missing"
        if problem:
            good = (each for each in vault.versions(key) if hashlib.sha256(vault.get(key, each)).hexdigest() == sha256)
            self.look.damages.append(Damage(key, "", "document", problem, good_version=next(good, "")))

    def _originals(self) -> Iterator[tuple[Entry, Stored]]:
        for table in self.found.manifest.tables:
            entry = self.files.get(table.metadata)
            if entry is None:
                self._unlisted(table.metadata, table)
            elif entry.kind == "metadata":
                yield entry, entry.copy

    def _rewritten(self) -> Iterator[tuple[Entry, Stored]]:
        for table in self.found.manifest.tables:
            if table.query_metadata and table.query_metadata not in self.by_place:
                self._unlisted(table.query_metadata, table)
            elif table.query_metadata:
                yield self.by_place[table.query_metadata]

    def _unlisted(self, uri: str, table: BackedUp) -> None:
        key = uri.removeprefix(self.places.uri(""))
        self.look.damages.append(Damage(key, uri, "metadata", "the set does not list it", (table.table,)))

    def _into(self, place: tuple[Entry, Stored]) -> list[tuple[Entry, Stored]]:
        """Read a file that names others; returns those of them that are to be read likewise."""
        entry, stored = place
        if not self._is_first(stored):
            return []
        body, problem = self.look.whole(stored)
        if problem or body is None:
            self._damaged(entry, stored, problem)
            return []
        try:
            named = references(entry.kind, body)
        except (ValueError, KeyError, TypeError) as error:
            self._damaged(entry, stored, f"it cannot be read: {error}")
            return []
        is_original = stored is entry.copy
        below: list[tuple[Entry, Stored]] = []
        for reference in named:
            there = self._listed(reference.uri, is_original=is_original)
            if there is None:
                if reference.is_needed:
                    self._damaged(entry, stored, f"it names {reference.uri}, which the set does not have")
            elif there[0].kind in _LOOKED_INTO and reference.kind == there[0].kind:
                below.append(there)
        return below

    def _listed(self, uri: str, *, is_original: bool) -> tuple[Entry, Stored] | None:
        if not is_original:
            return self.by_place.get(uri)
        entry = self.files.get(uri)
        return (entry, entry.copy) if entry else None

    def _logs(self) -> None:
        """Each number of both logs, and the landed files that the entries name."""
        in_threads(self._log_entry, list(self._log_uris()))

    def _log_uris(self) -> Iterator[str]:
        manifest, store = self.found.manifest, self.found.vault.store
        for source, ends in manifest.sources.items():
            log, decisions = landing_log(store, source), decision_log(store, source)
            yield from (f"s3://{manifest.landing}/{log.key(number)}" for number in range(1, ends.log + 1))
            yield from (f"s3://{manifest.landing}/{decisions.key(number)}" for number in range(1, ends.decisions + 1))

    def _log_entry(self, uri: str) -> None:
        entry = self.files.get(uri)
        if entry is None:
            self.look.damages.append(Damage(uri, uri, "log", "the set does not list it"))
            return
        self._is_first(entry.copy)
        body, problem = self.look.whole(entry.copy)
        if problem or body is None:
            self._damaged(entry, entry.copy, problem)
            return
        for file in landed_files(uri, body):
            there = self.files.get(f"s3://{self.found.manifest.landing}/{file['key']}")
            if there is None or there.copy.sha256 != file["sha256"]:
                self._damaged(entry, entry.copy, f"it names {file['key']}, which the set does not have")

    def _leaf(self, place: tuple[Entry, Stored]) -> None:
        entry, stored = place
        is_read = entry.kind not in ("data", "landed", "equality_deletes") or self.look.share.has(stored.key)
        if problem := self.look.problem(stored, is_read=is_read):
            self._damaged(entry, stored, problem)

    def _is_first(self, stored: Stored) -> bool:
        """Remember that an object was reached; sets are only added to, so threads need no lock."""
        is_first = stored.key not in self.reached
        self.reached.add(stored.key)
        return is_first

    def _damaged(self, entry: Entry, stored: Stored, problem: str) -> None:
        tables, snapshots = self._hurt(entry)
        good = self.look.good_version(stored)
        self.look.damages.append(Damage(stored.key, entry.uri, entry.kind, problem, tables, snapshots, good))

    def _hurt(self, entry: Entry) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Whose files lead to this one: tables (for landed files and logs, sources), and snapshots."""
        users = self._users()
        above, waiting = {entry.uri: entry}, [entry]
        while waiting:
            new = [each for each in users.get(waiting.pop().uri, ()) if each.uri not in above]
            above |= {each.uri: each for each in new}
            waiting += new
        tables = {table.table for table in self.found.manifest.tables if table.metadata in above}
        logs = {each.uri.split("/")[-2] for each in above.values() if each.kind == "log"}
        snapshots = {each.snapshot_id for each in above.values() if each.snapshot_id is not None}
        return tuple(sorted(tables | logs)), tuple(sorted(snapshots))

    def _users(self) -> Mapping[str, list[Entry]]:
        if self.users is None:
            users: dict[str, list[Entry]] = {}
            for entry in self.files.values():
                for uri in entry.refs:
                    users.setdefault(uri, []).append(entry)
            self.users = users
        return self.users


def put_back(vault: Vault, damages: Iterable[Damage]) -> tuple[str, ...]:
    """Lay what was stored on top again where something else lies over it, or a mark that it is gone; returns the keys.

    A restore needs none of it: it reads what was stored. Who reads a set in place does.
    """
    found = [damage for damage in damages if damage.good_version]
    in_threads(lambda damage: vault.lay_on_top(damage.key, damage.good_version), found)
    return tuple(damage.key for damage in found)


def tables_of(damages: Iterable[Damage]) -> list[str]:
    """The tables that some damage hurts."""
    return sorted({table for damage in damages for table in damage.tables})


def as_json(record: Verification, bases: Sequence[Verification] = ()) -> str:
    """A verification for scripts: that of a set, with those of the databases' base backups."""
    found = {**json.loads(record.to_json()), "databases": [json.loads(base.to_json()) for base in bases]}
    return json.dumps(found, ensure_ascii=False, indent=1)
