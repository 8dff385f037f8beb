"""Landed batches through bronze into silver: ``python spark_jobs/dataset.py [SOURCE …] [--max-batches N]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lakehouse.contracts.model import Contract
from lakehouse.core.answers import answering
from lakehouse.engine.job import Program, has_pending
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import RunResult, run_waiting


def dataset(lake: Lake, contracts: Sequence[Contract], limit: int | None) -> RunResult:
    """Bronze and silver in one session, in passes of at most ``limit`` batches; the marts stay as they are."""
    return run_waiting(lake, contracts, [contract.name for contract in contracts], limit, lambda _: None)


PROGRAM = Program(
    "dataset", "Take everything pending into bronze and silver.", dataset, has_pending, is_bounded=True, is_judging=True
)

if __name__ == "__main__":
    sys.exit(answering(PROGRAM.run))
