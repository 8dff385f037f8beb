"""The archive of PostgreSQL's log, WAL: every segment once, compressed, under the server's own number and its timeline.

A server that is made anew begins with the same names of segments, so the number that ``initdb`` gave it comes first:
``databases/wal/<server>/<timeline>/<segment>.gz``.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lakehouse.backup.vault import Stored, Vault
from lakehouse.core.errors import IntegrityError, SettingsError

DATABASES = "databases/"
WAL = f"{DATABASES}wal/"
PRUNED = f"{DATABASES}pruned/"
SUFFIX = ".gz"
SEGMENT_BYTES = 16 * 1024 * 1024
_NAME = re.compile(r"[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
# XLogLongPageHeaderData: what each segment begins with, the same since PostgreSQL 9.3.
_HEADER = struct.Struct("<HHIQI4xQII")
_LONG_HEADER = 0x0002
_LEVEL = 6
# Gzip with an extra field, and no time; the field is called LH and has the 32 bytes that follow.
_HEAD = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff" + struct.pack("<H2sH", 36, b"LH", 32)


@dataclass(frozen=True)
class Header:
    """What a segment says of itself: the timeline and the place in the log of its first page, and whose it is."""

    timeline: int
    lsn: int
    server: str
    segment_bytes: int


@dataclass(frozen=True)
class Archived:
    """A file of the archive. ``at`` is when it was stored: what it holds was committed before."""

    key: str
    name: str
    size_bytes: int
    at: datetime


@dataclass(frozen=True)
class Fork:
    """Where a timeline left the one before it."""

    parent: int
    lsn: int


@dataclass(frozen=True)
class Gap:
    """Segments that are missing between others. Nothing that was committed in this span can be recovered by them."""

    names: tuple[str, ...]
    after: datetime
    before: datetime


@dataclass(frozen=True)
class Chain:
    """The segments from a place in the log on, as far as there are any, and the first gap in them, if there is one.

    ``files`` end at the gap, ``beyond`` are those after it.
    """

    files: tuple[Archived, ...]
    gap: Gap | None
    beyond: tuple[Archived, ...] = ()


def lsn_of(text: str) -> int:
    """A place in the log, from PostgreSQL's way of writing it."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def segment_name(timeline: int, number: int, segment_bytes: int) -> str:
    """What PostgreSQL calls a segment."""
    high, low = divmod(number, (1 << 32) // segment_bytes)
    return f"{timeline:08X}{high:08X}{low:08X}"


def segment_of(name: str, segment_bytes: int) -> tuple[int, int] | None:
    """The timeline and the number of a segment by its name; None for other files of the archive."""
    if not (found := _SEGMENT.fullmatch(name)):
        return None
    timeline, high, low = (int(part, 16) for part in found.groups())
    return timeline, high * ((1 << 32) // segment_bytes) + low


def read_header(content: bytes) -> Header | None:
    """The header of a segment; None where it is none."""
    if len(content) < _HEADER.size:
        return None
    _, info, timeline, lsn, _, server, segment_bytes, _ = _HEADER.unpack_from(content)
    return Header(timeline, lsn, str(server), segment_bytes) if info & _LONG_HEADER else None


def misfit(name: str, server: str, content: bytes) -> str:
    """Why some bytes are not the segment of this name and server, '' if they are. Other files have no header."""
    if not _SEGMENT.fullmatch(name):
        return ""
    header = read_header(content)
    if header is None or len(content) != header.segment_bytes:
        return "it is no whole segment"
    timeline, number = segment_of(name, header.segment_bytes) or (0, 0)
    if header.server != server:
        return f"it is of another server: {header.server}"
    # The first segment of a new timeline begins with a copy of the old one's.
    if header.lsn != number * header.segment_bytes or header.timeline > timeline:
        return "it is another segment"
    return ""


def server_number(data: Path) -> str:
    """The number of the server whose data folder this is: the first eight bytes of its control file."""
    return str(struct.unpack_from("<Q", (data / "global" / "pg_control").read_bytes())[0])


def server_timeline(data: Path) -> int:
    """The timeline that a data folder is on: of the last checkpoint, in PostgreSQL's control file since version 11."""
    return int(struct.unpack_from("<I", (data / "global" / "pg_control").read_bytes(), 48)[0])


def key_of(server: str, name: str) -> str:
    """Where a file of the archive is. Raises :class:`SettingsError` where PostgreSQL never calls one so."""
    if not _NAME.fullmatch(name) or not server.isdigit():
        raise SettingsError(f"{name!r} is no file of PostgreSQL's archive", untouched="the archive")
    return f"{WAL}{server}/{name[:8]}/{name}{SUFFIX}"


def compressed(content: bytes) -> bytes:
    """A file as it is stored: gzip, with the SHA-256 of all its other bytes in an extra field of the header.

    Gzip's own sum is of the content only, and a run of zeros says the same with many a bit flipped.
    """
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content) + packer.flush() + struct.pack("<II", zlib.crc32(content), len(content))
    return _HEAD + hashlib.sha256(_HEAD + packed).digest() + packed


def uncompressed(body: bytes) -> bytes:
    """What :func:`compressed` was given. Raises :class:`ValueError` where a single bit is another."""
    begin = len(_HEAD) + hashlib.sha256().digest_size
    if body[: len(_HEAD)] != _HEAD or hashlib.sha256(_HEAD + body[begin:]).digest() != body[len(_HEAD) : begin]:
        raise ValueError("it has other bytes than those that were stored")
    return gzip.decompress(body)


def store(vault: Vault, server: str, name: str, content: bytes) -> Stored:
    """Store a file of the archive once. Where it is already, it must be the same, however it was compressed."""
    key = key_of(server, name)
    if wrong := misfit(name, server, content):
        raise IntegrityError(
            f"the segment {name} is not archived: {wrong}",
            untouched="the archive; PostgreSQL keeps the segment",
            todo="see PostgreSQL's log: its folder pg_wal is damaged, or another server's",
        )
    try:
        return vault.put(key, compressed(content))
    except IntegrityError:
        if read(vault, key) != content:
            raise
        found = vault.head(key)
        if found is None:
            raise
        return vault.extended(found)


def read(vault: Vault, key: str) -> bytes:
    """A file of the archive. Raises :class:`IntegrityError` where it is missing or damaged."""
    body = vault.get(key)
    try:
        return uncompressed(body)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise IntegrityError(f"a file of the archive is damaged: {error}", where=vault.store.where(key)) from None


def archived(vault: Vault, server: str) -> dict[str, Archived]:
    """What the archive has of a server, by name. Which files there are is what only a listing can tell."""
    found = {}
    for info in vault.store.list_after(f"{WAL}{server}/"):
        name = info.key.rpartition("/")[2].removesuffix(SUFFIX)
        if _NAME.fullmatch(name):
            found[name] = Archived(
                info.key, name, info.size_bytes, info.modified_at or datetime.min.replace(tzinfo=UTC)
            )
    return found


def pruned_before(vault: Vault, server: str) -> int:
    """The first segment that was kept of a server's log; 0 where nothing was pruned."""
    return max((int(mark) for mark in vault.folders(f"{PRUNED}{server}/")), default=0)


def mark_pruned(vault: Vault, server: str, number: int) -> None:
    """Say that nothing before a segment is missed, before it is removed."""
    if pruned_before(vault, server) < number:
        vault.put(f"{PRUNED}{server}/{number}/", b"", anew=True)


def servers(vault: Vault) -> list[str]:
    """The servers that the archive has files of."""
    return vault.folders(WAL)


def timelines(files: Mapping[str, Archived]) -> dict[int, Archived]:
    """The timelines that were begun by a recovery, with the file that says where."""
    return {int(found[1], 16): file for name, file in files.items() if (found := _HISTORY.fullmatch(name))}


def path_to(vault: Vault, files: Mapping[str, Archived], timeline: int) -> tuple[tuple[int, int], ...]:
    """The timelines that lead to one, oldest first, each with the place in the log where it begins."""
    if timeline == 1:
        return ((1, 0),)
    history = files.get(f"{timeline:08X}.history")
    if history is None:
        raise IntegrityError(
            f"the archive does not say where timeline {timeline} begins",
            where=vault.store.where(f"{WAL}…/{timeline:08X}/{timeline:08X}.history{SUFFIX}"),
            todo="restore to a moment before it began, with --at",
        )
    return _path(read_forks(read(vault, history.key).decode(errors="replace")), timeline)


def read_forks(text: str) -> tuple[Fork, ...]:
    """What a timeline's history says: each one that it comes from, and where that was left."""
    lines = (line.split() for line in text.splitlines())
    return tuple(Fork(int(words[0]), lsn_of(words[1])) for words in lines if len(words) > 1 and words[0].isdigit())


def _path(forks: Sequence[Fork], timeline: int) -> tuple[tuple[int, int], ...]:
    begins = (0, *(fork.lsn for fork in forks))
    return tuple(zip((*(fork.parent for fork in forks), timeline), begins, strict=True))


def chain(
    files: Mapping[str, Archived], path: Sequence[tuple[int, int]], start: tuple[int, int], segment_bytes: int
) -> Chain:
    """The segments of a path of timelines from a base on: its timeline, and the place in the log where it starts."""
    first = start[1] // segment_bytes
    known = {found for name in files if (found := segment_of(name, segment_bytes))}
    last = max(
        (n for each, n in known if segment_name(each, n, segment_bytes) in _names(path, n, segment_bytes)), default=0
    )
    taken: list[Archived] = []
    beyond: list[Archived] = []
    missing: list[str] = []
    for number in range(first, last + 1):
        names = list(_names(path, number, segment_bytes))
        found_one = next((files[name] for name in names if name in files), None)
        if found_one:
            (beyond if missing else taken).append(found_one)
        elif not beyond:
            missing.append(names[0])
    if not missing or not beyond:
        return Chain(tuple(taken), None)
    gap = Gap(tuple(missing), taken[-1].at if taken else beyond[0].at, beyond[0].at)
    return Chain(tuple(taken), gap, tuple(beyond))


def leads_on(path: Sequence[tuple[int, int]], timeline: int, end_lsn: str) -> bool:
    """Whether a path of timelines goes through a base: its own timeline was not left before it ended."""
    ends = [*(begin for _, begin in path[1:]), None]
    return any(
        each == timeline and (end is None or lsn_of(end_lsn) <= end) for (each, _), end in zip(path, ends, strict=True)
    )


def _names(path: Sequence[tuple[int, int]], number: int, segment_bytes: int) -> Iterator[str]:
    """The names that hold a stretch of the log, the newest timeline's first: where two meet, both have the segment."""
    ends = [*(begin // segment_bytes for _, begin in path[1:]), number]
    for (timeline, begin), end in reversed(list(zip(path, ends, strict=True))):
        if begin // segment_bytes <= number <= end:
            yield segment_name(timeline, number, segment_bytes)
