"""One run: everything pending, from the landing log to the marts, in one session that starts only when needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Thread

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.errors import LakehouseError
from lakehouse.core.settings import Settings
from lakehouse.engine.adopt import adopt_contract
from lakehouse.engine.bronze import BronzeJob
from lakehouse.engine.gold import Marts, run_gold
from lakehouse.engine.ops import write_records
from lakehouse.engine.publish import Lake, publish
from lakehouse.engine.report import TableReport
from lakehouse.engine.session import session
from lakehouse.engine.silver import Silver, run_silver
from lakehouse.engine.spark_errors import readable
from lakehouse.ledger.log import read_log
from lakehouse.ledger.outstanding import waiting_bytes
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog, read_head
from lakehouse.quality.expectations import prepare
from lakehouse.quality.record import Recorder

LITTLE_BYTES = 32 * 1024 * 1024
"""At 48 MB landed, the whole way to the marts took as long with quick compilation as with good."""
Notify = Callable[[str], None]


def run_dataset(lake: Lake, contract: Contract, max_batches: int | None, notify: Notify) -> list[TableReport]:
    """Take what is pending of one source into bronze and its silver tables, in passes of at most ``max_batches``."""
    reports: list[TableReport] = []
    adopt_contract(lake, contract)
    while True:
        notify(f"bronze.{contract.domain}_{contract.dataset}")
        bronze = run_bronze(lake, contract, max_batches)
        reports += [bronze] if bronze else []
        through = read_head(lake.catalog, contract.bronze_table).consumed(contract.name).through
        if through:
            reports += _run_silver_tables(lake, contract, through, notify)
        if bronze is None or max_batches is None:
            return reports


def _run_silver_tables(lake: Lake, contract: Contract, through: int, notify: Notify) -> Iterator[TableReport]:
    # Members come before the facts that refer to them: a rule may ask whether they are there.
    for name in sorted(contract.tables, key=lambda each: contract.tables[each].kind == "fact"):
        notify(f"silver.{name}")
        report = run_silver(Silver(lake, contract, name, through))
        if report:
            yield report


@readable()
def run_bronze(lake: Lake, contract: Contract, limit: int | None = None) -> TableReport | None:
    """Load the landed batches that bronze does not have. None when there are none."""
    started = time.perf_counter()
    done = read_head(lake.catalog, contract.bronze_table).consumed(contract.name).through
    log = read_log(ObjectStore.open(lake.settings), contract.name, after=done)
    if not log:
        return None
    published = publish(lake, BronzeJob(lake, contract, log, limit))
    report = TableReport(contract.bronze_table, batches=len(log[:limit]))
    for each in published:
        report.received = report.rows_added = each.records_added
        report.files, report.bytes = each.files_added, each.bytes_added
    report.good = report.received
    report.seconds = time.perf_counter() - started
    return report


@dataclass
class RunResult:
    """What a run did, what could not go on, and what else a person should know."""

    reports: list[TableReport]
    errors: list[LakehouseError]
    notes: list[str] = field(default_factory=list)


def run_everything(
    settings: Settings, contracts: Sequence[Contract], waiting: Sequence[str], max_batches: int | None, notify: Notify
) -> RunResult:
    """Start a session and take what is waiting. An error of one dataset is kept, and does not stop the others."""
    # Great Expectations takes seconds to import, and the JVM takes seconds to start: at the same time.
    Thread(target=prepare, daemon=True).start()
    is_short = is_little(settings, [contract for contract in contracts if contract.name in waiting])
    with session(settings, "lakehouse run", is_short=is_short) as spark:
        return run_waiting(Lake(spark, settings), contracts, waiting, max_batches, notify)


def is_little(settings: Settings, contracts: Sequence[Contract]) -> bool:
    """Whether so little has landed of these datasets that starting is most of the work."""
    return waiting_bytes(open_catalog(settings), ObjectStore.open(settings), contracts) <= LITTLE_BYTES


def run_waiting(
    lake: Lake, contracts: Sequence[Contract], waiting: Sequence[str], max_batches: int | None, notify: Notify
) -> RunResult:
    """Take what is waiting, in a session that is there. Marts come last, and only from datasets that could go on.

    What rules said of each batch is recorded at the end, in the tables of ``ops``.
    """
    started, lake = lake.clock.now(), replace(lake, recorder=Recorder())
    result = _take(lake, contracts, waiting, max_batches, notify)
    if lake.recorder and (result.reports or result.errors):
        notify("ops")
        try:
            write_records(lake, lake.recorder, result, started)
        except LakehouseError as error:
            result.notes.append(f"the run's records were not written to ops: {error.what}")
    return result


def _take(
    lake: Lake, contracts: Sequence[Contract], waiting: Sequence[str], max_batches: int | None, notify: Notify
) -> RunResult:
    result = RunResult([], [])
    for contract in contracts:
        if contract.name in waiting:
            with _kept(result.errors):
                result.reports += run_dataset(lake, contract, max_batches, notify)
    if "gold" in waiting:
        notify("gold")
        with _kept(result.errors):
            result.reports += run_gold(Marts(lake, list(load_contracts(lake.settings.contracts).values())))
    return result


@contextmanager
def _kept(errors: list[LakehouseError]) -> Iterator[None]:
    try:
        yield
    except LakehouseError as error:
        errors.append(error)
