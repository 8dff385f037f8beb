"""What all tests share: markers by folder, Hypothesis' profile, and one Spark session for the whole run.

Nothing here starts unless a test asks for it: unit tests never see a JVM or a server.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings
from tests.servers import change_table, lake, new_lake, new_settings, servers
from tests.turns import turn

from lakehouse.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["change_table", "lake", "new_lake", "new_settings", "servers"]

FOLDERS = ("spark", "integration", "faults", "bad_input", "recovery", "airflow")
# What takes many minutes begins first, so that no process works on it alone at the end.
LONGEST = (
    "test_kills", "test_real_data", "test_operations", "test_walk", "test_histories", "test_runbooks",
    "test_time_travel", "test_damage", "test_maintain", "test_history_mutants", "test_pipeline", "test_star",
)  # fmt: skip
# PySpark's sockets to its JVM, and the connections that PyIceberg's catalog keeps in a pool.
LEFT_TO_THE_COLLECTOR = ("unclosed <socket", "<psycopg.Connection")
SEED = "LAKEHOUSE_TEST_SEED"

# Importing Airflow makes a configuration file in its home: not in that of whoever runs the tests.
os.environ.setdefault("AIRFLOW_HOME", str(Path(tempfile.gettempdir()) / f"lakehouse-tests-airflow-{os.getuid()}"))

# Tests plan thousands of small queries, each with classes of its own: compiling them well costs more than it saves.
# 29 tests took 203 s and 268 CPU-s instead of 289 s and 414; the real days took as long as before.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# Spark's first job takes longer than any deadline; a failure prints what is needed to see it again.
hypothesis_settings.register_profile("lakehouse", deadline=None, print_blob=True)
hypothesis_settings.load_profile("lakehouse")


def pytest_report_header() -> str:
    """Which of the tests that take turns are run."""
    return turn()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the folder that they are in, and begin with the longest files; the others stay in order."""
    here = Path(__file__).parent
    first = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: len(first) if "unit" in item.path.parts else first.get(item.path.stem, len(first)))
    for item in items:
        if item.path.is_relative_to(here):
            folder = item.path.relative_to(here).parts[0]
            if folder in FOLDERS:
                item.add_marker(getattr(pytest.mark, folder))
                for warning in LEFT_TO_THE_COLLECTOR:
                    item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}:ResourceWarning"))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers whose seed is printed when the test fails; LAKEHOUSE_TEST_SEED sets it."""
    seed = os.environ.get(SEED) or str(random.SystemRandom().randrange(10**9))
    print(f"{SEED}={seed}")
    return random.Random(f"{seed} {request.node.name}")  # noqa: S311 - a seed, not a secret


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A home of the lakehouse for this run, which PostgreSQL's user can enter when tests run as root."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-tests-") as folder:
        os.chmod(folder, 0o711)  # noqa: S103 - entering is enough, and needed
        yield Path(folder)


@pytest.fixture(scope="session")
def read_settings(home: Path) -> Callable[[], Settings]:
    """Reads the settings of this run's home; what the caller's environment says of servers is left out."""

    def read() -> Settings:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("LAKEHOUSE_") and name != "LAKEHOUSE_CACHE"]:
                patch.delenv(name)
            patch.setenv("LAKEHOUSE_HOME", str(home))
            return load_settings()

    return read


@pytest.fixture(scope="session")
def spark(read_settings: Callable[[], Settings]) -> Iterator[SparkSession]:
    """The one JVM of the run. It knows no catalog; lakes of integration tests are sessions of their own in it."""
    from lakehouse.engine.session import bare_session

    running = bare_session(read_settings(), "tests")
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "SPARK_CONF_DIR",
            "PYSPARK_SUBMIT_ARGS",
            "PYSPARK_PYTHON",
            "PYSPARK_DRIVER_PYTHON",
            "SPARK_LOCAL_IP",
        ):
            patch.setenv(name, "")  # the session sets them; they are taken back at the end
        patch.delenv("SPARK_LOCAL_IP")
        session = running.__enter__()
        try:
            yield session
        finally:
            running.__exit__(None, None, None)
