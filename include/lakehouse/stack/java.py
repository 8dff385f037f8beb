"""Which Java there is. Spark 4.1 and the pinned jars are tested on Java 17."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from lakehouse.core.errors import SettingsError
from lakehouse.core.java import java_program

NEEDED = 17
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def java_version(program: Path | None) -> int | None:
    """The major version, or None when the program is not there or says nothing that can be read."""
    if program is None:
        return None
    try:
        said = subprocess.run([str(program), "-version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(said.stderr + said.stdout)
    return int(match[1]) if match else None


def require_java() -> Path:
    """The program, or :class:`SettingsError` in one line that names the fix."""
    program = java_program()
    version = java_version(program)
    if program is None or version != NEEDED:
        raise SettingsError(
            f"lakehouse needs Java {NEEDED} (found {version or 'none'}): "
            f"install openjdk-{NEEDED}-jre-headless or set JAVA_HOME"
        )
    return program
