"""``python -m lakehouse.orchestration.reference``: docs/dags.md, made from the DAGs so that it cannot drift."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from airflow.sdk import DAG, AssetOrTimeSchedule

from lakehouse.contracts.index import Index, build_index, read_marts
from lakehouse.orchestration.families import data_dags
from lakehouse.orchestration.recovery import recovery_dags
from lakehouse.orchestration.upkeep import upkeep_dags

_ROOT = Path(__file__).resolve().parents[3]
_HEAD = """# DAGs

All of them are made from the contracts. This page shows those of the contracts that come with the project; it is
written by `python -m lakehouse.orchestration.reference`, and a test compares the two. [Airflow](airflow.md) explains
how to work with them.

| DAG | starts | tags |
|---|---|---|
"""


def project_index() -> Index:
    """The index of the project's own contracts and marts, from the files as they are."""
    from lakehouse.contracts.load import load_contracts

    return build_index(load_contracts(_ROOT / "include" / "contracts"), {}, read_marts(_ROOT / "include" / "dbt"))


def all_dags(index: Index) -> dict[str, DAG]:
    """Every DAG by its id."""
    return data_dags(index) | upkeep_dags(index) | recovery_dags(index)


def render(index: Index) -> str:
    """The page's text."""
    dags = all_dags(index)
    rows = [f"| [`{name}`](#{name}) | {when(dag)} | {', '.join(sorted(dag.tags))} |\n" for name, dag in dags.items()]
    return _HEAD + "".join(rows) + "".join("\n".join(_section(dag)) + "\n" for dag in dags.values())


def when(dag: DAG) -> str:
    """When a DAG starts, in words."""
    timetable = dag.timetable
    names = sorted(asset.name for asset in getattr(getattr(timetable, "asset_condition", None), "objects", ()))
    if names:
        after = f"after {', '.join(f'`{name}`' for name in names)}"
        return f"{after}; and `{_cron(timetable.timetable)}`" if isinstance(timetable, AssetOrTimeSchedule) else after
    return f"`{_cron(timetable)}`" if hasattr(timetable, "expression") else "by hand, with a form"


def _cron(timetable: object) -> str:
    return str(getattr(timetable, "expression", ""))


def _section(dag: DAG) -> Iterator[str]:
    yield f"\n## {dag.dag_id}\n"
    yield f"{dag.doc_md}\n"
    if dag.params:
        yield "| form | meaning |\n|---|---|"
        yield from (f"| {_param(dag, name)} |" for name in dag.params)
        yield ""
    yield "| task | tries | at most | pool | makes |\n|---|---|---|---|---|"
    for task in dag.tasks:
        made = ", ".join(f"`{asset.name}`" for asset in task.outlets) or "–"
        limit = task.execution_timeout or getattr(task, "response_timeout", None)
        hours = f"{limit.total_seconds() / 3600:g} h" if limit else "–"
        yield f"| `{task.task_id}` | {(task.retries or 0) + 1} | {hours} | `{task.pool}` | {made} |"


def _param(dag: DAG, name: str) -> str:
    param = dag.params.get_param(name)
    choices = ", ".join(f"`{choice}`" for choice in param.schema.get("enum", ()))
    words = " ".join(part for part in (param.description or "", f"One of {choices}." if choices else "") if part)
    return f"{param.schema.get('title', name)} (`{name}`) | {words}"


if __name__ == "__main__":
    sys.stdout.write(render(project_index()))
