"""One run: everything pending, from the landing log to the marts, in one session that starts only when needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lakehouse.contracts.model import Contract
from lakehouse.contracts.semantics import fingerprint, semantics
from lakehouse.core import names
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine.bronze import BronzeJob
from lakehouse.engine.publish import Lake, publish
from lakehouse.engine.report import TableReport
from lakehouse.engine.silver import Silver, run_silver
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import read_head

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Pass:
    """What one pass is to take. ``max_batches`` bounds the batches of each source in one pass; None takes all."""

    contracts: Sequence[Contract]
    max_batches: int | None = None


def run_dataset(lake: Lake, contract: Contract, max_batches: int | None, notify: Notify) -> list[TableReport]:
    """Take what is pending of one source into bronze and its silver tables, in passes of at most ``max_batches``."""
    reports: list[TableReport] = []
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
    for name in contract.tables:
        notify(f"silver.{name}")
        report = run_silver(Silver(lake, contract, name, through))
        if report:
            yield report


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
