"""The check of the live lake: every reference is walked, from the catalog's pointers and from the ends of the logs.

A file is compared with what is known of it: its hash in the newest backup set, in the landing log, or as an earlier
check remembers it. A file that nobody knows yet is read to its end by its structure, compared with what names it, and
remembered. A damaged document hides what lies below it; then a good copy of it is read instead, wherever there is one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lakehouse.backup.copying import Told, in_threads
from lakehouse.backup.cut import read_catalog
from lakehouse.backup.iceberg import Kind
from lakehouse.backup.places import Places
from lakehouse.backup.sets import Pointer
from lakehouse.backup.signing import public_key_of
from lakehouse.backup.vault import Stored, Vault
from lakehouse.backup.verify import Share
from lakehouse.core.clock import Clock
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.settings import Settings
from lakehouse.ledger.retention_lock import keeping_files
from lakehouse.ledger.store import ObjectStore
from lakehouse.recovery.advice import advised
from lakehouse.recovery.claims import Claim, claims_of
from lakehouse.recovery.known import Expected, GoodCopy, Known
from lakehouse.recovery.lakefiles import Body, Head, LakeFiles
from lakehouse.recovery.logs import Ends, log_claims
from lakehouse.recovery.memory import Memory, Seen
from lakehouse.recovery.report import Hurt, LakeDamage, Point, Report
from lakehouse.recovery.structure import structure_problem

if TYPE_CHECKING:
    from sqlalchemy import Engine

_LEVELS: tuple[tuple[Kind, ...], ...] = (("metadata", "view"), ("manifest_list",), ("manifest",), ("log",))
_DOCUMENTS = frozenset(kind for level in _LEVELS for kind in level)
_SHARED: tuple[Kind, ...] = ("data", "equality_deletes", "landed")
"""What is read by shares; all else is small, and read each time."""
MISSING = "it is missing"


@dataclass
class Node:
    """A file that something names, and what a look at it gave. ``sha256`` is that of what is there."""

    uri: str
    kind: Kind
    claims: list[Claim]
    expected: Expected | None = None
    problem: str = ""
    sha256: str = ""
    copy: GoodCopy | None = None
    hidden: str = ""


def check(
    settings: Settings, clock: Clock, tables: Sequence[str], share: Share, told: Told = lambda *_: None
) -> Report:
    """Look at these tables, or at everything. Damage is in the result, not raised.

    Raises :class:`TableBusy` where files are just being removed.
    """
    from lakehouse.ledger.watermark import open_catalog

    catalog: Any = open_catalog(settings)
    with keeping_files(settings):
        return check_from(settings, catalog.engine, clock, tables, share.has, told, str(share))


def check_from(
    settings: Settings,
    engine: Engine,
    clock: Clock,
    tables: Sequence[str],
    is_read: Callable[[str], bool],
    told: Told = lambda *_: None,
    share: str = "",
) -> Report:
    """The same with this catalog, under the lock that keeps files. ``is_read`` says which data is read whole."""
    now = clock.now()
    near = Vault.open(settings, now) if settings.backup_bucket else Vault(ObjectStore.open(settings), 0, now)
    key = public_key_of(settings) if settings.backup_bucket else ""
    notes: list[str] = []
    known = Known(near if settings.backup_bucket else None, key, Memory.read(near), notes.append)
    files = LakeFiles(ObjectStore.open(settings), Places.of(settings))
    pointers = _wanted(read_catalog(engine)[0], tables)
    walk = Walk(files, known, is_read, told, now)
    walk.run(pointers, with_logs=not tables)
    known.memory.write(now)
    notes += [f"{where} cannot be read: the files of that check count as new" for where in known.memory.damaged]
    return walk.report(len(pointers), share, tuple(notes))


def _wanted(pointers: Sequence[Pointer], tables: Sequence[str]) -> list[Pointer]:
    missing = set(tables) - {pointer.table for pointer in pointers}
    if missing:
        raise SettingsError(
            f"the catalog has no table {', '.join(sorted(missing))}",
            todo="`lakehouse dropped` lists what was dropped and can be brought back",
        )
    return [pointer for pointer in pointers if not tables or pointer.table in tables]


@dataclass
class Walk:
    """From the pointers and the logs to every file, each looked at once."""

    files: LakeFiles
    known: Known
    is_read: Callable[[str], bool]
    told: Told
    now: datetime
    nodes: dict[str, Node] = field(default_factory=dict)
    snapshots: dict[str, list[Hurt]] = field(default_factory=dict)
    ends: Ends = field(default_factory=Ends)
    compared: Counter[str] = field(default_factory=Counter)
    by_structure: list[str] = field(default_factory=list)
    read: int = 0
    read_bytes: int = 0
    _looked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, pointers: Sequence[Pointer], *, with_logs: bool) -> None:
        """Documents level by level, then everything else."""
        for pointer in pointers:
            kind: Kind = "view" if pointer.kind == "VIEW" else "metadata"
            self._add([Claim(pointer.metadata_location, kind, says={"table": pointer.table})])
        for level in _LEVELS:
            if level == ("log",) and with_logs:
                self._add(log_claims(self.files.lake, self.known, self.ends))
            here = [node for node in self.nodes.values() if node.kind in level]
            for named in in_threads(self._into, here):
                self._add(named)
        in_threads(self._leaf, [node for node in self.nodes.values() if node.kind not in _DOCUMENTS])

    def _add(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            node = self.nodes.setdefault(claim.uri, Node(claim.uri, claim.kind, []))
            node.claims.append(claim)

    def _into(self, node: Node) -> list[Claim]:
        """Look at a document; returns what it says of other files."""
        body = self._look(node, is_read=True)
        if node.problem or body is None:
            body = self._instead(node)
        if body is None:
            return self._remembered(node)
        try:
            named = claims_of(node.kind, node.uri, body)
            if node.kind == "metadata":
                self._note_snapshots(node, json.loads(body))
        except ValueError as error:
            node.problem = node.problem or f"it cannot be read: {error}"
            return self._remembered(node)
        return named

    def _leaf(self, node: Node) -> None:
        node.expected = self._expected(node)
        self._look(node, is_read=node.kind not in _SHARED or node.expected is None or self.is_read(node.uri))

    def _look(self, node: Node, *, is_read: bool) -> bytes | None:
        """Find what is wrong with a file, by all its bytes or by what the server says of it."""
        node.expected = self._expected(node)
        try:
            if not is_read and (settled := self._by_head(node, self.files.head(node.uri))) is not None:
                node.problem = settled
                self._count()
                return None
            with self.files.reading(node.uri) as body:
                self._count(body.size_bytes if body else None)
                return self._by_body(node, body)
        except IntegrityError as error:
            node.problem = error.what
            return None

    def _by_head(self, node: Node, head: Head | None) -> str | None:
        """What is wrong; None where its bytes have to be read to know."""
        wanted = node.expected
        if head is None or wanted is None:
            return MISSING if head is None else None
        if head.size_bytes != wanted.size_bytes:
            return f"it has {head.size_bytes} bytes, {wanted.by} says {wanted.size_bytes}"
        if head.sha256 and head.sha256 != wanted.sha256:
            return f"its bytes are not those that {wanted.by} has"
        seen = self.known.memory.files.get(node.uri)
        if seen is not None and (seen.etag, seen.sha256) != (head.etag, wanted.sha256):
            return None
        self._compared("size and ETag" if seen else "size")
        return ""

    def _by_body(self, node: Node, body: Body | None) -> bytes | None:
        if body is None:
            node.problem = MISSING if self._is_needed(node) else ""
            return None
        node.sha256 = body.sha256
        node.problem = self._problem(node, body)
        if not node.problem and node.kind != "segment":
            self.known.memory.add(Seen(node.uri, body.size_bytes, body.sha256, body.etag, self.now.isoformat()))
        return body.data if node.kind in _DOCUMENTS else None

    def _is_needed(self, node: Node) -> bool:
        """A former metadata file may be gone, unless somebody has seen it: nothing is read from it."""
        return any(claim.is_needed for claim in node.claims) or node.expected is not None

    def _problem(self, node: Node, body: Body) -> str:
        wanted = node.expected
        if wanted is None:
            return self._sizes(node, body) or self._structure(node, body)
        if body.size_bytes != wanted.size_bytes:
            return f"it has {body.size_bytes} bytes, {wanted.by} says {wanted.size_bytes}"
        if body.sha256 != wanted.sha256:
            return f"its bytes are not those that {wanted.by} has"
        seen = self.known.memory.files.get(node.uri)
        if seen is not None and seen.sha256 != body.sha256:
            return f"its bytes changed after the check of {seen.at[:19]}, and {wanted.by} took the changed ones"
        self._compared(wanted.by)
        return ""

    @staticmethod
    def _sizes(node: Node, body: Body) -> str:
        said = {claim.size_bytes for claim in node.claims if claim.size_bytes not in (None, body.size_bytes)}
        return f"it has {body.size_bytes} bytes, what names it says {' or '.join(map(str, said))}" if said else ""

    def _structure(self, node: Node, body: Body) -> str:
        problem = structure_problem(node.kind, node.uri, body.content, node.claims)
        if not problem:
            self._compared(*(("entries",) if node.kind == "segment" else ("structure", node.uri)))
        return problem

    def _expected(self, node: Node) -> Expected | None:
        for claim in node.claims:
            if claim.sha256 and claim.size_bytes is not None:
                return Expected(claim.size_bytes, claim.sha256, "the landing log")
        return self.known.expected(node.uri)

    def _instead(self, node: Node) -> bytes | None:
        """The bytes that a damaged document should have, where a good copy of them is."""
        if not node.problem:
            return None
        node.copy = self.good_copy(node)
        if node.copy is None:
            return None
        if node.copy.is_backup and self.known.vault:
            return self.known.vault.get(node.copy.stored.key, node.copy.stored.version)
        if node.copy.body is not None:
            return node.copy.body
        with self.files.reading(node.uri, node.copy.stored.version) as body:
            return body.data if body else None

    def _remembered(self, node: Node) -> list[Claim]:
        """What lay below a document that cannot be read, as the newest set that has it says."""
        if not node.problem or node.kind in ("view", "log"):
            return []
        set_id, below = self.known.below(node.uri)
        if not below:
            node.hidden = "what lies below it could not be looked at"
            return []
        node.hidden = f"what lies below it was looked at as backup set {set_id} lists it"
        for entry in below:
            if entry.kind == "manifest_list":
                self.snapshots[entry.uri] = [Hurt(table, entry.snapshot_id) for table in _tables_of(node)]
        return [
            Claim(each.uri, each.kind, node.uri, each.copy.size_bytes, is_needed=each.kind != "former_metadata")
            for each in below
        ]

    def good_copy(self, node: Node) -> GoodCopy | None:
        """Where the right bytes of a damaged file are: in a set, or in a version of the file itself."""
        wanted = node.expected.sha256 if node.expected else ""
        if node.kind == "segment":
            return _of_journal(node, wanted)
        found = self.known.backup_copy(node.uri, wanted) or self._good_version(node, wanted)
        return found or (_of_journal(node, wanted) if node.kind == "log" else None)

    def _good_version(self, node: Node, wanted: str) -> GoodCopy | None:
        try:
            versions = self.files.versions(node.uri)
        except (SettingsError, IntegrityError):
            return None  # they may not be listed, or lie elsewhere
        for version in versions:
            with self.files.reading(node.uri, version) as body:
                if body is None or body.sha256 == node.sha256:
                    continue
                is_right = body.sha256 == wanted if wanted else not self._odd(node, body)
                if is_right:
                    stored = Stored(self.files.store(node.uri)[1], body.size_bytes, body.sha256, "", version)
                    return GoodCopy(f"its version {version}", stored, is_backup=False, is_sure=bool(wanted))
        return None

    def _odd(self, node: Node, body: Body) -> str:
        return self._sizes(node, body) or structure_problem(node.kind, node.uri, body.content, node.claims)

    def _note_snapshots(self, node: Node, document: dict[str, Any]) -> None:
        current = document.get("current-snapshot-id")
        for each in document.get("snapshots") or []:
            at = datetime.fromtimestamp(each["timestamp-ms"] / 1000, UTC).isoformat()
            number = each["snapshot-id"]
            hurts = [Hurt(table, number, at, is_current=number == current) for table in _tables_of(node)]
            self.snapshots[each["manifest-list"]] = hurts
            self.ends.take(each.get("summary") or {})

    def _count(self, read_bytes: int | None = None) -> None:
        with self._lock:
            self._looked += 1
            if read_bytes is not None:
                self.read += 1
                self.read_bytes += read_bytes
            self.told("checking", self._looked, self.read_bytes)

    def _compared(self, by: str, uri: str = "") -> None:
        with self._lock:
            self.compared[by] += 1
            if uri:
                self.by_structure.append(uri)

    def report(self, tables: int, share: str, notes: tuple[str, ...]) -> Report:
        """What was found, with the tables and snapshots that it hurts and where good copies are."""
        damaged = sorted((node for node in self.nodes.values() if node.problem), key=lambda node: node.uri)
        owners = {each.expected.sha256: each.uri for each in self.nodes.values() if each.expected} if damaged else {}
        found = in_threads(lambda node: self._damage(node, owners), damaged)
        whole = {table: self._whole(table, found) for table in sorted({t for each in found for t in each.tables})}
        advice = advised(found, whole, self.files, self.known.newest)
        return Report(
            at=self.now.isoformat(),
            share=share,
            tables=tables,
            files=self._looked,
            read=self.read,
            read_bytes=self.read_bytes,
            compared=dict(self.compared),
            by_structure=tuple(sorted(self.by_structure)),
            damages=advice,
            whole=whole,
            notes=notes,
        )

    def _damage(self, node: Node, owners: Mapping[str, str]) -> LakeDamage:
        copy = node.copy or self.good_copy(node)
        owner = owners.get(node.sha256, node.uri)
        return LakeDamage(
            uri=node.uri,
            kind=node.kind,
            problem=node.problem + ("" if owner == node.uri else f"; they are those of {owner}"),
            expected_by=node.expected.by if node.expected else "",
            sha256=node.expected.sha256 if node.expected else "",
            hurts=tuple(sorted(set(self._hurt(node)), key=lambda hurt: (hurt.table, hurt.at, hurt.snapshot_id or 0))),
            copy=copy,
            hidden=node.hidden,
        )

    def _hurt(self, node: Node) -> Iterator[Hurt]:
        """Up to whatever needs it: snapshots, else tables; for what landed, sources."""
        above, waiting = {node.uri}, [node]
        while waiting:
            each = waiting.pop()
            if each.kind in ("log", "segment"):
                yield Hurt(each.uri.split("/")[-2])
            if each.kind == "manifest_list":
                yield from self.snapshots.get(each.uri, ())
                continue
            yield from (Hurt(table, is_current=node.kind in ("metadata", "view")) for table in _tables_of(each))
            for claim in each.claims:
                if claim.by and claim.by not in above:
                    above.add(claim.by)
                    waiting.append(self.nodes[claim.by])
        if node.kind == "metadata":
            names = set(_tables_of(node))
            yield from (hurt for hurts in self.snapshots.values() for hurt in hurts if hurt.table in names)

    def _whole(self, table: str, damages: Sequence[LakeDamage]) -> Point | None:
        """The newest snapshot of a table that nothing hurts."""
        bad = {hurt.snapshot_id for each in damages if each.kind != "metadata" for hurt in each.hurts}
        all_of = [hurt for hurts in self.snapshots.values() for hurt in hurts if hurt.table == table]
        good = [hurt for hurt in all_of if hurt.snapshot_id not in bad and hurt.at]
        best = max(good, key=lambda hurt: hurt.at, default=None)
        return Point(best.snapshot_id, best.at) if best and best.snapshot_id is not None else None


def _of_journal(node: Node, wanted: str) -> GoodCopy | None:
    """What a segment must be by its entries, or an entry by its segment; None where these do not say it."""
    says = node.claims[0].says
    journal, number = says["journal"], says["number"]
    try:
        body = journal.segment(number) if node.kind == "segment" else journal.from_segment(number)
    except IntegrityError:
        return None
    sha256 = hashlib.sha256(body).hexdigest()
    if wanted not in ("", sha256):
        return None
    source = "the entries of the log" if node.kind == "segment" else "a segment of the log"
    stored = Stored(journal.key(number), len(body), sha256)
    return GoodCopy(source, stored, is_backup=False, is_sure=bool(wanted) or node.kind == "segment", body=body)


def _tables_of(node: Node) -> list[str]:
    """The tables whose pointer names a file."""
    return [claim.says["table"] for claim in node.claims if not claim.by and "table" in claim.says]
