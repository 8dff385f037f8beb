"""Which operators the tasks have that may start Spark: the index says whether it is a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.contracts.index import Index
from lakehouse.orchestration.operators import (
    ConfirmOperator,
    LookOperator,
    MaintainOperator,
    TakePendingOperator,
)


@dataclass(frozen=True)
class SparkTasks:
    """An operator for each kind of work."""

    take_pending: type[TakePendingOperator]
    look: type[LookOperator]
    confirm: type[ConfirmOperator]
    maintain: type[MaintainOperator]


COMMANDS = SparkTasks(TakePendingOperator, LookOperator, ConfirmOperator, MaintainOperator)
"""Commands of the program: what starts no Spark is this everywhere."""


def spark_tasks(index: Index) -> SparkTasks:
    """Commands of the program; on a cluster, the provider's SparkSubmitOperator."""
    if not index.operation.is_on_cluster:
        return COMMANDS
    from lakehouse.orchestration import submit

    return SparkTasks(
        submit.SubmitTakePendingOperator,
        submit.SubmitLookOperator,
        submit.SubmitConfirmOperator,
        submit.SubmitMaintainOperator,
    )
