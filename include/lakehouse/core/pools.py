"""How much of each kind of work a scheduler does at a time, so that a small machine is not swamped.

``python -m lakehouse.core.pools`` prints the pools as ``airflow pools import`` wants them, for installations that are
not started by ``lakehouse up``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

LANDING = "lakehouse_landing"
SPARK = "lakehouse_spark"
METADATA = "lakehouse_metadata"
BACKUP = "lakehouse_backup"
RECOVERY = "lakehouse_recovery"
_CORES_FOR_A_SESSION = 4


@dataclass(frozen=True)
class Pool:
    """A number of slots that tasks of one kind share."""

    name: str
    slots: int
    description: str


def pools(cores: int | None = None) -> tuple[Pool, ...]:
    """The pools for a machine with so many cores; default: this one.

    A Spark session takes all cores while it runs, so another one beside it only helps on a larger machine.
    """
    count = cores or os.cpu_count() or 1
    return (
        Pool(LANDING, max(2, 2 * count), "Landing: light processes without a JVM."),
        Pool(SPARK, max(1, count // _CORES_FOR_A_SESSION), "Work that may start a Spark session."),
        Pool(METADATA, 2, "Short work on metadata, without a JVM."),
        Pool(BACKUP, 1, "Backup sets are made and pruned one at a time; nothing else makes them wait."),
        Pool(RECOVERY, 2, "Verification, checks, drills, restores, base backups: they read much, without a JVM."),
    )


def as_import(cores: int | None = None) -> dict[str, dict[str, object]]:
    """The pools as Airflow imports them."""
    return {
        pool.name: {"slots": pool.slots, "description": pool.description, "include_deferred": False}
        for pool in pools(cores)
    }


if __name__ == "__main__":
    print(json.dumps(as_import(), indent=1))
