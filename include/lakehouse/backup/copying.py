"""Originals into the vault, in many threads: each byte is read once, hashed on its way, checked where it arrives."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from lakehouse.backup.iceberg import Kind, Reference, rewrite_deletes
from lakehouse.backup.places import Places
from lakehouse.backup.room import Room
from lakehouse.backup.sets import SETS, Entry, Files, dump_progress, load_progress
from lakehouse.backup.vault import Stored, Vault
from lakehouse.core.errors import IntegrityError
from lakehouse.core.failpoints import failpoint
from lakehouse.ledger.store import NotAsAnnounced, ObjectStore
from lakehouse.ledger.watched import in_threads as in_threads  # for those who copy as well

_NAMES_OTHERS: tuple[Kind, ...] = ("position_deletes", "deletion_vector")
_CARRIED: tuple[Kind, ...] = ("data", "equality_deletes", "landed", "statistics")
_PROGRESS_SECONDS = 2.0
_MOST_NAMED = 20

Told = Callable[[str, int, int], None]
"""Told of a phase: what it is, files done, and bytes done."""


class FilesMissing(IntegrityError):
    """Files that the lake refers to are not there, or are not what was said of them."""


@dataclass
class Progress:
    """What a set has stored so far, noted every few seconds beside its plan: a set that is cut short goes on there."""

    vault: Vault
    set_id: str
    _waiting: list[Entry] = field(default_factory=list)
    _noted_at: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> Files:
        """The entries that earlier tries of this set noted."""
        keys = self.vault.keys(self._prefix)
        return {entry.uri: entry for key in keys for entry in load_progress(self.vault.get(key))}

    def add(self, entry: Entry) -> None:
        """Note an entry now or with the next ones."""
        with self._lock:
            self._waiting.append(entry)
            due = time.monotonic() - self._noted_at >= _PROGRESS_SECONDS
            noted = self._take() if due else []
        self._note(noted)

    def flush(self) -> None:
        """Note what is waiting."""
        with self._lock:
            noted = self._take()
        self._note(noted)

    def _take(self) -> list[Entry]:
        taken, self._waiting, self._noted_at = self._waiting, [], time.monotonic()
        return taken

    def _note(self, entries: list[Entry]) -> None:
        if entries:
            self.vault.put(f"{self._prefix}{uuid.uuid4()}.jsonl", dump_progress(entries))

    @property
    def _prefix(self) -> str:
        return f"{SETS}{self.set_id}/progress/"


@dataclass
class Copier:
    """Copies what a set refers to. ``known`` are the entries of its parent, ``resumed`` those of an earlier try.

    Objects whose keys are in ``damaged`` were found damaged by a verification: they are stored anew.
    """

    vault: Vault
    lake: ObjectStore
    places: Places
    progress: Progress
    known: Files
    resumed: Files
    damaged: frozenset[str]
    told: Told
    faults: list[str] = field(default_factory=list)
    room: Room = field(default_factory=Room)
    _copied: int = 0
    _copied_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reused(self, uri: str) -> Entry | None:
        """The entry that the parent has of a file, where all that it says is there and whole."""
        found = self.known.get(uri)
        return found if found and self._is_whole(found) else None

    def extend(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The same entries, locked for as long as new ones are; only those are asked for that are due."""
        old = list(entries)
        due = [entry for entry in old if any(map(self.vault.is_due, entry.objects))]
        extended = {entry.uri: entry for entry in in_threads(self._extended, due)}
        return (extended.get(entry.uri, entry) for entry in old)

    def fetch(self, reference: Reference) -> tuple[Reference, Entry, bytes] | None:
        """Store a small file whose content is looked into, and return it; None where it is missing."""
        found = self.resumed.get(reference.uri)
        if found and self._is_whole(found):
            kept = self.vault.get(found.copy.key)
            if hashlib.sha256(kept).hexdigest() == found.copy.sha256:
                return reference, found, kept
        body = self._body(reference)
        if body is None:
            return None
        copy = self._put(self.places.copy_key(reference.uri), body)
        entry = Entry(reference.uri, reference.kind, copy, snapshot_id=reference.snapshot_id)
        self._note(entry, len(body))
        return reference, entry, body

    def copy(self, reference: Reference, sha256: str = "") -> Entry | None:
        """Store a file as it is, and rewritten if it names others; None where it is missing or not what was said."""
        found = self.resumed.get(reference.uri)
        if found and self._is_whole(found):
            return replace(found, kind=reference.kind)
        failpoint("backup.before_copy", reference.uri)
        stored = self._store(reference, sha256)
        if stored is None:
            return None
        entry = Entry(reference.uri, reference.kind, *stored)
        failpoint("backup.after_copy", reference.uri)
        self._note(entry, entry.copy.size_bytes)
        return entry

    def put_query(self, entry: Entry, body: bytes) -> Entry:
        """Store the rewritten form of an entry's file."""
        return replace(entry, query=self._put_rewritten(entry.uri, body))

    def require_all(self) -> None:
        """Raise :class:`FilesMissing` naming the files that could not be copied."""
        if self.faults:
            named = "; ".join(sorted(self.faults)[:_MOST_NAMED])
            more = f"; and {len(self.faults) - _MOST_NAMED} more" if len(self.faults) > _MOST_NAMED else ""
            raise FilesMissing(
                f"{len(self.faults)} files of the lake are missing or damaged",
                where=named + more,
                untouched="all backups; this set is not complete",
                todo="bring them back from an earlier set, then run `lakehouse backup create` again",
            )

    def _store(self, reference: Reference, sha256: str) -> tuple[Stored, Stored | None] | None:
        if reference.kind in _CARRIED and reference.size_bytes is not None:
            stored = self._carry(reference, reference.size_bytes, sha256)
            return (stored, None) if stored else None
        body = self._body(reference)
        if body is None:
            return None
        digest = hashlib.sha256(body).hexdigest()
        copy = self._put(self.places.copy_key(reference.uri), body, digest)
        if reference.kind not in _NAMES_OTHERS:
            return copy, None
        try:
            rewritten = rewrite_deletes(reference.kind, body, self.places.moved)
        except ValueError as error:
            self.faults.append(f"{reference.uri} cannot be read: {error}")
            return None
        return copy, self._put_rewritten(reference.uri, rewritten)

    def _body(self, reference: Reference) -> bytes | None:
        bucket, key = self.places.split(reference.uri)
        try:
            body = self.lake.in_bucket(bucket).get(key, ChecksumMode="ENABLED")
        except (NotAsAnnounced, IntegrityError) as error:
            if reference.is_needed:
                self._fault(reference, error)
            return None
        if reference.size_bytes not in (None, len(body)):
            self.faults.append(f"{reference.uri} has {len(body)} bytes, {reference.size_bytes} were expected")
            return None
        return body

    def _carry(self, reference: Reference, size_bytes: int, sha256: str) -> Stored | None:
        """A file that is not looked into: each byte is read once, and none is kept."""
        (bucket, source), key = self.places.split(reference.uri), self.places.copy_key(reference.uri)
        lake, anew = self.lake.in_bucket(bucket), key in self.damaged
        try:
            return self.vault.carry(lake, source, key, size_bytes, self.room, sha256=sha256, anew=anew)
        except (NotAsAnnounced, IntegrityError) as error:
            self._fault(reference, error)
        return None

    def _fault(self, reference: Reference, error: NotAsAnnounced | IntegrityError) -> None:
        """Note what the lake has lost or damaged. Raises what the vault says of its own objects."""
        if isinstance(error, IntegrityError) and "missing" not in error.what:
            raise error
        problem = "has other bytes than were expected" if isinstance(error, NotAsAnnounced) else "is missing"
        self.faults.append(f"{reference.uri} {problem}")

    def _put(self, key: str, body: bytes, sha256: str = "") -> Stored:
        return self.vault.put(key, body, sha256=sha256, anew=key in self.damaged)

    def _put_rewritten(self, uri: str, body: bytes) -> Stored:
        digest = hashlib.sha256(body).hexdigest()
        return self._put(self.places.query_key(uri, digest), body, digest)

    def _note(self, entry: Entry, size_bytes: int) -> None:
        self.progress.add(entry)
        with self._lock:
            self._copied += 1
            self._copied_bytes += size_bytes
            self.told("copying", self._copied, self._copied_bytes)

    def _extended(self, entry: Entry) -> Entry:
        query = self.vault.extended(entry.query) if entry.query else None
        return replace(entry, copy=self.vault.extended(entry.copy), query=query)

    def _is_whole(self, entry: Entry) -> bool:
        return not any(stored.key in self.damaged for stored in entry.objects)
