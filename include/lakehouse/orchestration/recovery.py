"""The DAGs of backups: making, looking at and removing them; drills; and a restore with a form and an approval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param

from lakehouse.contracts.index import Index
from lakehouse.core import pools
from lakehouse.orchestration import assets, policy
from lakehouse.orchestration import recovery_tasks as tasks
from lakehouse.orchestration.families import build
from lakehouse.orchestration.forms import approval
from lakehouse.orchestration.operators import LookOperator

BACK_UP_MINUTES = 10
"""At its worst, the last complete set is so old, and as old as making one takes: together 15 minutes are the goal."""
_BASE_HOUR, _VERIFY_HOUR, _CHECK_HOUR, _DRILL_HOUR = 1, 2, 22, 0
_DAY_HOURS = 24
_ABOUT = ("recovery",)
_WORDS = r"^(|[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*([ ,]+[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*)*)$"
_WHAT = r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?$"
_WHEN = r"^(|[0-9][0-9A-Za-z:.+-]*)$"


def recovery_dags(index: Index, only: str | None = None) -> dict[str, DAG]:
    """All DAGs of backups by their ids, or the one that a task needs."""
    makers: Mapping[str, Callable[[], DAG]] = {
        "back_up_databases": partial(back_up_databases_dag, index),
        "back_up_lake": partial(back_up_dag, index),
        "check_lake": partial(check_dag, index),
        "drill_recovery": partial(drill_dag, index),
        "prune_backups": partial(prune_dag, index),
        "restore_lake": partial(restore_dag, index),
        "verify_backups": partial(verify_dag, index),
        "watch_backups": partial(watch_dag, index),
    }
    return build(makers, only)


def back_up_dag(index: Index) -> DAG:
    """The increments, one at a time."""
    schedule = policy.every_minutes(BACK_UP_MINUTES)
    dag = policy.new_dag(index, "back_up_lake", _BACK_UP_DOC, tags=_ABOUT, schedule=schedule)
    tasks.BackUpOperator(dag=dag, task_id="create", pool=pools.BACKUP, execution_timeout=policy.BACKUP_TIMEOUT)
    return dag


def back_up_databases_dag(index: Index) -> DAG:
    """A base backup each day, before that day's verification. Not in the pool of sets: none waits for it."""
    schedule = policy.daily("back_up_databases", _BASE_HOUR)
    dag = policy.new_dag(index, "back_up_databases", _BASE_DOC, tags=_ABOUT, schedule=schedule)
    common: dict[str, Any] = {"pool": pools.RECOVERY, "execution_timeout": policy.BACKUP_TIMEOUT}
    tasks.BaseBackupOperator(dag=dag, task_id="base_backup", **common)
    return dag


def verify_dag(index: Index) -> DAG:
    """A look at the newest set, and at another share of its bytes each day."""
    schedule = policy.daily("verify_backups", _VERIFY_HOUR)
    dag = policy.new_dag(index, "verify_backups", _VERIFY_DOC, tags=_ABOUT, schedule=schedule)
    tasks.VerifyOperator(dag=dag, task_id="verify", pool=pools.RECOVERY, execution_timeout=policy.BACKUP_TIMEOUT)
    return dag


def prune_dag(index: Index) -> DAG:
    """The removal of old sets, once the newest was found whole."""
    dag = policy.new_dag(index, "prune_backups", _PRUNE_DOC, tags=_ABOUT, schedule=[tasks.VERIFIED])
    tasks.PruneOperator(
        dag=dag,
        task_id="prune",
        inlets=[tasks.VERIFIED],
        pool=pools.BACKUP,
        execution_timeout=policy.METADATA_TIMEOUT,
    )
    return dag


def check_dag(index: Index) -> DAG:
    """A look at the files of the lake itself."""
    schedule = policy.daily("check_lake", _CHECK_HOUR)
    dag = policy.new_dag(index, "check_lake", _CHECK_DOC, tags=_ABOUT, schedule=schedule)
    tasks.CheckOperator(dag=dag, task_id="fsck", pool=pools.RECOVERY, execution_timeout=policy.BACKUP_TIMEOUT)
    return dag


def watch_dag(index: Index) -> DAG:
    """What alerts when nothing failed, and nothing was done either."""
    schedule = policy.sweep("watch_backups", _DAY_HOURS)
    dag = policy.new_dag(index, "watch_backups", _WATCH_DOC, tags=_ABOUT, schedule=schedule)
    tasks.WatchOperator(dag=dag, task_id="on_time", pool=pools.METADATA, execution_timeout=policy.METADATA_TIMEOUT)
    return dag


def drill_dag(index: Index) -> DAG:
    """The proof that backups come back, every week and by hand."""
    form = {
        "tables": Param(
            "", type="string", pattern=_WORDS, maxLength=2000, title="Tables",
            description="As in silver.dim_customer, separated by spaces. Empty: all.",
        ),
        "approve": Param(
            True, type="boolean", title="Wait for an approval",
            description="Show what would be restored, and wait for a person. Scheduled runs need none.",
        ),
    }  # fmt: skip
    schedule = policy.weekly("drill_recovery", 0, _DRILL_HOUR)
    dag = policy.new_dag(index, "drill_recovery", _DRILL_DOC, tags=_ABOUT, schedule=schedule, params=form)
    common: dict[str, Any] = {"dag": dag, "pool": pools.RECOVERY}
    look = tasks.LookDrillOperator(task_id="look", execution_timeout=policy.METADATA_TIMEOUT, **common)
    approve = tasks.ApprovalWhereAskedOperator(subject="Go on with this drill?", **approval(dag))
    drill = tasks.DrillOperator(task_id="drill", execution_timeout=policy.BACKUP_TIMEOUT, **common)
    look >> approve >> drill
    return dag


def restore_dag(index: Index) -> DAG:
    """Tables, or the whole lake, out of a backup, after somebody looked at what that means."""
    form = {
        "what": Param(
            "", type="string", pattern=_WHAT, minLength=1, maxLength=140, title="What",
            description="A table (silver.dim_customer), a namespace (silver), or everything.",
        ),
        "when": Param(
            "", type="string", pattern=_WHEN, maxLength=60, title="To when",
            description="A time (2024-03-31T14:05:00, UTC), backup set or snapshot. Empty: the newest set.",
        ),
        "reason": Param("", type="string", minLength=3, maxLength=500, title="Why", description="Kept in the report."),
    }  # fmt: skip
    dag = policy.new_dag(index, "restore_lake", _RESTORE_DOC, tags=("repair", *_ABOUT), params=form)
    common: dict[str, Any] = {"dag": dag, "pool": pools.RECOVERY, "execution_timeout": policy.BACKUP_TIMEOUT}
    look = LookOperator(
        task_id="look",
        verb="restore",
        arguments=lambda context: tasks.restore_words(context["params"]),
        tell=tasks.restore_summary,
        **common,
    )
    approve = ApprovalOperator(subject="Go on with this restore?", **approval(dag))
    confirm = tasks.RestoreOperator(
        task_id="confirm", looked="look", approved="approve", assets_of=partial(assets.changed, index), **common
    )
    report = tasks.RestoreReportOperator(task_id="report", **common)
    look >> approve >> confirm >> report
    return dag


_BACK_UP_DOC = """Makes the next backup set: every table, both logs, and the landed files, as of one moment.

Runs `lakehouse backup create` every 10 minutes, one at a time. Only what is new since the last set is read and copied.

- The loss of the lake costs what changed since the last complete set: 10 minutes, and what making one takes.
- It runs beside everything else. Stopped or killed, the next run goes on where it was.
- If the lake itself has lost files, it fails and names them: `lakehouse repair` brings them back.
- Where no place for backups is configured, it ends as **skipped**.
"""

_BASE_DOC = """Makes the daily base backup of the databases: the catalog's and Airflow's, to go to any later moment.

Runs `lakehouse backup databases`. PostgreSQL archives the log between base backups by itself, so every moment after the
first one can be brought back; one each day keeps the way short.

- It runs beside everything else, and backup sets do not wait for it.
- `verify_backups` looks at it, and `prune_backups` removes old ones by the rules of sets.
- Where PostgreSQL is not the local stack's, or there is no place for backups, it ends as **skipped**, and says why.
"""

_VERIFY_DOC = """Looks at every file of the newest backup set, and reads another share of the data each day.

Runs `lakehouse backup verify`: metadata is read whole, of data the size and the server's checksum are asked for, and a
seventh of it is read, another one each day. Fails with the name of each file that is missing or damaged, and of the
tables that it hurts; the next set stores these files anew. All base backups of the databases, and their log, are looked
at likewise, also before there is a set. Where it finds nothing, `prune_backups` starts.
"""

_PRUNE_DOC = """Removes the backup sets that no rule keeps, after the newest was found whole.

Runs `lakehouse backup prune --yes`. Kept are all sets of the last 48 hours, the newest of each of 14 days, 8 weeks, 12
months and 3 years, always the newest, and always the newest that was verified. Base backups of the databases go by the
same rules, and so does the log that none of them needs. What is locked stays until its lock has passed. Where nothing
goes, it ends as **skipped**.
"""

_CHECK_DOC = """Looks at the files of the lake itself: all that tables and logs refer to, and a share of their bytes.

Runs `lakehouse fsck`. Fails with the name of each file that is missing or damaged, of the tables and snapshots that it
hurts, and with what brings it back: `lakehouse repair` takes it from a backup, or from a former version.
"""

_WATCH_DOC = """Fails, and so alerts, while backups miss a goal, whatever the reason.

Runs `lakehouse backup status` four times a day: the last complete set, verification or good drill is too old; a drill
failed; a verification found damage; a restore takes longer than its goal; the last base backup of the databases is too
old, or their log is not archived. So a DAG that is paused, or that nobody set up, is noticed too. Goals are settings:
`LAKEHOUSE_BACKUP_RPO_MINUTES`, `LAKEHOUSE_BACKUP_RTO_MINUTES` and `LAKEHOUSE_BACKUP_DRILL_DAYS`.
"""

_DRILL_DOC = """Proves that the lake comes back from its backups alone, measures how fast, and writes a report.

Every week, and by hand. `look` says what would be restored. Where a person started the run and leaves *Wait for an
approval* on, `approve` waits for one (*Required Actions*). `drill` restores the newest set into a scratch catalog,
verifies every file, compares every table with the live one, and removes it all again. Nothing of the lake is touched.

The report says which set, which tables, how old (RPO) and how long (RTO) against the goals, who approved, and what is
wrong, if anything. The page *Lakehouse* links to it, and it can be handed to an auditor. The task fails where something
did not come back as it was.
"""

_RESTORE_DOC = """Brings a table, a namespace or the whole lake back from a backup, after somebody approved the plan.

1. `look` says what would be restored, from which set, how much is copied, and how long it takes. Nothing is changed.
2. `approve` waits for a person: open the task's *Required Actions* and choose.
3. `confirm` copies and verifies beside what stands, and then moves all tables in one step, if nothing changed since
   `look`; else it fails, and you start again. What stood before is kept under another name.
4. `report` says what was done.

Transform and marts follow by themselves: a table that went back takes the batches again that came after.
"""
