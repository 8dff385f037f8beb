"""What all DAGs have in common: who owns them, when they run, and how their tasks are tried again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

from airflow.sdk import (  # type: ignore[attr-defined]
    DAG,
    CronDataIntervalTimetable,
    CronTriggerTimetable,
    DeadlineAlert,
    DeadlineReference,
    SyncCallback,
)

from lakehouse.contracts.index import Index, Timing
from lakehouse.orchestration import alerts

START = datetime(2000, 1, 1, tzinfo=UTC)
"""Older than any data that somebody backfills."""
OWNER = "lakehouse"
LANDING_RUNS = 16
"""Runs of one landing at a time; backfills have a limit of their own."""
LANDING_TIMEOUT = timedelta(hours=1)
SPARK_TIMEOUT = timedelta(hours=6)
METADATA_TIMEOUT = timedelta(minutes=30)
BACKUP_TIMEOUT = timedelta(hours=24)
"""The first set of a large lake reads all of it; killed, it goes on where it was."""
APPROVAL_TIMEOUT = timedelta(days=7)
_LONGEST_DELAY = timedelta(minutes=30)
_LEAST_SLACK = timedelta(hours=6)
_DAY, _WEEK, _MONTH = 24, 7 * 24, 28 * 24


def new_dag(
    index: Index, dag_id: str, doc: str, *, tags: Iterable[str], owner: str = OWNER, schedule: Any = None, **given: Any
) -> DAG:
    """A DAG by the common rules. ``doc`` is Markdown in plain words; its first line is the description."""
    return DAG(
        dag_id,
        schedule=schedule,
        description=doc.strip().splitlines()[0],
        doc_md=doc.strip(),
        start_date=START,
        catchup=False,
        tags=sorted({"lakehouse", *tags}),
        owner_links={owner: f"mailto:{owner}"} if "@" in owner else {},
        default_args=default_args(index, owner),
        # A run of a paused DAG waits for good: only what begins to read sources by itself waits for a person.
        **{"max_active_runs": 1, "is_paused_upon_creation": False, **given},
    )


def default_args(index: Index, owner: str) -> dict[str, Any]:
    """Tasks are tried again with growing delays. One that this cannot help says so itself, and fails at once."""
    return {
        "owner": owner,
        "retries": index.operation.retries,
        "retry_delay": timedelta(seconds=index.operation.retry_seconds),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": max(_LONGEST_DELAY, timedelta(seconds=index.operation.retry_seconds)),
        "on_failure_callback": alerts.tell_failure,
    }


def landing_schedule(timing: Timing) -> CronDataIntervalTimetable:
    """Intervals in UTC as long as the source's, so that a run's logical date is its day wherever the source is."""
    every = timing.expected_every_hours
    if every >= _MONTH:
        cron = "0 0 1 * *"
    elif every >= _WEEK:
        cron = "0 0 * * 1"
    elif every >= _DAY:
        cron = "0 0 * * *"
    else:
        step = max(hours for hours in (1, 2, 3, 4, 6, 8, 12) if hours <= every)
        cron = f"0 */{step} * * *"
    return CronDataIntervalTimetable(cron, timezone="UTC")


def sweep(name: str, every_hours: int) -> CronTriggerTimetable:
    """Looks for work that no event told of, several times in each interval of the source, at a minute of its own."""
    minute = crc32(name.encode()) % 60
    hours = "*" if every_hours < _DAY // 2 else "*/3" if every_hours < _DAY else "*/6"
    return CronTriggerTimetable(f"{minute} {hours} * * *", timezone="UTC")


def daily(name: str, hour: int) -> CronTriggerTimetable:
    """Once a day at this hour (UTC), at a minute of its own."""
    return CronTriggerTimetable(f"{crc32(name.encode()) % 60} {hour} * * *", timezone="UTC")


def weekly(name: str, day: int, hour: int) -> CronTriggerTimetable:
    """Once a week on this day (0 is Sunday) at this hour (UTC), at a minute of its own."""
    return CronTriggerTimetable(f"{crc32(name.encode()) % 60} {hour} * * {day}", timezone="UTC")


def every_minutes(minutes: int) -> CronTriggerTimetable:
    """Several times in each hour."""
    return CronTriggerTimetable(f"*/{minutes} * * * *", timezone="UTC")


def deadline(timing: Timing) -> DeadlineAlert:
    """A run that takes longer than this makes data late by the contract: the time between expected and late."""
    slack = timedelta(hours=timing.warn_after_hours - timing.expected_every_hours)
    return DeadlineAlert(
        name="freshness",
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=max(slack, _LEAST_SLACK),
        callback=SyncCallback(alerts.tell_late),
    )
