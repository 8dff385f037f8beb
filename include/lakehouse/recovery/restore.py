"""Tables, namespaces or the whole lake, back out of backup sets: beside, verified, swapped; the old is kept.

Files are brought back first. Then every reference of what will be live is walked where it now is. Only then, in one
transaction of the catalog, all tables become what they were. No file of the lake is deleted. Killed anywhere, the same
restore goes on: what is there and whole is not copied again, and nothing is live before all is.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lakehouse.backup.copying import Told, in_threads
from lakehouse.backup.iceberg import read_document
from lakehouse.backup.sets import Entry
from lakehouse.backup.signing import public_key_of
from lakehouse.backup.vault import Vault
from lakehouse.core.clock import Clock
from lakehouse.core.errors import ConcurrentCommit, IntegrityError, SettingsError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine.pointer import is_copy
from lakehouse.ledger.kept import kept_name
from lakehouse.recovery.catalog import Change, Kept, Row, require_stands
from lakehouse.recovery.choose import Aim, Choice, Wanted, age, places_of
from lakehouse.recovery.documents import Document, current_of, rows_of
from lakehouse.recovery.files import Bringing, is_missing, sizes_there
from lakehouse.recovery.target import Target

_STATED_BYTES_PER_SECOND = 40_000_000
_STATED_FILES_PER_SECOND = 200
_LEAST_MEASURED_BYTES = 64_000_000
_SETS_MEASURED = 20


@dataclass(frozen=True)
class TablePlan:
    """What becomes of one table. ``was`` is the metadata file that it is at, '' where the catalog has no such table.

    ``becomes`` is where its metadata will be. ``is_readable``: what it is now can still be read, and so kept.
    """

    aim: Aim
    was: str
    becomes: str
    from_snapshot: int | None
    rows_before: int | None
    is_readable: bool

    @property
    def table(self) -> TableName:
        return self.aim.table

    @property
    def is_new(self) -> bool:
        """Whether the catalog does not have it."""
        return not self.was

    @property
    def moves(self) -> bool:
        """Whether its pointer moves."""
        return self.was != self.becomes

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "table": str(self.table),
            "set": self.aim.found.id,
            "metadata": self.becomes,
            "from_snapshot": self.from_snapshot,
            "to_snapshot": self.aim.snapshot,
            "rows_before": self.rows_before,
            "rows_after": self.aim.rows,
            "is_new": self.is_new,
        }


@dataclass(frozen=True)
class Amount:
    """So many files with so many bytes."""

    files: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Amount:
        """That of some files of a set."""
        return cls(len(entries), sum(entry.copy.size_bytes for entry in entries))


@dataclass(frozen=True)
class RestorePlan:
    """What a restore will do: what, how much, how long, from where.

    ``replaced`` are files of the lake that have another size than they should. ``older`` says of tables that no set
    after the moment knows them, and how many seconds before it the set was cut that they come from. ``stays`` are
    tables that the catalog has and the set does not: they stay as they are.
    """

    id: str
    wanted: Wanted
    set_id: str
    tables: tuple[TablePlan, ...]
    rows: Mapping[TableName, Row] = field(repr=False)
    needed: Mapping[str, Entry] = field(repr=False)
    there: Mapping[tuple[str, str], int] = field(repr=False)
    logs: tuple[Entry, ...] = field(repr=False)
    landed: tuple[Entry, ...] = field(repr=False)
    namespaces: tuple[tuple[str, str, str], ...]
    copy: Amount
    missing_logs: Amount
    missing_landed: Amount
    seconds: float
    replaced: tuple[str, ...]
    older: Mapping[str, float]
    stays: tuple[str, ...]
    is_versioned: bool

    @property
    def is_empty(self) -> bool:
        """Whether all is as it would be."""
        missing = self.copy.files + self.missing_logs.files + self.missing_landed.files
        return not missing and not any(table.moves for table in self.tables)

    @property
    def token(self) -> str:
        """The same as long as the restore would do the same to tables. Which files are missing changes nothing."""
        moves = [[str(t.table), t.from_snapshot, t.moves, t.becomes] for t in self.tables]
        return hashlib.sha256(json.dumps([moves, self.wanted.everything]).encode()).hexdigest()[:16]

    @property
    def kept(self) -> dict[TableName, TableName]:
        """The tables whose present state is kept, and its name."""
        return {
            each.table: kept_name(each.table, self.id)
            for each in self.tables
            if each.moves and each.was and each.is_readable
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "token": self.token,
            "is_empty": self.is_empty,
            "set": self.set_id,
            "at": self.wanted.at.isoformat() if self.wanted.at else None,
            "tables": [table.to_json() for table in self.tables],
            "copy": {"files": self.copy.files, "bytes": self.copy.bytes},
            "logs": {
                "entries": self.missing_logs.files,
                "landed_files": self.missing_landed.files,
                "bytes": self.missing_logs.bytes + self.missing_landed.bytes,
            },
            "seconds": round(self.seconds, 1),
            "kept": [str(table) for table in self.kept],
            "replaced": list(self.replaced),
            "is_versioned": self.is_versioned,
            "older_seconds": dict(self.older),
            "stays": list(self.stays),
        }


@dataclass(frozen=True)
class Restored:
    """What a restore did: the pointers that moved, what was verified, copied and replaced, and how long it took."""

    id: str
    tables: tuple[str, ...]
    kept: Mapping[str, str]
    verified: Amount
    copied: Amount
    replaced: tuple[str, ...]
    seconds_taken: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, that go with those of the plan."""
        return {
            "id": self.id,
            "restored": list(self.tables),
            "kept_as": dict(self.kept),
            "verified": {"files": self.verified.files, "bytes": self.verified.bytes},
            "copied": {"files": self.copied.files, "bytes": self.copied.bytes},
            "replaced": list(self.replaced),
            "seconds_taken": round(self.seconds_taken, 2),
        }


def _quiet(*_: object) -> None:
    """Nobody is told."""


def plan_restore(
    settings: Settings, clock: Clock, what: Wanted, told: Told = _quiet, target: Target | None = None
) -> RestorePlan:
    """What a restore would do. Changes nothing. ``target``: another place than the lake of the settings."""
    place, now = target or Target.of(settings), clock.now()
    vault = Vault.open(settings, now)
    told("reading the sets", 0, 0)
    choice = Choice(vault, public_key_of(settings))
    aims = choice.aims(what)
    told("looking at what is there", 0, 0)
    rows = place.rows.read()
    needed = choice.needed(aims)
    logs, landed = _logs(choice, what)
    relocation = place.relocation(places_of(aims[0].found if aims else choice.newest()))
    _require_one_place(aims)
    heads = [aim.metadata for aim in aims]
    there = sizes_there(place, relocation, [*heads, *needed.values(), *logs, *landed])
    lacks = [entry for entry in (*heads, *needed.values()) if is_missing(entry, relocation, there)]
    lacks_logs, lacks_landed = ([e for e in part if is_missing(e, relocation, there)] for part in (logs, landed))
    tables = in_threads(lambda aim: _table_plan(place, aim, rows.get(aim.table)), aims)
    wrong = [relocation.place(e.uri) for e in (*lacks, *lacks_landed) if relocation.place(e.uri) in there]
    return RestorePlan(
        id=f"{now:%Y%m%dt%H%M%Sz}_{secrets.token_hex(2)}",
        wanted=what,
        set_id=aims[0].found.id if aims else choice.newest().id,
        tables=tuple(tables),
        rows={name: row for name, row in rows.items() if any(aim.table == name for aim in aims)},
        needed=needed,
        there=there,
        logs=tuple(logs),
        landed=tuple(landed),
        namespaces=_namespaces(aims, what),
        copy=Amount.of(lacks),
        missing_logs=Amount.of(lacks_logs),
        missing_landed=Amount.of(lacks_landed),
        seconds=_seconds(choice, Amount.of([*lacks, *lacks_logs, *lacks_landed])),
        replaced=tuple(sorted(f"s3://{bucket}/{key}" for bucket, key in wrong)),
        older=_older(aims, what),
        stays=tuple(sorted(str(name) for name in rows if what.everything and _is_left(name, aims))),
        is_versioned=_is_versioned(place),
    )


def carry_out(
    settings: Settings, clock: Clock, plan: RestorePlan, told: Told = _quiet, target: Target | None = None
) -> Restored:
    """Do what was planned. Raises :class:`TableBusy` where jobs write the tables, or somebody else restores.

    Raises :class:`ConcurrentCommit` where a table changed since, and :class:`IntegrityError` where the backup has lost
    files: no table is touched then.
    """
    place, begun = target or Target.of(settings), time.monotonic()
    place.rows.prepare()
    with place.held([table.table for table in plan.tables]) as check:
        _require_seen(place, plan)
        failpoint("restore.begun")
        work = _bringing(settings, clock, plan, place, told)
        _bring_logs(work, plan)
        failpoint("restore.after_logs")
        work.bring(plan.needed.values())
        heads = [(work.bring_metadata(t.aim.metadata, t.aim.body), t.aim.metadata.kind) for t in plan.tables]
        failpoint("restore.after_files")
        told("verifying", 0, 0)
        work.verify(heads)
        failpoint("restore.before_swap")
        check()
        kept = _swap(place, clock.now(), plan)
        failpoint("restore.after_swap")
    return Restored(
        plan.id,
        tuple(str(table.table) for table in plan.tables if table.moves),
        {str(name): str(other) for name, other in kept.items()},
        Amount(work.verified_files, work.verified_bytes),
        Amount(work.files, work.size_bytes),
        tuple(sorted(work.replaced)),
        time.monotonic() - begun,
    )


def _logs(choice: Choice, what: Wanted) -> tuple[list[Entry], list[Entry]]:
    if not what.everything:
        return [], []
    _, logs, landed = choice.logs()
    return logs, landed


def _require_one_place(aims: Sequence[Aim]) -> None:
    """Sets that were made of other buckets are of another lake, or of this one before it moved."""
    sources = {(aim.found.manifest.warehouse, aim.found.manifest.landing): aim.found.id for aim in aims}
    if len(sources) > 1:
        raise SettingsError(
            "the sets that know these tables are of lakes in other buckets",
            where=", ".join(f"{set_id}: {'/'.join(source)}" for source, set_id in sources.items()),
            untouched="everything",
            todo="restore to one set with --set",
        )


def _table_plan(place: Target, aim: Aim, row: Row | None) -> TablePlan:
    becomes = place.relocation(places_of(aim.found)).moved(aim.metadata.uri)
    if row is None:
        return TablePlan(aim, "", becomes, None, None, is_readable=False)
    document = _read_live(place, row.metadata_location)
    if document is None or row.kind == "VIEW":
        return TablePlan(aim, row.metadata_location, becomes, None, None, is_readable=document is not None)
    snapshot = current_of(document)
    rows = rows_of(document, snapshot)
    return TablePlan(aim, row.metadata_location, becomes, snapshot, rows, is_readable=True)


def _read_live(place: Target, location: str) -> Document | None:
    bucket, _, key = location.partition("://")[2].partition("/")
    try:
        return read_document(place.in_bucket(bucket).get(key))
    except (IntegrityError, SettingsError, ValueError):  # lost, its bucket lost, or damaged
        return None


def _namespaces(aims: Sequence[Aim], what: Wanted) -> tuple[tuple[str, str, str], ...]:
    """The properties of namespaces that the sets know, of those that are restored."""
    wanted = {aim.table.namespace for aim in aims}
    known = {each for aim in aims for each in aim.found.manifest.namespaces}
    return tuple(sorted(each for each in known if what.everything or each[0] in wanted))


def _older(aims: Sequence[Aim], what: Wanted) -> dict[str, float]:
    at = what.at
    if at is None:
        return {}
    ages = {str(aim.table): age(aim.found, at).total_seconds() for aim in aims}
    return {table: seconds for table, seconds in ages.items() if seconds > 0}


def _is_left(name: TableName, aims: Sequence[Aim]) -> bool:
    return not is_copy(name) and all(aim.table != name for aim in aims)


def _is_versioned(place: Target) -> bool:
    """Whether the warehouse keeps what is overwritten."""
    store = place.in_bucket(place.warehouse)
    try:
        answer = store.ask("", lambda: store.client.get_bucket_versioning(Bucket=store.bucket))
    except IntegrityError:
        return False
    return bool(answer.get("Status") == "Enabled")


def _seconds(choice: Choice, amount: Amount) -> float:
    """How long copying takes: at the rate at which the last sets were copied that brought much, else a stated one."""
    rates = []
    for set_id in reversed(choice.ids[-_SETS_MEASURED:]):
        try:
            manifest = choice.load(set_id).manifest
        except IntegrityError:
            continue
        taken = (datetime.fromisoformat(manifest.finished_at) - datetime.fromisoformat(manifest.cut_at)).total_seconds()
        if manifest.new_bytes >= _LEAST_MEASURED_BYTES and taken > 0:
            rates.append(manifest.new_bytes / taken)
    rate = sorted(rates)[len(rates) // 2] if rates else _STATED_BYTES_PER_SECOND
    return 1 + max(amount.bytes / rate, amount.files / _STATED_FILES_PER_SECOND)


def _require_seen(place: Target, plan: RestorePlan) -> None:
    rows = place.rows.read()
    for table in plan.tables:
        found = rows.get(table.table)
        if (found.metadata_location if found else "") != table.was:
            raise ConcurrentCommit(
                f"{table.table} changed since the restore was planned",
                untouched="everything",
                todo="look again with --dry-run, and say what it says then",
            )


def _bringing(settings: Settings, clock: Clock, plan: RestorePlan, place: Target, told: Told) -> Bringing:
    vault = Vault.open(settings, clock.now())
    source = plan.tables[0].aim.found if plan.tables else Choice(vault, public_key_of(settings)).newest()
    relocation = place.relocation(places_of(source))
    return Bringing(vault, place, relocation, plan.there, told, plan.wanted.thorough)


def _bring_logs(work: Bringing, plan: RestorePlan) -> None:
    """What landed first, then the entries that name it."""
    work.bring(plan.landed)
    work.bring_logs(plan.logs)


def _swap(place: Target, now: datetime, plan: RestorePlan) -> dict[TableName, TableName]:
    """All pointers in one transaction. What a table is now is kept where it can be read, by now or again."""
    moving = [each for each in plan.tables if each.moves]
    if not moving:
        return {}
    changes = [Change(each.table, each.aim.kind, each.was, each.becomes) for each in moving]
    notes = [_note(place, now, plan.id, each) for each in moving]
    seen = [plan.rows[each.table] for each in plan.tables if each.was]
    place.rows.move(changes, seen, notes, plan.namespaces)
    require_stands(place.rows.read(), changes)
    had = {each.table for each in moving if each.was}
    return {note.table: TableName.parse(note.kept) for note in notes if note.kept and note.table in had}


def _note(place: Target, now: datetime, restore: str, each: TablePlan) -> Kept:
    is_lost = bool(each.was) and not each.is_readable and _read_live(place, each.was) is None
    kept = "" if is_lost else str(kept_name(each.table, restore))
    return Kept(restore, each.table, each.aim.kind, kept, each.aim.found.id, now.isoformat())


def undo(place: Target, tables: Sequence[str] = (), restore: str = "") -> list[Kept]:
    """Make tables what they were before a restore, the last one if none is named; what was restored is kept.

    The same again brings that back. Raises :class:`SettingsError` where nothing is kept.
    """
    chosen = to_undo(place, tables, restore)
    names = [each.table for each in chosen]
    with place.held([*names, *(TableName.parse(each.kept) for each in chosen)]) as check:
        again = {(each.restore, each.table): each for each in place.rows.kept()}
        _require_there(place, chosen)
        check()
        place.rows.exchange([again[each.restore, each.table] for each in chosen])
    return chosen


def drop(place: Target, tables: Sequence[str] = (), restore: str = "") -> list[Kept]:
    """Let go what a restore kept. Its files stay until maintenance finds that nothing refers to them."""
    chosen = to_undo(place, tables, restore)
    with place.held([TableName.parse(each.kept) for each in chosen]):
        place.rows.forget(chosen)
    return chosen


def to_undo(place: Target, tables: Sequence[str] = (), restore: str = "") -> list[Kept]:
    """What an undo is about: all tables of a restore, or some; by default of the last one that there was."""
    notes = place.rows.kept()
    found = [note for note in notes if note.kept and (not tables or str(note.table) in tables)]
    last = restore or (found[0].restore if found else "")
    chosen = [note for note in found if note.restore == last]
    if not chosen or (missing := set(tables) - {str(note.table) for note in chosen}):
        what = restore or ", ".join(tables) or "any restore"
        raise SettingsError(
            f"nothing is kept of {what if not chosen else ', '.join(sorted(missing))}",
            untouched="everything",
            todo="`lakehouse kept` lists what is",
        )
    return chosen


def _require_there(place: Target, notes: Sequence[Kept]) -> None:
    """What comes back must be there: its metadata at least, and the list of its snapshot."""
    rows = place.rows.read()
    for note in notes:
        row = rows.get(TableName.parse(note.kept))
        if row is not None and _read_live(place, row.metadata_location) is None:
            raise IntegrityError(
                f"what was kept of {note.table} cannot be read",
                where=row.metadata_location,
                untouched="every table",
                todo="`lakehouse restore` brings it back out of a set",
            )
