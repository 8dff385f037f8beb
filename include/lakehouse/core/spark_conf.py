"""Spark's configuration: what every process of the lake that runs Spark is started with.

It goes through a generated ``spark-defaults.conf`` (mode 0600), so no secret is in argv, and a plain ``spark-sql`` or a
notebook with the same SPARK_CONF_DIR gets at the same tables.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from lakehouse.core.class_archive import JVM_OPTIONS, archive_options
from lakehouse.core.errors import SettingsError
from lakehouse.core.jars import jar_paths
from lakehouse.core.settings import CATALOG, PROJECT_ROOT, Settings
from lakehouse.core.spark_place import OWN_PROCESS, is_loopback, master_host, place_of

CONF_FILE = "spark-defaults.conf"
LOGGING_FILE = "log4j2.properties"
JAVA_OPTIONS = "spark.driver.extraJavaOptions"
_DEFAULT_OPTIONS = "spark.driver.defaultJavaOptions"
_LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
IN_PROCESS = {"spark.master": OWN_PROCESS, **_LOOPBACK}
"""Where a JVM runs that computes all by itself."""
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
    key_id, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    if read_only and settings.reader_s3_access_key_id:
        key_id, secret = settings.reader_s3_access_key_id, settings.reader_s3_secret_access_key
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
        "s3.access-key-id": key_id,
        "s3.secret-access-key": secret.get_secret_value(),
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


def place_conf(settings: Settings) -> dict[str, str]:
    """Settings that follow from where Spark runs. Beside a Connect server, a plain Spark is a process of its own.

    Raises :class:`SettingsError` for a cluster beyond this machine to which anybody could give work.
    """
    master = settings.spark_master
    if place_of(master) != "cluster":
        return IN_PROCESS if place_of(master) == "connect" else {**IN_PROCESS, "spark.master": master}
    return {
        "spark.master": master,
        # Executors get the jars from the driver; the project and its interpreter are where they are here.
        "spark.jars": ",".join(map(str, jar_paths(settings.cache))),
        "spark.pyspark.python": sys.executable,
        "spark.executorEnv.PYTHONPATH": str(PROJECT_ROOT / "include"),
        **(_LOOPBACK if is_loopback(master_host(master)) else {}),
        **_trust(settings),
    }


def _trust(settings: Settings) -> dict[str, str]:
    """How driver and executors know each other. YARN and Kubernetes hand out a secret for each job."""
    has_secret, host = "spark.authenticate.secret" in settings.spark_conf, master_host(settings.spark_master)
    is_standalone = settings.spark_master.startswith("spark://")
    if is_standalone and not has_secret and not is_loopback(host):
        raise SettingsError(
            f"whoever reaches the ports of this job could run programs in it: {host} is not this machine",
            where=f"LAKEHOUSE_SPARK_MASTER={settings.spark_master}",
            todo="add the spark.authenticate.secret of that cluster's master and workers to LAKEHOUSE_SPARK_CONF",
        )
    if is_standalone and not has_secret:
        return {}
    return {"spark.authenticate": "true", "spark.network.crypto.enabled": "true"}


def base_conf(settings: Settings) -> dict[str, str]:
    """Settings of any session of ours, wherever it runs and whatever it reads."""
    scratch = settings.home / "spark"
    return {
        # Not spark.jars alone: that copies a hundred megabytes for each session, and loads classes past the archive.
        "spark.driver.extraClassPath": os.pathsep.join(map(str, jar_paths(settings.cache))),
        "spark.driver.memory": settings.spark_driver_memory,
        _DEFAULT_OPTIONS: java_options(archive_options(settings.cache)),
        JAVA_OPTIONS: java_options(JVM_OPTIONS),
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
    return base_conf(settings) | place_conf(settings) | catalog | settings.spark_conf


def java_options(options: Iterable[str]) -> str:
    """Options of a JVM in one line, as Spark takes them apart again."""
    return " ".join(f'"{option}"' if " " in option else option for option in options)


def write_conf(folder: Path, conf: Mapping[str, str]) -> Path:
    """Write ``spark-defaults.conf`` (0600, atomically) and quiet logging into a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / "spark.log"  # beside the secrets: only its owner may read a log that may quote data
    logging = java_options([f"-Dlog4j2.configurationFile={(folder / LOGGING_FILE).absolute().as_uri()}"])
    conf = {**conf, _DEFAULT_OPTIONS: f"{conf.get(_DEFAULT_OPTIONS, '')} {logging}".strip()}
    _replace(folder / CONF_FILE, "".join(f"{key} {value}\n" for key, value in sorted(conf.items())))
    _replace(folder / LOGGING_FILE, _LOG4J.format(log=log))
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
