"""What a backup set says of itself: its plan, its files, and the signed manifest; each with a format version.

``sets/<id>/plan.json`` is written first, ``files.jsonl.gz`` and ``manifest.json`` when everything is there, and
``COMPLETE``, which names the manifest's hash, last. A set without it is no backup.
"""

from __future__ import annotations

import gc
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lakehouse.backup.iceberg import Kind
from lakehouse.backup.signing import Signer, check_signature
from lakehouse.backup.vault import Stored, Vault
from lakehouse.core.errors import IntegrityError, SettingsError

FORMAT_VERSION = 1
SETS = "sets/"
ROSTER = "roster/"
PLAN, FILES, MANIFEST, COMPLETE, PRUNED = "plan.json", "files.jsonl.gz", "manifest.json", "COMPLETE", "PRUNED"


@dataclass(frozen=True)
class Pointer:
    """A row of the catalog at the cut. ``kind`` is TABLE or VIEW."""

    namespace: str
    name: str
    kind: str
    metadata_location: str

    @property
    def table(self) -> str:
        return f"{self.namespace}.{self.name}"


@dataclass(frozen=True)
class LogEnds:
    """How far the two logs of a source went at the cut."""

    log: int
    decisions: int


@dataclass(frozen=True)
class Plan:
    """The cut: every pointer of the catalog from one statement, and then the ends of the logs."""

    id: str
    cut_at: str
    parent: str
    warehouse: str
    landing: str
    pointers: tuple[Pointer, ...]
    namespaces: tuple[tuple[str, str, str], ...]
    sources: Mapping[str, LogEnds]
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        """The plan as it is stored."""
        return _json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Plan:
        """Read what :meth:`to_json` wrote; raises :class:`IntegrityError`."""
        with_version = _parsed(data, where)
        return cls(
            **{
                **with_version,
                "pointers": tuple(Pointer(**each) for each in with_version["pointers"]),
                "namespaces": tuple((a, b, c) for a, b, c in with_version["namespaces"]),
                "sources": {name: LogEnds(**ends) for name, ends in with_version["sources"].items()},
            }
        )


@dataclass(frozen=True)
class Entry:
    """A file that the set refers to: where it was, its copy, and its rewritten form where it names other files.

    ``refs`` are the originals that it names. ``snapshot_id`` is that of a manifest list.
    """

    uri: str
    kind: Kind
    copy: Stored
    query: Stored | None = None
    refs: tuple[str, ...] = ()
    snapshot_id: int | None = None

    @property
    def objects(self) -> tuple[Stored, ...]:
        """What the vault holds of it."""
        return (self.copy,) if self.query is None else (self.copy, self.query)

    @property
    def place(self) -> Stored:
        """Where it is read in the copy of a table."""
        return self.query or self.copy


Files = dict[str, Entry]
"""The entries of a set by the original's name."""


@dataclass(frozen=True)
class BackedUp:
    """A table of a set. ``metadata`` is the original's file, ``query_metadata`` what a catalog registers.

    ``rows`` is None where deletes by equality leave it open; ``files`` and ``size_bytes`` are those of all snapshots.
    ``content_fingerprint`` is of the current one, see :mod:`lakehouse.backup.fingerprint`; '' for a view.
    """

    table: str
    kind: str
    metadata: str
    query_metadata: str
    uuid: str
    format_version: int
    snapshot_id: int | None
    rows: int | None
    content_fingerprint: str
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a complete set holds, signed. ``new_*`` is what the set itself brought."""

    id: str
    parent: str
    cut_at: str
    finished_at: str
    warehouse: str
    landing: str
    tables: tuple[BackedUp, ...]
    namespaces: tuple[tuple[str, str, str], ...]
    sources: Mapping[str, LogEnds]
    files: int
    size_bytes: int
    new_files: int
    new_bytes: int
    plan_sha256: str
    files_sha256: str
    public_key: str = ""
    signature: str = ""
    format_version: int = FORMAT_VERSION

    def signed(self, signer: Signer) -> Manifest:
        """With a signature over everything else."""
        bare = replace(self, public_key=signer.public_key, signature="")
        return replace(bare, signature=signer.sign(_json(asdict(bare))))

    def check(self, public_key: str, where: str) -> None:
        """Raise :class:`IntegrityError` unless it was signed with the key whose public part this is."""
        check_signature(_json(asdict(replace(self, signature=""))), self.signature, public_key, where)

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        return _json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """Read what :meth:`to_json` wrote; raises :class:`IntegrityError`."""
        value = _parsed(data, where)
        try:
            return cls(
                **{
                    **value,
                    "tables": tuple(BackedUp(**each) for each in value["tables"]),
                    "namespaces": tuple((a, b, c) for a, b, c in value["namespaces"]),
                    "sources": {name: LogEnds(**ends) for name, ends in value["sources"].items()},
                }
            )
        except (TypeError, ValueError, KeyError) as error:
            raise _unreadable(where, error) from None


@dataclass(frozen=True)
class BackupSet:
    """A complete set: what its manifest says."""

    vault: Vault = field(repr=False)
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def documents(self) -> dict[str, str]:
        """The SHA-256 of each of its documents: the manifest has those of the plan and the files, its seal its own."""
        sealed = hashlib.sha256(self.manifest.to_json()).hexdigest()
        return {
            PLAN: self.manifest.plan_sha256,
            FILES: self.manifest.files_sha256,
            MANIFEST: sealed,
            COMPLETE: hashlib.sha256(f"{sealed}\n".encode()).hexdigest(),
        }

    def files(self) -> Files:
        """Its entries. Raises :class:`IntegrityError` where they are not those that the manifest was signed with."""
        key = set_key(self.id, FILES)
        try:
            data = self.vault.find(key, self.manifest.files_sha256)
        except IntegrityError:
            raise IntegrityError(
                "the list of a set's files is not the one that was signed",
                where=self.vault.store.where(key),
                todo="use another set; `lakehouse backup list` names them",
            ) from None
        return load_files(data)


def set_key(set_id: str, name: str) -> str:
    """Where a document of a set is."""
    return f"{SETS}{set_id}/{name}"


def set_ids(vault: Vault) -> list[str]:
    """Every set that was begun, oldest first: ids begin with the time of the cut."""
    return vault.folders(SETS)


def is_complete(vault: Vault, set_id: str) -> bool:
    """Whether a set is one: begun sets and such as are being removed are not.

    What says so is the seal, also one that was marked as deleted. The mark of a removal is none of it: anybody who
    writes could set that.
    """
    seal = set_key(set_id, COMPLETE)
    return vault.head(seal) is not None or bool(vault.versions(seal))


def complete_ids(vault: Vault) -> list[str]:
    """The complete sets, oldest first."""
    return [set_id for set_id in set_ids(vault) if is_complete(vault, set_id)]


def require_known(vault: Vault, set_id: str) -> str:
    """A complete set by its id, or the newest one for ''. Raises :class:`SettingsError` where there is none."""
    there = complete_ids(vault)
    lost = sorted({key.removeprefix(ROSTER) for key in vault.keys(ROSTER)} - set(there))
    if set_id in lost or (lost and not there):
        raise IntegrityError(
            f"backup set {set_id or lost[-1]} was complete once, and is gone",
            where=vault.store.where(set_key(set_id or lost[-1], COMPLETE)),
            todo="bring the objects below this prefix back, from versions of the bucket or its replica",
        )
    if not there:
        raise SettingsError("there is no complete backup set", todo="make one with `lakehouse backup create`")
    if set_id and set_id not in there:
        raise SettingsError(
            f"there is no complete set {set_id!r}", where=", ".join(there[-5:]), todo="see `lakehouse backup list`"
        )
    return set_id or there[-1]


def load_set(vault: Vault, set_id: str, public_key: str) -> BackupSet:
    """A complete set whose manifest is the one that was completed and signed, whatever lies over it now.

    Raises :class:`IntegrityError` where the server has none.
    """
    seal, key = set_key(set_id, COMPLETE), set_key(set_id, MANIFEST)
    try:
        return _load(vault, set_id, public_key, vault.get(seal), vault.get(key))
    except IntegrityError:
        manifests = {hashlib.sha256(data).hexdigest(): data for data in vault.bodies(key)}
        for sealed in vault.bodies(seal):
            data = manifests.get(sealed.decode(errors="replace").strip(), b"")
            with suppress(IntegrityError):
                return _load(vault, set_id, public_key, sealed, data)
        raise


def _load(vault: Vault, set_id: str, public_key: str, seal: bytes, data: bytes) -> BackupSet:
    key = set_key(set_id, MANIFEST)
    if seal.decode(errors="replace").strip() != hashlib.sha256(data).hexdigest():
        raise IntegrityError(
            "a set's manifest is not the one that it was completed with",
            where=vault.store.where(key),
            todo="use another set; `lakehouse backup list` names them",
        )
    manifest = Manifest.from_json(data, vault.store.where(key))
    manifest.check(public_key, vault.store.where(key))
    return BackupSet(vault, manifest)


def dump_files(entries: Iterable[Entry]) -> bytes:
    """Entries as lines of JSON. References are numbers of lines, so each name stands once."""
    ordered = sorted(entries, key=lambda entry: entry.uri)
    numbers = {entry.uri: number for number, entry in enumerate(ordered)}
    lines = (_line(entry, [numbers[uri] for uri in entry.refs]) for entry in ordered)
    head = json.dumps({"format_version": FORMAT_VERSION, "files": len(ordered)})
    # Most of it is hashes, which no level makes smaller.
    return gzip.compress("\n".join([head, *lines, ""]).encode(), compresslevel=3, mtime=0)


def load_files(data: bytes) -> Files:
    """Read what :func:`dump_files` wrote; raises :class:`IntegrityError`."""
    try:
        head, *lines = gzip.decompress(data).decode().splitlines()
        count = _parsed(head.encode(), FILES)["files"]
        if count != len(lines):
            raise ValueError(f"{len(lines)} of {count} files are listed")
        with _many_objects():
            values = [json.loads(line) for line in lines]
            names = [value["uri"] for value in values]
            return {value["uri"]: _entry(value, tuple(names[number] for number in value["refs"])) for value in values}
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise _unreadable(FILES, error) from None


@contextmanager
def _many_objects() -> Iterator[None]:
    """The collector rests while hundreds of thousands of objects are made that all stay: it took half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def dump_progress(entries: Iterable[Entry]) -> bytes:
    """Entries that were stored so far, without what they refer to."""
    return "\n".join([*(_line(entry, []) for entry in entries), ""]).encode()


def load_progress(data: bytes) -> Iterator[Entry]:
    """Read what :func:`dump_progress` wrote."""
    return (_entry(json.loads(line), ()) for line in data.decode().splitlines())


def _line(entry: Entry, refs: list[int]) -> str:
    value = {
        "uri": entry.uri,
        "kind": entry.kind,
        "copy": _object(entry.copy),
        "query": _object(entry.query) if entry.query else None,
        "refs": refs,
        "snapshot": entry.snapshot_id,
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _object(stored: Stored) -> list[Any]:
    return [
        stored.key,
        stored.size_bytes,
        stored.sha256,
        stored.checksum,
        stored.version,
        stored.locked_until,
    ]


def _entry(value: Mapping[str, Any], refs: tuple[str, ...]) -> Entry:
    query = Stored(*value["query"]) if value["query"] else None
    return Entry(value["uri"], value["kind"], Stored(*value["copy"]), query, refs, value["snapshot"])


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(data)
        version = value.get("format_version")
    except (ValueError, AttributeError) as error:
        raise _unreadable(where, error) from None
    if version != FORMAT_VERSION:
        raise IntegrityError(
            f"a backup has format {version!r}, this version reads {FORMAT_VERSION}",
            where=where,
            todo="use the version of the lakehouse that wrote it, or upgrade",
        )
    return value


def _unreadable(where: str, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"a document of a backup set cannot be read: {type(error).__name__}: {error}",
        where=where,
        todo="use another set; `lakehouse backup list` names them",
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1).encode()
