"""``python -m lakehouse.stack.airflow_component WORDS…``: a command of Airflow that ends with whoever started it."""

from __future__ import annotations

import runpy
import sys

from lakehouse.core.process import end_with_parent

if __name__ == "__main__":
    end_with_parent(patience_seconds=0)
    sys.argv[0] = "airflow"
    runpy.run_module("airflow", run_name="__main__")
