"""Where to go from a table: the DAGs that act on it. Whoever serves the page finds them; the page only shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from lakehouse.core.names import TableName


@dataclass(frozen=True)
class DagLink:
    """A DAG, and what it has to do with a table."""

    dag_id: str
    why: str
    is_paused: bool = False

    @property
    def path(self) -> str:
        """Its page, below Airflow's root."""
        return f"dags/{quote(self.dag_id, safe='')}"


FindDags = Callable[[TableName, str], Sequence[DagLink]]
"""The DAGs of a table and of the dataset that it is made of ('' for none), as far as the person may see them."""


def no_dags(table: TableName, dataset: str) -> Sequence[DagLink]:
    """Where there is no Airflow."""
    return ()
