"""Sessions of lakes in a JVM that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakehouse.core.settings import CATALOG, Settings
from lakehouse.core.spark_conf import catalog_conf

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lakehouse.engine.publish import Lake

# Small queries are evaluated as they are: to compile classes for each costs more. 17 tests took 168 CPU-s instead of
# 201. What is run by programs compiles, as ever, and so do the tests with much data.
INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}


def small_session(spark: SparkSession, settings: Settings) -> SparkSession:
    """A session in the JVM that is there, for little data, with a catalog that no other session knows."""
    session = spark.newSession()
    for key, value in (catalog_conf(settings) | INTERPRETED | {"spark.sql.defaultCatalog": CATALOG}).items():
        session.conf.set(key, value)
    return session


def compiling(lake: Lake) -> Lake:
    """The lake for much data: queries are compiled, as in any other session."""
    for key in INTERPRETED:
        lake.spark.conf.unset(key)
    return lake
