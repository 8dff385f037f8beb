"""Going back to a table's base between two runs, at no cost: the catalog's pointer is put back, files stay.

Only a benchmark may do this: it takes no lock, and what was published since becomes unreachable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg

from lakehouse.core.settings import Settings


@dataclass(frozen=True)
class Pointer:
    """One table's entry in the catalog, and the file that remembers its base."""

    settings: Settings
    namespace: str
    table: str
    memory: Path

    def remember(self) -> None:
        """Take the table as it stands as the base."""
        with self._connect() as connection:
            found = connection.execute(f"SELECT metadata_location FROM iceberg_tables {self._where()}", self._name)
            ((location,),) = found.fetchall()
        self.memory.write_text(location)

    def restore(self) -> None:
        """Make the base the table's present."""
        with self._connect() as connection:
            update = (
                f"UPDATE iceberg_tables SET metadata_location = %s, previous_metadata_location = NULL {self._where()}"
            )
            connection.execute(update, (self.memory.read_text(), *self._name))

    @property
    def _name(self) -> tuple[str, str]:
        return self.namespace, self.table

    @staticmethod
    def _where() -> str:
        return "WHERE table_namespace = %s AND table_name = %s"

    def _connect(self) -> psycopg.Connection:
        settings = self.settings
        return psycopg.connect(
            host=settings.postgres_host,
            port=settings.postgres_port,
            dbname=settings.catalog_database,
            user=settings.catalog_user,
            password=settings.catalog_password.get_secret_value(),
        )
