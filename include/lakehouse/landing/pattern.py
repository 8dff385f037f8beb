"""Which files belong to a source: the contract's pattern, and what a file's name says.

``retail/sales/{date}.csv*`` reads: in the folder ``retail/sales`` below the root, names that begin with an ISO date.
``*`` stands for anything within one name. After a literal ending (``.csv*``) it stands for a compression only.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Literal

from lakehouse.ledger.log import Compression

DATE = "{date}"
_TOKEN = re.compile(r"(\{date\}|\*)")
_ENDS_IN_COMPRESSION = re.compile(r"\.[A-Za-z0-9]+\*\Z")
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
_UNKNOWN_COMPRESSIONS = (".zip", ".bz2", ".xz", ".lz4", ".7z", ".br", ".snappy", ".lzo", ".Z", ".tar", ".tgz", ".rar")
_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".swp", ".filepart", "~")
_LONGEST_NAME = 1024
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode


@dataclass(frozen=True)
class Verdict:
    """What a name says. ``stem`` is the name without its compression; ``unit`` is known unless it is no date."""

    status: Literal["fits", "refused", "ignored"]
    reason: str = ""
    unit: date | None = None
    compression: Compression | None = None
    stem: str = ""


@dataclass(frozen=True)
class Pattern:
    """A contract's pattern, taken apart: ``folder`` has no placeholders, ``rest`` are the parts below it."""

    folder: str
    rest: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Split at the first part that holds a placeholder."""
        parts = text.strip("/").split("/")
        first = next((i for i, part in enumerate(parts[:-1]) if _TOKEN.search(part)), len(parts) - 1)
        return cls("/".join(parts[:first]), tuple(parts[first:]))

    @property
    def flat(self) -> Pattern:
        """Only the pattern's last part, for a root that directly holds the files."""
        return Pattern("", self.rest[-1:])

    @property
    def has_date(self) -> bool:
        """Whether a name says which unit it belongs to."""
        return any(DATE in part for part in self.rest)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        text = "/".join(self.rest)
        closed = bool(_ENDS_IN_COMPRESSION.search(text))
        pieces = _TOKEN.split(text.removesuffix("*") if closed else text)
        has_date, out = False, []
        for piece in pieces:
            if piece == DATE:
                out.append("(?P=date)" if has_date else r"(?P<date>\d{4}-\d{2}-\d{2})")
                has_date = True
            else:
                out.append("[^/]*" if piece == "*" else re.escape(piece))
        return re.compile("".join(out) + (r"(?P<ending>[^/]*)" if closed else "") + r"\Z", re.DOTALL | re.ASCII)

    def judge(self, name: str) -> Verdict:
        """Say what becomes of a file with this name, given relative to ``folder``."""
        match = self._regex.match(name)
        if reason := _bad_name(name):
            return Verdict("refused", reason, _date_of(match))
        if passed_over := _passed_over(name):
            return Verdict("ignored", passed_over)
        if match is None:
            return Verdict("ignored", f"does not fit the pattern {'/'.join(self.rest)}")
        unit = _date_of(match)
        if unit is None:
            return Verdict("refused", f"{match['date']} is not a date")
        if reason := _bad_ending(name, match.groupdict().get("ending")):
            return Verdict("refused", reason, unit)
        stem, compression = _split_compression(name)
        return Verdict("fits", "", unit, compression, stem)


def _passed_over(name: str) -> str:
    if any(part.startswith((".", "_")) for part in name.split("/")):
        return "hidden: a name begins with . or _"
    if name.lower().endswith(_TEMPORARY):
        return "temporary: still being written, or left over"
    return ""


def _date_of(match: re.Match[str] | None) -> date | None:
    try:
        return date.fromisoformat(match["date"]) if match else None
    except ValueError:
        return None


def _bad_name(name: str) -> str:
    if "\\" in name or any(unicodedata.category(character) in _UNSAFE for character in name):
        return "the name holds a control or format character, a line break, a backslash or a broken encoding"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "the path holds an empty part, . or .."
    if len(name.encode("utf-8")) > _LONGEST_NAME:
        return f"the name is longer than {_LONGEST_NAME} bytes"
    return ""


def _bad_ending(name: str, ending: str | None) -> str:
    if name.endswith(_UNKNOWN_COMPRESSIONS):
        return "unknown compression; gzip (.gz) and zstd (.zst) can be read"
    if ending and ending not in _COMPRESSIONS:
        return f"unknown ending {ending!r} after the pattern's own; only .gz and .zst may follow"
    return ""


def _split_compression(name: str) -> tuple[str, Compression | None]:
    for ending, compression in _COMPRESSIONS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), compression
    return name, None
