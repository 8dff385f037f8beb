"""What bronze has into the silver tables and their quarantine: ``python spark_jobs/silver.py [SOURCE …]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from lakehouse.contracts.model import Contract
from lakehouse.core.answers import answering
from lakehouse.engine.adopt import adopt_contract
from lakehouse.engine.job import Program, each, has_pending
from lakehouse.engine.publish import Lake
from lakehouse.engine.report import TableReport
from lakehouse.engine.run import RunResult
from lakehouse.engine.silver import Silver, run_silver
from lakehouse.ledger.watermark import read_head


def silver(lake: Lake, contracts: Sequence[Contract], limit: int | None) -> RunResult:
    """Every silver table of every source takes all that bronze has for it."""
    return each(contracts, lambda contract: _tables(lake, contract))


def _tables(lake: Lake, contract: Contract) -> Iterator[TableReport | None]:
    through = read_head(lake.catalog, contract.bronze_table).consumed(contract.name).through
    if through:
        adopt_contract(lake, contract)
    for name in contract.tables if through else ():
        yield run_silver(Silver(lake, contract, name, through))


PROGRAM = Program("silver", "Take what bronze has into silver and quarantine.", silver, has_pending, is_judging=True)

if __name__ == "__main__":
    sys.exit(answering(PROGRAM.run))
