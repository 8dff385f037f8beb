"""What PostgreSQL runs for every finished segment of its log: store it once, in the bucket of backups.

``python -m lakehouse.backup.archive_wal FOLDER PATH NAME``: the folder's ``stack.env`` has whoever writes backups, and
nothing else. The server works in its data folder. Any failure ends with a code other than 0: PostgreSQL keeps the
segment then, and tries again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lakehouse.backup.vault import Vault
from lakehouse.backup.wal import server_number, store
from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import told_on_stderr
from lakehouse.core.settings import load_settings


def main(folder: str, path: str, name: str) -> None:
    """Archive one file."""
    with told_on_stderr():
        vault = Vault.open(load_settings(Path(folder)), SystemClock().now())
        store(vault, server_number(Path()), name, Path(path).read_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
