"""The usual history on Iceberg: one MERGE whose source has every changed row twice, once with a null key.

Iceberg's and Spark's own defaults throughout (format version 2, copy-on-write), in a session of its own; catalog and
bucket are on the same servers as this engine's.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

from columns import COLUMNS
from place import Place
from pointer import Pointer
from pyspark.sql import SparkSession

from lakehouse.core.jars import jar_paths
from lakehouse.core.settings import CATALOG, Settings, load_settings
from lakehouse.core.spark_conf import catalog_conf, write_conf

_TABLE = f"{CATALOG}.usual.dim_customer"
_LIST = ", ".join(COLUMNS)
# Tutorials write s.x <> t.x, which misses changes to and from null; then the results would differ.
_DIFFERS = " OR ".join(f"NOT (s.{name} <=> t.{name})" for name in COLUMNS[1:])
_MERGE = f"""
MERGE INTO {_TABLE} t USING (
  SELECT customer_id AS merge_key, * FROM arrived
  UNION ALL
  SELECT NULL AS merge_key, s.* FROM arrived s JOIN {_TABLE} t ON s.customer_id = t.customer_id
  WHERE t.is_current = true AND ({_DIFFERS})
) s ON t.customer_id = s.merge_key
WHEN MATCHED AND t.is_current = true AND ({_DIFFERS}) THEN
  UPDATE SET is_current = false, effective_to = s.changed_at
WHEN NOT MATCHED THEN
  INSERT ({_LIST}, effective_from, effective_to, is_current)
  VALUES ({", ".join(f"s.{name}" for name in COLUMNS)}, s.changed_at, NULL, true)
"""


class UsualMerge:
    """One Iceberg table of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._settings: Settings = load_settings(place.home)

    @cached_property
    def _spark(self) -> SparkSession:
        settings, scratch = self._settings, self._place.home / "usual"
        conf = catalog_conf(settings) | {
            "spark.master": settings.spark_master,
            "spark.jars": ",".join(map(str, jar_paths(settings.cache))),
            "spark.driver.memory": settings.spark_driver_memory,
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.local.dir": str(scratch / "tmp"),
            "spark.sql.warehouse.dir": str(scratch / "warehouse"),
            "spark.sql.catalogImplementation": "in-memory",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        }
        os.environ["SPARK_CONF_DIR"] = str(write_conf(scratch, conf))
        return SparkSession.builder.appName("usual merge").getOrCreate()

    @property
    def _pointer(self) -> Pointer:
        return Pointer(self._settings, "usual", "dim_customer", self._place.store("usual-merge") / "base.txt")

    def load(self) -> None:
        self._arrived("base")
        self._spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {CATALOG}.usual")
        self._spark.sql(f"DROP TABLE IF EXISTS {_TABLE}")
        self._spark.sql(
            f"CREATE TABLE {_TABLE} USING iceberg AS SELECT {_LIST}, changed_at AS effective_from, "
            "CAST(NULL AS timestamp) AS effective_to, true AS is_current FROM arrived"
        )
        self._pointer.remember()

    def reset(self, kind: str) -> None:
        self._pointer.restore()

    def apply(self, kind: str) -> dict[str, Any]:
        self._arrived(kind)
        self._spark.sql(_MERGE)
        return {}

    def _arrived(self, kind: str) -> None:
        self._spark.read.parquet(str(self._place.data(kind))).createOrReplaceTempView("arrived")

    def export(self, kind: str) -> None:
        self._spark.table(_TABLE).write.mode("overwrite").parquet(str(self._place.export("usual-merge", kind)))

    def close(self) -> None:
        if "_spark" in self.__dict__:
            self._spark.stop()


def open_contestant(place: Place) -> UsualMerge:
    """The usual merge."""
    return UsualMerge(place)
