"""Which tables are restored, out of which set, and to which of their snapshots."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from lakehouse.backup.iceberg import metadata_references, read_document, write_document
from lakehouse.backup.places import Places
from lakehouse.backup.sets import BackedUp, BackupSet, Entry, Files, complete_ids, load_set, require_known
from lakehouse.backup.vault import Stored, Vault
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.engine.pointer import is_copy
from lakehouse.recovery.documents import (
    Document,
    NotKnown,
    as_of,
    companion_head,
    current_of,
    head_at,
    name_beside,
    rows_of,
    was_published,
)

_COMPANION = {"silver": "quarantine"}


@dataclass(frozen=True)
class Wanted:
    """What somebody wants back, and as of when: of a set (default: the newest), a moment, or a snapshot.

    ``names`` are tables and namespaces; with ``everything``, all tables, the logs and what landed. With ``thorough``,
    every byte of what is in the lake already is read.
    """

    names: tuple[str, ...] = ()
    everything: bool = False
    set_id: str = ""
    at: datetime | None = None
    snapshot: int | None = None
    thorough: bool = False

    def __post_init__(self) -> None:
        if self.everything == bool(self.names):
            raise SettingsError("say what to restore: tables, namespaces, or --all")
        if self.at is not None and self.at.tzinfo is None:
            raise SettingsError("a moment needs a time zone")
        if sum((bool(self.set_id), self.at is not None, self.snapshot is not None)) > 1:
            raise SettingsError("--set, --at and --snapshot exclude each other")
        if self.snapshot is not None and (len(self.names) != 1 or "." not in self.names[0]):
            raise SettingsError("--snapshot is of one table", todo="name that table alone")


@dataclass(frozen=True)
class Aim:
    """A table as it is to be: its metadata, byte for byte from the set or as of an earlier snapshot of it.

    ``metadata`` says where that belongs, ``refs`` what it names.
    """

    table: TableName
    kind: str
    found: BackupSet = field(repr=False)
    metadata: Entry = field(repr=False)
    body: bytes = field(repr=False)
    snapshot: int | None
    rows: int | None
    refs: tuple[str, ...] = field(repr=False)


@dataclass
class Choice:
    """Finds tables in the sets of a vault."""

    vault: Vault
    public_key: str
    _sets: dict[str, BackupSet] = field(default_factory=dict)
    _files: dict[str, Files] = field(default_factory=dict)
    _documents: dict[str, Document] = field(default_factory=dict)

    @cached_property
    def ids(self) -> list[str]:
        """The complete sets, oldest first."""
        require_known(self.vault, "")
        return complete_ids(self.vault)

    def load(self, set_id: str) -> BackupSet:
        """A set, read once."""
        if set_id not in self._sets:
            self._sets[set_id] = load_set(self.vault, set_id, self.public_key)
        return self._sets[set_id]

    def files(self, found: BackupSet) -> Files:
        """The entries of a set, read once."""
        if found.id not in self._files:
            self._files[found.id] = found.files()
        return self._files[found.id]

    def newest(self) -> BackupSet:
        """The last complete set."""
        return self.load(self.ids[-1])

    def aims(self, wanted: Wanted) -> list[Aim]:
        """What is to become of each table that is wanted. Raises :class:`SettingsError` for one that is in no set."""
        if wanted.at is not None:
            aims = dict(self._at(wanted, wanted.at))
        elif wanted.snapshot is not None:
            aims = self._at_snapshot(TableName.parse(wanted.names[0]), wanted.snapshot)
        else:
            found = self.load(require_known(self.vault, wanted.set_id))
            aims = {name: self._as_stored(found, each) for name, each in _selected(found, wanted).items()}
        self._require_named(wanted, aims)
        self._pair(aims)
        return [aims[name] for name in sorted(aims)]

    def _require_named(self, wanted: Wanted, aims: Mapping[TableName, Aim]) -> None:
        unknown = [name for name in wanted.names if not any(name in (str(table), table.namespace) for table in aims)]
        if unknown:
            raise SettingsError(
                f"there is no {', '.join(unknown)} in the backup"
                + (f" as of {wanted.at:%Y-%m-%d %H:%M:%S} UTC" if wanted.at else ""),
                todo="`lakehouse backup show` says what a set has, `lakehouse backup list` which sets there are",
            )

    def _as_stored(self, found: BackupSet, each: BackedUp) -> Aim:
        return self._aim(found, each, current_of(self._document(found, each)))

    def _aim(self, found: BackupSet, each: BackedUp, snapshot: int | None) -> Aim:
        """A table of a set as of one of its snapshots; the very bytes of the set where it is at that."""
        document = self._document(found, each)
        target = as_of(document, snapshot)
        entry = self.files(found)[each.metadata]
        if target is document:
            body, refs = self._body(found, each), entry.refs
        else:
            body = write_document(dict(target))
            refs = tuple(dict.fromkeys(reference.uri for reference in metadata_references(dict(target))))
            stored = Stored("", len(body), hashlib.sha256(body).hexdigest())
            entry = Entry(name_beside(each.metadata, body), "metadata", stored, refs=refs)
        rows = 0 if each.kind == "VIEW" else rows_of(target, snapshot)
        return Aim(TableName.parse(each.table), each.kind, found, entry, body, snapshot, rows, refs)

    def _at(self, wanted: Wanted, at: datetime) -> Iterator[tuple[TableName, Aim]]:
        """Each table out of the oldest set after the moment that still knows it, else the newest before it."""
        after = [set_id for set_id in self.ids if _cut_at(self.load(set_id)) >= at]
        before = [set_id for set_id in self.ids if set_id not in after]
        names = {name for set_id in (*before[-1:], *after) for name in _selected(self.load(set_id), wanted)}
        for name in sorted(names):
            aim = next(filter(None, (self._known(self.load(each), name, at) for each in after)), None)
            if aim is None and before and (each := _selected(self.load(before[-1]), wanted).get(name)):
                aim = self._as_stored(self.load(before[-1]), each)
            if aim is not None:
                yield name, aim

    def _known(self, found: BackupSet, name: TableName, at: datetime) -> Aim | None:
        each = _tables(found).get(name)
        if each is None:
            return None
        document = self._document(found, each)
        try:
            if each.kind == "VIEW":
                return self._as_stored(found, each) if _view_since(document) <= at.timestamp() * 1000 else None
            return self._aim(found, each, head_at(document, at.timestamp() * 1000))
        except NotKnown:
            return None

    def _at_snapshot(self, name: TableName, snapshot: int) -> dict[TableName, Aim]:
        """Out of the newest set that has it."""
        for set_id in reversed(self.ids):
            found = self.load(set_id)
            each = _tables(found).get(name)
            if each is not None and each.kind != "VIEW" and was_published(self._document(found, each), snapshot):
                return {name: self._aim(found, each, snapshot)}
        raise SettingsError(
            f"no set has a published snapshot {snapshot} of {name}",
            where=f"{len(self.ids)} sets, the oldest of {_cut_at(self.load(self.ids[0])):%Y-%m-%d %H:%M:%S} UTC",
            todo=f"`lakehouse snapshots {name}` lists those that are there; --at takes a time",
        )

    def _pair(self, aims: dict[TableName, Aim]) -> None:
        """A silver table and its quarantine are published together, and go back together."""
        for name, aim in list(aims.items()):
            other = TableName(_COMPANION[name.namespace], name.name) if name.namespace in _COMPANION else None
            each = _tables(aim.found).get(other) if other else None
            if other is None or each is None:
                continue
            stored = self._document(aim.found, _tables(aim.found)[name])
            if current_of(stored) == aim.snapshot:
                aims[other] = self._as_stored(aim.found, each)
                continue
            try:
                head = companion_head(stored, aim.snapshot, self._document(aim.found, each))
            except NotKnown:
                raise SettingsError(
                    f"what {other} had when {name} was at snapshot {aim.snapshot} has expired in {aim.found.id}",
                    untouched="everything",
                    todo="restore to a set, or to a later moment",
                ) from None
            aims[other] = self._aim(aim.found, each, head)

    def _document(self, found: BackupSet, each: BackedUp) -> Document:
        if each.metadata not in self._documents:
            self._documents[each.metadata] = read_document(self._body(found, each))
        return self._documents[each.metadata]

    def _body(self, found: BackupSet, each: BackedUp) -> bytes:
        from lakehouse.recovery.files import read_good

        entry = self.files(found).get(each.metadata)
        if entry is None:
            raise IntegrityError(f"{found.id} does not list the metadata of {each.table}", where=each.metadata)
        return read_good(self.vault, entry.copy)

    def needed(self, aims: Sequence[Aim]) -> dict[str, Entry]:
        """Every file that these tables lead to, but for their metadata."""
        needed: dict[str, Entry] = {}
        for aim in aims:
            files = self.files(aim.found)
            waiting = [uri for uri in aim.refs if uri not in needed]
            while waiting:
                uri = waiting.pop()
                entry = files.get(uri)
                if entry is not None and uri not in needed:
                    needed[uri] = entry
                    waiting += () if entry.kind == "metadata" else entry.refs
        return needed

    def logs(self) -> tuple[BackupSet, list[Entry], list[Entry]]:
        """The entries of all logs and the landed files, as of the newest set: logs only grow."""
        found = self.newest()
        entries = self.files(found).values()
        return (
            found,
            [entry for entry in entries if entry.kind == "log"],
            [entry for entry in entries if entry.kind == "landed"],
        )


def age(found: BackupSet, at: datetime) -> timedelta:
    """How long before a moment a set was cut."""
    return at - _cut_at(found)


def places_of(found: BackupSet) -> Places:
    """The buckets that a set was made of, and its own."""
    return Places(found.manifest.warehouse, found.manifest.landing, found.vault.store.bucket)


def _cut_at(found: BackupSet) -> datetime:
    return datetime.fromisoformat(found.manifest.cut_at)


def _view_since(document: Mapping[str, Any]) -> int:
    """When a view became what it is."""
    return int(document["version-log"][-1]["timestamp-ms"])


def _tables(found: BackupSet) -> dict[TableName, BackedUp]:
    """The tables and views of a set that are nobody's workpiece."""
    names = {TableName.parse(each.table): each for each in found.manifest.tables}
    return {name: each for name, each in names.items() if not is_copy(name)}


def _selected(found: BackupSet, wanted: Wanted) -> dict[TableName, BackedUp]:
    return {
        name: each
        for name, each in _tables(found).items()
        if wanted.everything or str(name) in wanted.names or name.namespace in wanted.names
    }
