"""Landed batches into bronze: ``python spark_jobs/bronze.py [SOURCE …] [--max-batches N]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lakehouse.contracts.model import Contract
from lakehouse.core.answers import answering
from lakehouse.engine.job import Program, each, has_landed
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import RunResult, run_bronze


def bronze(lake: Lake, contracts: Sequence[Contract], limit: int | None) -> RunResult:
    """At most ``limit`` batches of each source; the rest stays pending."""
    return each(contracts, lambda contract: [run_bronze(lake, contract, limit)])


PROGRAM = Program("bronze", "Load landed batches into bronze.", bronze, has_landed, is_bounded=True)

if __name__ == "__main__":
    sys.exit(answering(PROGRAM.run))
