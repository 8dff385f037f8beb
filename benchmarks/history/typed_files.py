"""This engine with typed Parquet as its input, in bronze's place: the same rows that every contestant gets.

Only :meth:`Silver.typed` is replaced. Batches stand in a real landing log (each with a tiny object); intake, fold,
merge, lock, branch, gate, fast-forward, read-back and stamp are the engine's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from pathlib import Path

from columns import COLUMNS
from pyspark.sql import DataFrame

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.names import quote
from lakehouse.core.settings import Settings
from lakehouse.engine import encoding
from lakehouse.engine.silver import Silver
from lakehouse.engine.typed import EFFECTIVE, FAILED, SOURCE, STATUS, WARNED, observed_flag
from lakehouse.ledger.log import Batch, LandedFile, append, object_key, read_log
from lakehouse.ledger.store import ObjectStore

CONTRACTS = Path(__file__).parent / "contracts"
FIRST_DAY = date(2026, 1, 1)


@dataclass(frozen=True)
class TypedSilver(Silver):
    """A dimension whose batches are typed files: number of the batch to path."""

    files: Mapping[int, Path] = field(default_factory=dict)

    def typed(self, batches: frozenset[int], condition: str = "true") -> DataFrame:
        """The rows of some batches, as the casts of bronze would have given them."""
        if not batches:
            return self._one(min(self.files)).limit(0)
        return reduce(DataFrame.unionAll, [self._one(number) for number in sorted(batches)]).where(condition)

    def _one(self, number: int) -> DataFrame:
        rows = self.lake.spark.read.parquet(self.files[number].as_uri())
        unit = (FIRST_DAY + timedelta(days=number - 1)).isoformat()
        provenance = {
            names.BATCH: f"CAST({number} AS bigint)",
            names.UNIT: f"DATE '{unit}'",
            names.FILE: f"'{self.files[number].name}'",
            names.RECORD: "CAST(NULL AS bigint)",
            names.LINE: "CAST(NULL AS bigint)",
            names.LANDED_AT: f"TIMESTAMP '{unit} 12:00:00'",
            names.REJECTED: "CAST(NULL AS string)",
            names.RAW: "CAST(NULL AS string)",
            names.EXTRA: "CAST(NULL AS map<string, string>)",
            names.MISSING: "CAST(array() AS array<string>)",
        }
        return rows.selectExpr(*[f"{sql} AS {name}" for name, sql in (provenance | self._judged()).items()])

    def _judged(self) -> dict[str, str]:
        table = self.table
        key = encoding.durable_key([(quote(name), table.columns[name].type) for name in table.key])
        source = ", ".join(map(quote, [*COLUMNS, "changed_at"]))
        none = "CAST(array() AS array<string>)"
        typed = {name: quote(name) for name in table.typed}
        flags = {observed_flag(name): "true" for name in table.attributes}
        # In these files the moment of every row is the midnight of the unit.
        judged = {names.KEY: key, EFFECTIVE: "changed_at", FAILED: none, WARNED: none, STATUS: "'good'"}
        return {SOURCE: f"struct({source})"} | typed | flags | judged


def contract(dataset: str) -> Contract:
    """One of the benchmark's contracts."""
    return load_contracts(CONTRACTS)[f"bench.{dataset}"]


def table_of(found: Contract) -> str:
    """The one table of a contract of the benchmark."""
    (name,) = found.tables
    return name


def land_stub(settings: Settings, found: Contract, through: int) -> None:
    """Bring the landing log to ``through`` batches, one a day; each one's object is a few bytes."""
    store = ObjectStore.open(settings)
    for number in range(len(read_log(store, found.name)) + 1, through + 1):
        body = f"{found.name} {number}".encode()
        sha256 = hashlib.sha256(body).hexdigest()
        key = object_key(found.name, sha256)
        store.put_if_absent(key, body)
        file = LandedFile(f"{number}.parquet", key, len(body), sha256, "parquet", None)
        unit = FIRST_DAY + timedelta(days=number - 1)
        landed = datetime.now(UTC)
        append(store, Batch(found.name, 0, unit, found.source.kind, (file,), None, None, landed))
