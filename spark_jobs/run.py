"""Everything pending, from the landing log to the marts: ``python spark_jobs/run.py [SOURCE …] [--max-batches N]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lakehouse.contracts.model import Contract
from lakehouse.core.answers import answering
from lakehouse.core.settings import Settings
from lakehouse.engine.job import Program, has_pending, has_stale_marts
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import RunResult, run_waiting


def run(lake: Lake, contracts: Sequence[Contract], limit: int | None) -> RunResult:
    """Bronze, silver and gold in one session, in passes of at most ``limit`` batches."""
    return run_waiting(lake, contracts, [*[contract.name for contract in contracts], "gold"], limit, lambda _: None)


def concerns(settings: Settings, contracts: Sequence[Contract]) -> bool:
    """Whether a dataset or the marts have something to do."""
    return has_pending(settings, contracts) or has_stale_marts(settings, contracts)


PROGRAM = Program(
    "run", "Take everything pending into bronze, silver and the marts.", run, concerns, is_bounded=True, is_judging=True
)

if __name__ == "__main__":
    sys.exit(answering(PROGRAM.run))
