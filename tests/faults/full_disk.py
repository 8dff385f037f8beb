"""The program whose scratch folder is full: a run that fails, room again, and a run that completes it.

Arguments: a folder of its own for Spark's scratch files, the name of a dataset, and a folder whose files have landed.
It prints the error that the first run ended with.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from tests.faults.driver import QUICK, SMALL
from tests.faults.world import dataset, run

from lakehouse.core.errors import LakehouseError
from lakehouse.core.settings import load_settings
from lakehouse.engine.publish import Lake
from lakehouse.engine.session import session

_MEGABYTE = bytes(1 << 20)


def fill(path: Path) -> None:
    """Leave no room on the disk of a file."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(_MEGABYTE)
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"0" * 512)


def main(scratch: Path, name: str) -> None:
    settings = load_settings().model_copy(update={"spark_conf": {"spark.local.dir": str(scratch), **SMALL, **QUICK}})
    with session(settings, "a full disk") as spark:
        lake, contract = Lake(spark, settings), dataset(name)
        spark.range(1).count()  # what Spark wants of its scratch folder at the start
        fill(scratch / "ballast")
        try:
            run(lake, contract)
        except LakehouseError as error:
            print(f"{type(error).__name__}: {error}")
        (scratch / "ballast").unlink()
        run(lake, contract)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
