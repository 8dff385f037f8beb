"""How backups stand: the last set, verification and drill, how much would be lost now, and what is overdue.

Where the databases are ours to back up, also their last base backup, and how far their log is archived.

Reads a few small objects; what never changes is read once, so that it can be asked every few seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

from lakehouse.backup.base_status import BASE_DAYS, Ask, Databases, SeenBases, read_databases
from lakehouse.backup.bases import base_ids
from lakehouse.backup.drills import DRILLS, Drill, Goals, drill_ids, duration, read_drill
from lakehouse.backup.records import Verification, newest_records
from lakehouse.backup.sets import COMPLETE, SETS, BackupSet, complete_ids, is_complete, load_set, set_ids
from lakehouse.backup.vault import Vault
from lakehouse.core.settings import Settings

WINDOW = timedelta(hours=48)
"""So long every set is kept, so that the times between them can be told."""
VERIFY_DAYS = 2
_ID_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Limits:
    """What is asked of backups."""

    rpo: timedelta
    rto: timedelta
    drill: timedelta
    verification: timedelta = timedelta(days=VERIFY_DAYS)
    base: timedelta = timedelta(days=BASE_DAYS)

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """As the settings say."""
        return cls(
            timedelta(minutes=settings.backup_rpo_minutes),
            timedelta(minutes=settings.backup_rto_minutes),
            timedelta(days=settings.backup_drill_days),
        )

    @property
    def goals(self) -> Goals:
        """Those that a drill is measured by."""
        return Goals(self.rpo.total_seconds(), self.rto.total_seconds())


@dataclass(frozen=True)
class Exposure:
    """What the loss of the lake would have cost: how old the last complete set was at its worst, and is now.

    ``since`` is from when on that is known: older sets are thinned out.
    """

    now: timedelta
    worst: timedelta
    sets: int
    since: datetime


@dataclass(frozen=True)
class LastSet:
    """The newest complete set."""

    id: str
    cut_at: datetime
    finished_at: datetime
    tables: int
    files: int
    size_bytes: int
    new_bytes: int


@dataclass(frozen=True)
class Status:
    """How backups stood at a moment; ``overdue`` says in words what a person has to look at.

    ``databases`` is None where they are not ours to back up, or nobody asked.
    """

    at: datetime
    last: LastSet | None
    exposure: Exposure | None
    verification: Verification | None
    drill: Drill | None
    good_drill: Drill | None
    limits: Limits
    overdue: tuple[str, ...]
    databases: Databases | None = None

    def to_json(self) -> str:
        """For scripts."""
        return json.dumps(
            {
                "at": self.at.isoformat(),
                "set": asdict(self.last) if self.last else None,
                "rpo": _exposure(self.exposure),
                "verification": _verification(self.verification),
                "drill": _drill(self.drill),
                "good_drill": _drill(self.good_drill),
                "databases": _databases(self.databases, self.at),
                "goals": {**asdict(self.limits.goals), "drill_days": self.limits.drill.days},
                "overdue": list(self.overdue),
            },
            default=lambda value: value.isoformat(),
            ensure_ascii=False,
            indent=1,
        )


@dataclass
class Seen:
    """What was read before and never changes: when each set was complete, and documents by their keys."""

    finished: dict[str, datetime] = field(default_factory=dict)
    last: BackupSet | None = None
    verifications: dict[str, Verification] = field(default_factory=dict)
    drills: dict[str, Drill] = field(default_factory=dict)
    bases: SeenBases = field(default_factory=SeenBases)
    first: str = ""


def read_status(
    vault: Vault,
    public_key: str,
    limits: Limits,
    now: datetime,
    seen: Seen | None = None,
    asked: Ask | None = None,
) -> Status:
    """How backups stand now. ``asked`` is how PostgreSQL is asked, if its databases are ours to back up.

    Raises :class:`IntegrityError` where the newest set, a base backup or a drill's record is not ours.
    """
    seen = seen if seen is not None else Seen()
    last = _last_set(vault, public_key, now, seen)
    exposure = exposure_of(seen.finished, now) if last else None
    bases = base_ids(vault)
    verification, of_bases = newest_records(vault, bases, public_key, seen.verifications)
    databases = read_databases(vault, public_key, asked, bases, of_bases, seen.bases) if asked else None
    drills = _last_drills(vault, public_key, seen)
    good = next((each for each in drills if each.is_good), None)
    oldest = _first_cut(vault, seen) if seen.finished else None
    words = tuple(_overdue(last, exposure, verification, drills[0] if drills else None, good, limits, now, oldest))
    words += tuple(databases.overdue(now, limits.base, oldest)) if databases else ()
    return Status(now, last, exposure, verification, drills[0] if drills else None, good, limits, words, databases)


def exposure_of(finished: dict[str, datetime], now: datetime, window: timedelta = WINDOW) -> Exposure:
    """How old the last complete set was at its worst: just before the next one was complete, or now.

    ``finished`` has the moment that each set was complete by its id, which begins with the time of its cut.
    """
    ids = sorted(finished)
    gaps = [
        finished[later] - cut_time(earlier)
        for earlier, later in zip(ids, ids[1:], strict=False)
        if finished[later] > now - window
    ]
    current = max(now - cut_time(ids[-1]), timedelta())
    since = max(now - window, min(cut_time(ids[0]), now))
    return Exposure(current, max([*gaps, current]), len(gaps) + 1, since)


def cut_time(set_id: str) -> datetime:
    """When a set was cut, as its id says."""
    return datetime.strptime(set_id.partition("-")[0], _ID_TIME).replace(tzinfo=UTC)


def _last_set(vault: Vault, public_key: str, now: datetime, seen: Seen) -> LastSet | None:
    if seen.finished and not is_complete(vault, max(seen.finished)):
        seen.finished.clear()  # sets are taken away from their oldest end only: somebody emptied the bucket
    known = max(seen.finished, default="")
    seen.finished |= _finished(vault, known or (now - WINDOW - timedelta(days=1)).strftime(_ID_TIME))
    if not seen.finished and (older := complete_ids(vault)):
        seen.finished |= _finished(vault, older[-1][:-1])
    newest = max(seen.finished, default="")
    if not newest:
        return None
    if seen.last is None or seen.last.id != newest:
        seen.last = load_set(vault, newest, public_key)
    manifest = seen.last.manifest
    times = (datetime.fromisoformat(manifest.cut_at), datetime.fromisoformat(manifest.finished_at))
    return LastSet(newest, *times, len(manifest.tables), manifest.files, manifest.size_bytes, manifest.new_bytes)


def _finished(vault: Vault, after: str) -> dict[str, datetime]:
    """The complete sets whose ids come after this text, by one listing of their documents."""
    found: dict[str, datetime] = {}
    for entry in vault.store.list_after(SETS, f"{SETS}{after}"):
        set_id, _, name = entry.key.removeprefix(SETS).partition("/")
        if name == COMPLETE and entry.modified_at is not None:
            found[set_id] = entry.modified_at.astimezone(UTC)
    return found


def _first_cut(vault: Vault, seen: Seen) -> datetime:
    """When the first set was cut that is there: what never was done since is late. Asked for once."""
    seen.first = seen.first or min(set_ids(vault), default=min(seen.finished))
    return cut_time(seen.first)


def _last_drills(vault: Vault, public_key: str, seen: Seen) -> Sequence[Drill]:
    """The newest drills down to the last good one, the newest first."""
    found: list[Drill] = []
    for drill_id in reversed(drill_ids(vault)):
        if drill_id not in seen.drills:
            seen.drills[drill_id] = read_drill(vault, drill_id, public_key)
        found.append(seen.drills[drill_id])
        if found[-1].is_good:
            break
    return found


def _overdue(
    last: LastSet | None,
    exposure: Exposure | None,
    verification: Verification | None,
    drill: Drill | None,
    good: Drill | None,
    limits: Limits,
    now: datetime,
    oldest: datetime | None,
) -> list[str]:
    """What a person has to look at, the worst first."""
    if last is None or exposure is None or oldest is None:
        return ["there is no complete backup set: make one with `lakehouse backup create`"]
    words = []
    if exposure.now > limits.rpo:
        words.append(f"the last complete set is {_age(exposure.now)} old, the goal is {_age(limits.rpo)}")
    words += _verification_words(verification, limits, now, oldest)
    if drill is not None and not drill.is_good:
        words.append(f"the last drill failed: {'; '.join(drill.problems[:3])}")
    if good is None and now - oldest > limits.drill:
        words.append("no drill has succeeded yet: run `lakehouse backup drill`")
    if good is not None and now - datetime.fromisoformat(good.started_at) > limits.drill:
        age = _age(now - datetime.fromisoformat(good.started_at))
        words.append(f"the last good drill was {age} ago, the limit is {_age(limits.drill)}")
    if good is not None and good.rto_all_seconds > limits.rto.total_seconds():
        took = duration(good.rto_all_seconds)
        words.append(f"a restore of everything takes {took} by the last good drill, the goal is {_age(limits.rto)}")
    return words


def _verification_words(found: Verification | None, limits: Limits, now: datetime, oldest: datetime) -> list[str]:
    if found is None:
        late = now - oldest > limits.verification
        return ["no set has been verified yet: run `lakehouse backup verify`"] if late else []
    if not found.is_good:
        return [f"the last verification found {len(found.damages)} damaged files in {found.set_id}"]
    age = now - datetime.fromisoformat(found.at)
    return [f"the last verification was {_age(age)} ago"] if age > limits.verification else []


def _age(value: timedelta) -> str:
    return duration(value.total_seconds())


def _exposure(found: Exposure | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "now_seconds": found.now.total_seconds(),
        "worst_seconds": found.worst.total_seconds(),
        "sets": found.sets,
        "since": found.since,
    }


def _verification(found: Verification | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "set": found.set_id,
        "at": found.at,
        "is_good": found.is_good,
        "share": found.share,
        "damages": len(found.damages),
    }


def _databases(found: Databases | None, at: datetime) -> dict[str, object] | None:
    if found is None:
        return None
    age, lag, base = found.base_age(at), found.lag(at), found.base
    return {
        "base": base and {"id": base.id, "finished_at": base.finished_at, "stored_bytes": base.stored_bytes},
        "base_age_seconds": age.total_seconds() if age is not None else None,
        "archived_until": found.reaches,
        "newest_segment": found.archived and {"name": found.archived.name, "at": found.archived.at},
        "segments_waiting": found.waiting,
        "failed_at": found.writing and found.writing.failed_at,
        "lag_seconds": lag.total_seconds() if lag is not None else None,
        "problem": found.problem,
        "damages": found.damaged,
    }


def _drill(found: Drill | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "id": found.id,
        "at": found.started_at,
        "is_good": found.is_good,
        "is_whole": found.is_whole,
        "set": found.set_id,
        "rto_seconds": found.rto_seconds,
        "rto_all_seconds": found.rto_all_seconds,
        "report": f"{DRILLS}{found.id}.html",
        "problems": list(found.problems),
    }
