"""All marts, where silver or their models changed: ``python spark_jobs/gold.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.answers import answering
from lakehouse.engine.gold import Marts, run_gold
from lakehouse.engine.job import Program, has_stale_marts
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import RunResult


def gold(lake: Lake, contracts: Sequence[Contract], limit: int | None) -> RunResult:
    """Marts are built, tested and published together, whatever sources are named."""
    return RunResult(run_gold(Marts(lake, list(load_contracts(lake.settings.contracts).values()))), [])


PROGRAM = Program("gold", "Build, test and publish the marts.", gold, has_stale_marts)

if __name__ == "__main__":
    sys.exit(answering(PROGRAM.run))
