"""The disk of Spark's scratch files is full."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.looking import Looking
from tests.faults.wave import environment
from tests.faults.world import content, dataset, land_folder, problems, run, write_day
from tests.servers import NewLake

from lakehouse.core.settings import PROJECT_ROOT, Settings

SMALL_DISK = 'mount -t tmpfs -o size=400m tmpfs "$1" && shift && exec "$@"'
"""In a mount namespace of its own, so that nobody else sees the disk, and it is gone with the process."""


def test_a_full_disk_ends_the_run_and_the_next_completes_it(
    new_settings: Callable[[], Settings], new_lake: NewLake, tmp_path: Path
) -> None:
    for day in range(2):
        write_day(tmp_path / "files", day)
    settings, contract = new_settings(), dataset("full")
    land_folder(settings, contract, tmp_path / "files")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    program = [sys.executable, "-m", "tests.faults.full_disk", str(scratch), contract.dataset]
    ended = subprocess.run(
        [*namespace, "sh", "-c", SMALL_DISK, "sh", str(scratch), *program],
        **{"cwd": PROJECT_ROOT, "env": environment(settings), "capture_output": True, "text": True},
        timeout=300,
        check=False,
    )
    print(ended.stdout)
    if "unshare" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip(f"no small disk can be made here: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "TransientError: the disk of Spark's scratch files is full" in ended.stdout
    assert "Traceback" not in ended.stdout
    looking, clean = Looking(settings), new_lake()
    assert [*problems(looking, contract)] == []
    land_folder(clean.settings, contract, tmp_path / "files")
    run(clean, contract)
    assert content(looking, contract) == content(Looking(clean.settings), contract)
