"""Landing: the sources that were asked for, one after another. What is refused stops nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from lakehouse.contracts.model import Contract
from lakehouse.core.clock import Clock, SystemClock
from lakehouse.core.errors import SettingsError, SourceError
from lakehouse.core.settings import Settings
from lakehouse.landing.files import FilesLanding, FilesSource
from lakehouse.landing.places import open_place
from lakehouse.landing.results import LandResult, Note, Progress, printable
from lakehouse.ledger.store import ObjectStore


@dataclass(frozen=True)
class Request:
    """What to land. Days are inclusive, None leaves that end open; ``root`` defaults to the settings' sources.

    Change feeds are read up to now whatever the days; their unit is ``end``, or the clock's date.
    """

    start: date | None = None
    end: date | None = None
    root: str | None = None
    is_dry_run: bool = False

    def __post_init__(self) -> None:
        if self.start and self.end and self.start > self.end:
            raise SettingsError(f"nothing lies between {self.start} and {self.end}", todo="put the earlier day first")


def land(
    settings: Settings,
    contracts: Iterable[Contract],
    request: Request,
    *,
    clock: Clock | None = None,
    store: ObjectStore | None = None,
    progress: Progress = lambda source, done, total: None,
) -> LandResult:
    """Land these sources. A source that cannot be read, and units and files that are refused, are in the result.

    Raises :class:`TransientError`, :class:`SettingsError` or :class:`IntegrityError` where the landing bucket itself
    cannot be used. A root that directly holds files is understood only when one source is named: elsewhere two
    sources could take each other's files.
    """
    wanted = list(contracts)
    store = store or ObjectStore.open(settings)
    result = LandResult()
    for contract in wanted:
        try:
            result += _land_one(settings, contract, request, clock or SystemClock(), store, progress, len(wanted) == 1)
        except SourceError as error:
            reason = " — ".join(filter(None, (error.what, error.where, error.todo)))
            result += LandResult(refused_files=(Note(contract.name, "", reason, error.is_retryable),))
        except OSError as error:  # of this machine: no space for the extract, a folder that vanished
            reason = f"{error.strerror or type(error).__name__} {printable(str(error.filename or ''))}".strip()
            result += LandResult(refused_files=(Note(contract.name, "", reason, is_retryable=True),))
    return result


def _land_one(
    settings: Settings,
    contract: Contract,
    request: Request,
    clock: Clock,
    store: ObjectStore,
    progress: Progress,
    may_be_flat: bool,
) -> LandResult:
    if contract.source.connector == "postgres":
        from lakehouse.landing.increments import land_increment  # psycopg, only where it is needed

        unit = request.end or clock.now().date()
        done = land_increment(contract, settings, store, clock, unit, is_dry_run=request.is_dry_run)
        progress(contract.name, 1, 1)
        return LandResult((done,))
    place = open_place(request.root or settings.sources_root, store)
    source = FilesSource(contract, place, may_be_flat=may_be_flat and request.root is not None)
    return FilesLanding(source, store, clock, is_dry_run=request.is_dry_run).run(request.start, request.end, progress)
