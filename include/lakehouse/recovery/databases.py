"""The databases of the local PostgreSQL, brought back to a moment: beside those in use, looked at, then swapped.

A base backup is unpacked, and the archived log is followed to the moment. Whatever is in use stays as it is until the
recovered server has been looked into; its folder is kept after that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from lakehouse.backup import wal
from lakehouse.backup.bases import Base, complete_base_ids, load_base
from lakehouse.backup.signing import public_key_of
from lakehouse.backup.vault import Vault
from lakehouse.backup.wal import Archived, Gap
from lakehouse.core.clock import Clock
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.recovery.base_backup import require_ours
from lakehouse.recovery.private_server import AT_ONCE, Target, connect, recovered
from lakehouse.recovery.wal_target import Place, find_place
from lakehouse.stack import archiving, credentials, local, postgres, roles
from lakehouse.stack.accounts import let_enter, server_user
from lakehouse.stack.processes import User

if TYPE_CHECKING:
    import psycopg

Told = Callable[[str], None]
Pointers = dict[str, str]
"""The catalog: metadata file by name of table or view."""
_THREADS = 8
_BEFORE = 3  # segments that were archived before a moment and are looked through for the last commit before it
# Without those that were being dropped at that moment: nobody can open them.
_DATABASES = "SELECT datname FROM pg_database WHERE datconnlimit <> -2"
_POINTERS = "SELECT table_namespace, table_name, metadata_location FROM iceberg_tables WHERE catalog_name = %s"


@dataclass(frozen=True)
class Plan:
    """What a recovery would do. ``until`` is when the last segment that it follows was archived.

    ``gap`` is what is missing after that, ``kept`` the folder that the databases in use would have.
    """

    base: Base
    at: datetime | None
    timeline: int
    files: tuple[Archived, ...]
    until: datetime
    gap: Gap | None
    has_data: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "base": self.base.id,
            "server": self.base.server,
            "base_finished_at": self.base.finished_at,
            "at": self.at.isoformat() if self.at else None,
            "timeline": self.timeline,
            "segments": len(self.files),
            "bytes": self.base.stored_bytes + sum(file.size_bytes for file in self.files),
            "archived_until": self.until.isoformat(),
            "missing": list(self.gap.names) if self.gap else [],
            "replaces_data": self.has_data,
        }


@dataclass(frozen=True)
class Look:
    """What was found in recovered databases. ``last_commit`` is the last that they have, '' where the log has none."""

    databases: tuple[str, ...]
    missing: tuple[str, ...]
    pointers: Pointers
    airflow_runs: int | None
    last_commit: str


@dataclass(frozen=True)
class Differences:
    """The catalog as recovered against the one that was in use: tables that only one has, and those that moved."""

    back: tuple[str, ...]
    gone: tuple[str, ...]
    moved: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """A recovery that was carried out. ``differences`` is None where the databases in use did not answer."""

    plan: Plan
    look: Look
    reached_moment: bool
    differences: Differences | None
    kept: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **self.plan.to_json(),
            "databases": list(self.look.databases),
            "tables": len(self.look.pointers),
            "airflow_runs": self.look.airflow_runs,
            "last_commit": self.look.last_commit,
            "reached_moment": self.reached_moment,
            "differences": asdict(self.differences) if self.differences else None,
            "kept": self.kept,
            "seconds_taken": round(self.seconds, 1),
        }


def plan_databases(settings: Settings, clock: Clock, at: datetime | None = None, base_id: str = "") -> Plan:
    """What a recovery to a moment, or to the end of the archive, would do. Nothing but the bucket of backups is needed.

    Raises :class:`SettingsError` where no base backup is old enough, and :class:`IntegrityError` where the archive
    lacks something before the moment.
    """
    require_ours(settings)
    vault, data = Vault.open(settings, clock.now()), _data(settings)
    if at and at > clock.now():
        raise SettingsError(f"{at.isoformat()} is yet to come", untouched="everything", todo="name a moment that was")
    base, files, path = _choose(vault, public_key_of(settings), data, at, base_id)
    start = (base.timeline, wal.lsn_of(base.start_lsn))
    found = wal.chain(files, path, start, base.segment_bytes)
    taken = found.files if at is None else _up_to(found.files, at)
    until = max((file.at for file in taken), default=base.finished)
    gap = found.gap if found.gap and (at is None or at > found.gap.after) else None
    if gap and at:
        raise _missing(vault, gap)
    return Plan(base, at, path[-1][0], taken, until, gap, data.exists())


def _choose(
    vault: Vault, public_key: str, data: Path, at: datetime | None, base_id: str
) -> tuple[Base, Mapping[str, Archived], Sequence[tuple[int, int]]]:
    """The newest base before the moment whose server's log leads there; that of this home's server first."""
    known, own = complete_base_ids(vault), _number(data)
    timeline = wal.server_timeline(data) if own else 0
    if base_id and base_id not in known:
        raise SettingsError(f"there is no base backup {base_id!r}", where=", ".join(known[-5:]), untouched="everything")
    archives: dict[str, Mapping[str, Archived]] = {}
    fitting: list[tuple[Base, Mapping[str, Archived], Sequence[tuple[int, int]]]] = []
    for each in [base_id] if base_id else reversed(known):
        base = load_base(vault, each, public_key)
        if at and base.finished > at:
            continue
        files = archives.setdefault(base.server, wal.archived(vault, base.server))
        path = wal.path_to(vault, files, _timeline_at(files, base.timeline, at, timeline if base.server == own else 0))
        if wal.leads_on(path, base.timeline, base.end_lsn):
            fitting.append((base, files, path))
            if base.server == own or not own:
                break
    for one in fitting:
        if one[0].server == own:
            return one
    if not fitting:
        raise SettingsError(
            f"no base backup leads to {at.isoformat()}" if at else "there is no base backup",
            where=vault.store.where(wal.DATABASES) + (f"; there are {', '.join(known[-5:])}" if known else ""),
            untouched="everything",
            todo="choose a later moment; `lakehouse backup databases` makes a base backup, and moments after it can be "
            "reached. Without any, `lakehouse undrop --all` makes the catalog out of the tables' files",
        )
    return fitting[0]


def _timeline_at(files: Mapping[str, Archived], least: int, at: datetime | None, own: int = 0) -> int:
    """The timeline that was written at a moment: that of this home if it had begun by then, else the last that had.

    Another machine that was restored from the same backups has timelines of its own.
    """
    begun = [number for number, file in wal.timelines(files).items() if at is None or file.at <= at]
    return own if own in (1, *begun) else max([least, *begun])


def _up_to(files: Sequence[Archived], at: datetime) -> tuple[Archived, ...]:
    """The segments up to the first one that was archived after the moment, and one more: clocks differ."""
    after = next((place for place, file in enumerate(files) if file.at > at), len(files))
    return tuple(files[: after + 2])


def _missing(vault: Vault, gap: Gap) -> IntegrityError:
    return IntegrityError(
        f"the archive lacks {', '.join(gap.names)}",
        where=f"{vault.store.where(wal.WAL)}; what was committed between {gap.after.isoformat()} and "
        f"{gap.before.isoformat()}, and after that, cannot be reached from this base backup",
        untouched="everything",
        todo=f"choose a moment before {gap.after.isoformat()}, or one after a later base backup",
    )


def carry_out(settings: Settings, plan: Plan, clock: Clock, told: Told = lambda _: None) -> Done:
    """Recover beside the databases in use, look at what came, stop what works with them, and swap the folders.

    A run that is cut short leaves what was in use; the next one clears up. The S3 servers go on.
    """
    began = clock.now()
    home = settings.home
    home.mkdir(parents=True, exist_ok=True)
    with local.holding_stack(home):
        postgres.finish_swap(_data(settings))
        postgres.clear_restoring(home)
        passwords = credentials.load_or_create(settings).passwords
        before = _pointers_in_use(settings, passwords)
        vault, user = Vault.open(settings, began), server_user(_data(settings))
        workplace = _workplace(home, user)
        try:
            look, is_reached = _recover(settings, vault, plan, workplace, user, passwords, told)
            failpoint("databases.before_swap")
            told("swapping the folders")
            local.stop_databases(settings)
            kept = _swap(_data(settings), workplace / "data", clock.now())
        finally:
            postgres.clear_restoring(home)
    differences = None if before is None else differ(before, look.pointers)
    return Done(plan, look, is_reached, differences, kept, (clock.now() - began).total_seconds())


def _recover(
    settings: Settings,
    vault: Vault,
    plan: Plan,
    workplace: Path,
    user: User | None,
    passwords: roles.Passwords,
    told: Told,
) -> tuple[Look, bool]:
    data, log = workplace / "data", workplace.parent / "logs" / "recovery.log"
    told("unpacking the base backup")
    unpack(vault, plan.base, data)
    check_files(data)
    told(f"fetching {len(plan.files)} segments of the log")
    _fetch(vault, plan, workplace / "wal")
    _take_unarchived(_data(settings), data, plan.base)
    _give(workplace, user)
    place = _place(plan, workplace) if plan.at else None
    log.unlink(missing_ok=True)
    told("following the log")
    target = Target(plan.timeline, "" if place is None else place.lsn or AT_ONCE)
    look = _look_into(settings, data, workplace / "wal", target, user, log, passwords)
    return look, place is None or place.is_passed


def _place(plan: Plan, workplace: Path) -> Place:
    """Where the moment is in the log: in what was archived around it, and in what was not archived yet."""
    at = cast(datetime, plan.at)
    archive = [workplace / "wal" / f"{file.name}{wal.SUFFIX}" for file in plan.files]
    last = wal.segment_of(plan.files[-1].name, plan.base.segment_bytes) if plan.files else None
    begin = last[1] + 1 if last else plan.base.first_segment
    tail = []
    for file in sorted((workplace / "data" / "pg_wal").iterdir()):
        found = wal.segment_of(file.name, plan.base.segment_bytes)
        if found and found[0] == plan.timeline and found[1] >= begin:
            tail.append(file)
    after = next((number for number, file in enumerate(plan.files) if file.at > at), len(plan.files))
    return find_place([*archive, *tail], max(0, after - _BEFORE), at)


def _look_into(
    settings: Settings,
    data: Path,
    archive: Path,
    target: Target,
    user: User | None,
    log: Path,
    passwords: roles.Passwords,
) -> Look:
    """Recover, look, and let in whoever this home's credentials name. Raises where a database is not there."""
    with recovered(data, archive, target, user, log) as socket:
        found = look_at(settings, socket)
        if settings.catalog_database in found.missing:
            raise IntegrityError(
                f"at that moment there was no database {settings.catalog_database}",
                where=f"the last commit that was followed is of {found.last_commit or 'no known time'}",
                untouched="the databases in use",
                todo="choose an earlier moment with --at",
            )
        with connect(socket, "postgres") as server:
            roles.set_password(server, postgres.SUPERUSER, passwords.superuser)
    return found


def look_at(settings: Settings, socket: Path) -> Look:
    """Open every database of the lakehouse, and read what matters in it."""
    with connect(socket, "postgres") as server:
        there = {row[0] for row in server.execute(_DATABASES).fetchall()}
        last = server.execute("SELECT pg_last_xact_replay_timestamp()").fetchone()
    wanted = tuple(roles.owners_of(settings))
    pointers: Pointers = {}
    if settings.catalog_database in there:
        with connect(socket, settings.catalog_database) as catalog:
            pointers = _pointers(catalog)
    runs = None
    if roles.AIRFLOW_DATABASE in there:
        with connect(socket, roles.AIRFLOW_DATABASE) as airflow:
            runs = _airflow_runs(airflow)
    return Look(
        tuple(name for name in wanted if name in there),
        tuple(name for name in wanted if name not in there),
        pointers,
        runs,
        last[0].astimezone(UTC).isoformat() if last and last[0] else "",
    )


def _pointers(catalog: psycopg.Connection) -> Pointers:
    if not _has_table(catalog, "iceberg_tables"):
        return {}
    rows = catalog.execute(_POINTERS, (CATALOG,)).fetchall()
    return {f"{namespace}.{name}": location for namespace, name, location in rows}


def _airflow_runs(airflow: psycopg.Connection) -> int | None:
    if not _has_table(airflow, "dag_run"):
        return None
    row = airflow.execute("SELECT count(*) FROM dag_run").fetchone()
    return int(row[0]) if row else None


def _has_table(connection: psycopg.Connection, name: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"public.{name}",)).fetchone()
    return bool(row and row[0])


def _pointers_in_use(settings: Settings, passwords: roles.Passwords) -> Pointers | None:
    """The catalog that is in use, and the log up to now put where it can be taken; None where it does not answer."""
    import psycopg

    port = credentials.remembered_postgres_port(settings.home)
    if not port or not _data(settings).exists():
        return None
    try:
        with postgres.connect(port, "postgres", postgres.SUPERUSER, passwords.superuser) as server:
            server.execute("SELECT pg_switch_wal()")
            if not _has_database(server, settings.catalog_database):
                return {}
        with postgres.connect(port, settings.catalog_database, postgres.SUPERUSER, passwords.superuser) as catalog:
            return _pointers(catalog)
    except psycopg.Error:
        return None


def _has_database(server: psycopg.Connection, name: str) -> bool:
    return server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None


def differ(before: Pointers, after: Pointers) -> Differences:
    """What a recovery changes in the catalog."""
    return Differences(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
    )


def unpack(vault: Vault, base: Base, data: Path) -> None:
    """Unpack a base backup. Raises :class:`IntegrityError` where a part is not the one that was stored."""
    data.mkdir(mode=0o700)
    with tarfile.open(fileobj=cast(BinaryIO, _Unpacking(_bodies(vault, base))), mode="r|") as tar:
        for member in tar:
            _put(tar, member, data)


def _bodies(vault: Vault, base: Base) -> Iterator[bytes]:
    for part in base.parts:
        body = vault.get(part.key, part.version)
        if hashlib.sha256(body).hexdigest() != part.sha256:
            raise IntegrityError(
                "a part of the base backup is damaged",
                where=vault.store.where(part.key),
                untouched="the databases in use",
                todo="choose an older base backup with --base; the log leads from it to the same moment",
            )
        yield body


class _Unpacking:
    """What compressed parts hold, read as a file."""

    def __init__(self, bodies: Iterable[bytes]) -> None:
        self._bodies = iter(bodies)
        self._unpacker = zlib.decompressobj(31)
        self._ahead = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._ahead) < size and (body := next(self._bodies, None)) is not None:
            self._ahead += self._unpacker.decompress(body)
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data


def _put(tar: tarfile.TarFile, member: tarfile.TarInfo, data: Path) -> None:
    """Put one file of a data folder where it belongs: below it, with nobody else's rights."""
    parts = Path(member.name).parts
    if member.name.startswith("/") or ".." in parts or not (member.isdir() or member.isfile()):
        raise IntegrityError(f"the base backup has something that is no file of ours: {member.name!r}")
    place = data.joinpath(*parts)
    if member.isdir():
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
        shutil.copyfileobj(cast(BinaryIO, tar.extractfile(member)), target, 1 << 20)


def check_files(data: Path) -> None:
    """Compare every unpacked file with the list that PostgreSQL put into the base backup. Raises where one differs."""
    listed = json.loads((data / "backup_manifest").read_bytes())["Files"]
    with ThreadPoolExecutor(_THREADS) as pool:
        wrong = [name for name in pool.map(lambda entry: _differing(data, entry), listed) if name]
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} files of the base backup are not as PostgreSQL wrote them",
            where=", ".join(wrong[:5]),
            untouched="the databases in use",
            todo="choose another base backup with --base; the log leads from it to the same moment",
        )


def _differing(data: Path, entry: Mapping[str, Any]) -> str:
    """The name of a listed file that is missing or has other bytes, '' if it is as listed."""
    name = entry["Path"] if "Path" in entry else bytes.fromhex(entry["Encoded-Path"]).decode(errors="surrogateescape")
    place = data / name
    if not place.is_file():
        return str(name)
    with place.open("rb") as file:
        is_same = hashlib.file_digest(file, "sha256").hexdigest() == entry["Checksum"]
    return "" if is_same and place.stat().st_size == entry["Size"] else str(name)


def _fetch(vault: Vault, plan: Plan, folder: Path) -> None:
    """The segments, compressed as they are, and the histories of all timelines: a new one takes a number after them."""
    folder.mkdir(mode=0o700)
    histories = wal.timelines(wal.archived(vault, plan.base.server)).values()

    def fetch(file: Archived) -> None:
        (folder / f"{file.name}{wal.SUFFIX}").write_bytes(vault.get(file.key))

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(fetch, [*plan.files, *histories]))


def _take_unarchived(old: Path, data: Path, base: Base) -> None:
    """What the server in use had not archived yet: PostgreSQL looks there for what the archive does not have."""
    if _number(old) != base.server:
        return
    for file in sorted((old / "pg_wal").iterdir()):
        found = wal.segment_of(file.name, base.segment_bytes)
        if file.name.endswith(".history") or (found and found[1] >= base.first_segment):
            shutil.copyfile(file, data / "pg_wal" / file.name)


def _swap(data: Path, recovered_data: Path, now: datetime) -> str:
    """Put the recovered folder in the place of the one in use; returns where that is kept, '' where there was none.

    Cut short between its steps, `lakehouse up` and the next recovery finish it.
    """
    kept = data.with_name(f"{postgres.KEPT}{now:%Y%m%dT%H%M%SZ}")
    os.rename(recovered_data, data.with_name(postgres.RESTORED))
    was_there = data.exists()
    if was_there:
        os.rename(data, kept)
    failpoint("databases.in_swap")
    postgres.finish_swap(data)
    return str(kept) if was_there else ""


def kept_folders(home: Path) -> tuple[Path, ...]:
    """The folders of databases that a recovery took out of use, oldest first."""
    return tuple(sorted(home.glob(f"{postgres.KEPT}*")))


def remove_kept(home: Path) -> tuple[str, ...]:
    """Remove them; returns which."""
    with local.holding_stack(home):
        folders = kept_folders(home)
        for folder in folders:
            shutil.rmtree(folder)
    return tuple(map(str, folders))


def _workplace(home: Path, user: User | None) -> Path:
    """A private folder beside the data, so that the swap is a rename."""
    made = Path(tempfile.mkdtemp(dir=home, prefix=postgres.RESTORING))
    if user:
        let_enter(user, made)
        let_enter(user, postgres.binaries() / postgres.PROGRAM)
        archiving.let_run_python(user)
    return made


def _give(folder: Path, user: User | None) -> None:
    if user is None:
        return
    for root, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(os.path.join(root, name), user.uid, user.gid)


def _data(settings: Settings) -> Path:
    return settings.home / "postgres"


def _number(data: Path) -> str:
    """The number of the server whose folder this is, '' where there is none that can be read."""
    try:
        return wal.server_number(data)
    except OSError:
        return ""
