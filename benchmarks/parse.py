"""How long Airflow takes to parse the DAGs of many contracts: ``python -m benchmarks.parse [CONTRACTS]``.

Everything runs in one fresh process, as in Airflow's DAG processor after it imported Airflow: the index is read, the
DAGs are built by the project's own DAG files, and each is serialized. Prints one line of JSON.
"""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from lakehouse.contracts import index
from lakehouse.contracts.load import load_contracts
from lakehouse.core.settings import PROJECT_ROOT


def make_project(folder: Path, count: int) -> Path:
    """A project with so many contracts: the index as it would be compiled from them."""
    shutil.copytree(PROJECT_ROOT / "dags", folder / "dags")
    contracts = folder / "include" / "contracts"
    contracts.mkdir(parents=True)
    made = load_contracts(PROJECT_ROOT / "include" / "contracts")["crm.catalogue"]
    many = {
        f"crm.d{number}": made.model_copy(
            update={"dataset": f"d{number}", "tables": {f"dim_{number}": made.tables["dim_catalogue_product"]}}
        )
        for number in range(count)
    }
    built = index.build_index(many, {}, index.read_marts(PROJECT_ROOT / "include" / "dbt"))
    (contracts / index.INDEX_NAME).write_text(json.dumps({"format": 2, **asdict(replace(built, files={}))}))
    return folder


def measure(folder: Path) -> dict[str, float]:
    """Seconds of CPU: building the DAGs, and serializing them too."""
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    import lakehouse.orchestration.families
    import lakehouse.orchestration.upkeep  # noqa: F401 - the processor has imported them after the first parse

    started = time.process_time()
    found: dict[str, DAG] = {}
    for path in sorted((folder / "dags").glob("*.py")):
        made = runpy.run_path(str(path))
        found |= {name: value for name, value in made.items() if isinstance(value, DAG)}
    built = time.process_time() - started
    for dag in found.values():
        DagSerialization.to_dict(dag)
    whole = time.process_time() - started
    return {"dags": len(found), "built_seconds": round(built, 2), "serialized_seconds": round(whole, 2)}


def main() -> None:
    """Make a project, and measure it in a fresh process."""
    if len(sys.argv) > 2 and sys.argv[1] == "--measure":
        print(json.dumps(measure(Path(sys.argv[2]))))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as place:
        folder = make_project(Path(place) / "project", count)
        command = [sys.executable, "-m", "benchmarks.parse", "--measure", str(folder)]
        subprocess.run(command, check=True, cwd=PROJECT_ROOT)


if __name__ == "__main__":
    main()
