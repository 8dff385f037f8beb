"""What several unit tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lakehouse.core.settings import PROJECT_ROOT


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    """The project's own contracts, not compiled, in a folder of this test."""
    folder = tmp_path / "contracts"
    return Path(
        shutil.copytree(PROJECT_ROOT / "include" / "contracts", folder, ignore=shutil.ignore_patterns("index.json"))
    )
