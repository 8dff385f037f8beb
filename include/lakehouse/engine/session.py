"""The one session builder, and the configuration that every Spark client of the lake shares.

Everything goes through a generated ``spark-defaults.conf`` (mode 0600), so no secret is in argv, and a plain
``spark-sql`` or a notebook with the same SPARK_CONF_DIR gets at the same tables.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from lakehouse.core.errors import SettingsError
from lakehouse.core.jars import jar_paths
from lakehouse.core.settings import CATALOG, Settings
from lakehouse.engine.spark_errors import root_cause

_S3_TRIES = 4
_LOG4J = """\
# Generated. Spark's own words go to a file; what a person has to act on is said by the lakehouse.
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %c{{1}}: %m%n%ex
"""


def catalog_conf(settings: Settings, *, read_only: bool = False) -> dict[str, str]:
    """Spark's settings of the Iceberg catalog; ``read_only`` signs in with the reader's role."""
    settings.require_servers()
    user = settings.reader_user if read_only else settings.catalog_user
    password = settings.reader_password if read_only else settings.catalog_password
    # Without socketTimeout and tcpKeepAlive a lost reply would hang the driver for good.
    uri = (
        f"jdbc:postgresql://{settings.postgres_host}:{settings.postgres_port}/{settings.catalog_database}"
        f"?socketTimeout={settings.catalog_timeout_seconds}&connectTimeout=10&tcpKeepAlive=true"
        "&ApplicationName=lakehouse-spark"
    )
    options = {
        "type": "jdbc",
        "uri": uri,
        "jdbc.user": user,
        "jdbc.password": password.get_secret_value(),
        "jdbc.schema-version": "V1",
        "jdbc.strict-mode": "true",
        "warehouse": settings.warehouse,
        "unique-table-location": "true",
        # A cached table would hide another writer's commit from the ledger check.
        "cache-enabled": "false",
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "s3.path-style-access": "true",
        "s3.access-key-id": settings.s3_access_key_id,
        "s3.secret-access-key": settings.s3_secret_access_key.get_secret_value(),
        "client.region": settings.s3_region,
        **_s3_patience(settings.s3_timeout_seconds),
    }
    if settings.s3_endpoint:
        options["s3.endpoint"] = settings.s3_endpoint
    prefix = f"spark.sql.catalog.{CATALOG}"
    return {prefix: "org.apache.iceberg.spark.SparkCatalog"} | {f"{prefix}.{k}": v for k, v in options.items()}


def _s3_patience(seconds: int) -> dict[str, str]:
    """Tries and time-outs that leave one request of S3FileIO about as long as ``seconds``.

    Iceberg asks for a table's metadata up to twenty times more, which cannot be set: :mod:`lakehouse.engine.watch`.
    """
    return {
        "s3.retry.num-retries": str(_S3_TRIES - 1),
        "s3.retry.min-wait-ms": "500",
        "s3.retry.max-wait-ms": str(min(5, seconds) * 1000),
        "http-client.apache.connection-timeout-ms": str(min(5, seconds) * 1000),
        "http-client.apache.socket-timeout-ms": str(seconds * 1000 // _S3_TRIES),
    }


def base_conf(settings: Settings) -> dict[str, str]:
    """Settings of a session that needs no servers."""
    scratch = settings.home / "spark"
    return {
        "spark.master": settings.spark_master,
        "spark.jars": ",".join(map(str, jar_paths(settings.cache))),
        "spark.driver.memory": settings.spark_driver_memory,
        # Work comes in small pieces on few cores: a collector beside it costs more than its pauses.
        # Each run generates code; a JVM that lives for an hour fills the default 240 MB, and then stops compiling.
        "spark.driver.extraJavaOptions": "-XX:+UseParallelGC -XX:ReservedCodeCacheSize=512m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": str(scratch / "tmp"),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        # A plain spark-sql would otherwise put a Derby database into the folder it is started in.
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.session.timeZone": "UTC",
        # Bad text must become null, never an exception that depends on what an older Spark would have read.
        "spark.sql.legacy.timeParserPolicy": "CORRECTED",
        "spark.sql.shuffle.partitions": "8",
        # A run has more stages than Spark keeps generated code for; in a session that lives on, the JVM would compile
        # all of it for every run.
        "spark.sql.codegen.cache.maxEntries": "2000",
        # Sorting both sides of a join costs more than a map of the smaller one, while that is small.
        "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold": "64m",
        # Inferring constraints from dozens of derived columns took minutes and gigabytes to plan a small fold.
        "spark.sql.constraintPropagation.enabled": "false",
        "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
        "spark.sql.adaptive.advisoryPartitionSizeInBytes": "32m",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "true",
        "spark.redaction.regex": "(?i)secret|password|token|access[.-]?key",
    }


def session_conf(settings: Settings, *, read_only: bool = False) -> dict[str, str]:
    """Everything that a session of the lake needs."""
    catalog = catalog_conf(settings, read_only=read_only) | {"spark.sql.defaultCatalog": CATALOG}
    return base_conf(settings) | catalog | settings.spark_conf


def write_conf(folder: Path, conf: Mapping[str, str]) -> Path:
    """Write ``spark-defaults.conf`` (0600, atomically) and quiet logging into a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / "spark.log"  # beside the secrets: only its owner may read a log that may quote data
    _replace(folder / "spark-defaults.conf", "".join(f"{key} {value}\n" for key, value in sorted(conf.items())))
    _replace(folder / "log4j2.properties", _LOG4J.format(log=log))
    return folder


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    scratch.replace(path)


def conf_folder(settings: Settings, *, read_only: bool = False) -> Path:
    """Where the generated configuration stands: one folder for writers, one for readers."""
    return settings.home / "spark" / ("reader" if read_only else "writer")


def start_session(settings: Settings, name: str, *, read_only: bool = False) -> SparkSession:
    """A session of the lake, in this process."""
    folder = write_conf(conf_folder(settings, read_only=read_only), session_conf(settings, read_only=read_only))
    return _start(settings, name, folder)


@contextmanager
def session(settings: Settings, name: str, *, read_only: bool = False) -> Iterator[SparkSession]:
    """A session that ends with the block, its JVM and workers included."""
    spark = start_session(settings, name, read_only=read_only)
    try:
        yield spark
    finally:
        _stop(spark)


@contextmanager
def bare_session(settings: Settings, name: str) -> Iterator[SparkSession]:
    """A session without a catalog, for contract cases: it needs no servers, and its data is small."""
    small = {"spark.sql.shuffle.partitions": "1", "spark.default.parallelism": "1"}
    spark = _start(settings, name, write_conf(settings.home / "spark" / "bare", base_conf(settings) | small))
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


def _start(settings: Settings, name: str, folder: Path) -> SparkSession:
    (settings.home / "spark" / "tmp").mkdir(parents=True, exist_ok=True, mode=0o700)  # spilled rows
    os.environ["SPARK_CONF_DIR"] = str(folder)
    # Spark's Python workers must be this interpreter, not whichever is first on PATH.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    # PySpark logs every refused statement with the JVM's whole stack; the exception that is raised says it already.
    for noisy in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        return SparkSession.builder.appName(name).getOrCreate()
    except (PySparkException, Py4JError) as error:
        raise SettingsError(
            f"Spark does not start: {root_cause(str(error))}",
            where=f"LAKEHOUSE_SPARK_MASTER={settings.spark_master}, driver memory {settings.spark_driver_memory}",
            todo="correct LAKEHOUSE_SPARK_* or run `lakehouse doctor`",
        ) from None
