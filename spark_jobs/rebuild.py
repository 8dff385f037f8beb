"""A silver table made anew from bronze: ``python spark_jobs/rebuild.py`` is ``lakehouse rebuild``, for spark-submit."""

from __future__ import annotations

import sys

from lakehouse.cli.main import main
from lakehouse.core.answers import answering

if __name__ == "__main__":
    sys.exit(answering(lambda: main(["rebuild", *sys.argv[1:]])))
