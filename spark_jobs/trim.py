"""Old batches out of bronze: ``python spark_jobs/trim.py`` is ``lakehouse trim``, for spark-submit."""

from __future__ import annotations

import sys

from lakehouse.cli.main import main
from lakehouse.core.answers import answering

if __name__ == "__main__":
    sys.exit(answering(lambda: main(["trim", *sys.argv[1:]])))
