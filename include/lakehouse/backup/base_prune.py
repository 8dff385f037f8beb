"""Which base backups of the databases are kept, and how much of the archived log.

Base backups are chosen as sets are. The log is kept from the oldest base backup of the last days on, so that every
moment since then can be reached, and at least from the newest one, and the newest one that was verified, on. Older ones
hold what they need to be opened as of their own moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from lakehouse.backup import wal
from lakehouse.backup.bases import BASES, COMPLETE, PRUNED, Base, base_ids, base_key, complete_base_ids, load_base
from lakehouse.backup.copying import in_threads
from lakehouse.backup.prune import Fate, Policy, decide, is_locked, last_verified, remove, remove_key
from lakehouse.backup.records import VERIFIED
from lakehouse.backup.vault import Stored, Vault
from lakehouse.backup.wal import Archived, mark_pruned
from lakehouse.core.errors import SettingsError
from lakehouse.core.failpoints import failpoint

_WHOLE_LOG = ("recent", "daily", "the newest", "the newest that was verified")


@dataclass(frozen=True)
class BasePruning:
    """What a prune would do: the fate of each base backup, and the files of the log that nobody needs.

    ``starts`` is the first segment of each server's log that stays.
    """

    fates: tuple[Fate, ...]
    log: tuple[Stored, ...]
    locked: int
    starts: Mapping[str, int]

    @property
    def going(self) -> tuple[str, ...]:
        """The base backups that go."""
        return tuple(fate.set_id for fate in self.fates if not fate.is_kept)

    @property
    def is_empty(self) -> bool:
        """Whether nothing goes."""
        return not self.going and not self.log


def plan_base_prune(vault: Vault, policy: Policy, public_key: str) -> BasePruning:
    """What a prune would do now. Raises :class:`IntegrityError` where a base backup cannot be read."""
    found = {each: load_base(vault, each, public_key) for each in complete_base_ids(vault)}
    verified = last_verified(vault, tuple(found), public_key)
    if found and not verified:
        raise SettingsError(
            "no base backup of the databases has been verified: none is removed before one is",
            untouched="all backups",
            todo="run `lakehouse backup verify`",
        )
    fates = decide([(each, base.finished) for each, base in found.items()], verified, policy, vault.now)
    fates = tuple(_unless_locked(vault, fate) for fate in fates)
    newest = max(found, default="")
    left = [
        Fate(each, "", False, "it was never completed, or is being removed")
        for each in base_ids(vault)
        if each not in found and (each < newest or vault.head(base_key(each, PRUNED)) is not None)
    ]
    starts = [found[fate.set_id] for fate in fates if fate.is_kept and fate.reason in _WHOLE_LOG]
    first: dict[str, int] = {}
    for base in starts:
        first[base.server] = min(base.first_segment, first.get(base.server, base.first_segment))
    log = _unneeded(vault, {base.server: base for base in starts}, first, policy)
    free = tuple(stored for stored in log if not is_locked(stored, vault.now))
    return BasePruning((*fates, *left), free, len(log) - len(free), first)


def _unless_locked(vault: Vault, fate: Fate) -> Fate:
    seal = vault.head(base_key(fate.set_id, COMPLETE))
    if fate.is_kept or seal is None or not is_locked(seal, vault.now):
        return fate
    return Fate(fate.set_id, fate.cut_at, True, f"locked until {seal.locked_until}")


def _unneeded(vault: Vault, bases: Mapping[str, Base], first: Mapping[str, int], policy: Policy) -> list[Stored]:
    """The segments before those that a recovery from any kept base begins with. Histories always stay."""
    going: list[Archived] = []
    for server in wal.servers(vault):
        size = bases[server].segment_bytes if server in bases else wal.SEGMENT_BYTES
        old = [file for file in wal.archived(vault, server).values() if not _is_recent(vault, file, policy)]
        for file in old:
            found = wal.segment_of(file.name[:24], size)
            if found and (server not in first or found[1] < first[server]):
                going.append(file)
    return [stored for stored in in_threads(lambda file: vault.head(file.key), going) if stored is not None]


def _is_recent(vault: Vault, file: Archived, policy: Policy) -> bool:
    return file.at > vault.now - timedelta(hours=policy.hours)


def run_base_prune(vault: Vault, plan: BasePruning) -> int:
    """Do what was planned, under the lock of those who write backups; returns how many objects the server kept."""
    for base_id in plan.going:
        vault.put(base_key(base_id, PRUNED), b"", anew=True)
        remove_key(vault, base_key(base_id, COMPLETE))
    failpoint("databases.after_unseal")
    for server, number in plan.starts.items():
        if plan.log:
            mark_pruned(vault, server, number)
    refused = sum(in_threads(lambda stored: remove(vault, stored), plan.log))
    for base_id in plan.going:
        refused += _remove_base(vault, base_id)
    return refused


def _remove_base(vault: Vault, base_id: str) -> int:
    """Remove a base backup's objects; its mark last, and only when nothing else of it is left."""
    keys = [*vault.keys(f"{VERIFIED}{base_id}/"), *vault.keys(f"{BASES}{base_id}/")]
    refused = sum(remove_key(vault, key) for key in keys if not key.endswith(PRUNED))
    if not refused:
        remove_key(vault, base_key(base_id, PRUNED))
    return refused
