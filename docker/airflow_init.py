"""What Airflow's components need before they start, as the native stack makes it: its database, the pools, the index.

The image has the contracts' index already; compiling it again says at once, and here, what is wrong with a contract.
Doing it again changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from lakehouse.contracts.index import compile_for
from lakehouse.core.errors import told_on_stderr
from lakehouse.core.settings import load_settings
from lakehouse.stack.airflow_supervisor import prepare


def main() -> None:
    """Compile, migrate, and import the pools."""
    compile_for(load_settings())
    prepare(Path(os.environ["AIRFLOW_HOME"]))


if __name__ == "__main__":
    with told_on_stderr():
        main()
