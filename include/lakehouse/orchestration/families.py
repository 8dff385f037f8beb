"""The DAGs that bring data through the lake: landing and transform for each source, late files, and the marts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from operator import or_
from typing import Any

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, Param

from lakehouse.contracts.index import DatasetEntry, Index
from lakehouse.core import pools
from lakehouse.orchestration import assets, policy
from lakehouse.orchestration.assets import slug
from lakehouse.orchestration.operators import HeldOperator, LandAllOperator, LandOperator
from lakehouse.orchestration.spark_tasks import spark_tasks

Makers = Mapping[str, Callable[[], DAG]]
LATE = "land_late_files"
GOLD = "build_marts"
_GOLD_EVERY_HOURS = 6
_LATE_HOUR = 5


def landing_id(source: str) -> str:
    """The DAG that lands a source."""
    return f"land_{slug(source)}"


def transform_id(source: str) -> str:
    """The DAG that takes a source into bronze and silver."""
    return f"transform_{slug(source)}"


def data_dags(index: Index, only: str | None = None) -> dict[str, DAG]:
    """All DAGs of the data by their ids, or the one that a task needs."""
    makers: dict[str, Callable[[], DAG]] = {}
    for dataset in index.datasets.values():
        makers[landing_id(dataset.name)] = partial(landing_dag, index, dataset)
        makers[transform_id(dataset.name)] = partial(transform_dag, index, dataset)
    if index.datasets:
        makers |= {LATE: partial(late_dag, index), GOLD: partial(gold_dag, index)}
    return build(makers, only)


def build(makers: Makers, only: str | None = None) -> dict[str, DAG]:
    """Make DAGs, or the one with this id."""
    return {dag_id: make() for dag_id, make in makers.items() if only in (None, dag_id)}


def landing_dag(index: Index, dataset: DatasetEntry) -> DAG:
    """Dated, so that it can be backfilled; many runs at a time, in any order."""
    dag = policy.new_dag(
        index,
        landing_id(dataset.name),
        _feed_doc(dataset) if dataset.kind == "increment" else _landing_doc(dataset),
        owner=dataset.owner,
        tags=("landing", *_about(dataset)),
        schedule=policy.landing_schedule(dataset.timing),
        max_active_runs=policy.LANDING_RUNS,
        is_paused_upon_creation=True,
        deadline=policy.deadline(dataset.timing),
        params={} if dataset.kind == "increment" else _days_form(),
    )
    LandOperator(
        dag=dag,
        task_id="land",
        source=dataset.name,
        timing=dataset.timing,
        is_feed=dataset.kind == "increment",
        asset=assets.landing(dataset.name),
        pool=pools.LANDING,
        execution_timeout=policy.LANDING_TIMEOUT,
    )
    return dag


def _days_form() -> dict[str, Param]:
    day: dict[str, Any] = {"type": ["null", "string"], "format": "date"}
    return {
        "first_day": Param(None, title="First day", description="Alone: only this day.", **day),
        "last_day": Param(None, title="Last day", description="Included. Alone: only this day.", **day),
    }


def transform_dag(index: Index, dataset: DatasetEntry) -> DAG:
    """One run at a time, and each takes everything pending: many landings, one Spark job."""
    dag = policy.new_dag(
        index,
        transform_id(dataset.name),
        _transform_doc(dataset),
        owner=dataset.owner,
        tags=("silver", *_about(dataset)),
        schedule=_when(assets.landing(dataset.name), dataset.name, dataset.timing.expected_every_hours),
        deadline=policy.deadline(dataset.timing),
    )
    take = spark_tasks(index).take_pending(
        dag=dag,
        task_id="take_pending",
        arguments=(dataset.name, "--no-gold"),
        inlets=[assets.landing(dataset.name)],
        outlets=assets.made_by(dataset),
        pool=pools.SPARK,
        execution_timeout=policy.SPARK_TIMEOUT,
    )
    held = HeldOperator(
        dag=dag,
        task_id="nothing_held",
        source=dataset.name,
        trigger_rule="none_failed",
        pool=pools.METADATA,
        execution_timeout=policy.METADATA_TIMEOUT,
    )
    take >> held
    return dag


def gold_dag(index: Index) -> DAG:
    """After any silver table changed."""
    silver = assets.silver_tables(index)
    dag = policy.new_dag(
        index,
        GOLD,
        _GOLD_DOC.format(marts=_listed(f"gold.{name}" for name in sorted(index.marts))),
        tags=("gold",),
        schedule=_when(reduce(or_, silver), GOLD, _GOLD_EVERY_HOURS),
    )
    spark_tasks(index).take_pending(
        dag=dag,
        task_id="build",
        arguments=("--gold-only",),
        inlets=[assets.table(edge.source) for edge in _silver_inputs(index)],
        outlets=assets.marts(index),
        pool=pools.SPARK,
        execution_timeout=policy.SPARK_TIMEOUT,
    )
    return dag


def late_dag(index: Index) -> DAG:
    """Days whose own run is over: files that came late, and corrections that nobody announced."""
    dag = policy.new_dag(
        index,
        LATE,
        _LATE_DOC,
        tags=("landing",),
        schedule=policy.daily(LATE, _LATE_HOUR),
        is_paused_upon_creation=True,
        max_active_tasks=2,
    )
    for dataset in index.datasets.values():
        LandAllOperator(
            dag=dag,
            task_id=f"land_{slug(dataset.name)}",
            owner=dataset.owner,
            source=dataset.name,
            asset=assets.landing(dataset.name),
            pool=pools.LANDING,
            execution_timeout=policy.LANDING_TIMEOUT,
        )
    return dag


def _when(condition: Any, name: str, every_hours: int) -> AssetOrTimeSchedule:
    """When an event tells of work; and several times in each interval, should an event be lost."""
    sweep = policy.sweep(name, every_hours)
    return AssetOrTimeSchedule(assets=[condition] if isinstance(condition, Asset) else condition, timetable=sweep)


def _silver_inputs(index: Index) -> list[Any]:
    edges = {edge.source: edge for edge in index.lineage if edge.kind == "mart" and edge.source.startswith("silver.")}
    return [edges[source] for source in sorted(edges)]


def _about(dataset: DatasetEntry) -> tuple[str, ...]:
    """Tags that tell a source: its domain, its kind, and its class where people have to take care."""
    classes = (dataset.classification,) if dataset.classification in ("pii", "sensitive") else ()
    return (dataset.name.partition(".")[0], dataset.kind, *classes)


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _landing_doc(dataset: DatasetEntry) -> str:
    return f"""Lands {dataset.name}: brings the files of its days into the landing bucket, unchanged.

{dataset.description}

A run stands for one day of the source, its logical date. A backfill is a run for each day, many at a time and in any
order. Triggered by hand it lands the days that the form names, or whatever is new where the form is empty.

- What has landed is never landed twice. A day that its source corrected lands again and takes the place of the old one.
- A run that finds nothing ends as **skipped**. A daily run waits until its day is over where the source is
  ({dataset.timing.timezone}).
- It starts no Spark. `{transform_id(dataset.name)}` goes on from here by itself.
"""


def _feed_doc(dataset: DatasetEntry) -> str:
    return f"""Lands {dataset.name}: brings the changes that its source made into the landing bucket.

{dataset.description}

Every run reads on from where the last one ended, up to now, whatever its date is: there is nothing to backfill.

- What has landed is never landed twice. A run that finds nothing ends as **skipped**.
- It starts no Spark. `{transform_id(dataset.name)}` goes on from here by itself.
"""


def _transform_doc(dataset: DatasetEntry) -> str:
    tables = _listed(f"silver.{name}" for name in dataset.tables)
    return f"""Takes {dataset.name} from the landing bucket into `{dataset.bronze}` and {tables}.

{dataset.description}

Starts whenever something landed, and looks several times a day by itself in case that went unnoticed. A run takes
**everything** that is pending, so many landings make one Spark job. Where nothing is pending it ends as **skipped**,
without starting Spark.

- Rows that break a rule go to `quarantine`, with the names of the rules.
- `take_pending` fails without another try when the gate refuses what it would publish: the tables stay as they are.
  Correct the file at its source, clear that day's run of `{landing_id(dataset.name)}`, and this runs again.
- `nothing_held` fails while a rule holds whole days back. Land the day again when it is right, or decide with
  `decide_batch`. What is not held has been taken.
- A run may be stopped or killed anywhere, and run again: nothing is published twice or half.
"""


_GOLD_DOC = """Builds, tests and publishes all marts together: {marts}.

Starts when a silver table changed, and looks several times a day by itself. Only rows that the changes concern are
computed. When a test of dbt fails, no mart changes and the run fails; correct the data or the model and clear the task.
"""

_LATE_DOC = """Lands files that came after the run of their day, and days that their source corrected since.

Looks at everything that each source has once a day and lands what is new. Its asset events start the transform DAGs.
A source without anything new ends as **skipped**.
"""
