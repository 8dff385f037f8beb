"""The DAGs by which people go back in time: tags, what changed since, rollback, and tables that were dropped."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from airflow.sdk import DAG, Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from lakehouse.contracts.index import Index
from lakehouse.core import pools
from lakehouse.orchestration import assets, policy
from lakehouse.orchestration.forms import (
    any_table_form,
    look_approve_confirm,
    published_table,
    table_argument,
    table_form,
)
from lakehouse.orchestration.operators import TABLE, CommandOperator, ConfirmOperator, Context, any_table
from lakehouse.orchestration.spark_tasks import COMMANDS

_TAGGING_HOUR = 1
_WHEN = r"^[A-Za-z0-9][A-Za-z0-9:.+_-]{0,119}$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_KEEP = r"^[1-9][0-9]{0,4}[hd]$"
_MOMENT = "A time (UTC), snapshot or tag: 2024-03-31T14:05:00."


def travel_makers(index: Index) -> dict[str, Callable[[], DAG]]:
    """How each DAG is made, by its id."""
    if not index.tables:
        return {}
    return {
        "compare_table": partial(compare_dag, index),
        "rollback_table": partial(rollback_dag, index),
        "tag_tables": partial(tag_dag, index),
        "undrop_table": partial(undrop_dag, index),
    }


def compare_dag(index: Index) -> DAG:
    """What a table was, and what changed in it between two times."""
    form = {
        **table_form(index),
        "from": _optional(_WHEN, "Since when", f"{_MOMENT} Empty: only the list of snapshots."),
        "to": _optional(_WHEN, "Until when", "The same. Empty: now."),
    }

    def arguments(context: Context) -> list[str]:
        if not context["params"]["from"]:
            raise AirflowSkipException("no time is given since when; the log of `snapshots` has what there is")
        return [*table_argument(index)(context), *_given(context, **{"from": _WHEN, "to": _WHEN})]

    dag = policy.new_dag(index, "compare_table", _COMPARE_DOC, tags=("time travel",), params=form, max_active_runs=4)
    snapshots = _command(dag, "snapshots", ("snapshots",), table_argument(index))
    snapshots >> _command(dag, "diff", ("diff",), arguments)
    return dag


def rollback_dag(index: Index) -> DAG:
    """A table as it was, after somebody looked at what that means. No Spark, whatever the place of it is."""
    form = {
        **table_form(index),
        "to": Param("", type="string", pattern=_WHEN, minLength=1, title="To when", description=_MOMENT),
        "reason": Param("", type="string", minLength=3, maxLength=500, title="Why", description="Kept for good."),
    }  # fmt: skip

    def arguments(context: Context) -> list[str]:
        table, to, reason = table_argument(index)(context), _given(context, to=_WHEN), str(context["params"]["reason"])
        if not to:
            raise AirflowFailException("to when is not said: a time, snapshot or tag")
        return [*table, *to, f"--reason={reason}"]

    dag = policy.new_dag(index, "rollback_table", _ROLLBACK_DOC, tags=("repair",), params=form)
    look_approve_confirm(
        index, dag, "rollback", arguments, _rollback_words, published_table, tasks=COMMANDS, pool=pools.METADATA
    )
    return dag


def tag_dag(index: Index) -> DAG:
    """The tags by day, week and month that contracts ask for; by hand, one that a person asks for."""
    form = {
        **any_table_form("As in silver.dim_customer. Empty: the tags of all tables that are due."),
        "name": _optional(_NAME, "Tag", "As in before-migration."),
        "at": _optional(_WHEN, "Of when", f"{_MOMENT} Empty: now."),
        "keep": _optional(_KEEP, "Keep for", "As in 36h or 30d. Empty: until it is dropped."),
    }

    def arguments(context: Context) -> list[str]:
        table, name = any_table(context), context["params"]["name"]
        options = _given(context, at=_WHEN, keep=_KEEP)
        if not table and not name and not options:
            return ["--due"]
        if not table or not name or not re.fullmatch(_NAME, str(name)):
            raise AirflowFailException(f"a tag needs a table and a name, and these are {table!r} and {name!r}")
        return [table, str(name), *options]

    schedule = policy.daily("tag_tables", _TAGGING_HOUR)
    dag = policy.new_dag(index, "tag_tables", _TAG_DOC, tags=("time travel",), schedule=schedule, params=form)
    _command(dag, "tag", ("tag",), arguments)
    return dag


def undrop_dag(index: Index) -> DAG:
    """A dropped table as it was last, after somebody looked at what comes back."""

    def arguments(context: Context) -> list[str]:
        return [str(any_table(context))]

    form = {
        "table": Param(
            "", type="string", pattern=TABLE.pattern, minLength=1, maxLength=140, title="Table",
            description="As in silver.dim_customer. `lakehouse dropped` lists those that there are.",
        ),
    }  # fmt: skip
    dag = policy.new_dag(index, "undrop_table", _UNDROP_DOC, tags=("repair", "time travel"), params=form)
    look_approve_confirm(
        index,
        dag,
        "undrop",
        arguments,
        _undrop_words,
        lambda said: assets.changed(index, [said["table"]]),
        tasks=replace(COMMANDS, confirm=UndropOperator),
        pool=pools.METADATA,
        seen_as="metadata_location",
    )
    return dag


class UndropOperator(ConfirmOperator):
    """Brings a table back out of the metadata file that was shown, and no other."""

    def sure(self, token: str) -> list[str]:
        return [f"--metadata={token}"]

    def about(self, said: Any) -> dict[str, Any]:
        return {"snapshot_id": said["snapshot_id"]}


def _command(
    dag: DAG, task_id: str, words: Sequence[str], arguments: Callable[[Context], Sequence[str]]
) -> CommandOperator:
    return CommandOperator(
        dag=dag,
        task_id=task_id,
        words=words,
        arguments=arguments,
        pool=pools.METADATA,
        execution_timeout=policy.METADATA_TIMEOUT,
    )


def _optional(pattern: str, title: str, description: str) -> Param:
    return Param(None, type=["null", "string"], pattern=pattern, title=title, description=description)


def _given(context: Context, **patterns: str) -> list[str]:
    """An option for each field of the form that is filled in. Raises where one is not what it should be."""
    found = {name: context["params"][name] for name in patterns}
    for name, value in found.items():
        if value and not re.fullmatch(patterns[name], str(value)):
            raise AirflowFailException(f"{name} {value!r} is not what it should be: see the form")
    return [f"--{name}={value}" for name, value in found.items() if value]


def _undrop_words(said: Mapping[str, Any]) -> str:
    lost = len(said["lost_of_older_snapshots"])
    older = f"\n- {lost} files of former snapshots are gone: these can no longer be read" if lost else ""
    return (
        f"**{said['table']}** comes back as it was at {said['updated_at']}, with its snapshots, tags, and what it had "
        f"consumed:\n\n- {said['rows']:,} rows; all of its {said['files']} files are there{older}\n\n"
        "The next run takes what landed since."
    )


def _rollback_words(said: Mapping[str, Any]) -> str:
    if said["is_empty"]:
        return ""
    rows, batches = said["rows"], said["batches"] or {}
    parts = {"lost": "leave the table, and are held", "release": "come back", "drops": "go with the next run"}
    lines = [f"- batches that {words}: {_listed(batches[key])}" for key, words in parts.items() if batches.get(key)]
    return "\n".join(
        [
            f"**{said['table']}** goes back to snapshot {said['to']['snapshot_id']} of {said['to']['at']}:",
            "",
            f"- rows: {rows['before']:,} → {rows['after']:,}",
            *lines,
            "",
            "Marts follow by themselves. The log of `confirm` names the tag by which it is taken back.",
        ]
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(f"#{number}" for number in numbers)


_ROLLBACK_DOC = """Makes a silver table what it was at a time, snapshot or tag, after somebody approved what that means.

For bad data that was published. `look` says which rows and batches go, `approve` waits for a person (*Required
Actions*), `confirm` does just that, if nothing changed since: in seconds, without Spark.

The batches that leave the table are held until somebody releases or discards them in `decide_batch`, or lands them
anew. Marts follow by themselves. What the table was is kept by a tag for 30 days.
"""

_COMPARE_DOC = """Says what a silver table was, and what changed in it between two times. Changes nothing.

The log of `snapshots` lists every publication that is kept, with its tags. That of `diff` says which rows were added,
removed and changed between two of them, and some of them with old and new values; classified values are masked.
"""

_TAG_DOC = """Tags the snapshots of every table by day, week and month, as contracts ask for; or one, by its form.

Every day it runs `lakehouse tag --due`. Tags that a contract no longer asks for are dropped. Where the form names a
table and a tag, that snapshot is tagged, and nothing else happens. No expiry removes a snapshot that is tagged, so that
the table can go back to it.
"""

_UNDROP_DOC = """Brings a table back that was dropped, after somebody approved what comes back.

`look` finds its last metadata file, and every file that it needs; `approve` waits for a person (*Required Actions*);
`confirm` registers just that, in seconds, without Spark. Rows, snapshots, tags and what it had consumed are as they
were; the next run takes what landed since, and marts follow. A table that was dropped with PURGE has no files: that is
what `restore_lake` is for.
"""
