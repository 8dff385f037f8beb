"""Tasks on a cluster: Airflow's SparkSubmitOperator with the programs of ``spark_jobs/``, in place of a command.

What they make of the answers is what the other tasks make of them. The driver is a process beside the task (deploy mode
client); it gets the lake's configuration, secrets among it, by a file that only its account can read.

Imported only where the contracts' index says that Spark is a cluster: the provider costs every parse some time.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lakehouse.core.answers import ANSWER_FILE, read_answer
from lakehouse.orchestration import jobs
from lakehouse.orchestration.jobs import Answer
from lakehouse.orchestration.operators import (
    ConfirmOperator,
    LakehouseOperator,
    LookOperator,
    MaintainOperator,
    TakePendingOperator,
)

if TYPE_CHECKING:
    from lakehouse.core.settings import Settings

CONNECTION = "lakehouse_spark"
_KUBERNETES = "airflow.providers.cncf"
_TAIL = "Last spark-submit output:\n"


class SubmitOperator(LakehouseOperator, SparkSubmitOperator):
    """Submits the commands that need Spark to the cluster of ``LAKEHOUSE_SPARK_MASTER``; others run as ever."""

    template_fields: Sequence[str] = ()

    def __init__(self, **kwargs: Any) -> None:
        # Transport information would bring OpenLineage's key into the command line.
        given = {"conn_id": CONNECTION, "deploy_mode": "client", "openlineage_inject_transport_info": False}
        super().__init__(**{**given, **kwargs})

    def run_command(self, words: Sequence[str], *also: int, actor: str = "") -> Answer:
        """As every task of ours does it, through spark-submit where the command needs Spark."""
        from lakehouse.core.errors import SettingsError
        from lakehouse.core.settings import load_settings
        from lakehouse.core.spark_place import place_of

        found = program(words)
        try:
            settings = load_settings()
            if found is None or place_of(settings.spark_master) != "cluster":
                return super().run_command(words, *also, actor=actor)
            return self._submit(settings, *found, jobs.environment(actor)).require(*also)
        except SettingsError as refused:
            raise AirflowFailException(str(refused)) from None

    def on_kill(self) -> None:
        """Airflow ends the task: end what runs for it."""
        LakehouseOperator.on_kill(self)
        if self._hook is not None:
            SparkSubmitOperator.on_kill(self)

    def _submit(self, settings: Settings, name: str, words: Sequence[str], environment: Mapping[str, str]) -> Answer:
        """Run a program of ``spark_jobs/`` with a driver of this machine, to its end."""
        from lakehouse.core.jars import spark_jars_folder
        from lakehouse.core.settings import PROJECT_ROOT
        from lakehouse.core.spark_conf import CONF_FILE, conf_folder, session_conf, write_conf

        _require_provider(settings.spark_master)
        conf = session_conf(settings)
        folder = write_conf(conf_folder(settings), conf)
        self.application, self.application_args = str(PROJECT_ROOT / "spark_jobs" / f"{name}.py"), list(words)
        self.name, self.properties_file = f"lakehouse {name}", str(folder / CONF_FILE)
        self._spark_binary = str(spark_jars_folder().parent / "bin" / "spark-submit")
        with _replaced({**os.environ, f"AIRFLOW_CONN_{CONNECTION.upper()}": _connection(settings.spark_master)}):
            self._hook = self._get_hook()
        with TemporaryDirectory(prefix="lakehouse-answer-") as answers:
            path = Path(answers) / "answer.json"
            with _replaced({**environment, **_surroundings(conf, folder), ANSWER_FILE: str(path)}):
                return self._answer(path)

    def _answer(self, path: Path) -> Answer:
        """What the program answered. Where it could not, the provider's own error says what is known."""
        last = ""
        try:
            SparkSubmitOperator.execute(self, get_current_context())
        except AirflowException as failed:
            last = str(failed).partition(_TAIL)[2] or str(failed)
        ended = read_answer(path)
        if ended is None:
            raise AirflowException(f"{last or 'the program ended without an answer'}\n(trying again may help)")
        said = jobs.parsed(ended.output)
        return Answer(ended.code, said, (*last.splitlines(), *jobs.told_errors(said)))


class SubmitTakePendingOperator(TakePendingOperator, SubmitOperator):
    """:class:`TakePendingOperator` on a cluster."""


class SubmitLookOperator(LookOperator, SubmitOperator):  # type: ignore[misc]  # it returns what it saw
    """:class:`LookOperator` on a cluster."""


class SubmitConfirmOperator(ConfirmOperator, SubmitOperator):
    """:class:`ConfirmOperator` on a cluster."""


class SubmitMaintainOperator(MaintainOperator, SubmitOperator):
    """:class:`MaintainOperator` on a cluster."""


def program(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """The program of ``spark_jobs/`` that does what a command does, and its arguments; None for one without Spark."""
    verb, *rest = words
    if verb in ("rebuild", "replay", "trim", "maintain"):
        return verb, rest
    if verb != "run":
        return None
    part = next((part for flag, part in (("--no-gold", "dataset"), ("--gold-only", "gold")) if flag in rest), "run")
    return part, [word for word in rest if word not in ("--no-gold", "--gold-only", "--json")]


def _connection(master: str) -> str:
    """The one setting as the connection that the provider asks for. It holds no secret."""
    return json.dumps({"conn_type": "spark", "host": master})


def _surroundings(conf: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What spark-submit needs to know, as a session in a process of its own sets it."""
    python = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    host = os.environ.get("SPARK_LOCAL_IP") or conf.get("spark.driver.host")
    return {**python, "SPARK_CONF_DIR": str(folder / "nothing"), **({"SPARK_LOCAL_IP": host} if host else {})}


@contextmanager
def _replaced(environment: Mapping[str, str]) -> Iterator[None]:
    """Another environment for a while: the provider knows no other way to give one to its child without naming it."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _require_provider(master: str) -> None:
    if "k8s" in master and find_spec(_KUBERNETES) is None:
        raise AirflowFailException(
            "Airflow submits to Kubernetes only with apache-airflow-providers-cncf-kubernetes, which is not installed"
        )
