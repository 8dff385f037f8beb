"""What DAGs with a form have in common: the table that a person names, a look, an approval, and then just that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Asset, Param

from lakehouse.contracts.index import Index
from lakehouse.core import pools
from lakehouse.orchestration import assets, policy
from lakehouse.orchestration.operators import TABLE, Context
from lakehouse.orchestration.spark_tasks import SparkTasks, spark_tasks


def look_approve_confirm(
    index: Index,
    dag: DAG,
    verb: str,
    arguments: Callable[[Context], list[str]],
    tell: Callable[[Any], str],
    assets_of: Callable[[Any], Sequence[Asset]],
    *,
    tasks: SparkTasks | None = None,
    pool: str = pools.SPARK,
    seen_as: str = "token",
) -> None:
    """A dry run, a person's approval of what it says, and then just that."""
    tasks = tasks or spark_tasks(index)
    common = {"dag": dag, "pool": pool, "execution_timeout": policy.SPARK_TIMEOUT}
    look = tasks.look(task_id="look", verb=verb, arguments=arguments, tell=tell, seen_as=seen_as, **common)
    approve = ApprovalOperator(subject=f"Go on with this {verb}?", **approval(dag))
    confirm = tasks.confirm(
        task_id="confirm", verb=verb, looked="look", approved="approve", assets_of=assets_of, **common
    )
    look >> approve >> confirm


def approval(dag: DAG) -> dict[str, Any]:
    """A person's approval of what ``look`` said."""
    return {
        "dag": dag,
        "task_id": "approve",
        "body": "{{ ti.xcom_pull(task_ids='look')['summary'] }}",
        "response_timeout": policy.APPROVAL_TIMEOUT,
        "pool": pools.METADATA,
    }


def table_form(index: Index) -> dict[str, Param]:
    """One of the silver tables."""
    names = [f"silver.{name}" for name in sorted(index.tables)]
    return {"table": Param(names[0], type="string", enum=names, title="Table")}


def table_argument(index: Index) -> Callable[[Context], list[str]]:
    """The silver table that the form names. Checked here again, whatever let the run pass."""

    def arguments(context: Context) -> list[str]:
        table = str(context["params"]["table"])
        index.dataset_of(table.removeprefix("silver."))
        return [table]

    return arguments


def any_table_form(description: str) -> dict[str, Param]:
    """Any table of the lake; none by itself."""
    given: dict[str, Any] = {"type": ["null", "string"], "pattern": TABLE.pattern, "maxLength": 140}
    return {"table": Param(None, title="Table", description=description, **given)}


def published_table(said: Mapping[str, Any]) -> list[Asset]:
    """The table that a command published, if it did."""
    return [assets.table(said["table"])] if said.get("published") else []
