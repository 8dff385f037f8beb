"""Which sets are kept: the newest of each of so many days, weeks, months and years. The rest goes, as far as it may.

A plan first, as a value; then the removal, whose every step may be cut short: a set that is going is marked, is no set
from then on, and its list of files stays until they are gone. What another set refers to is never touched, and neither
is what is locked. The newest set stays, and so does the newest one that was verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lakehouse.backup.copying import Progress, in_threads
from lakehouse.backup.records import VERIFIED, read_records
from lakehouse.backup.roster import entered
from lakehouse.backup.sets import (
    COMPLETE,
    FILES,
    PRUNED,
    ROSTER,
    SETS,
    BackupSet,
    Files,
    complete_ids,
    load_files,
    load_set,
    set_ids,
    set_key,
)
from lakehouse.backup.vault import Stored, Vault
from lakehouse.core.errors import SettingsError
from lakehouse.core.failpoints import failpoint


@dataclass(frozen=True)
class Policy:
    """How many days, weeks, months and years have a set each; every set younger than ``hours`` is kept."""

    hours: int = 48
    daily: int = 14
    weekly: int = 8
    monthly: int = 12
    yearly: int = 3


@dataclass(frozen=True)
class Fate:
    """What becomes of a set, and why."""

    set_id: str
    cut_at: str
    is_kept: bool
    reason: str


@dataclass(frozen=True)
class Pruning:
    """What a prune would do: the fate of each set, and what goes with those that go."""

    fates: tuple[Fate, ...]
    objects: tuple[Stored, ...]
    locked: int

    @property
    def size_bytes(self) -> int:
        return sum(stored.size_bytes for stored in self.objects)

    @property
    def going(self) -> tuple[str, ...]:
        """The sets that go."""
        return tuple(fate.set_id for fate in self.fates if not fate.is_kept)


_PERIODS: Sequence[tuple[str, Callable[[datetime], tuple[int, ...]]]] = (
    ("daily", lambda at: (at.year, at.month, at.day)),
    ("weekly", lambda at: at.isocalendar()[:2]),
    ("monthly", lambda at: (at.year, at.month)),
    ("yearly", lambda at: (at.year,)),
)


def decide(cuts: Sequence[tuple[str, datetime]], verified: str, policy: Policy, now: datetime) -> tuple[Fate, ...]:
    """The fate of each complete set, given the times of their cuts. ``verified`` is the newest that was found good."""
    newest_first = sorted(cuts, key=lambda each: each[1], reverse=True)
    reasons: dict[str, str] = {}
    for name, period in _PERIODS:
        seen: set[tuple[int, ...]] = set()
        for set_id, at in newest_first:
            if period(at) not in seen and len(seen) < getattr(policy, name):
                seen.add(period(at))
                reasons.setdefault(set_id, name)
    for set_id, at in newest_first:
        if at > now - timedelta(hours=policy.hours):
            reasons[set_id] = "recent"
    if verified:
        reasons[verified] = "the newest that was verified"
    if newest_first:
        reasons[newest_first[0][0]] = "the newest"
    return tuple(
        Fate(set_id, at.isoformat(), set_id in reasons, reasons.get(set_id, "no rule keeps it"))
        for set_id, at in newest_first
    )


def plan_prune(vault: Vault, policy: Policy, public_key: str) -> Pruning:
    """What a prune would do now. Raises :class:`IntegrityError` where a set, and so what it needs, cannot be read."""
    found = {set_id: load_set(vault, set_id, public_key) for set_id in complete_ids(vault)}
    verified = last_verified(vault, tuple(found), public_key)
    if found and not verified:
        raise SettingsError(
            "no set has been verified: none is removed before one is",
            untouched="all sets",
            todo="run `lakehouse backup verify`",
        )
    cuts = [(set_id, datetime.fromisoformat(each.manifest.cut_at)) for set_id, each in found.items()]
    fates = [_unless_locked(vault, found[fate.set_id], fate) for fate in decide(cuts, verified, policy, vault.now)]
    left = [
        Fate(set_id, "", False, "it was never completed, is being removed, or was lost")
        for set_id in _leftovers(vault, found)
    ]
    kept = {key for fate in fates if fate.is_kept for key in _keys(found[fate.set_id].files())}
    going = _objects(vault, {fate.set_id: found.get(fate.set_id) for fate in (*fates, *left) if not fate.is_kept}, kept)
    free = tuple(stored for stored in going if not is_locked(stored, vault.now))
    return Pruning((*fates, *left), free, len(going) - len(free))


def run_prune(vault: Vault, plan: Pruning) -> int:
    """Do what was planned, under the lock of those who write backups; returns how many objects the server kept."""
    for set_id in plan.going:
        vault.put(set_key(set_id, PRUNED), b"", anew=True)
        remove_key(vault, set_key(set_id, COMPLETE))
    failpoint("backup.after_unseal")
    refused = sum(in_threads(lambda stored: remove(vault, stored), plan.objects))
    if not refused and not plan.locked:
        for set_id in plan.going:
            _remove_documents(vault, set_id)
    return refused


def last_verified(vault: Vault, complete: Sequence[str], public_key: str) -> str:
    """The newest complete set whose last verification found nothing; '' if there is none."""
    for set_id in sorted(complete, reverse=True):
        records = read_records(vault, set_id, public_key)
        if records and records[-1].is_good:
            return set_id
    return ""


def _unless_locked(vault: Vault, found: BackupSet, fate: Fate) -> Fate:
    """A set whose seal is locked stays: it could not be removed, only be made to look as if."""
    if fate.is_kept:
        return fate
    seals = _all(vault, set_key(found.id, COMPLETE))
    until = max((seal.locked_until for seal in seals if is_locked(seal, vault.now)), default="")
    if not until:
        return fate
    return Fate(fate.set_id, fate.cut_at, True, f"locked until {until}")


def _leftovers(vault: Vault, complete: Iterable[str]) -> list[str]:
    """Sets that are none: marked for removal; begun before the newest complete one, where nobody goes on; or lost.

    One that was complete once and has lost its seal is none of these: what it has may be wanted.
    """
    newest, there, known = max(complete, default=""), set_ids(vault), set(entered(vault))
    begun = [each for each in there if each not in complete]
    marked = {each for each in begun if vault.head(set_key(each, PRUNED)) is not None}
    stale = {each for each in begun if each < newest and each not in known}
    return sorted(marked | stale | (known - set(there)))


def _objects(vault: Vault, going: Mapping[str, BackupSet | None], kept: set[str]) -> list[Stored]:
    """What sets that go stored, and no set that stays refers to."""
    found: dict[tuple[str, str], Stored] = {}
    for set_id, complete in going.items():
        for entry in _files(vault, set_id, complete).values():
            found |= {(each.key, each.version): each for each in entry.objects if each.key not in kept}
    return list(found.values())


def _files(vault: Vault, set_id: str, complete: BackupSet | None) -> Files:
    """What a set that goes refers to, complete or not."""
    noted = Progress(vault, set_id).read()
    if complete:
        return noted | complete.files()
    key = set_key(set_id, FILES)
    return noted | load_files(vault.get(key)) if vault.head(key) else noted


def _keys(files: Files) -> Iterable[str]:
    return (stored.key for entry in files.values() for stored in entry.objects)


def is_locked(stored: Stored, now: datetime) -> bool:
    """Whether nobody can remove an object yet."""
    return bool(stored.locked_until) and datetime.fromisoformat(stored.locked_until) > now


def remove(vault: Vault, stored: Stored) -> int:
    """Remove an object for good; 1 where the server refuses, since another set has locked it for longer."""
    try:
        vault.delete(stored)
    except SettingsError:
        return 1
    return 0


def remove_key(vault: Vault, key: str) -> int:
    """Remove what is under a key in every version of it; returns how many the server refuses."""
    return sum(remove(vault, found) for found in _all(vault, key))


def _all(vault: Vault, key: str) -> list[Stored]:
    """A document in every version of it."""
    found = [vault.head(key, version) for version in vault.versions(key)] or [vault.head(key)]
    return [each for each in found if each]


def _remove_documents(vault: Vault, set_id: str) -> None:
    """The records and the set's own folder; its mark last, so that it is never taken for a begun one."""
    keys = [*vault.keys(f"{VERIFIED}{set_id}/"), f"{ROSTER}{set_id}", *vault.keys(f"{SETS}{set_id}/")]
    for key in sorted(keys, key=lambda key: key.endswith(PRUNED)):
        remove_key(vault, key)
