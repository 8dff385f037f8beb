"""What a program says to the task that started it, where standard output is not theirs alone.

spark-submit mixes a program's output with its errors, and with its own words. So the task names a file in the
environment, and the program writes its exit code and output there when it ends.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path

ANSWER_FILE = "LAKEHOUSE_ANSWER_FILE"
"""Set by whoever starts the program: where its answer goes."""


@dataclass(frozen=True)
class Ended:
    """How a program ended, and all that it wrote to standard output."""

    code: int
    output: str


def answering(main: Callable[[], int | None], environment: MutableMapping[str, str] = os.environ) -> int:
    """Run a program; returns its exit code, and answers where somebody asked for that. What it prints is printed."""
    path = environment.pop(ANSWER_FILE, "")
    if not path:
        return main() or 0
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = _code(main)
    sys.stdout.write(said.getvalue())
    scratch = Path(f"{path}.{os.getpid()}")
    scratch.write_text(json.dumps(asdict(Ended(code, said.getvalue()))), "utf-8")
    scratch.replace(path)
    return code


def read_answer(path: Path) -> Ended | None:
    """What a program answered; None where it was ended before it could."""
    return Ended(**json.loads(path.read_text("utf-8"))) if path.exists() else None


def _code(main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
