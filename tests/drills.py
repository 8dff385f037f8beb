"""A drill's record for tests, with whatever is asked for."""

from __future__ import annotations

from typing import Any

from lakehouse.backup.drills import Drill, Goals, TableDrilled

ID = "20260304T120000Z-0123abcd"
SET = "20260304T115500Z-4567cdef"


def drilled(table: str = "silver.dim_shop", **given: Any) -> TableDrilled:
    """A table that came back whole."""
    known: dict[str, Any] = {
        "table": table, "snapshot_id": 77, "rows": 1234, "files": 9, "size_bytes": 5_000_000, "snapshots": 3, "tags": 1,
        "compared": "rows", "is_live_compared": True, "fingerprint": "f" * 64, "seconds": 0.5,
    }  # fmt: skip
    return TableDrilled(**{**known, **given})


def a_drill(**given: Any) -> Drill:
    """A drill of the whole lake that went well."""
    known: dict[str, Any] = {
        "id": ID, "started_at": "2026-03-04T12:00:00+00:00", "finished_at": "2026-03-04T12:01:07+00:00",
        "actor": "ada (Airflow)", "approved_by": "grace", "version": "0.1.0", "backup": "s3://lake-backups",
        "set_id": SET, "cut_at": "2026-03-04T11:55:00+00:00", "tables": (drilled(),), "tables_of_set": 1,
        "size_bytes": 5_000_000, "size_bytes_of_set": 5_000_000, "logs": 12, "rto_seconds": 61.0,
        "rto_all_seconds": 61.0, "phases": (("restoring", 40.0), ("verifying", 21.0)), "rpo_seconds": 300.0,
        "worst_rpo_seconds": 720.0, "window_hours": 48.0, "goals": Goals(900.0, 3600.0), "damages": (),
    }  # fmt: skip
    return Drill(**{**known, **given})
