"""File names and what landing makes of them; and ways in which a source's folder can be odd."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from tests.bad_input.making import good_csv, gz

Verdict = Literal["lands", "unit refused", "file refused", "passed over"]
FIRST = date(2023, 1, 1)


@dataclass(frozen=True)
class NameCase:
    """A file with an odd name, or something odd that has a file's name. ``{day}`` stands for the unit."""

    title: str
    name: str
    verdict: Verdict
    reason: str = ""
    make: Callable[[Path], None] = lambda path: None

    def unit(self) -> date:
        """A day of its own."""
        return FIRST + timedelta(days=NAME_CASES.index(self))


def _written(data: bytes) -> Callable[[Path], None]:
    return lambda path: _write(path, data)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _away(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def _nowhere(path: Path) -> None:
    path.symlink_to("there-is-no-such-file")


_GOOD = _written(good_csv())

NAME_CASES = [
    NameCase("line break", "{day}\n.csv", "unit refused", "a line break", _GOOD),
    NameCase("carriage return", "{day}\r.csv", "unit refused", "format character", _GOOD),
    NameCase("escape sequence of a terminal", "{day}\x1b[31m.csv", "unit refused", "format character", _GOOD),
    NameCase("text that runs from right to left", "{day}\u202evsc.csv", "unit refused", "format character", _GOOD),
    NameCase("emoji of several parts", "{day}👩\u200d👧.csv", "unit refused", "format character", _GOOD),
    NameCase("bytes that are not UTF-8", "{day}\udcff.csv", "unit refused", "a broken encoding", _GOOD),
    NameCase("backslash", "{day}..\\..\\x.csv", "unit refused", "a backslash", _GOOD),
    NameCase("hidden, as ../ would be", "..{day}.csv", "passed over", "a name begins with .", _GOOD),
    NameCase("temporary: half-written", "{day}.csv.part", "passed over", "temporary: still being written", _GOOD),
    NameCase("backup of an editor", "{day}.csv~", "passed over", "temporary: still being written", _GOOD),
    NameCase("no such day", "2023-02-30.csv", "file refused", "2023-02-30 is not a date", _GOOD),
    NameCase("other format", "{day}.txt", "passed over", "does not fit the pattern {date}*.csv*", _GOOD),
    NameCase("Jinja instead of a date", "{{ ds }}.csv", "passed over", "does not fit the pattern", _GOOD),
    NameCase("%2e%2e%2f before the date", "%2e%2e%2f{day}.csv", "passed over", "does not fit the pattern", _GOOD),
    NameCase("digits of another script", "٢٠٢٤-٠١-٠١.csv", "passed over", "does not fit the pattern", _GOOD),
    NameCase("unknown compression", "{day}.csv.bz2", "unit refused", "unknown compression", _GOOD),
    NameCase("archive", "{day}.csv.zip", "unit refused", "unknown compression; gzip (.gz) and zstd (.zst)", _GOOD),
    NameCase("unknown ending", "{day}.csv.bak", "unit refused", "unknown ending '.bak'", _GOOD),
    NameCase("ending in other case", "{day}.CSV", "passed over", "does not fit the pattern", _GOOD),
    NameCase("folder with a file's name", "{day}.csv", "unit refused", "it is a folder", Path.mkdir),
    NameCase("named pipe", "{day}.csv", "unit refused", "it is not a regular file", os.mkfifo),
    NameCase("link in a circle", "{day}.csv", "unit refused", "it cannot be read: Too many levels", _loop),
    NameCase("link to nowhere", "{day}.csv", "unit refused", "it cannot be read: No such file", _nowhere),
    NameCase("link out of the sources", "{day}.csv", "unit refused", "leads out of the sources' root", _away),
    NameCase("name of 250 letters", "{day}" + "x" * 230 + ".csv", "lands", "", _GOOD),
    NameCase("compressed", "{day}.csv.gz", "lands", "", _written(gz(good_csv()))),
]
