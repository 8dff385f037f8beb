"""A history kept by a dbt snapshot on DuckDB: the check strategy over all columns, in one process through dbtRunner.

What arrives is always read through one link, so that dbt finds its project unchanged and parses nothing anew.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from columns import COLUMNS
from place import Place

PROJECT = """\
name: history
version: "1.0"
config-version: 2
profile: history
flags: {send_anonymous_usage_stats: false}
"""
PROFILE = """\
history:
  target: local
  outputs:
    local: {type: duckdb, path: "{{ env_var('HISTORY_DATABASE') }}", threads: 2}
"""
_SOURCES = """\
sources:
  - name: files
    tables:
      - name: customers
        config: {external_location: "read_parquet('{{ env_var('HISTORY_FILE') }}')"}
"""
_SNAPSHOT = """\
snapshots:
  - name: dim_customer
    relation: source('files', 'customers')
    config: {unique_key: customer_id, strategy: check, updated_at: changed_at, check_cols: [%s]}
"""


def write_project(folder: Path, files: dict[str, str]) -> None:
    """A dbt project with a profile, in a folder of its own."""
    for name, text in {"dbt_project.yml": PROJECT, "profiles.yml": PROFILE, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def point(link: Path, target: Path) -> None:
    """Make a link to another file."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def variables(database: Path, arrived: Path) -> dict[str, str]:
    """What the project reads from its environment."""
    return {"HISTORY_DATABASE": str(database), "HISTORY_FILE": str(arrived), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}


def run_snapshot(folder: Path) -> None:
    """``dbt snapshot`` in this process. Raises RuntimeError with what dbt said."""
    from dbt.cli.main import dbtRunner

    said = dbtRunner().invoke(snapshot_arguments(folder))
    if not said.success:
        raise RuntimeError(f"dbt snapshot failed: {said.exception or said.result}")


def close_database() -> None:
    """Let go of the database file, which dbt keeps open between two runs of one process; checkpoints it."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    DuckDBConnectionManager.close_all_connections()


def snapshot_arguments(folder: Path) -> list[str]:
    """The command line of ``dbt snapshot``, without the program."""
    return ["--quiet", "snapshot", "--project-dir", str(folder), "--profiles-dir", str(folder)]


@dataclass(frozen=True)
class DbtDuckdb:
    """One DuckDB file with dbt's snapshot table."""

    place: Place

    @property
    def _folder(self) -> Path:
        return self.place.store("dbt-duckdb")

    def load(self) -> None:
        columns = ", ".join(COLUMNS[1:])
        write_project(self._folder, {"models/sources.yml": _SOURCES, "snapshots/history.yml": _SNAPSHOT % columns})
        self._database().unlink(missing_ok=True)
        self.apply("base")
        self._database().replace(self._folder / "base.duckdb")

    def reset(self, kind: str) -> None:
        shutil.copyfile(self._folder / "base.duckdb", self._database())

    def apply(self, kind: str) -> dict[str, Any]:
        arrived = self._folder / "arrived.parquet"
        point(arrived, self.place.data(kind))
        os.environ |= variables(self._database(), arrived)
        run_snapshot(self._folder)
        close_database()  # a history that is only in the write-ahead log is not written yet
        return {"bytes_of_database": self._database().stat().st_size}

    def _database(self) -> Path:
        return self._folder / "history.duckdb"

    def export(self, kind: str) -> None:
        target = self.place.export("dbt-duckdb", kind)
        target.mkdir(parents=True, exist_ok=True)
        names = "dbt_valid_from AS effective_from, dbt_valid_to AS effective_to, dbt_valid_to IS NULL AS is_current"
        with duckdb.connect(self._database(), read_only=True) as connection:
            connection.sql(f"COPY (SELECT {', '.join(COLUMNS)}, {names} FROM dim_customer) TO '{target}/part.parquet'")

    def close(self) -> None:
        """Nothing was started."""


def open_contestant(place: Place) -> DbtDuckdb:
    """dbt-duckdb."""
    return DbtDuckdb(place)
