"""Upkeep of tables: ``python spark_jobs/maintain.py`` is ``lakehouse maintain``, for spark-submit."""

from __future__ import annotations

import sys

from lakehouse.cli.main import main
from lakehouse.core.answers import answering

if __name__ == "__main__":
    sys.exit(answering(lambda: main(["maintain", *sys.argv[1:]])))
