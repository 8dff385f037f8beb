"""A drill: a backup set restored from the backup alone, into a scratch catalog, compared, measured, and removed again.

The scratch lake has a catalog in a file of its own, and its files under ``drills/<id>/`` in the buckets of the lake,
where no table of the live catalog has any. Whoever drills holds a lock, so what lies there besides is of drills that
died, and goes.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lakehouse
from lakehouse.backup.copying import Told, in_threads
from lakehouse.backup.drill_report import render_report
from lakehouse.backup.drills import Drill, TableDrilled, write_drill
from lakehouse.backup.sets import BackedUp, BackupSet, load_set, require_known
from lakehouse.backup.signing import public_key_of, signer_of
from lakehouse.backup.status import WINDOW, Exposure, Limits, Seen, read_status
from lakehouse.backup.vault import Vault
from lakehouse.core.clock import Clock
from lakehouse.core.errors import IntegrityError, LakehouseError, SettingsError
from lakehouse.core.failpoints import failpoint
from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.engine.pointer import is_copy
from lakehouse.ledger.retention_lock import drilling
from lakehouse.ledger.store import ObjectStore
from lakehouse.recovery.choose import Wanted
from lakehouse.recovery.comparing import LiveTable, compare
from lakehouse.recovery.restore import RestorePlan, carry_out, plan_restore
from lakehouse.recovery.target import Target

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table

SCRATCH = "drills/"
"""Below it, in the buckets of the lake, scratch lakes have their files; in its home, their catalogs."""


@dataclass(frozen=True)
class DrillPlan:
    """What a drill will restore. Without tables of its choice (``is_whole``), also the logs and what landed."""

    set_id: str
    cut_at: str
    tables: tuple[str, ...]
    tables_of_set: int
    files: int
    size_bytes: int
    size_bytes_of_set: int

    @property
    def is_whole(self) -> bool:
        """Whether it is about every table."""
        return len(self.tables) == self.tables_of_set


@dataclass
class Watch:
    """How long each part took."""

    parts: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Time a part, whether it ends well or not."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.parts.append((name, time.monotonic() - begun))

    @property
    def seconds(self) -> float:
        """All parts together."""
        return sum(seconds for _, seconds in self.parts)


@dataclass(frozen=True)
class Result:
    """What came of restoring and comparing. Times are until all tables could be read, and all files were verified."""

    tables: tuple[TableDrilled, ...]
    logs: int
    damages: tuple[str, ...]
    restored: Watch
    compared: Watch


def plan_drill(settings: Settings, clock: Clock, tables: Sequence[str], set_id: str = "") -> DrillPlan:
    """What a drill of these tables, default all, would restore. Raises :class:`SettingsError` where one is unknown."""
    found = _load(settings, clock, set_id)
    there = _tables_of(found)
    unknown = sorted(set(tables) - there.keys())
    if unknown:
        raise SettingsError(
            f"{found.id} has no {', '.join(unknown)}", untouched="everything", todo="`lakehouse backup show` lists all"
        )
    chosen = [table for name, table in there.items() if not tables or name in tables]
    is_whole, manifest = len(chosen) == len(there), found.manifest
    return DrillPlan(
        set_id=found.id,
        cut_at=manifest.cut_at,
        tables=tuple(table.table for table in chosen),
        tables_of_set=len(there),
        files=manifest.files if is_whole else sum(table.files for table in chosen),
        size_bytes=manifest.size_bytes if is_whole else sum(table.size_bytes for table in chosen),
        size_bytes_of_set=manifest.size_bytes,
    )


def run_drill(
    settings: Settings,
    clock: Clock,
    plan: DrillPlan,
    *,
    actor: str,
    approved_by: str = "",
    told: Told = lambda *_: None,
    live: LiveTable | None = None,
) -> Drill:
    """Restore, compare, remove, and write the record and its report, whatever came of it. Touches nothing else.

    ``live`` finds the tables of the lake; default: in the catalog of the settings. Raises :class:`TableBusy` where
    another drill runs.
    """
    signer, started_at = signer_of(settings), clock.now()
    drill_id = f"{started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    with drilling(settings):
        remove_scratch(settings)
        found = _load(settings, clock, plan.set_id)
        exposure = _exposure(settings, clock)
        with _scratch(settings, drill_id) as (catalog, target):
            result = _restore_and_compare(settings, clock, plan, found, catalog, target, live or _live(settings), told)
        goals = Limits.of(settings).goals
        seconds = result.restored.seconds
        made = Drill(
            id=drill_id,
            started_at=started_at.isoformat(),
            finished_at=clock.now().isoformat(),
            actor=actor,
            approved_by=approved_by,
            version=lakehouse.__version__,
            backup=f"s3://{settings.backup_bucket}",
            set_id=found.id,
            cut_at=found.manifest.cut_at,
            tables=result.tables,
            tables_of_set=plan.tables_of_set,
            size_bytes=plan.size_bytes,
            size_bytes_of_set=plan.size_bytes_of_set,
            logs=result.logs,
            rto_seconds=seconds,
            rto_all_seconds=_of_everything(seconds, plan),
            phases=(*result.restored.parts, *result.compared.parts),
            rpo_seconds=(started_at - datetime.fromisoformat(found.manifest.cut_at)).total_seconds(),
            worst_rpo_seconds=exposure.worst.total_seconds(),
            window_hours=min(WINDOW, started_at - exposure.since).total_seconds() / 3600,
            goals=goals,
            damages=result.damages,
        ).signed(signer)
        write_drill(Vault.open(settings, clock.now()), made, render_report(made))
    return made


def remove_scratch(settings: Settings) -> int:
    """Remove what drills that died left behind, as the one who holds the lock; returns how many files that were."""
    found = [(store, entry.key) for store in _buckets(settings) for entry in store.list_after(SCRATCH)]
    in_threads(lambda each: each[0].delete(each[1]), found)
    shutil.rmtree(settings.home / SCRATCH, ignore_errors=True)
    return len(found)


def has_scratch(settings: Settings) -> bool:
    """Whether a drill left something behind, or is at it."""
    return any(next(store.list_after(SCRATCH), None) for store in _buckets(settings))


def _buckets(settings: Settings) -> list[ObjectStore]:
    store = ObjectStore.open(settings)
    return [store, store.in_bucket(settings.warehouse_bucket)]


def _load(settings: Settings, clock: Clock, set_id: str) -> BackupSet:
    vault = Vault.open(settings, clock.now())
    return load_set(vault, require_known(vault, set_id), public_key_of(settings))


def _tables_of(found: BackupSet) -> dict[str, BackedUp]:
    """The tables that a restore of everything brings back: forks of jobs, and what restores keep, are none."""
    tables = {table.table: table for table in found.manifest.tables}
    names = {text: TableName.parse(text) for text in tables}
    return {text: tables[text] for text, name in names.items() if not is_copy(name)}


def _exposure(settings: Settings, clock: Clock) -> Exposure:
    """How old sets were lately. Drills are judged alone: what was wrong with former ones is not asked."""
    vault, now = Vault.open(settings, clock.now()), clock.now()
    stands = read_status(vault, public_key_of(settings), Limits.of(settings), now, Seen())
    assert stands.exposure is not None  # noqa: S101 - there is a set: it was loaded
    return stands.exposure


def _of_everything(seconds: float, plan: DrillPlan) -> float:
    """The time for every table, by bytes where only some were restored."""
    if plan.is_whole or not plan.size_bytes:
        return seconds
    return seconds * max(1.0, plan.size_bytes_of_set / plan.size_bytes)


@contextmanager
def _scratch(settings: Settings, drill_id: str) -> Iterator[tuple[SqlCatalog, Target]]:
    """A catalog in a file and a place in the buckets that nobody else knows; removed at the end, whatever happened."""
    from pyiceberg.catalog.sql import SqlCatalog

    folder = settings.home / SCRATCH
    folder.mkdir(parents=True, exist_ok=True)
    catalog = SqlCatalog(
        CATALOG,
        uri=f"sqlite:///{Path(folder, drill_id).resolve()}.db",
        warehouse=settings.warehouse,
        **{
            "s3.endpoint": settings.s3_endpoint,
            "s3.region": settings.s3_region,
            "s3.access-key-id": settings.s3_access_key_id,
            "s3.secret-access-key": settings.s3_secret_access_key.get_secret_value(),
            "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
        },
    )
    try:
        yield catalog, Target.at(settings, catalog.engine, prefix=f"{SCRATCH}{drill_id}/")
    finally:
        catalog.close()
        remove_scratch(settings)


def _restore_and_compare(
    settings: Settings,
    clock: Clock,
    plan: DrillPlan,
    found: BackupSet,
    catalog: SqlCatalog,
    target: Target,
    live: LiveTable,
    told: Told,
) -> Result:
    restored, compared = Watch(), Watch()
    names = () if plan.is_whole else plan.tables
    wanted = Wanted(names, everything=plan.is_whole, set_id=found.id)
    try:
        with restored.timing("reading the backup"):
            way = plan_restore(settings, clock, wanted, told, target)
        with restored.timing("restoring and verifying"):
            carry_out(settings, clock, way, told, target)
        failpoint("drill.after_restore")
        with restored.timing("opening the tables"):
            tables = _opened(catalog, plan, found)
    except IntegrityError as error:
        damage = f"{error.what}: {error.where}" if error.where else error.what
        return Result((), 0, (damage,), restored, compared)
    with compared.timing("comparing"):
        drilled = _compared(plan, found, tables, live, target)
    return Result(drilled, _logs(way), (), restored, compared)


def _logs(way: RestorePlan) -> int:
    return len(way.logs) + len(way.landed)


def _opened(catalog: SqlCatalog, plan: DrillPlan, found: BackupSet) -> dict[str, Table]:
    """Every restored table, ready to be read: its files are planned, as for a query. Views are definitions."""
    views = {table.table for table in found.manifest.tables if table.kind == "VIEW"}
    names = [name for name in plan.tables if name not in views]

    def opened(name: str) -> Table:
        try:
            table = catalog.load_table(name)
            for _ in table.scan().plan_files():
                break
        except LakehouseError:
            raise
        except Exception as error:  # whatever a reader says of a table that cannot be read
            raise IntegrityError(f"{name} was restored and cannot be read: {error}") from error
        return table

    return dict(zip(names, in_threads(opened, names), strict=True))


def _compared(
    plan: DrillPlan, found: BackupSet, tables: dict[str, Table], live: LiveTable, target: Target
) -> tuple[TableDrilled, ...]:
    backed_up = _tables_of(found)
    store = target.in_bucket(target.warehouse)
    there = {f"s3://{store.bucket}/{each.key}": each.size_bytes for each in store.list_after(target.prefix)}
    known = target.rows.read()

    def compared(name: str) -> TableDrilled:
        if name in tables:
            return compare(backed_up[name], tables[name], live, there)
        return _view(backed_up[name], is_there=TableName.parse(name) in known)

    return tuple(in_threads(compared, plan.tables))


def _view(view: BackedUp, *, is_there: bool) -> TableDrilled:
    problems = () if is_there else ("the scratch catalog does not have it",)
    return TableDrilled(
        view.table, None, None, view.files, view.size_bytes, 0, 0, "view", False, "", 0.0, problems
    )  # fmt: skip


def _live(settings: Settings) -> Callable[[str], Any]:
    """Finds tables of the lake; none where its catalog is away: a drill needs the backup alone."""
    from lakehouse.ledger.watermark import load_table, open_catalog

    catalog: Any = None
    with suppress(LakehouseError):
        catalog = open_catalog(settings)
    return lambda name: load_table(catalog, TableName.parse(name)) if catalog is not None else None
