"""A history kept by delta-rs on local disk: find the changed rows, then one MERGE that closes and opens."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from columns import COLUMNS
from deltalake import DeltaTable, write_deltalake
from place import Place

_DIFFERS = " OR ".join(f"s.{name} IS DISTINCT FROM t.{name}" for name in COLUMNS[1:])
# Rows that change nothing never enter the merge: with a whole snapshot as its source it took a minute and 4 GB.
_SOURCE = f"""
WITH found AS (
  SELECT s.*, t.customer_id IS NOT NULL AS is_known
  FROM read_parquet('{{path}}') s LEFT JOIN current t ON t.customer_id = s.customer_id
  WHERE t.customer_id IS NULL OR {_DIFFERS}
)
SELECT * EXCLUDE (is_known), customer_id AS merge_key FROM found WHERE is_known
UNION ALL
SELECT * EXCLUDE (is_known), NULL AS merge_key FROM found
"""


@dataclass(frozen=True)
class DeltaRs:
    """One Delta table in a folder."""

    place: Place

    @property
    def _base(self) -> Path:
        return self.place.store("delta-rs") / "base"

    @property
    def _table(self) -> Path:
        return self.place.store("delta-rs") / "table"

    def load(self) -> None:
        shutil.rmtree(self._base, ignore_errors=True)
        path = self.place.data("base")
        columns = ", ".join(COLUMNS)
        rows = duckdb.sql(
            f"SELECT {columns}, changed_at AS effective_from, CAST(NULL AS TIMESTAMPTZ) AS effective_to, "
            f"true AS is_current FROM read_parquet('{path}')"
        )
        write_deltalake(self._base, rows.to_arrow_reader())

    def reset(self, kind: str) -> None:
        shutil.rmtree(self._table, ignore_errors=True)
        shutil.copytree(self._base, self._table, copy_function=os.link)  # data files are never changed in place

    def apply(self, kind: str) -> dict[str, Any]:
        table = DeltaTable(self._table)
        source = self._source(table, self.place.data(kind))
        opened = {name: f"s.{name}" for name in COLUMNS} | {"effective_from": "s.changed_at", "is_current": "true"}
        merge = table.merge(source, "t.customer_id = s.merge_key AND t.is_current", source_alias="s", target_alias="t")
        done: dict[str, Any] = (
            merge.when_matched_update({"effective_to": "s.changed_at", "is_current": "false"})
            .when_not_matched_insert(opened)
            .execute()
        )
        return done

    def _source(self, table: DeltaTable, path: Path) -> Any:
        connection = duckdb.connect()
        connection.register("rows", table.to_pyarrow_dataset())
        connection.execute("CREATE VIEW current AS SELECT * FROM rows WHERE is_current")
        return connection.sql(_SOURCE.format(path=path)).to_arrow_table()

    def export(self, kind: str) -> None:
        target = self.place.export("delta-rs", kind)
        target.mkdir(parents=True, exist_ok=True)
        rows = DeltaTable(self._table).to_pyarrow_dataset()
        connection = duckdb.connect()
        connection.register("rows", rows)
        connection.sql(f"COPY (SELECT * FROM rows) TO '{target}/part.parquet'")

    def close(self) -> None:
        """Nothing was started."""


def open_contestant(place: Place) -> DeltaRs:
    """delta-rs."""
    return DeltaRs(place)
