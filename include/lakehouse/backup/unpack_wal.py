"""What PostgreSQL runs in a recovery for every file of the archive: ``python unpack_wal.py FOLDER NAME PATH``.

The files were fetched before. Nothing but the standard library, since it runs thousands of times.
"""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path


def main(folder: str, name: str, path: str) -> int:
    """Put a file where PostgreSQL wants it; 1 where there is none: the log ends there."""
    packed = Path(folder) / f"{name}.gz"
    if not packed.exists():
        return 1
    with gzip.open(packed) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
