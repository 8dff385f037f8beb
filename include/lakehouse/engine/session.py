"""The one session builder: a job gets its session here, and nowhere else."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from lakehouse.core.class_archive import SHORT_JOB
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.core.spark_conf import (
    CONF_FILE,
    IN_PROCESS,
    JAVA_OPTIONS,
    base_conf,
    conf_folder,
    session_conf,
    write_conf,
)
from lakehouse.core.spark_place import place_of
from lakehouse.engine.connect import close, ending_when_told, start_connected
from lakehouse.engine.spark_errors import root_cause


def start_session(settings: Settings, name: str, *, read_only: bool = False, is_short: bool = False) -> SparkSession:
    """A session of the lake, where the settings say."""
    _quiet()
    if place_of(settings.spark_master) == "connect":
        return start_connected(settings, name, read_only=read_only)
    conf = session_conf(settings, read_only=read_only)
    return _start(settings, name, conf, conf_folder(settings, read_only=read_only), is_short=is_short or read_only)


@contextmanager
def session(
    settings: Settings, name: str, *, read_only: bool = False, is_short: bool = False
) -> Iterator[SparkSession]:
    """A session that ends with the block: its JVM and workers, or its work on the server.

    ``is_short``: little is to be computed, so that the JVM need not compile well what it runs; as in a console.
    """
    is_remote = place_of(settings.spark_master) == "connect"
    with ending_when_told() if is_remote else nullcontext():
        spark = start_session(settings, name, read_only=read_only, is_short=is_short)
        try:
            yield spark
        finally:
            close(spark) if is_remote else _stop(spark)


@contextmanager
def bare_session(settings: Settings, name: str) -> Iterator[SparkSession]:
    """A session without a catalog, for contract cases: it needs no servers, and its data is small.

    It is always in this process.
    """
    small = {"spark.sql.shuffle.partitions": "1", "spark.default.parallelism": "1"}
    _quiet()
    conf = base_conf(settings) | IN_PROCESS | small
    spark = _start(settings, name, conf, settings.home / "spark" / "bare", is_short=True)
    try:
        yield spark
    finally:
        _stop(spark)


def _stop(spark: SparkSession) -> None:
    try:
        spark.stop()
    except (Py4JError, ConnectionError):
        # The JVM is gone already; what ended it is the error to report, and must not be hidden by this one.
        logging.getLogger(__name__).debug("Spark had ended before it was stopped")


def _start(settings: Settings, name: str, conf: Mapping[str, str], folder: Path, *, is_short: bool) -> SparkSession:
    write_conf(folder, conf)
    (settings.home / "spark" / "tmp").mkdir(parents=True, exist_ok=True, mode=0o700)  # spilled rows
    submit = ["--properties-file", str(folder / CONF_FILE)]
    if is_short:
        submit += ["--conf", f"{JAVA_OPTIONS}={conf.get(JAVA_OPTIONS, '')} {SHORT_JOB}"]
    os.environ["PYSPARK_SUBMIT_ARGS"] = shlex.join([*submit, "pyspark-shell"])
    # Spark puts this folder on the class path, and the JVM takes no archive of classes with a folder that has files.
    os.environ["SPARK_CONF_DIR"] = str(folder / "nothing")
    # Spark's Python workers must be this interpreter, not whichever is first on PATH.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if "spark.driver.host" in conf:  # loopback, unless the executors are on other machines
        os.environ.setdefault("SPARK_LOCAL_IP", conf["spark.driver.host"])
    try:
        spark = SparkSession.builder.appName(name).getOrCreate()
    except (PySparkException, Py4JError) as error:
        raise SettingsError(
            f"Spark does not start: {root_cause(str(error))}",
            where=f"LAKEHOUSE_SPARK_MASTER={settings.spark_master}, driver memory {settings.spark_driver_memory}",
            todo="correct LAKEHOUSE_SPARK_* or run `lakehouse doctor`",
        ) from None
    _require_conf(spark, conf)
    return spark


def _require_conf(spark: SparkSession, conf: Mapping[str, str]) -> None:
    """Under spark-submit the JVM was there before: with its own configuration, or with that of another lake."""
    key = f"spark.sql.catalog.{CATALOG}.uri"
    if "PYSPARK_GATEWAY_PORT" in os.environ and key in conf and spark.conf.get(key, "") != conf[key]:
        raise SettingsError(
            "spark-submit was not given the configuration of this lake",
            where=f"{key} of its session",
            untouched="everything; nothing was started",
            todo='say `spark-submit --properties-file "$(lakehouse conf --writer)/spark-defaults.conf" PROGRAM`',
        )


def _quiet() -> None:
    """PySpark logs every refused statement with the JVM's whole stack; the exception that is raised says it already."""
    for noisy in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(noisy).setLevel(logging.CRITICAL)
