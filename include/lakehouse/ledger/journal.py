"""Append-only entries of one source, numbered densely from 1, each a small JSON object created once, never edited.

The landing log and the decision log are both such journals. The conditional PUT makes the number: of two writers that
try the same one, exactly one gets it, and the other reads what is new and decides anew.

Every hundred entries are copied into one object, a segment, so that a long journal is read in few requests. Entries are
the truth: what has no segment, or a damaged one, is read entry by entry.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lakehouse.core.errors import IntegrityError, TransientError
from lakehouse.ledger.store import ObjectStore

DIGITS = 12
SEGMENT = 100
_SOURCE = re.compile(r"[a-z][a-z0-9_]{0,62}\.[a-z][a-z0-9_]{0,62}\Z")
_TRIES = 100


class Numbered(Protocol):
    """What a journal holds."""

    @property
    def number(self) -> int:
        """Its place in the journal, from 1."""
        ...


Entry = TypeVar("Entry", bound=Numbered)


@dataclass(frozen=True)
class Journal(Generic[Entry]):
    """One source's entries under ``<root>/<source>/``. ``parse`` and ``render`` convert to and from JSON values."""

    store: ObjectStore
    root: str
    source: str
    parse: Callable[[Mapping[str, Any]], Entry]
    render: Callable[[Entry], Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not _SOURCE.match(self.source):
            raise IntegrityError(f"{self.source!r} is not the name of a source", where=self.root)

    @property
    def prefix(self) -> str:
        """Where the entries are, below the bucket."""
        return f"{self.root}/{self.source}/"

    def key(self, number: int) -> str:
        """The object of one entry; keys sort as their numbers do."""
        return f"{self.prefix}{number:0{DIGITS}d}.json"

    def last_number(self, after: int = 0) -> int:
        """The number of the newest entry, found with one listing from a known one on.

        Raises :class:`IntegrityError` on a gap, and where the known entry is not there: an emptied or foreign bucket
        must not look like nothing to do.
        """
        number = max(after - 1, 0)
        for found in self.store.list_after(self.prefix, self.key(number) if number else ""):
            number += 1
            if found.key != self.key(number):
                raise self._damaged(f"number {number} was expected, {found.key.removeprefix(self.prefix)!r} found")
        if number < after:
            raise self._damaged(f"entry {after} was consumed and is not there")
        return number

    def read(self, after: int = 0) -> list[Entry]:
        """All entries after a number: one listing, then the objects in parallel."""
        return self.read_range(after, self.last_number(after))

    def read_range(self, after: int, through: int) -> list[Entry]:
        """The entries ``after`` < number ≤ ``through``, which are known to exist."""
        found = self._read_segments(after, through)
        single = [number for number in range(after + 1, through + 1) if number not in found]
        bodies = self.store.get_many([self.key(number) for number in single])
        found |= {number: self.decode(number, body) for number, body in zip(single, bodies, strict=True)}
        return [found[number] for number in range(after + 1, through + 1)]

    def append(
        self, known: Sequence[Entry], decide: Callable[[Sequence[Entry], int], Entry | None]
    ) -> tuple[list[Entry], Entry | None]:
        """Write the entry that ``decide`` makes of all entries and the next number, or nothing when it says None.

        Returns all entries as read by then, and the one that was written. ``decide`` is asked again whenever another
        writer was first. ``known`` must be all entries up to some number.
        """
        entries = list(known) or self.read()
        for _ in range(_TRIES):
            number = len(entries) + 1
            entry = decide(entries, number)
            if entry is None:
                return entries, None
            body = self._encode(entry)
            if self.store.put_if_absent(self.key(number), body) or self.store.get(self.key(number)) == body:
                # The same bytes there: our own PUT, whose first answer was lost.
                entries.append(entry)
                if number % SEGMENT == 0:
                    self._write_segments(entries)
                return entries, entry
            entries += self.read(after=len(entries))
        raise TransientError(f"other writers were first {_TRIES} times", where=self.prefix, todo="run it again")

    def segments(self) -> list[int]:
        """The segments that are there, each by its last number."""
        names = (key.rpartition("/")[2].removesuffix(".json") for key in self._segments())
        return sorted(last for last in map(int, filter(str.isdecimal, names)) if last and last % SEGMENT == 0)

    def single(self, last: int) -> list[Entry]:
        """The entries of a segment, by their own objects. Raises :class:`IntegrityError` where one is not whole."""
        numbers = range(last - SEGMENT + 1, last + 1)
        bodies = self.store.get_many([self.key(number) for number in numbers])
        return [self.decode(number, body) for number, body in zip(numbers, bodies, strict=True)]

    def decode_segment(self, last: int, body: bytes) -> list[Entry]:
        """The entries in a segment. Raises :class:`IntegrityError` where it is not one that ends with this number."""
        try:
            values = zip(range(last - SEGMENT + 1, last + 1), json.loads(body), strict=True)
            return [self._entry(number, value) for number, value in values]
        except (ValueError, TypeError) as error:
            raise self._damaged(f"the segment to {last} cannot be read: {type(error).__name__}: {error}") from None

    def segment(self, last: int) -> bytes:
        """What a segment must be, by the single entries. Raises :class:`IntegrityError` where one is not whole."""
        return self._encode_segment(self.single(last))

    def from_segment(self, number: int) -> bytes:
        """What an entry must be, by its segment. Raises :class:`IntegrityError` where that does not say it."""
        last = -(-number // SEGMENT) * SEGMENT
        entries = self.decode_segment(last, self.store.get(self.segment_key(last)))
        return self._encode(entries[number - last - 1])

    def segment_key(self, last: int) -> str:
        """The object of the segment that ends with a number."""
        return f"segments/{self.prefix}{last:0{DIGITS}d}.json"

    def _segments(self) -> set[str]:
        return {found.key for found in self.store.list_after(f"segments/{self.prefix}")}

    def _read_segments(self, after: int, through: int) -> dict[int, Entry]:
        """The entries of the segments that lie wholly in a range, as far as there are any."""
        ends = range(-(-after // SEGMENT) * SEGMENT + SEGMENT, through + 1, SEGMENT)
        there = self._segments() if ends else set()
        ends_there = [last for last in ends if self.segment_key(last) in there]
        bodies = self.store.get_many([self.segment_key(last) for last in ends_there])
        found: dict[int, Entry] = {}
        for last, body in zip(ends_there, bodies, strict=True):
            try:
                found |= {entry.number: entry for entry in self.decode_segment(last, body)}
            except IntegrityError as error:
                logging.getLogger(__name__).warning("%s is not used: %s", self.segment_key(last), error.what)
        return found

    def _write_segments(self, entries: Sequence[Entry]) -> None:
        """Copy the segments that are not there yet. A failure leaves them to the next time that one is full."""
        with suppress(TransientError):
            there = self._segments()
            for last in range(SEGMENT, len(entries) + 1, SEGMENT):
                if self.segment_key(last) not in there:
                    body = self._encode_segment(entries[last - SEGMENT : last])
                    self.store.put_if_absent(self.segment_key(last), body)

    def _encode(self, entry: Entry) -> bytes:
        return _json(self.render(entry))

    def _encode_segment(self, entries: Sequence[Entry]) -> bytes:
        return _json([self.render(entry) for entry in entries])

    def decode(self, number: int, body: bytes) -> Entry:
        """The entry of this number out of its object. Raises :class:`IntegrityError` where it is none."""
        try:
            value = json.loads(body)
        except ValueError as error:
            raise self._damaged(f"entry {number} cannot be read: {type(error).__name__}: {error}") from None
        return self._entry(number, value)

    def _entry(self, number: int, value: Any) -> Entry:
        try:
            entry = self.parse(value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"entry {number} cannot be read: {type(error).__name__}: {error}") from None
        if entry.number != number:
            raise self._damaged(f"entry {number} says that it is number {entry.number}")
        return entry

    def _damaged(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"the journal of {self.source} is damaged: {what}",
            where=f"s3://{self.store.bucket}/{self.prefix}",
            untouched="everything; journals are never edited",
            todo="bring the missing or damaged object back from a backup set; never renumber",
        )


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1).encode()


def check_version(value: Mapping[str, Any], reads: int) -> None:
    """Raise :class:`IntegrityError` unless an entry has the format that this version reads."""
    if value.get("format_version") != reads:
        raise IntegrityError(
            f"an entry of the ledger has format {value.get('format_version')!r}, this version reads {reads}",
            todo="use the version of the lakehouse that wrote it, or upgrade",
        )
