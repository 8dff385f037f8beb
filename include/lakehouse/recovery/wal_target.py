"""Where in the log a moment is: after the last commit before it.

PostgreSQL's own target by time stops at the first commit after the moment, and has done by then what that transaction
did at once and for good: DROP DATABASE removes the files before it commits. So the place is looked up instead.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from lakehouse.core.errors import IntegrityError
from lakehouse.stack import postgres

_COMMIT = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: COMMIT (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC")
_TIMELINE = 8  # characters of a segment's name


@dataclass(frozen=True)
class Commit:
    """A commit's place in the log, as PostgreSQL writes it, and its time."""

    lsn: str
    at: datetime


@dataclass(frozen=True)
class Place:
    """The last commit before a moment, '' where there is none, and whether one after the moment is known."""

    lsn: str
    is_passed: bool


def find_place(segments: Sequence[Path], first: int, at: datetime) -> Place:
    """Where a moment is, in segments that follow each other. The one before it is looked for from ``first`` on."""
    found = _place(read_commits(segments[first:]), at)
    return _place(read_commits(segments), at) if not found.lsn and first else found


def _place(commits: Iterable[Commit], at: datetime) -> Place:
    lsn = ""
    for commit in commits:
        if commit.at > at:
            return Place(lsn, is_passed=True)
        lsn = commit.lsn
    return Place(lsn, is_passed=False)


def read_commits(segments: Sequence[Path]) -> Iterator[Commit]:
    """The commits in segments, packed or not, in the order of the log."""
    for _, group in groupby(segments, lambda segment: segment.name[:_TIMELINE]):
        with tempfile.TemporaryDirectory(prefix="lakehouse-wal-") as folder:
            yield from _dumped([_unpacked(segment, Path(folder)) for segment in group])


def _unpacked(segment: Path, folder: Path) -> Path:
    if segment.suffix != ".gz":
        return Path(shutil.copyfile(segment, folder / segment.name))
    with gzip.open(segment) as source, (folder / segment.stem).open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return folder / segment.stem


def _dumped(segments: Sequence[Path]) -> Iterator[Commit]:
    command = [str(postgres.binaries() / "pg_waldump"), "--rmgr=Transaction", str(segments[0]), segments[-1].name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=postgres.environment())
    # Where the log ends, which is within a segment, it ends with an error, too.
    if done.returncode not in (0, 1):
        raise IntegrityError(
            f"the log cannot be read: {done.stderr.strip()[-300:]}",
            where=segments[0].name,
            untouched="the databases in use",
            todo="run `lakehouse backup verify`",
        )
    for line in done.stdout.splitlines():
        if found := _COMMIT.search(line):
            yield Commit(found[1], datetime.fromisoformat(found[2]).replace(tzinfo=UTC))
