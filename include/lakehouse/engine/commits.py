"""Commits whose reply is lost: PostgreSQL made them, and Iceberg's client never hears of it.

The client asks a second time, finds that the table is no longer what it was, and goes on from there by itself. What
comes of it depends on the commit (docs/adr/0015; tests/faults/lost_reply has every one of them):

- Append, overwrite: it finds its own snapshot and reports success. On ``main`` it first moves the branch back to that
  snapshot, over whatever was committed since: so nothing of ours is committed to ``main`` but fast-forwards and, under
  the lock, a table's first snapshot.
- MERGE, DELETE of single rows: it takes its own snapshot for a conflicting one, reports a conflict, and deletes the
  files of the snapshot that it has committed. An attempt's branch is lost by that, and nobody reads it.
- Branches, fast-forwards, tags, columns: it reports a conflict for a commit that is there.
- A new table: it reports that the table, or something, stands in the way.

So an answer is not taken for what it says. A statement that can be said twice is (:func:`say_twice`), and whether
``main`` was moved is asked of ``main``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lakehouse.core.names import TableName, quote
from lakehouse.core.settings import CATALOG
from lakehouse.ledger.watermark import reaching

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def say_twice(spark: SparkSession, statement: str) -> None:
    """Run a statement that does no harm when it is run again; a second time, when the first was answered by an error.

    The second answer stands: it comes from a catalog that shows what the first one did.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        spark.sql(statement)
    except (PySparkException, Py4JJavaError):
        spark.sql(statement)


def clear_branch(spark: SparkSession, table: Any, name: TableName, branch: str) -> None:
    """Drop a dead attempt's branch; and forget its last snapshot, if a lost reply has made Iceberg delete its files.

    ``table`` is the metadata that shows the branch. A snapshot that cannot be read would break off the table's next
    expiry. Forgetting it does, too, when it comes to files that are not there to be deleted; the snapshot is gone then.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    snapshot = table.snapshot_by_name(branch)
    say_twice(spark, f"ALTER TABLE {CATALOG}.{name.namespace}.{quote(name.name)} DROP BRANCH IF EXISTS `{branch}`")
    with reaching(f"look at a former attempt's files of {name}"):
        is_whole = snapshot is None or table.io.new_input(snapshot.manifest_list).exists()
    if not is_whole:
        with suppress(PySparkException, Py4JJavaError):
            spark.sql(
                f"CALL {CATALOG}.system.expire_snapshots(table => '{name}', "
                f"snapshot_ids => ARRAY({snapshot.snapshot_id:d}), older_than => TIMESTAMP '1970-01-01 00:00:00')"
            )
