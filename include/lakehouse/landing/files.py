"""Landing files: what lies below the root, grouped into units, hashed and uploaded in parallel, logged in order."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial

from lakehouse.contracts.model import Contract, Source
from lakehouse.core.clock import Clock
from lakehouse.core.errors import SourceError
from lakehouse.core.failpoints import failpoint
from lakehouse.landing.pattern import Pattern, Verdict
from lakehouse.landing.places import FoundFile, Place
from lakehouse.landing.results import LandResult, Note, Progress, UnitResult, printable
from lakehouse.landing.upload import SMALL_BYTES, Measured, measure, upload
from lakehouse.ledger.decisions import Decision, read_decisions
from lakehouse.ledger.live import live
from lakehouse.ledger.log import Batch, Compression, LandedFile, append, object_key, read_log
from lakehouse.ledger.store import ContentMismatch, ObjectStore, Reader

WORKERS = 8


@dataclass(frozen=True)
class UnitFile:
    """A file that belongs to a unit."""

    found: FoundFile
    compression: Compression | None
    stem: str


@dataclass(frozen=True)
class Unit:
    """The files of one unit, sorted by name. A unit with a fault is refused as a whole: part of a day is no day."""

    date: date
    files: tuple[UnitFile, ...]
    faults: tuple[str, ...] = ()


@dataclass
class Found:
    """What lies below the root, as it is being sorted."""

    files: dict[date, list[UnitFile]] = field(default_factory=dict)
    faults: dict[date, list[str]] = field(default_factory=dict)
    refused: list[Note] = field(default_factory=list)
    ignored: list[Note] = field(default_factory=list)

    def units(self) -> list[Unit]:
        """The units in the order of their dates."""
        return [self._unit(day) for day in sorted(self.files.keys() | self.faults.keys())]

    def _unit(self, day: date) -> Unit:
        files = sorted(self.files.get(day, []), key=lambda file: file.found.name)
        faults = list(self.faults.get(day, []))
        stems: dict[str, str] = {}
        for file in files:
            other = stems.setdefault(file.stem, file.found.name)
            if other != file.found.name:
                faults.append(f"{other} and {file.found.name} differ in their compression only: which one counts?")
        return Unit(day, tuple(files), tuple(faults))


@dataclass(frozen=True)
class FilesSource:
    """One source in one place. ``may_be_flat``: the root itself may hold the files, without the pattern's folder."""

    contract: Contract
    place: Place
    may_be_flat: bool = False

    def find(self, start: date | None, end: date | None) -> Found:
        """Look at every name once, and keep the units from ``start`` to ``end``, both included.

        The pattern's folder is looked for below the root. Where it does not exist, and the root may hold the files
        themselves, the last part of the pattern is tried there.
        """
        pattern = Pattern.parse(self.contract.source.pattern)
        if not self.place.has_folder(pattern.folder):
            if not (self.may_be_flat and pattern.flat.has_date):
                raise SourceError(
                    f"there is no folder {pattern.folder!r} below the sources' root",
                    where=self.contract.name,
                    todo="make sample sources with `lakehouse sample`, or say where they are with --root",
                )
            pattern = pattern.flat
        found = Found()
        try:
            for file in self.place.files(pattern.folder, len(pattern.rest)):
                self._sort(file, pattern.judge(file.name), found, start, end)
        except OSError as error:
            raise SourceError(
                f"the sources' folder cannot be read: {error.strerror}", where=printable(str(error.filename))
            ) from None
        return found

    def _sort(self, file: FoundFile, verdict: Verdict, found: Found, start: date | None, end: date | None) -> None:
        name, unit = printable(file.name), verdict.unit
        if file.fault and file.name.endswith("/"):
            found.refused.append(Note(self.contract.name, name, file.fault))
        elif verdict.status == "ignored":
            found.ignored.append(Note(self.contract.name, name, verdict.reason))
        elif unit is None:
            found.refused.append(Note(self.contract.name, name, verdict.reason))
        elif (start and unit < start) or (end and unit > end):
            return
        elif reason := verdict.reason or file.fault:
            found.faults.setdefault(unit, []).append(f"{name}: {reason}")
        else:
            found.files.setdefault(unit, []).append(UnitFile(file, verdict.compression, verdict.stem))

    def opener(self, file: UnitFile) -> AbstractContextManager[Reader]:
        """Open a file in the state in which it was found."""
        return self.place.reading(file.found)


@dataclass(frozen=True)
class Same:
    """The batch that makes a landing a no-op."""

    number: int
    is_held: bool


def same_content(
    batches: Sequence[Batch], decisions: Sequence[Decision], unit: date, files: Sequence[LandedFile]
) -> Same | None:
    """The batch that makes landing these files a no-op: the unit's live one, or one that is held after it.

    Landing the bytes of a held batch again would publish what someone held back. Names do not count.
    """
    of_unit = [batch for batch in batches if batch.unit == unit]
    if not of_unit:
        return None
    last = max(decision.number for decision in decisions) if decisions else 0
    sets = live(of_unit, decisions, of_unit[-1].number, last)
    wanted = _content(files)
    for batch in reversed(of_unit):
        if batch.number in sets.live | sets.held and _content(batch.files) == wanted:
            return Same(batch.number, batch.number in sets.held)
    return None


class _Copies(Exception):
    """Two files of a unit hold the same records."""


def _refuse_copies(source: Source, files: Sequence[tuple[UnitFile, Measured]]) -> None:
    """A unit with the same file under two names would count its rows twice. Files without a record may be equal."""
    names: dict[str, str] = {}
    for file, measured in files:
        other = names.setdefault(measured.sha256, file.found.name)
        if other != file.found.name and _has_records(source, file, measured.body):
            pair = f"{printable(other)} and {printable(file.found.name)}"
            raise _Copies(f"{pair} hold the same bytes, which would count twice; remove one and land again")


def _has_records(source: Source, file: UnitFile, body: bytes | None) -> bool:
    if body is None:
        return True
    from lakehouse.records.reader import Layout, read_records  # pyarrow, only where it is needed

    return any(batch.num_rows for batch in read_records(io.BytesIO(body), Layout.of(source), file.compression))


def _content(files: Sequence[LandedFile]) -> list[tuple[str, str, str]]:
    return sorted((file.sha256, file.format, file.compression or "") for file in files)


class FilesLanding:
    """Lands the units of one source. Workers hash and upload; the log is written in the order of dates."""

    def __init__(self, source: FilesSource, store: ObjectStore, clock: Clock, *, is_dry_run: bool = False) -> None:
        self._source, self._store, self._clock, self._is_dry_run = source, store, clock, is_dry_run
        self._name = source.contract.name
        self._log: list[Batch] = []
        self._decisions: list[Decision] = []

    def run(self, start: date | None, end: date | None, progress: Progress) -> LandResult:
        """Land everything from ``start`` to ``end``, both included. Refused units stop no others."""
        found = self._source.find(start, end)
        units = found.units()
        self._log = read_log(self._store, self._name)
        self._decisions = read_decisions(self._store, self._name)
        done: list[UnitResult] = []
        for result in self._land_all(units):
            done.append(result)
            progress(self._name, len(done), len(units))
        return LandResult(tuple(done), tuple(found.refused), tuple(found.ignored))

    def _land_all(self, units: Sequence[Unit]) -> Iterator[UnitResult]:
        known = tuple(self._log)
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="land")
        try:
            for unit, staged in zip(units, pool.map(partial(self._stage, known), units), strict=True):
                yield self._refusal(unit, staged) if isinstance(staged, str) else self._write(unit, staged)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _stage(self, known: Sequence[Batch], unit: Unit) -> tuple[LandedFile, ...] | str:
        """Hash a unit's files and upload them unless the log has them; what is wrong with the unit, if anything."""
        if unit.faults:
            return "; ".join(unit.faults)
        try:
            return self._stage_files(known, unit)
        except _Copies as error:
            return str(error)
        except ContentMismatch as error:
            return f"{error.what}; land again when the source is at rest ({printable(error.where)})"
        except OSError as error:
            return f"{printable(str(error.filename or ''))} cannot be read: {error.strerror or type(error).__name__}"

    def _stage_files(self, known: Sequence[Batch], unit: Unit) -> tuple[LandedFile, ...]:
        is_small = sum(file.found.size_bytes for file in unit.files) <= SMALL_BYTES
        pairs = []
        for file in unit.files:
            measured = measure(partial(self._source.opener, file), file.found.size_bytes)
            pairs.append((file, measured if is_small else replace(measured, body=None)))
        _refuse_copies(self._source.contract.source, pairs)
        landed = tuple(self._landed_file(file, measured) for file, measured in pairs)
        if not self._is_dry_run and same_content(known, self._decisions, unit.date, landed) is None:
            for file, measured in pairs:
                upload(self._store, self._name, measured, partial(self._source.opener, file))
        return landed

    def _landed_file(self, file: UnitFile, measured: Measured) -> LandedFile:
        return LandedFile(
            name=file.found.name,
            key=object_key(self._name, measured.sha256),
            size_bytes=measured.size_bytes,
            sha256=measured.sha256,
            format=self._source.contract.source.format,
            compression=file.compression,
        )

    def _write(self, unit: Unit, files: tuple[LandedFile, ...]) -> UnitResult:
        """The unit's entry in the log, unless a live batch says the same."""
        draft = Batch(
            source=self._name,
            number=0,
            unit=unit.date,
            kind=self._source.contract.source.kind,
            files=files,
            cursor_from=None,
            cursor_to=None,
            landed_at=self._clock.now(),
        )
        written = None
        if not self._is_dry_run:
            self._log, written = append(self._store, draft, self._log, partial(self._is_wanted, draft))
        result = UnitResult(self._name, unit.date, "would_land", files=len(files), size_bytes=draft.size_bytes)
        if written is not None:
            failpoint("land.after_log", self._name)
            return replace(result, status="landed", batch=written.number)
        same = same_content(self._log, self._decisions, unit.date, files)
        return self._unchanged(result, same) if same else result

    def _is_wanted(self, draft: Batch, batches: Sequence[Batch]) -> bool:
        wanted = same_content(batches, self._decisions, draft.unit, draft.files) is None
        if wanted:
            failpoint("land.before_log", self._name)
        return wanted

    def _unchanged(self, result: UnitResult, same: Same) -> UnitResult:
        reason = f"batch {same.number} has these bytes and is held: release or discard it" if same.is_held else ""
        return replace(result, status="unchanged", batch=same.number, reason=reason)

    def _refusal(self, unit: Unit, reason: str) -> UnitResult:
        return UnitResult(self._name, unit.date, "refused", files=len(unit.files), reason=reason)
