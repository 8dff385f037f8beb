"""Making a backup set: cut, copy what is new, rewrite what names other files, sign, and say that it is complete.

What an earlier complete set has is not read again, and neither is what a try of this set stored before it was cut
short. Every set stands for itself: it lists all files of its tables, whichever set brought them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lakehouse.backup.copying import Copier, FilesMissing, Progress, Told, in_threads
from lakehouse.backup.cut import cut
from lakehouse.backup.fingerprint import content_fingerprint
from lakehouse.backup.iceberg import (
    Document,
    Kind,
    Reference,
    read_document,
    references,
    rewrite_list,
    rewrite_manifest,
    rewrite_metadata,
)
from lakehouse.backup.places import Places
from lakehouse.backup.records import damaged_keys
from lakehouse.backup.roster import enter
from lakehouse.backup.sets import (
    COMPLETE,
    FILES,
    MANIFEST,
    PLAN,
    PRUNED,
    BackedUp,
    BackupSet,
    Entry,
    Files,
    LogEnds,
    Manifest,
    Plan,
    Pointer,
    dump_files,
    is_complete,
    load_set,
    set_ids,
    set_key,
)
from lakehouse.backup.signing import Signer, signer_of
from lakehouse.backup.vault import Vault
from lakehouse.core.clock import Clock
from lakehouse.core.errors import IntegrityError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.settings import Settings
from lakehouse.ledger.decisions import decision_log
from lakehouse.ledger.log import landing_log
from lakehouse.ledger.retention_lock import keeping_files, writing_backups
from lakehouse.ledger.store import ObjectStore

if TYPE_CHECKING:
    from sqlalchemy import Engine

_LEVELS: tuple[Kind, ...] = ("metadata", "manifest_list", "manifest")


def create(settings: Settings, clock: Clock, told: Told = lambda *_: None, *, is_full: bool = False) -> BackupSet:
    """Make a set, or go on with one that was cut short. Raises :class:`TableBusy` where somebody else makes one."""
    from lakehouse.ledger.watermark import open_catalog

    signer_of(settings)  # before anything is copied
    engine: Any = open_catalog(settings)
    with writing_backups(settings), keeping_files(settings):
        return create_from(settings, engine.engine, clock, told, is_full=is_full)


def create_from(
    settings: Settings, engine: Engine, clock: Clock, told: Told = lambda *_: None, *, is_full: bool = False
) -> BackupSet:
    """The same from this catalog. Needs the locks: nobody else makes a set, and nobody removes files."""
    vault = Vault.open(settings, clock.now())
    signer, places = signer_of(settings), Places.of(settings)
    begun, before = _stand(vault, signer, told)
    before = replace(before, files={}) if is_full else before
    if begun and begun.parent == before.id and _is_here(begun, places):
        try:
            return _Build(settings, vault, places, begun, before, told).run(signer, clock)
        except FilesMissing:
            told("a set that was cut short needs files that are gone; making a new cut", 0, 0)
    plan = cut(engine, ObjectStore.open(settings), places, clock, before.id, before.ends)
    vault.put(set_key(plan.id, PLAN), plan.to_json())
    failpoint("backup.after_plan")
    return _Build(settings, vault, places, plan, before, told).run(signer, clock)


@dataclass(frozen=True)
class _Before:
    """What an earlier complete set has: its entries, which need not be read again, and the ends of its logs."""

    id: str = ""
    files: Files = field(default_factory=dict)
    tables: Mapping[tuple[str, str], BackedUp] = field(default_factory=dict)
    ends: Mapping[str, LogEnds] = field(default_factory=dict)

    @classmethod
    def of(cls, found: BackupSet) -> _Before:
        """Of this set. Raises :class:`IntegrityError` where its list of files cannot be read."""
        tables = {(each.table, each.metadata): each for each in found.manifest.tables}
        return cls(found.id, found.files(), tables, found.manifest.sources)


def _stand(vault: Vault, signer: Signer, told: Told) -> tuple[Plan | None, _Before]:
    """A set that was begun after the last complete one that can be read, if any, and what that one has."""
    begun: Plan | None = None
    for set_id in reversed(set_ids(vault)):
        if is_complete(vault, set_id):
            try:
                return begun, _Before.of(load_set(vault, set_id, signer.public_key))
            except IntegrityError as error:
                told(f"{set_id} is of no use: {error.what}", 0, 0)
                continue
        key = set_key(set_id, PLAN)
        if begun is None and vault.head(key) and not vault.head(set_key(set_id, PRUNED)):
            begun = Plan.from_json(vault.get(key), vault.store.where(key))
    return begun, _Before()


def _is_here(plan: Plan, places: Places) -> bool:
    return (plan.warehouse, plan.landing) == (places.warehouse, places.landing)


@dataclass
class _Build:
    """One set on its way from its plan to COMPLETE."""

    settings: Settings
    vault: Vault
    places: Places
    plan: Plan
    before: _Before
    told: Told
    entries: Files = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    leaves: dict[str, Reference] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        progress = Progress(self.vault, self.plan.id)
        damaged = damaged_keys(self.vault, self.before.id) if self.before.id else frozenset()
        self.landing = ObjectStore.for_copies(self.settings)
        self.copier = Copier(
            self.vault, self.landing, self.places, progress, self.before.files, progress.read(), damaged, self.told
        )

    def run(self, signer: Signer, clock: Clock) -> BackupSet:
        """Everything that the plan refers to, and then the documents of the set."""
        self._walk_tables()
        self._walk_logs()
        failpoint("backup.after_metadata")
        self._copy_leaves()
        self.copier.require_all()
        self.copier.progress.flush()
        failpoint("backup.after_copies")
        self._rewrite()
        failpoint("backup.before_manifest")
        manifest = self._finish(signer, clock)
        failpoint("backup.after_complete")
        return BackupSet(self.vault, manifest)

    def _walk_tables(self) -> None:
        """From the pointers down to the files, one level at a time; only what is new is read."""
        self.places.require_inside(pointer.metadata_location for pointer in self.plan.pointers)
        waiting = {p.metadata_location: Reference(p.metadata_location, _pointed(p)) for p in self.plan.pointers}
        for kind in _LEVELS:
            self.told(f"reading what is new: {kind.replace('_', ' ')}", len(self.entries), 0)
            here = [reference for reference in waiting.values() if reference.kind == kind]
            below = self._level(here)
            self.places.require_inside(reference.uri for reference in below)
            waiting = {uri: each for uri, each in waiting.items() if each.kind != kind}
            for reference in below:
                self._wait_for(waiting, reference)
        self.leaves |= {uri: _as_leaf(each) for uri, each in waiting.items() if uri not in self.entries}

    @staticmethod
    def _wait_for(waiting: dict[str, Reference], reference: Reference) -> None:
        """Whatever is needed by one is needed; a former metadata file may be another table's current one."""
        there = waiting.get(reference.uri)
        if there is None or (reference.is_needed and not there.is_needed):
            waiting[reference.uri] = reference

    def _level(self, here: list[Reference]) -> list[Reference]:
        """Take files of one level into the set; returns what they refer to."""
        reused = [(each, self.copier.reused(each.uri)) for each in here]
        # What was a leaf in the parent, a former metadata file say, has not been looked into.
        old = [entry for each, entry in reused if entry and entry.kind == each.kind]
        for entry in self.copier.extend(old):
            self.entries[entry.uri] = entry
        below = [self._known(uri) for entry in old for uri in entry.refs]
        taken = {entry.uri for entry in old}
        fetched = in_threads(self.copier.fetch, [each for each in here if each.uri not in taken])
        for reference, entry, body in filter(None, fetched):
            named = self._named(reference, body)
            self.bodies[entry.uri] = body
            unique = tuple(dict.fromkeys(each.uri for each in named))
            self.entries[entry.uri] = replace(
                entry, kind=reference.kind, refs=unique, snapshot_id=reference.snapshot_id, query=None
            )
            below += named
        return below

    def _named(self, reference: Reference, body: bytes) -> list[Reference]:
        try:
            return references(reference.kind, body)
        except (ValueError, KeyError, TypeError) as error:
            self.copier.faults.append(f"{reference.uri} cannot be read: {error}")
            return []

    def _known(self, uri: str) -> Reference:
        """What an entry of the parent refers to; the parent has that, too."""
        entry = self.copier.known[uri]
        return Reference(uri, entry.kind, entry.copy.size_bytes, entry.snapshot_id, entry.kind != "former_metadata")

    def _walk_logs(self) -> None:
        """Both logs of every source up to the cut, and the landed files that the landing log names."""
        uris = [uri for source, ends in self.plan.sources.items() for uri in self._log_uris(source, ends)]
        old = [entry for entry in map(self.copier.reused, uris) if entry]
        for entry in self.copier.extend(old):
            self.entries[entry.uri] = entry
            self._need(map(self._known, entry.refs))
        fresh = [Reference(uri, "log") for uri in uris if uri not in self.entries]
        for reference, entry, body in filter(None, in_threads(self.copier.fetch, fresh)):
            landed = list(self._landed(reference.uri, body))
            self._need(landed)
            self.entries[entry.uri] = replace(entry, refs=tuple(dict.fromkeys(each.uri for each in landed)))

    def _log_uris(self, source: str, ends: LogEnds) -> Iterator[str]:
        log, decisions = landing_log(self.landing, source), decision_log(self.landing, source)
        for number in range(1, ends.log + 1):
            yield f"s3://{self.places.landing}/{log.key(number)}"
        for number in range(1, ends.decisions + 1):
            yield f"s3://{self.places.landing}/{decisions.key(number)}"

    def _landed(self, uri: str, body: bytes) -> Iterator[Reference]:
        for file in landed_files(uri, body):
            landed = f"s3://{self.places.landing}/{file['key']}"
            self.hashes[landed] = file["sha256"]
            yield Reference(landed, "landed", file["size_bytes"])

    def _need(self, named: Iterable[Reference]) -> None:
        self.leaves |= {each.uri: each for each in named}

    def _copy_leaves(self) -> None:
        """Data, deletes, statistics and landed files: those that the parent has, and the new ones."""
        reused = [(uri, self.copier.reused(uri)) for uri in self.leaves]
        old = [_leaf_entry(entry, self.leaves[uri].kind) for uri, entry in reused if entry]
        for entry in self.copier.extend(old):
            self.entries[entry.uri] = entry
        fresh = [reference for uri, reference in self.leaves.items() if uri not in self.entries]
        # The largest first, so that no thread works on one alone at the end.
        fresh.sort(key=lambda reference: -(reference.size_bytes or 0))
        copied = in_threads(lambda each: self.copier.copy(each, self.hashes.get(each.uri, "")), fresh)
        self.entries |= {entry.uri: entry for entry in filter(None, copied)}
        self._drop_former()

    def _drop_former(self) -> None:
        """Former metadata files that are gone were not needed: nothing refers to them any more."""
        gone = {uri for uri, each in self.leaves.items() if not each.is_needed and uri not in self.entries}
        if gone:
            for uri, entry in self.entries.items():
                if gone.intersection(entry.refs):
                    self.entries[uri] = replace(entry, refs=tuple(ref for ref in entry.refs if ref not in gone))

    def _rewrite(self) -> None:
        """Of what is new, from the manifests up, since each form names the forms below it."""
        for kind in reversed(_LEVELS):
            fresh = [self.entries[uri] for uri in self.bodies if self.entries[uri].kind == kind]
            self.told(f"rewriting: {kind.replace('_', ' ')}", len(fresh), 0)
            for entry in in_threads(self._rewritten, fresh):
                self.entries[entry.uri] = entry

    def _rewritten(self, entry: Entry) -> Entry:
        body = self.bodies[entry.uri]
        if entry.kind == "manifest":
            return self.copier.put_query(entry, rewrite_manifest(body, self.places, self._move))
        if entry.kind == "manifest_list":
            return self.copier.put_query(entry, rewrite_list(body, self._move))
        return self.copier.put_query(entry, rewrite_metadata(body, self.places, lambda uri: self._move(uri)[0]))

    def _move(self, uri: str) -> tuple[str, int | None]:
        """Where a file is read in the copy. One that no longer lives is still named, and leads to where it would be."""
        entry = self.entries.get(uri)
        if entry is None or entry.query is None:
            return self.places.moved(uri), None
        return self.places.uri(entry.query.key), entry.query.size_bytes

    def _finish(self, signer: Signer, clock: Clock) -> Manifest:
        """The documents of the set, the seal last."""
        files = dump_files(self.entries.values())
        self.vault.put(set_key(self.plan.id, FILES), files, anew=True)
        manifest = self._manifest(hashlib.sha256(files).hexdigest(), clock).signed(signer)
        body = manifest.to_json()
        self.vault.put(set_key(self.plan.id, MANIFEST), body, anew=True)
        failpoint("backup.before_complete")
        if self.plan.parent:
            enter(self.vault, self.plan.parent)  # unless it was cut short just before that
        self.vault.put(set_key(self.plan.id, COMPLETE), hashlib.sha256(body).hexdigest().encode() + b"\n")
        failpoint("backup.before_roster")
        enter(self.vault, self.plan.id)
        return manifest

    def _manifest(self, files_sha256: str, clock: Clock) -> Manifest:
        mine = {entry.uri for entry in self.entries.values() if self._is_new(entry)}
        plan = self.plan
        return Manifest(
            id=plan.id,
            parent=plan.parent,
            cut_at=plan.cut_at,
            finished_at=clock.now().isoformat(),
            warehouse=plan.warehouse,
            landing=plan.landing,
            tables=tuple(self._backed_up(pointer) for pointer in plan.pointers),
            namespaces=plan.namespaces,
            sources=plan.sources,
            files=len(self.entries),
            size_bytes=sum(entry.copy.size_bytes for entry in self.entries.values()),
            new_files=len(mine),
            new_bytes=sum(self.entries[uri].copy.size_bytes for uri in mine),
            plan_sha256=hashlib.sha256(plan.to_json()).hexdigest(),
            files_sha256=files_sha256,
        )

    def _is_new(self, entry: Entry) -> bool:
        return self.copier.reused(entry.uri) is None

    def _backed_up(self, pointer: Pointer) -> BackedUp:
        entry = self.entries[pointer.metadata_location]
        below = reachable(self.entries, entry.uri)
        query = self.places.uri(entry.place.key) if pointer.kind == "TABLE" else ""
        files = len(below), sum(self.entries[uri].copy.size_bytes for uri in below)
        same = self.before.tables.get((pointer.table, entry.uri))
        if same and entry.uri not in self.bodies:
            described = replace(same, query_metadata=query, files=files[0], size_bytes=files[1])
        else:
            body = self.bodies.get(entry.uri) or self.vault.body(entry.copy)
            described = _described(pointer, read_document(body), query, *files)
        if pointer.kind == "VIEW":
            return described
        content = content_fingerprint(self.entries, entry.uri, described.snapshot_id)
        return replace(described, content_fingerprint=content)


def _pointed(pointer: Pointer) -> Kind:
    return "view" if pointer.kind == "VIEW" else "metadata"


def _as_leaf(reference: Reference) -> Reference:
    """A metadata file that no pointer of this set names any more, only the log of another one."""
    return replace(reference, kind="former_metadata", is_needed=False) if reference.kind in _LEVELS else reference


def _leaf_entry(entry: Entry, kind: Kind) -> Entry:
    """An entry of the parent as one that is not looked into, whatever it was there."""
    if entry.kind == kind and not entry.refs:
        return entry
    return replace(entry, kind=kind, refs=(), query=None if kind == "former_metadata" else entry.query)


def landed_files(uri: str, body: bytes) -> list[Document]:
    """The files that an entry of a landing log names; a decision names none."""
    found: list[Document] = json.loads(body).get("files", []) if "/log/" in uri else []
    return found


def reachable(entries: Files, uri: str) -> set[str]:
    """A file and all that it leads to."""
    found, waiting = {uri}, [uri]
    while waiting:
        new = [each for each in entries[waiting.pop()].refs if each not in found]
        found.update(new)
        waiting += new
    return found


def _described(pointer: Pointer, document: Document, query: str, files: int, size: int) -> BackedUp:
    current = document.get("current-snapshot-id")
    snapshots = {each["snapshot-id"]: each for each in document.get("snapshots") or []}
    snapshot = snapshots.get(current)
    return BackedUp(
        table=pointer.table,
        kind=pointer.kind,
        metadata=pointer.metadata_location,
        query_metadata=query,
        uuid=document.get("table-uuid") or document.get("view-uuid", ""),
        format_version=document["format-version"],
        snapshot_id=snapshot["snapshot-id"] if snapshot else None,
        rows=_rows(snapshot["summary"]) if snapshot else 0,
        content_fingerprint="",
        files=files,
        size_bytes=size,
    )


def _rows(summary: Mapping[str, str]) -> int | None:
    if "total-records" not in summary or int(summary.get("total-equality-deletes", 0)):
        return None
    return int(summary["total-records"]) - int(summary.get("total-position-deletes", 0))
