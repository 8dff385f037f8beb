"""DAGs of backups: make, verify, prune and watch them, check the lake, restore, and drill, as Airflow shows them.

The index is the one file that is read here: `lakehouse contract compile` writes it.
"""

from pathlib import Path

from airflow.sdk import get_parsing_context

from lakehouse.contracts.index import read_index
from lakehouse.orchestration.recovery import recovery_dags

CONTRACTS = Path(__file__).resolve().parents[1] / "include" / "contracts"

globals().update(recovery_dags(read_index(CONTRACTS), only=get_parsing_context().dag_id))
