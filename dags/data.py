"""DAGs that bring data through the lake, one family for each source: Airflow builds them from the contracts' index.

The index is the one file that is read here: `lakehouse contract compile` writes it.
"""

from pathlib import Path

from airflow.sdk import get_parsing_context

from lakehouse.contracts.index import read_index
from lakehouse.orchestration.families import data_dags

CONTRACTS = Path(__file__).resolve().parents[1] / "include" / "contracts"

globals().update(data_dags(read_index(CONTRACTS), only=get_parsing_context().dag_id))
