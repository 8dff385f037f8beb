"""`make soak`: round after round of the kill tests, each with data and places of its own; then round after round of
ingest, backfill, compaction and expiry at once.

Not collected with the other tests, since it runs for as long as it is told to: LAKEHOUSE_SOAK_MINUTES or
LAKEHOUSE_SOAK_CASES, whichever comes first; the second half for as many minutes again (default: 10).
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.faults.cases import CASES
from tests.faults.test_kills import NewSettings, run_waves
from tests.faults.test_together import run_together

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.timeout(0)
def test_soak(new_settings: NewSettings, tmp_path: Path, chance: random.Random) -> None:
    minutes = float(os.environ.get("LAKEHOUSE_SOAK_MINUTES") or "inf")
    wanted = float(os.environ.get("LAKEHOUSE_SOAK_CASES") or "inf")
    if minutes == wanted == float("inf"):
        wanted = 2000
    end, killed, round_number = time.monotonic() + minutes * 60, 0, 0
    while time.monotonic() < end and killed < wanted:
        round_number += 1
        killed += run_waves(new_settings(), tmp_path / str(round_number), chance, CASES)
        print(f"{killed} cases were killed in {round_number} rounds", flush=True)
    assert killed > 0


@pytest.mark.timeout(0)
def test_soak_together(spark: SparkSession, new_settings: NewSettings, tmp_path: Path, chance: random.Random) -> None:
    end = time.monotonic() + float(os.environ.get("LAKEHOUSE_SOAK_MINUTES") or 10) * 60
    did: Counter[str] = Counter()
    while not did or time.monotonic() < end:
        did += run_together(spark, new_settings(), tmp_path / str(did.total()), chance, days=8)
        print(dict(did), flush=True)
