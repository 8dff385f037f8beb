"""How far the databases can be brought back now: the last base backup, and how far the log is archived.

What is in the bucket says how far the archive reaches. PostgreSQL says which segment it writes: without that nobody
could tell an archive that stands still from a server where nothing happens. Few requests each time, so that it can be
asked every few seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import LiteralString

from lakehouse.backup import wal
from lakehouse.backup.bases import Base, base_ids, is_complete, load_base
from lakehouse.backup.drills import duration
from lakehouse.backup.records import Verification
from lakehouse.backup.vault import Vault
from lakehouse.backup.wal import Archived
from lakehouse.core.errors import IntegrityError, LakehouseError, TransientError
from lakehouse.core.settings import Settings

BASE_DAYS = 2
"""A base backup is made each day: one may fail."""
_TIMEOUTS = 2  # a segment is archived within one `archive_timeout`: one may be late
# Any role may ask this. A segment's name begins with its timeline.
_QUESTION: LiteralString = """
SELECT system_identifier::text, pg_walfile_name(pg_current_wal_lsn()), pg_postmaster_start_time(),
       CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') THEN last_failed_time END,
       (SELECT jsonb_object_agg(name, setting) FROM pg_settings
         WHERE name IN ('archive_mode', 'archive_timeout', 'wal_segment_size'))
  FROM pg_stat_archiver, pg_control_system()
"""


@dataclass(frozen=True)
class Writing:
    """What PostgreSQL says of its log: whose it is, and which segment of which timeline it writes.

    ``failed_at`` is when a segment could not be archived, None where that went well since; ``timeout`` how long a
    commit may wait for its segment to be archived.
    """

    server: str
    timeline: int
    segment: int
    segment_bytes: int
    started_at: datetime
    is_archiving: bool
    timeout: timedelta
    failed_at: datetime | None = None


Ask = Callable[[], Writing]


def asking(settings: Settings) -> Ask | None:
    """How PostgreSQL is asked; None where it is not ours, and so nobody backs its databases up here."""
    return partial(ask, settings) if settings.is_postgres_ours else None


def ask(settings: Settings) -> Writing:
    """Ask PostgreSQL as the reader. Raises :class:`LakehouseError` where it does not answer."""
    import psycopg

    from lakehouse.ledger.connection import connect

    settings.require_servers()
    try:
        with connect(settings.as_reader(), "status") as connection:
            [row] = connection.execute(_QUESTION).fetchall()
    except psycopg.Error as error:
        raise TransientError(f"PostgreSQL does not say what it archives: {str(error).splitlines()[0]}") from None
    server, name, started_at, failed_at, options = row
    segment_bytes = int(options["wal_segment_size"])
    timeline, segment = wal.segment_of(name, segment_bytes) or (0, 0)
    is_archiving, timeout = options["archive_mode"] != "off", timedelta(seconds=int(options["archive_timeout"]))
    return Writing(server, timeline, segment, segment_bytes, started_at, is_archiving, timeout, failed_at)


@dataclass(frozen=True)
class Databases:
    """How the backups of the databases stand.

    ``base`` is the newest base backup that leads to the databases as they are now, ``archived`` the newest segment of
    their log in the bucket. ``problem`` says why PostgreSQL did not say what it writes, and ``verified`` is what the
    last look at all base backups found.
    """

    base: Base | None
    archived: Archived | None
    writing: Writing | None
    problem: str = ""
    verified: tuple[Verification, ...] = ()

    @property
    def waiting(self) -> int | None:
        """How many segments are full and not in the bucket; None where nobody knows."""
        if self.writing is None or self.archived is None:
            return None
        found = wal.segment_of(self.archived.name, self.writing.segment_bytes)
        return max(0, self.writing.segment - found[1] - 1) if found else None

    @property
    def is_behind(self) -> bool:
        """Whether something is to be archived that is not: on an idle server the newest segment may be old."""
        return bool(self.waiting) or (self.writing is not None and self.writing.failed_at is not None)

    @property
    def reaches(self) -> datetime | None:
        """Up to when the archive is known to reach; None where there is nothing to begin with."""
        ends = [each for each in (self.archived and self.archived.at, self.base and self.base.finished) if each]
        return max(ends, default=None)

    @property
    def damaged(self) -> int:
        """How many files the last look at the base backups and the log found missing or damaged."""
        return len({damage.key for record in self.verified for damage in record.damages})

    def lag(self, now: datetime) -> timedelta | None:
        """How old the newest moment is that the archive reaches; none where all is there; None where nobody knows."""
        if self.writing is None or not self.writing.is_archiving:
            return None
        if not self.is_behind:
            return timedelta()
        return now - (self.reaches or self.writing.started_at)

    def base_age(self, now: datetime) -> timedelta | None:
        """How old the base backup is from which a recovery would begin."""
        return max(now - self.base.finished, timedelta()) if self.base else None

    def overdue(self, now: datetime, limit: timedelta, since: datetime | None) -> list[str]:
        """What a person has to look at. The first base backup has time until ``limit`` after ``since``."""
        return [*self._late_log(now), *self._late_base(now, limit, since), *self._damage()]

    def _late_log(self, now: datetime) -> list[str]:
        if self.writing is None:
            return []
        if not self.writing.is_archiving:
            return ["PostgreSQL does not archive its log: run `lakehouse up`"]
        if not self.is_late(now):
            return []
        lag, limit = self.lag(now) or timedelta(), _TIMEOUTS * self.writing.timeout
        words = f"the log of the databases is archived up to {_age(lag)} ago only, the limit is {_age(limit)}"
        return [f"{words}: {self.log_words(now)}"]

    def is_late(self, now: datetime) -> bool:
        """Whether more than a segment or two is not archived. While PostgreSQL was stopped, it could not do so."""
        lag = self.lag(now)
        if self.writing is None or lag is None:
            return False
        return min(lag, now - self.writing.started_at) > _TIMEOUTS * self.writing.timeout

    def words(self, now: datetime) -> str:
        """All of it in one line."""
        return f"base backup: {self.base_words(now)}; log: {self.log_words(now)}"

    def base_words(self, now: datetime) -> str:
        """How old the last base backup is, in words."""
        age = self.base_age(now)
        return f"{_age(age)} ago" if age is not None else "none that leads to the databases as they are now"

    def log_words(self, now: datetime) -> str:
        """How far the log is archived, in words."""
        if self.writing is None:
            known = f"its newest segment came {self._came(now)}" if self.archived else "nobody knows how far"
            return f"{known}; PostgreSQL did not say what waits: {self.problem}"
        if not self.writing.is_archiving:
            return "PostgreSQL does not archive it"
        words = [f"the newest segment came {self._came(now)}" if self.archived else "no segment is archived yet"]
        if self.waiting is not None:
            words.append(f"{self.waiting or 'none'} wait{'' if self.waiting > 1 else 's'}")
        if self.writing.failed_at:
            words.append(f"the last try failed at {self.writing.failed_at:%Y-%m-%d %H:%M:%S}: see PostgreSQL's log")
        return ", ".join(words)

    def _came(self, now: datetime) -> str:
        return f"{_age(max(now - self.archived.at, timedelta()))} ago" if self.archived else "never"

    def _late_base(self, now: datetime, limit: timedelta, since: datetime | None) -> list[str]:
        age = self.base_age(now)
        if age is not None and age > limit:
            return [f"the last base backup of the databases is {_age(age)} old, the limit is {_age(limit)}"]
        if age is None and since is not None and now - since > limit:
            return ["no base backup leads to the databases as they are now: run `lakehouse backup databases`"]
        return []

    def _damage(self) -> list[str]:
        words = f"the last verification found {self.damaged} damaged files of the databases' backups"
        return [words] if self.damaged else []


@dataclass
class SeenBases:
    """What was read before and never changes: base backups, where timelines begin, and the newest segment."""

    bases: dict[str, Base] = field(default_factory=dict)
    paths: dict[tuple[str, int], Sequence[tuple[int, int]]] = field(default_factory=dict)
    newest: Archived | None = None


def look(vault: Vault, public_key: str, asked: Ask) -> Databases:
    """How they stand now, without what verifications found. Raises as :func:`read_databases` does."""
    return read_databases(vault, public_key, asked, base_ids(vault), (), SeenBases())


def read_databases(
    vault: Vault, public_key: str, asked: Ask, ids: Sequence[str], verified: Iterable[Verification], seen: SeenBases
) -> Databases:
    """How they stand now, of these base backups, the oldest first. PostgreSQL may be away.

    Raises :class:`IntegrityError` where a base backup is not ours, and other errors where the bucket does not answer.
    """
    writing, problem = None, ""
    try:
        writing = asked()
    except LakehouseError as error:
        problem = error.what
    base = _newest_base(vault, public_key, ids, writing, seen)
    archived = _newest_segment(vault, base, writing, seen)
    return Databases(base, archived, writing, problem, tuple(verified))


def _newest_base(
    vault: Vault, public_key: str, ids: Sequence[str], writing: Writing | None, seen: SeenBases
) -> Base | None:
    for base_id in reversed(ids):
        if base_id not in seen.bases:
            if not is_complete(vault, base_id):
                continue
            seen.bases[base_id] = load_base(vault, base_id, public_key)
        base = seen.bases[base_id]
        if writing is None or _leads_on(vault, base, writing, seen):
            return base
    return None


def _leads_on(vault: Vault, base: Base, writing: Writing, seen: SeenBases) -> bool:
    """Whether the log goes from a base to what is written now: it is of this server, and was not undone since."""
    if base.server != writing.server:
        return False
    if base.timeline == writing.timeline:
        return True
    return wal.leads_on(_path(vault, writing, seen), base.timeline, base.end_lsn)


def _path(vault: Vault, writing: Writing, seen: SeenBases) -> Sequence[tuple[int, int]]:
    """The timelines that led to this one; only this one as long as the archive does not say where it began."""
    here = (writing.server, writing.timeline)
    if here not in seen.paths:
        name = f"{writing.timeline:08X}.history"
        history = Archived(wal.key_of(writing.server, name), name, 0, writing.started_at)
        try:
            seen.paths[here] = wal.path_to(vault, {name: history}, writing.timeline)
        except IntegrityError:
            return ((writing.timeline, 0),)
    return seen.paths[here]


def _newest_segment(vault: Vault, base: Base | None, writing: Writing | None, seen: SeenBases) -> Archived | None:
    """The last one of the timeline that is written. Only what came after the one that was seen is listed."""
    of = writing or base
    if of is None:
        return None
    folder = f"{wal.key_of(of.server, f'{of.timeline:08X}.history').rpartition('/')[0]}/"
    known = seen.newest if seen.newest and seen.newest.key.startswith(folder) else None
    if known and vault.head(known.key) is None:  # somebody emptied the bucket
        known = None
    for info in vault.store.list_after(folder, known.key if known else _start(folder, base, of.timeline)):
        name = info.key.removeprefix(folder).removesuffix(wal.SUFFIX)
        if wal.segment_of(name, of.segment_bytes) and info.modified_at:
            known = Archived(info.key, name, info.size_bytes, info.modified_at)
    seen.newest = known
    return known


def _start(folder: str, base: Base | None, timeline: int) -> str:
    """Before the segment in which the newest base backup ended: earlier ones need not be listed."""
    if base is None or base.timeline != timeline:
        return ""
    last = wal.lsn_of(base.end_lsn) // base.segment_bytes
    return f"{folder}{wal.segment_name(timeline, max(0, last - 1), base.segment_bytes)}{wal.SUFFIX}"


def _age(value: timedelta) -> str:
    return duration(value.total_seconds())
