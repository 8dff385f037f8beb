"""``python -m lakehouse.stack.moto_server PORT FOLDER``: moto's S3 stand-in as a process of its own.

FOLDER only marks whose process it is; the data is in memory and ends with the process.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Serve until stopped."""
    from moto.server import main as serve

    serve(["-H", "127.0.0.1", "-p", sys.argv[1]])


if __name__ == "__main__":
    main()
