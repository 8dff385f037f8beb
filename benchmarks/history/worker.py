"""One contestant in a process of its own, told what to do line by line, or once and then it ends.

    python worker.py CONTESTANT FOLDER                     commands on standard input, answers on standard output
    python worker.py CONTESTANT FOLDER apply delta         one command: a cold run

Runs in the project's environment or in the peers', so it imports only what its contestant needs.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol, TextIO

from place import Place

MODULES = {
    "engine": "engine",
    "usual-merge": "usual_merge",
    "delta-rs": "delta_rs",
    "dbt-duckdb": "dbt_duckdb",
    "pyarrow-floor": "arrow_floor",
}


class Contestant(Protocol):
    """A way to keep a history. ``kind`` is what day 2 is: ``delta`` or ``snapshot``."""

    def load(self) -> None:
        """Make the history of day 1, and remember it."""
        ...

    def reset(self, kind: str) -> None:
        """Go back to the history of day 1."""
        ...

    def apply(self, kind: str) -> dict[str, Any]:
        """Bring day 2 in: what is measured. Returns figures of its own."""
        ...

    def export(self, kind: str) -> None:
        """Write the history to ``place.export``, as Parquet."""
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...


def open_contestant(name: str, place: Place) -> Contestant:
    """The contestant of that name; nothing heavy starts before it is asked to do something."""
    found: Contestant = importlib.import_module(MODULES[name]).open_contestant(place)
    return found


def do(contestant: Contestant, command: str, arguments: list[str]) -> dict[str, Any]:
    """One command, with its wall seconds."""
    started = time.perf_counter()
    found = getattr(contestant, command)(*arguments)
    return {"wall_seconds": time.perf_counter() - started, **(found or {})}


def _serve(contestant: Contestant, answers: TextIO) -> None:
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(do(contestant, command, arguments)), file=answers, flush=True)


def main() -> None:
    name, folder, *once = sys.argv[1:]
    contestant = open_contestant(name, Place(Path(folder)))
    # What libraries print goes to standard error, so that the answers stand alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        if once:
            do(contestant, once[0], once[1:])
        else:
            _serve(contestant, answers)
    finally:
        contestant.close()


if __name__ == "__main__":
    main()
