"""Which Java programs of this project are run with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def java_program() -> Path | None:
    """``JAVA_HOME``'s java if that is set, else the one on PATH: the one that Spark's own scripts take."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    return Path(found) if found else None
