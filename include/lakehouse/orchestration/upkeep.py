"""The DAGs that people start with a form, and those that keep the lake in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from airflow.sdk import DAG, Asset, Param
from airflow.sdk.exceptions import AirflowFailException

from lakehouse.contracts.index import Index
from lakehouse.core import pools
from lakehouse.orchestration import assets, policy
from lakehouse.orchestration.families import build
from lakehouse.orchestration.forms import (
    any_table_form,
    look_approve_confirm,
    published_table,
    table_argument,
    table_form,
)
from lakehouse.orchestration.operators import CommandOperator, Context, DecideOperator
from lakehouse.orchestration.spark_tasks import spark_tasks
from lakehouse.orchestration.travel import travel_makers

_DATE: dict[str, Any] = {"type": ["null", "string"], "format": "date"}
_QUALITY_HOUR, _HOUSEKEEPING_HOUR, _MAINTENANCE_HOUR = 6, 3, 4
_MOST_DELETED = 10_000


def upkeep_dags(index: Index, only: str | None = None) -> dict[str, DAG]:
    """All DAGs of the upkeep by their ids, or the one that a task needs."""
    makers: dict[str, Callable[[], DAG]] = {
        "housekeeping": partial(housekeeping_dag, index),
        "maintain_tables": partial(maintain_dag, index),
        "quality_docs": partial(quality_dag, index),
    }
    if index.tables:
        makers["rebuild_table"] = partial(rebuild_dag, index)
        makers["replay_table"] = partial(replay_dag, index)
        makers["decide_batch"] = partial(decide_dag, index)
    if trimmable(index):
        makers["trim_bronze"] = partial(trim_dag, index)
    return build(makers | travel_makers(index), only)


def trimmable(index: Index) -> list[str]:
    """The sources that only dimensions are made of: facts need all of their rows in bronze."""
    facts = {table.dataset for table in index.tables.values() if table.kind == "fact"}
    return sorted(set(index.datasets) - facts)


def rebuild_dag(index: Index) -> DAG:
    """A table made anew, after somebody looked at what would differ."""
    dag = policy.new_dag(index, "rebuild_table", _REBUILD_DOC, tags=("repair",), params=table_form(index))
    look_approve_confirm(index, dag, "rebuild", table_argument(index), _rebuild_words, published_table)
    return dag


def replay_dag(index: Index) -> DAG:
    """Rows judged by changed rules, after somebody looked at what would differ."""
    dag = policy.new_dag(index, "replay_table", _REPLAY_DOC, tags=("repair",), params=table_form(index))
    look_approve_confirm(index, dag, "replay", table_argument(index), _replay_words, published_table)
    return dag


def trim_dag(index: Index) -> DAG:
    """Old batches leave bronze for good, after somebody looked at which."""
    sources = trimmable(index)
    form = {
        "source": Param(sources[0], type="string", enum=sources, title="Source"),
        "before": Param(None, title="First day to keep", description="Empty: by the contract's horizon.", **_DATE),
    }

    def arguments(context: Context) -> list[str]:
        source, before = context["params"]["source"], context["params"]["before"]
        if source not in sources:
            raise AirflowFailException(f"{source!r} is none of {', '.join(sources)}")
        return [source, *([f"--before={before}"] if before else [])]

    dag = policy.new_dag(index, "trim_bronze", _TRIM_DOC, tags=("maintenance",), params=form)
    look_approve_confirm(index, dag, "trim", arguments, _trim_words, _bronze)
    return dag


def decide_dag(index: Index) -> DAG:
    """What becomes of a batch that is held."""
    form = {
        "batch": Param(
            "", type="string", pattern=r"^[a-z0-9_]+\.[a-z0-9_]+#[0-9]{1,12}$", minLength=4, maxLength=140,
            title="Batch", description="As the failed task names it: crm.catalogue#12.",
        ),
        "action": Param("release", type="string", enum=["release", "hold", "discard"], title="What becomes of it"),
        "reason": Param("", type="string", minLength=3, maxLength=500, title="Why", description="Kept for good."),
    }  # fmt: skip
    dag = policy.new_dag(index, "decide_batch", _DECIDE_DOC, tags=("repair",), params=form, max_active_runs=4)
    DecideOperator(
        dag=dag,
        task_id="decide",
        sources=sorted(index.datasets),
        pool=pools.METADATA,
        execution_timeout=policy.METADATA_TIMEOUT,
    )
    return dag


def quality_dag(index: Index) -> DAG:
    """The pages about what rules said."""
    schedule = policy.daily("quality_docs", _QUALITY_HOUR)
    dag = policy.new_dag(index, "quality_docs", _QUALITY_DOC, tags=("quality",), schedule=schedule)
    _metadata_task(dag, "make_pages", ("quality", "docs"))
    return dag


def housekeeping_dag(index: Index) -> DAG:
    """What killed attempts left behind."""
    schedule = policy.daily("housekeeping", _HOUSEKEEPING_HOUR)
    dag = policy.new_dag(index, "housekeeping", _HOUSEKEEPING_DOC, tags=("maintenance",), schedule=schedule)
    _metadata_task(dag, "remove_leftovers", ("doctor", "--fix"))
    return dag


def maintain_dag(index: Index) -> DAG:
    """Files of tables in order, old snapshots and orphans away."""
    form = {
        **any_table_form("As in silver.dim_customer. Empty: all."),
        "max_delete": Param(
            _MOST_DELETED, type="integer", minimum=0, maximum=10_000_000, title="Most files to delete",
            description="What is over is left for the next run.",
        ),
        "dry_run": Param(False, type="boolean", title="Only say what would be done"),
    }  # fmt: skip
    schedule = policy.daily("maintain_tables", _MAINTENANCE_HOUR)
    dag = policy.new_dag(index, "maintain_tables", _MAINTAIN_DOC, tags=("maintenance",), schedule=schedule, params=form)
    spark_tasks(index).maintain(dag=dag, task_id="maintain", pool=pools.SPARK, execution_timeout=policy.SPARK_TIMEOUT)
    return dag


def _metadata_task(dag: DAG, task_id: str, words: Sequence[str]) -> None:
    CommandOperator(
        dag=dag, task_id=task_id, words=words, pool=pools.METADATA, execution_timeout=policy.METADATA_TIMEOUT
    )


def _rebuild_words(said: Mapping[str, Any]) -> str:
    difference, refused = said["difference"], said["quarantined"]
    if not any(difference[key] for key in ("added", "removed", "changed", "columns_added", "columns_removed")):
        return ""
    columns = [
        f"- columns {word}: {', '.join(difference[f'columns_{word}'])}"
        for word in ("added", "removed")
        if difference[f"columns_{word}"]
    ]
    return "\n".join(
        [
            f"**{said['table']}**, made anew from bronze as its contract says now, differs from what stands:",
            "",
            f"- rows added: {difference['added']:,}, removed: {difference['removed']:,}, "
            f"changed: {difference['changed']:,}, the same: {difference['same']:,}",
            f"- rows in quarantine: {refused['before']:,} → {refused['after']:,}",
            *columns,
            "",
            f"Some of the rows are in the log of `look`. `lakehouse rebuild {said['table']} --undo` takes it back.",
        ]
    )


def _replay_words(said: Mapping[str, Any]) -> str:
    verdicts = said["verdicts"]
    if not verdicts:
        return ""
    refused = verdicts["quarantined"]
    return (
        f"The rows of **{said['table']}** are judged by the rules of today: of {verdicts['rows']:,} rows "
        f"{verdicts['coming']:,} come in and {verdicts['going']:,} go out; in quarantine: {refused['before']:,} → "
        f"{refused['after']:,}. `lakehouse rebuild {said['table']} --undo` takes it back."
    )


def _trim_words(said: Mapping[str, Any]) -> str:
    if not said["batches"]:
        return ""
    return (
        f"{len(said['batches'])} batches of **{said['source']}** with {said['rows']:,} rows lie before "
        f"{said['before']} and leave bronze **for good**. Tables keep their history; nothing that was observed before "
        f"that day can change any more. Landed files stay. {len(said['kept'])} older batches stay in bronze."
    )


def _bronze(said: Mapping[str, Any]) -> list[Asset]:
    return [assets.table(f"bronze.{assets.slug(said['source'])}")]


_REBUILD_DOC = """Makes a silver table anew from bronze, after somebody approved what would differ.

For a table whose contract changed in what its rows mean, or that somebody doubts.

1. `look` computes the table beside the one that stands, and says what differs. Nothing is published.
2. `approve` waits for a person: open the task's *Required Actions* and choose.
3. `confirm` publishes, if nothing changed since; else it fails, and you start again.

Where nothing would differ, the run ends after `look`. The table stays readable all the time.
"""

_REPLAY_DOC = """Judges the rows of a silver table anew after its row rules changed, after somebody approved the result.

Rows that pass now enter the table and leave quarantine; rows that fail now leave the table. `look` says how many,
`approve` waits for a person (*Required Actions*), `confirm` publishes if nothing changed since.
"""

_TRIM_DOC = """Takes old batches of a source from bronze for good, after somebody approved which.

`look` says which batches would go, `approve` waits for a person (*Required Actions*), `confirm` takes them if nothing
changed since. Tables keep their history, but nothing that was observed before the first kept day can change any more.
Sources that facts are made of are not trimmed.
"""

_DECIDE_DOC = """Releases, holds or discards a batch, and writes who decided it and why into the decision log.

- **release**: a batch that a rule holds back is taken as it is.
- **hold**: a batch is kept out of the tables, until it is released or lands again.
- **discard**: it is kept out for good. This is final; the same bytes can only land again, as a new batch.

The transform DAG of the source runs by itself after that.
"""

_QUALITY_DOC = """Makes the Data Docs of Great Expectations from what the rules said, in the home's folder `data-docs`.

They hold counts, never a value of a row. The newest results also stand in `ops.quality_results`.
"""

_MAINTAIN_DOC = """Puts the files of tables in order, and takes away old snapshots and files that nothing refers to.

Each step is taken only where it pays, and in this order: small files and deleted rows are compacted; manifests written
anew; snapshots expired that nobody can ask for any more by the contract's `upkeep`; orphans deleted; statistics
counted. The log says what was done to which table, and what had to wait.

- No row changes. Writers go on meanwhile, and where one is faster, this gives way.
- What a table said lately, tags, what marts have not read, and what a running backup copies stays.
- A run deletes at most as many files as the form says. It may be stopped anywhere, and run again.
- Where metadata say that nothing is to be done, no Spark is started, and the run ends as **skipped**.
"""

_HOUSEKEEPING_DOC = """Checks the installation, and removes what killed attempts left behind.

Runs `lakehouse doctor --fix`: branches, forks, staged objects and locks whose owner is gone. What has an owner that
lives is never touched, so it is safe beside running jobs. Fails when a check fails; the log says what to do.
"""
