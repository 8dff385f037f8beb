"""Snapshots from before the horizon of a trimmed table: they are held, and nothing but a discard resolves that."""

from __future__ import annotations

from lakehouse.contracts.derive import snapshot_time
from lakehouse.contracts.model import Contract
from lakehouse.ledger.log import Batch
from lakehouse.ledger.watermark import Baseline


def why_beyond(contract: Contract, baseline: Baseline | None, batch: Batch) -> str:
    """Why a batch can never be taken by a table with this baseline; '' where it can."""
    if baseline is None or contract.source.kind != "snapshot" or batch.number <= baseline.through:
        return ""
    if snapshot_time(contract, batch.unit) >= baseline.at:
        return ""
    return (
        f"it shows the state of {batch.unit}, which lies before the horizon {baseline.at:%Y-%m-%d %H:%M} UTC; what was "
        "observed before that is no longer in bronze, so nobody can tell what it changes"
    )
