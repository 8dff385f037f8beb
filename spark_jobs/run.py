"""Everything pending, from the landing log to the marts: ``python spark_jobs/run.py [SOURCE …] [--max-batches N]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lakehouse.contracts.model import Contract
from lakehouse.engine.job import Program
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import RunResult, run_waiting


def run(lake: Lake, contracts: Sequence[Contract], limit: int | None) -> RunResult:
    """Bronze, silver and gold in one session, in passes of at most ``limit`` batches."""
    return run_waiting(lake, contracts, [*[contract.name for contract in contracts], "gold"], limit, lambda _: None)


PROGRAM = Program(
    "run", "Take everything pending into bronze, silver and the marts.", run, is_bounded=True, is_judging=True
)

if __name__ == "__main__":
    sys.exit(PROGRAM.run())
