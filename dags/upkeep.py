"""DAGs for people and for order: rebuild, replay, decide, trim, maintain, quality, housekeeping, as Airflow shows them.

The index is the one file that is read here: `lakehouse contract compile` writes it.
"""

from pathlib import Path

from airflow.sdk import get_parsing_context

from lakehouse.contracts.index import read_index
from lakehouse.orchestration.upkeep import upkeep_dags

CONTRACTS = Path(__file__).resolve().parents[1] / "include" / "contracts"

globals().update(upkeep_dags(read_index(CONTRACTS), only=get_parsing_context().dag_id))
