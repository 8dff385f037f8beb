"""The records of drills: what a restore from the backup alone brought back, how long it took, and what was wrong.

A record is written once, signed like the manifest of a set, as ``drills/<id>.json``; beside it lies the same as a page.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lakehouse.backup.signing import Signer, check_signature
from lakehouse.backup.vault import Vault
from lakehouse.core.errors import IntegrityError

FORMAT_VERSION = 1
DRILLS = "drills/"
ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\Z")
"""What an id looks like; whatever else is asked for is no drill."""

Compared = Literal["rows", "files", "view"]


@dataclass(frozen=True)
class TableDrilled:
    """A table that was restored, and how it was compared.

    ``compared`` is "rows": all rows were read from the restored table, and from the live one at the same snapshot where
    that still has it (``is_live_compared``); "files": the table is large, and every file was compared with the SHA-256
    that the set was signed with. ``snapshots`` and ``tags`` are old states that can be read. ``problems`` say what is
    wrong, none if nothing.
    """

    table: str
    snapshot_id: int | None
    rows: int | None
    files: int
    size_bytes: int
    snapshots: int
    tags: int
    compared: Compared
    is_live_compared: bool
    fingerprint: str
    seconds: float
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Goals:
    """How old the last set may be, and how long a restore of everything may take. Both in seconds."""

    rpo_seconds: float
    rto_seconds: float


@dataclass(frozen=True)
class Drill:
    """One drill, from its beginning to its result.

    ``rto_seconds`` is the time from the start until all drilled tables could be read and all their files were verified;
    ``rto_all_seconds`` is the same for every table: measured if all were drilled (``is_whole``), else extrapolated by
    bytes. ``rpo_seconds`` is the age of the set's cut when the drill began, ``worst_rpo_seconds`` the greatest that the
    sets left open over the ``window_hours`` before it.
    """

    id: str
    started_at: str
    finished_at: str
    actor: str
    approved_by: str
    version: str
    backup: str
    set_id: str
    cut_at: str
    tables: tuple[TableDrilled, ...]
    tables_of_set: int
    size_bytes: int
    size_bytes_of_set: int
    logs: int
    rto_seconds: float
    rto_all_seconds: float
    phases: tuple[tuple[str, float], ...]
    rpo_seconds: float
    worst_rpo_seconds: float
    window_hours: float
    goals: Goals
    damages: tuple[str, ...]
    public_key: str = ""
    signature: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def is_whole(self) -> bool:
        """Whether every table of the set was drilled."""
        return len(self.tables) == self.tables_of_set

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is wrong, of the whole and of single tables."""
        return (*self.damages, *(f"{each.table}: {problem}" for each in self.tables for problem in each.problems))

    @property
    def is_good(self) -> bool:
        """Whether what came back is what was there."""
        return not self.problems

    @property
    def missed_goals(self) -> tuple[str, ...]:
        """The goals that were missed, in words."""
        missed = {"the age of the set": (self.rpo_seconds, self.goals.rpo_seconds)}
        if self.tables:
            missed["the time to restore everything"] = (self.rto_all_seconds, self.goals.rto_seconds)
        return tuple(
            f"{name} is {duration(is_so)}, the goal is {duration(goal)}"
            for name, (is_so, goal) in missed.items()
            if is_so > goal
        )

    def signed(self, signer: Signer) -> Drill:
        """With a signature over everything else."""
        bare = replace(self, public_key=signer.public_key, signature="")
        return replace(bare, signature=signer.sign(bare.to_json()))

    def check(self, public_key: str, where: str) -> None:
        """Raise :class:`IntegrityError` unless it was signed with the key whose public part this is."""
        bare = replace(self, signature="").to_json()
        check_signature(bare, self.signature, public_key, where, what="the record of a drill")

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Drill:
        """Read what :meth:`to_json` wrote; raises :class:`IntegrityError`."""
        try:
            value: dict[str, Any] = json.loads(data)
            if value["format_version"] != FORMAT_VERSION:
                raise ValueError(f"it has format {value['format_version']!r}, this version reads {FORMAT_VERSION}")
            tables = tuple(TableDrilled(**{**each, "problems": tuple(each["problems"])}) for each in value["tables"])
            phases = tuple((str(name), float(seconds)) for name, seconds in value["phases"])
            goals, damages = Goals(**value["goals"]), tuple(value["damages"])
            return cls(**{**value, "tables": tables, "phases": phases, "goals": goals, "damages": damages})
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"the record of a drill cannot be read: {error}", where=where) from None


def drill_key(drill_id: str, ending: str = "json") -> str:
    """Where a drill's record is, or with "html" its page."""
    return f"{DRILLS}{drill_id}.{ending}"


def drill_ids(vault: Vault) -> list[str]:
    """Every drill that has a record, oldest first."""
    names = (key.removeprefix(DRILLS).partition(".")[0] for key in vault.keys(DRILLS) if key.endswith(".json"))
    return sorted(name for name in names if ID.match(name))


def read_drill(vault: Vault, drill_id: str, public_key: str) -> Drill:
    """A record that we signed. Raises :class:`IntegrityError` where there is none, or it is another's."""
    key = drill_key(drill_id)
    found = Drill.from_json(vault.get(key), vault.store.where(key))
    found.check(public_key, vault.store.where(key))
    return found


def write_drill(vault: Vault, drill: Drill, page: str) -> None:
    """Keep a record and its page; neither is ever replaced."""
    vault.put(drill_key(drill.id, "html"), page.encode())
    vault.put(drill_key(drill.id), drill.to_json())


def duration(seconds: float) -> str:
    """A length of time as people say it: 0.4 s, 12 s, 3 min 5 s, 2 h 4 min, 3 d 2 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, below, name in (("d", 86_400, 3_600, "h"), ("h", 3_600, 60, "min"), ("min", 60, 1, "s")):
        if whole >= length:
            rest = whole % length // below
            return f"{whole // length} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"
