"""Reads one file with limits on memory and on the size of files, and says what it took."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import cast

from tests.bad_input.model import COMPRESSIONS, Source, contract_of

from lakehouse.records.reader import Layout, read_records

MOST_ADDRESSES = 4 << 30  # so that a reader without bounds fails instead of filling the machine
LARGEST_FILE = 600 << 20


def main(source: str, packed: str, path: str) -> None:
    """Print the peak of resident memory, the number of records, the largest batch and the last reason."""
    layout = Layout.of(contract_of(cast(Source, source)).source)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    records, largest, reason = 0, 0, None
    with open(path, "rb") as stream:
        for batch in read_records(stream, layout, COMPRESSIONS[packed]):
            records, largest = records + batch.num_rows, max(largest, batch.nbytes)
            reason = batch.column("_rejected")[-1].as_py() or reason
    peak_bytes = _peak_bytes()
    print(json.dumps({"peak_bytes": peak_bytes, "records": records, "largest": largest, "reason": reason}))


def _peak_bytes() -> int:
    """Of this program alone: what getrusage says begins with the memory of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(*sys.argv[1:])
