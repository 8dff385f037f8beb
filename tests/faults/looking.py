"""What the tests of faults look at, without a JVM: content, accounts, keys, stamps, and every reference of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlparse

import psycopg
from tests.faults.cases import WAVES, Case, contracts, published
from tests.servers import as_catalog_user

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.encoding import fingerprint_table
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.core.types import DataType
from lakehouse.engine.lock import LOCKS_OF, lock_number
from lakehouse.engine.tables import business_types
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.decisions import read_decisions
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import (
    STAMP_PROPERTY,
    Stamp,
    ancestors,
    catalog_tables,
    load_table,
    open_catalog,
    summary_of,
)

TEXT = DataType("string")


@dataclass
class Looking:
    """A lake as it stands."""

    settings: Settings
    manifests: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def catalog(self) -> Any:
        return open_catalog(self.settings)

    @cached_property
    def store(self) -> ObjectStore:
        return ObjectStore.open(self.settings)

    @cached_property
    def contracts(self) -> Mapping[str, Contract]:
        return contracts()

    def content(self, case: Case) -> Any:
        """What a case took, in the same words for every case of its kind."""
        source = f"kills.{case.source}"
        if case.kind in ("landing", "decision"):
            log = [(batch.unit, batch.hashes, batch.number) for batch in read_log(self.store, source)]
            held = {number for decision in read_decisions(self.store, source) for number in decision.batches}
            return log, held
        if case.kind == "gold":
            return [self.fingerprint(mart, {"city": TEXT, "lines": DataType("long")}) for mart in case.marts]
        if case.kind == "bronze":
            columns = dict.fromkeys(self.contracts[case.source].source.columns, TEXT)
            return self.fingerprint(self.contracts[case.source].bronze_table, columns | _RECORD)
        return self.silver_content(case)

    def silver_content(self, case: Case) -> tuple[str, str]:
        """Fingerprints of a silver table and of what its quarantine holds of live batches."""
        contract = self.contracts[case.source]
        table = contract.tables[case.table]
        keys = {names.KEY: TEXT} | ({names.VERSION_KEY: TEXT} if table.kind == "dimension" else {})
        silver = self.fingerprint(contract.silver_table(case.table), business_types(table) | keys)
        columns = dict.fromkeys(contract.source.columns, TEXT) | _RECORD
        return silver, self.fingerprint(TableName("quarantine", case.table), columns)

    def fingerprint(self, name: TableName, columns: Mapping[str, DataType]) -> str:
        table = load_table(self.catalog, name)
        rows = table.scan(selected_fields=tuple(columns)).to_arrow() if table and table.current_snapshot() else None
        # A quarantine is made when the first row is refused, or the first batch is taken away.
        return fingerprint_table(rows, columns) if rows else "nothing"

    def problems(self, case: Case, wave: int) -> Iterator[str]:
        """What contradicts that a case took every batch up to a wave's once."""
        contract = self.contracts[case.source]
        if case.kind == "landing":
            for batch in read_log(self.store, contract.name):
                for file in batch.files:
                    if self.store.head(file.key) is None:
                        yield f"{file.key} of batch {batch.number} is missing"
        if case.kind in ("fact", "feed", "snapshot", "whole"):
            only = contract.model_copy(update={"tables": {case.table: contract.tables[case.table]}})
            (account,) = accounts(self.catalog, self.store, only)
            yield from account.problems
            landed = wave + 1 if case.source == case.name else WAVES
            if account.pending_batches != landed - wave - 1:
                yield f"{account.pending_batches} batches are pending"
            yield from self.keys_twice(contract, case)
            yield from self.stamps_twice(contract.silver_table(case.table), contract.name, wave)
        if case.kind in ("bronze", "whole"):
            yield from self.stamps_twice(contract.bronze_table, contract.name, wave)

    def keys_twice(self, contract: Contract, case: Case) -> Iterator[str]:
        is_history = contract.tables[case.table].kind == "dimension"
        key = names.VERSION_KEY if is_history else names.KEY
        table = load_table(self.catalog, contract.silver_table(case.table))
        if table is None:
            return
        rows = table.scan(selected_fields=(names.KEY, key)).to_arrow().column(key).to_pylist()
        yield from (f"{found} is there {times} times" for found, times in Counter(rows).items() if times > 1)
        if is_history:
            open_ones = table.scan("is_current = true", selected_fields=(names.KEY,)).to_arrow().column(names.KEY)
            times = Counter(open_ones.to_pylist())
            yield from (f"{found} has {n} open versions" for found, n in times.items() if n > 1)

    def stamps_twice(self, name: TableName, source: str, wave: int) -> Iterator[str]:
        """Every batch is in main's ancestry once."""
        table = load_table(self.catalog, name)
        texts = [summary_of(snapshot).get(STAMP_PROPERTY) for snapshot in ancestors(table)] if table else []
        times = Counter(Stamp.from_json(text).inputs[source].through for text in texts if text and source in text)
        for batch in range(1, wave + 2):
            if times[batch] != 1:
                yield f"{name} consumed batch {batch} {times[batch]} times"

    def tables(self, case: Case) -> list[TableName]:
        """The tables that a case writes to and that are there."""
        found = published(case, 0) if case.kind not in ("landing", "decision", "bronze") else []
        if case.kind in ("bronze", "whole"):
            found.append(self.contracts[case.source].bronze_table)
        return [name for name in found if load_table(self.catalog, name)]

    def references(self, name: TableName) -> set[str]:
        """Every file that main of a table refers to: metadata, manifest lists, manifests, data and delete files."""
        table = load_table(self.catalog, name)
        assert table is not None
        found = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
        for snapshot in ancestors(table):
            found.add(snapshot.manifest_list)
            for manifest in snapshot.manifests(table.io):
                found.add(manifest.manifest_path)
                if manifest.manifest_path not in self.manifests:
                    entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                    self.manifests[manifest.manifest_path] = [entry.data_file.file_path for entry in entries]
                found.update(self.manifests[manifest.manifest_path])
        return found

    def missing(self, references: set[str]) -> list[str]:
        """Those of some files that are not there."""

        def is_there(reference: str) -> bool:
            place = urlparse(reference)
            return self.store.in_bucket(place.netloc).head(place.path.lstrip("/")) is not None

        with ThreadPoolExecutor(4) as pool:
            return [name for name, there in zip(references, pool.map(is_there, references), strict=True) if not there]

    def branches(self, name: TableName) -> list[str]:
        table = load_table(self.catalog, name)
        return sorted(set(table.metadata.refs) - {"main"}) if table else []

    def connect(self) -> psycopg.Connection:
        """A connection of the catalog's owner."""
        return as_catalog_user(self.settings)

    def all_tables(self) -> list[TableName]:
        return catalog_tables(self.catalog)

    def is_locked(self, name: TableName) -> bool:
        """Whether somebody holds the lock of a table."""
        with self.connect() as connection:
            return any(int(number) == lock_number(name) for number, _, _ in connection.execute(LOCKS_OF).fetchall())

    def locks(self) -> int:
        """How many locks of tables are held."""
        with self.connect() as connection:
            return len(connection.execute(LOCKS_OF).fetchall())


_RECORD = {names.BATCH: DataType("long"), names.RECORD: DataType("long")}
