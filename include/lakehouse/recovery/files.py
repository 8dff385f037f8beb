"""Files of a set, brought to where a lake is to be: what is there and whole stays, and is not copied again.

Each byte that is copied is read once, and the server checks what arrives by its SHA-256. What is found under a key of
the lake with other bytes is damage, since files of a lake never change; it is replaced, and a bucket with versions
keeps what it was. A file whose copy in the backup is damaged is looked for among the versions that the servers have.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from lakehouse.backup.copying import Told, in_threads
from lakehouse.backup.iceberg import (
    Kind,
    Reference,
    references,
    rewrite_deletes,
    rewrite_list,
    rewrite_manifest,
    rewrite_metadata,
    rewrite_view,
)
from lakehouse.backup.places import Relocation
from lakehouse.backup.room import Room
from lakehouse.backup.sets import Entry
from lakehouse.backup.vault import OtherBytes, Stored, Vault
from lakehouse.core.errors import IntegrityError
from lakehouse.core.failpoints import failpoint
from lakehouse.ledger.store import NotAsAnnounced
from lakehouse.recovery.target import Target

_LEVELS: tuple[Kind, ...] = ("manifest", "manifest_list")
_LOOKED_INTO: tuple[Kind, ...] = (*_LEVELS, "metadata")
_NAMES_OTHERS: tuple[Kind, ...] = (*_LOOKED_INTO, "view", "position_deletes", "deletion_vector")
_FORMER: tuple[Kind, ...] = ("former_metadata", "metadata")  # among the files of a table: of its log, not needed
_NAMED = 20
_PLACE_PARTS = {"warehouse": 3, "landing": 2}


def folders(relocation: Relocation, entries: Iterable[Entry]) -> set[tuple[str, str]]:
    """The buckets and prefixes below which files go, few enough to be listed."""
    found = set()
    for entry in entries:
        bucket, key = relocation.place(entry.uri)
        role = "warehouse" if relocation.source.split(entry.uri)[0] == relocation.source.warehouse else "landing"
        parts = key.removeprefix(relocation.prefix).split("/")
        most = min(_PLACE_PARTS[role], len(parts) - 1)
        found.add((bucket, relocation.prefix + "".join(f"{part}/" for part in parts[:most])))
    return found


def sizes_there(target: Target, relocation: Relocation, entries: Iterable[Entry]) -> dict[tuple[str, str], int]:
    """What lies where the files go, by bucket and key. It tells what is missing; what is whole is asked of each."""

    def below(place: tuple[str, str]) -> list[tuple[tuple[str, str], int]]:
        bucket, prefix = place
        return [((bucket, found.key), found.size_bytes) for found in target.in_bucket(bucket).list_after(prefix)]

    return dict(pair for pairs in in_threads(below, sorted(folders(relocation, entries))) for pair in pairs)


def is_missing(entry: Entry, relocation: Relocation, there: Mapping[tuple[str, str], int]) -> bool:
    """Whether a file has to be copied, as far as sizes tell."""
    size = there.get(relocation.place(entry.uri))
    if size is None:
        return True
    is_same = relocation.is_same or entry.kind not in _NAMES_OTHERS
    return is_same and size != entry.copy.size_bytes


@dataclass(frozen=True)
class Whole:
    """A file that is where it belongs, and as it should be."""

    uri: str
    sha256: str
    size_bytes: int


@dataclass
class Bringing:
    """Brings files of sets to a target. ``there`` is what lies there already; with ``thorough``, all of it is read."""

    vault: Vault
    target: Target
    relocation: Relocation
    there: Mapping[tuple[str, str], int]
    told: Told
    thorough: bool = False
    faults: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    whole: dict[str, Whole] = field(default_factory=dict)
    """By the name of the original."""
    named: dict[str, list[Reference]] = field(default_factory=dict)
    """What files name whose bytes there are known, by their names there: read there, or confirmed when stored."""
    room: Room = field(default_factory=Room)
    files: int = 0
    size_bytes: int = 0
    verified_files: int = 0
    verified_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bring(self, entries: Iterable[Entry]) -> None:
        """All of these, from the leaves up: a file is there before another one names it. Raises where one is lost."""
        ordered = sorted(entries, key=lambda entry: -entry.copy.size_bytes)
        upper = {kind: [entry for entry in ordered if entry.kind == kind] for kind in _LEVELS}
        self._level([entry for entry in ordered if entry.kind not in _LEVELS])
        for level in upper.values():
            self._level(level)

    def bring_metadata(self, entry: Entry, body: bytes) -> Whole:
        """A table's metadata file, or a view's, that was read and perhaps made anew."""
        if self.relocation.is_same:
            return self._put(entry.uri, body, entry.kind)
        if entry.kind == "view":
            return self._put(entry.uri, rewrite_view(body, self.relocation), entry.kind)
        moved = rewrite_metadata(body, self.relocation, lambda each: self._move(each)[0], is_guarded=False)
        return self._put(entry.uri, moved, entry.kind)

    def bring_logs(self, entries: Iterable[Entry]) -> None:
        """Entries of logs, the last ones first: until all are there, a log has a gap, and nobody appends to it.

        One that is there stays. Raises :class:`IntegrityError` where another one has its number.
        """
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(entry.uri.rpartition("/")[0], []).append(entry)
        parts = [sorted(group, key=lambda entry: entry.uri, reverse=True) for group in groups.values()]
        in_threads(self._last, parts)
        self.require_all()
        in_threads(self._log_entry, [entry for part in parts for entry in part[1:]])
        self.require_all()

    def require_all(self) -> None:
        """Raise :class:`IntegrityError` naming the files that are lost, if there are any."""
        if self.faults:
            raise lost(sorted(self.faults))

    def verify(self, heads: Iterable[tuple[Whole, Kind]]) -> None:
        """Walk from metadata files to every file by what they say, where they are now. Raises :class:`IntegrityError`.

        Data must be among what was found whole or copied; all that names files is read.
        """
        by_place = {each.uri: each for each in self.whole.values()}
        reached: set[str] = set()
        waiting = list(heads)
        while waiting:
            fresh = [each for each in dict(waiting).items() if each[0].uri not in reached]
            reached.update(head.uri for head, _ in fresh)
            below: dict[Whole, Kind] = {}
            for (file, _), named in zip(fresh, in_threads(lambda each: self._named(*each), fresh), strict=True):
                for reference in named:
                    self._check(file, reference, by_place, below)
            self.require_all()
            leaves = [file for file, kind in below.items() if kind not in _LOOKED_INTO and file.uri not in reached]
            reached.update(file.uri for file in leaves)
            self._verified(leaves)
            waiting = [each for each in below.items() if each[1] in _LOOKED_INTO]

    def _check(
        self, file: Whole, reference: Reference, by_place: Mapping[str, Whole], below: dict[Whole, Kind]
    ) -> None:
        found = by_place.get(reference.uri)
        if found is None:
            if reference.is_needed:
                self.faults.append(f"{reference.uri}, which {file.uri} names, was not brought back")
        elif reference.size_bytes not in (None, found.size_bytes):
            self.faults.append(f"{reference.uri} has {found.size_bytes} bytes, {file.uri} says {reference.size_bytes}")
        else:
            below[found] = reference.kind

    def _named(self, file: Whole, kind: Kind) -> list[Reference]:
        """What a file names, read where it is, unless it was read there before."""
        named = self.named.get(file.uri)
        if named is None:
            body = self._live(file.uri)
            if body is None or hashlib.sha256(body).hexdigest() != file.sha256:
                self.faults.append(f"{file.uri} is not what was written")
                return []
            named = references(kind, body)
        self._verified([file])
        return named

    def _verified(self, files: list[Whole]) -> None:
        with self._lock:
            self.verified_files += len(files)
            self.verified_bytes += sum(file.size_bytes for file in files)
            self.told("verifying", self.verified_files, self.verified_bytes)

    def _live(self, uri: str) -> bytes | None:
        bucket, _, key = uri.partition("://")[2].partition("/")
        try:
            return self.target.in_bucket(bucket).get(key)
        except IntegrityError:
            return None

    def _level(self, entries: list[Entry]) -> None:
        in_threads(self._bring, entries)
        self.require_all()

    def _bring(self, entry: Entry) -> None:
        if self.relocation.is_same or entry.kind not in _NAMES_OTHERS:
            self._bring_as_it_is(entry)
        elif entry.kind not in _FORMER:
            body = self._good(entry)
            if body is not None:
                self._put(entry.uri, self._rewritten(entry, body), entry.kind)

    def _rewritten(self, entry: Entry, body: bytes) -> bytes:
        if entry.kind == "manifest":
            return rewrite_manifest(body, self.relocation, self._move)
        if entry.kind == "manifest_list":
            return rewrite_list(body, self._move)
        return rewrite_deletes(entry.kind, body, self.relocation.moved)

    def _move(self, uri: str) -> tuple[str, int | None]:
        """Where a file is now, and its size; one that no longer lives leads to where it would be."""
        found = self.whole.get(uri)
        return (found.uri, found.size_bytes) if found else (self.relocation.moved(uri), None)

    def _bring_as_it_is(self, entry: Entry) -> None:
        bucket, key = self.relocation.place(entry.uri)
        is_there = (bucket, key) in self.there
        if not (is_there and self._is_whole(entry, bucket, key)):
            failpoint("restore.before_copy", entry.uri)
            if not self._copy(entry, bucket, key, anew=is_there):
                if entry.kind not in _FORMER:
                    self.faults.append(self._where(entry))
                return
            failpoint("restore.after_copy", entry.uri)
            self._count(entry.copy.size_bytes)
            if is_there:
                self.replaced.append(f"s3://{bucket}/{key}")
        self.whole[entry.uri] = Whole(f"s3://{bucket}/{key}", entry.copy.sha256, entry.copy.size_bytes)

    def _is_whole(self, entry: Entry, bucket: str, key: str) -> bool:
        """Whether what is there is what the set has: by all bytes, or by what the server says of it."""
        live = self._bucket(bucket)
        if entry.kind in _LOOKED_INTO:
            return self._is_read_whole(entry, live, key)
        head = live.head(key)
        if head is None or head.size_bytes != entry.copy.size_bytes:
            return False
        if head.sha256:
            return head.sha256 == entry.copy.sha256
        if head.checksum and head.checksum == entry.copy.checksum:
            return True
        if not self.thorough:
            return True
        return live.digest(key)[0] == entry.copy.sha256

    def _is_read_whole(self, entry: Entry, live: Vault, key: str) -> bool:
        try:
            body = live.get(key)
        except IntegrityError:
            return False
        if hashlib.sha256(body).hexdigest() != entry.copy.sha256:
            return False
        self.named[live.store.where(key)] = references(entry.kind, body)
        return True

    def _copy(self, entry: Entry, bucket: str, key: str, *, anew: bool) -> bool:
        stored, live = entry.copy, self._bucket(bucket)
        if entry.kind in _LOOKED_INTO:
            body = self._good(entry, tells=False)
            if body is not None:
                self._put_at(live, key, body, stored.sha256, entry.kind, anew=anew)
            return body is not None
        return any(
            self._carry(stored, version, live, key, anew=anew) for version in dict.fromkeys(("", stored.version))
        )

    def _carry(self, stored: Stored, version: str, live: Vault, key: str, *, anew: bool) -> bool:
        """Copy an object. Where its bytes are not those that were stored, nothing is."""
        carry = partial(live.carry, self.vault.store, stored.key, key, stored.size_bytes, self.room)
        try:
            carry(sha256=stored.sha256, version=version, anew=anew)
        except NotAsAnnounced:
            return False
        except OtherBytes:
            self.replaced.append(live.store.where(key))
            return self._carry(stored, version, live, key, anew=True)
        except IntegrityError as error:
            if error.what == "an object is missing":
                return False
            raise
        return True

    def _good(self, entry: Entry, *, tells: bool = True) -> bytes | None:
        try:
            return read_good(self.vault, entry.copy)
        except IntegrityError:
            if tells:
                self.faults.append(self._where(entry))
            return None

    def _where(self, entry: Entry) -> str:
        return f"{self.vault.store.where(entry.copy.key)} (of {entry.uri})"

    def _put(self, uri: str, body: bytes, kind: Kind) -> Whole:
        """Store a file that was made anew, unless the same bytes are there already."""
        bucket, key = self.relocation.place(uri)
        done = Whole(f"s3://{bucket}/{key}", hashlib.sha256(body).hexdigest(), len(body))
        is_there = (bucket, key) in self.there
        if not is_there or self._live(done.uri) != body:
            failpoint("restore.before_copy", uri)
            self._put_at(self._bucket(bucket), key, body, done.sha256, kind, anew=is_there)
            failpoint("restore.after_copy", uri)
            self._count(len(body))
            if is_there:
                self.replaced.append(done.uri)
        self.whole[uri] = done
        return done

    def _put_at(self, live: Vault, key: str, body: bytes, sha256: str, kind: Kind, *, anew: bool) -> None:
        try:
            done = live.put(key, body, sha256=sha256, anew=anew)
        except OtherBytes:
            self.replaced.append(live.store.where(key))
            done = live.put(key, body, sha256=sha256, anew=True)
        if done.is_confirmed:
            self.named[live.store.where(key)] = references(kind, body)

    def _last(self, newest_first: list[Entry]) -> None:
        self._log_entry(newest_first[0])

    def _log_entry(self, entry: Entry) -> None:
        bucket, key = self.relocation.place(entry.uri)
        body = self._good(entry)
        if body is None:
            return
        store = self.target.in_bucket(bucket)
        try:
            there = store.get(key) if (bucket, key) in self.there else None
        except IntegrityError:
            there = None
        if there == body:
            return
        if there is None and store.put_if_absent(key, body):
            self._count(len(body))
            return
        there = store.get(key)
        if there != body and _is_entry(there):
            raise _another_history(store.where(key))
        if there != body:
            store.put(key, body)
            self.replaced.append(store.where(key))
            self._count(len(body))

    def _bucket(self, bucket: str) -> Vault:
        """One of the target's buckets, with the checks that objects of the backup are stored with, and no lock."""
        return Vault(self.target.in_bucket(bucket), 0, self.vault.now)

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self.files += 1
            self.size_bytes += size_bytes
            self.told("copying", self.files, self.size_bytes)


def read_good(vault: Vault, stored: Stored) -> bytes:
    """The bytes of an object of the backup, from whichever version is whole. Raises :class:`IntegrityError`."""
    for version in dict.fromkeys(("", stored.version)):
        try:
            body = vault.get(stored.key, version)
        except IntegrityError:
            continue
        if hashlib.sha256(body).hexdigest() == stored.sha256:
            return body
    raise lost([vault.store.where(stored.key)])


def _is_entry(body: bytes) -> bool:
    """Whether these bytes are an entry of a log, and so somebody's word."""
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def _another_history(where: str) -> IntegrityError:
    return IntegrityError(
        "the lake's log has another entry under a number that the set has, too",
        where=where,
        untouched="every table, and this log: logs are never rewritten",
        todo="see who wrote it: a lake that was begun anew cannot be restored into; restore into other buckets, or "
        "move what is in this one",
    )


def lost(files: list[str]) -> IntegrityError:
    """The error that names files of a backup that are lost."""
    named = "; ".join(files[:_NAMED]) + (f"; and {len(files) - _NAMED} more" if len(files) > _NAMED else "")
    return IntegrityError(
        f"{len(files)} files of the backup are missing or damaged",
        where=named,
        untouched="every table: nothing was swapped; files that were brought back stay",
        todo="restore from another set (`lakehouse backup list`), or see `lakehouse backup verify`",
    )
