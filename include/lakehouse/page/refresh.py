"""Brings what is known up to date, part by part. A part that fails leaves the others, and what was known of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lakehouse.backup.status import Seen
from lakehouse.core.clock import Clock
from lakehouse.core.errors import LakehouseError, StackError
from lakehouse.core.names import TableName
from lakehouse.ledger.holds import Hold, holds_of
from lakehouse.ledger.pending import Position
from lakehouse.page.declared import Declarations
from lakehouse.page.facts import Facts, facts_of
from lakehouse.page.journals import Journals
from lakehouse.page.known import Known, Problem, Source
from lakehouse.page.parallel import ask_each
from lakehouse.page.records import BATCHES, COLUMNS, WINDOW, FileCache, quality_of
from lakehouse.page.servers import Lake
from lakehouse.quality.history import RESULTS

if TYPE_CHECKING:
    from pyiceberg.table import Table

PARTS = ("contracts", "catalog", "tables", "batches", "quality", "backups")
_SHOWN_EVERY = 25
"""After so many answers, what is known by then is shown to whoever waits."""


@dataclass
class Refresher:
    """Reads from the servers, and keeps what never changes. ``open_lake`` signs in, again after every failure."""

    open_lake: Callable[[], Lake]
    declarations: Declarations
    clock: Clock
    journals: Journals = field(default_factory=Journals)
    _lake: Lake | None = None
    _records: dict[TableName, FileCache] = field(default_factory=dict)
    _read_from: dict[TableName, str] = field(default_factory=dict)
    _seen: Seen = field(default_factory=Seen)

    def lake(self) -> Lake:
        """The servers. Raises :class:`LakehouseError` where they are not known."""
        if self._lake is None:
            self._lake = self.open_lake()
        return self._lake

    def forget_servers(self) -> None:
        """Sign in anew next time: the servers may come back elsewhere, or with other passwords."""
        lake, self._lake = self._lake, None
        if lake is not None:
            lake.close()

    def run(self, known: Known) -> Iterator[Known]:
        """What is known, again and again while more is read; the last one is the result."""
        for latest in self._read_all(known):
            yield (known := latest)
        if known.problems:
            self.forget_servers()

    def _read_all(self, known: Known) -> Iterator[Known]:
        for part, read in self._parts():
            try:
                for latest in read(known):
                    yield (known := latest)
                known = known.went_well(part, self.clock.now())
            except LakehouseError as error:
                known = known.went_wrong(Problem.of(part, error, self.clock.now()))
            except Exception as error:  # a page that shows the rest is worth more than one that shows nothing
                logging.getLogger(__name__).exception("the Lakehouse page could not read its %s", part)
                known = known.went_wrong(Problem.of(part, _unexpected(part, error), self.clock.now()))
            yield known

    def _parts(self) -> list[tuple[str, Callable[[Known], Iterator[Known]]]]:
        reads = (self._declared, self._pointers, self._tables, self._sources, self._quality, self._backups)
        return list(zip(PARTS, reads, strict=True))

    def _declared(self, known: Known) -> Iterator[Known]:
        yield replace(known, declared=self.declarations.now())

    def _pointers(self, known: Known) -> Iterator[Known]:
        pointers = self.lake().pointers()
        kept = {name: facts for name, facts in known.tables.items() if name in pointers}
        yield replace(known, pointers=pointers, tables=kept, damaged={})

    def _tables(self, known: Known) -> Iterator[Known]:
        """Read the metadata that is new: a table whose pointer stayed is not asked again."""
        tables, damaged = dict(known.tables), {}
        new = [n for n, place in known.pointers.items() if n not in tables or tables[n].location != place]
        for count, (name, found) in enumerate(ask_each(new, lambda name: self._facts(name, known.pointers[name])), 1):
            if isinstance(found, Facts):
                tables[name] = found
            else:
                damaged[name] = found.what
            if count % _SHOWN_EVERY == 0 or count == len(new):
                yield replace(known, tables=dict(tables), damaged=dict(damaged))

    def _facts(self, name: TableName, location: str) -> Facts:
        return facts_of(name, self.lake().table(name, location))

    def _sources(self, known: Known) -> Iterator[Known]:
        sources, broken = dict(known.sources), {}
        for name, found in ask_each(known.declared.contracts, lambda name: self._source(known, name)):
            if isinstance(found, Source):
                sources[name] = found
            else:
                broken[name] = found.what
        yield replace(known, sources=sources, broken=broken)

    def _source(self, known: Known, name: str) -> Source:
        contract = known.declared.contracts[name]
        end = self.journals.position(self.lake().store, name)
        facts = [
            known.tables.get(table) for table in (contract.bronze_table, *map(contract.silver_table, contract.tables))
        ]
        taken = {each.last_taken(name) for each in facts if each}
        batches = {
            number: self.journals.batch(self.lake().store, name, number)
            for number in taken
            if 0 < number <= end.through
        }
        return Source(end, batches, self._holds(known, name, end))

    def _holds(self, known: Known, name: str, end: Position) -> tuple[Hold, ...]:
        """What is not in the tables; the whole log is read only where a rule or a person said something."""
        contract = known.declared.contracts[name]
        facts = {table: known.tables.get(contract.silver_table(table)) for table in contract.tables}
        stamps = {table: each.holding for table, each in facts.items() if each}
        if not end.decisions and not any(stamps.values()):
            return ()
        return tuple(holds_of(contract, stamps, self.journals.ledger(self.lake().store, name, end)))

    def _quality(self, known: Known) -> Iterator[Known]:
        """Only when their metadata changed."""
        since = self.clock.now() - WINDOW
        if self._is_new(known, BATCHES):
            rows = self._cache(BATCHES).read(self._records_table(known, BATCHES), since)
            yield (known := replace(known, quality=quality_of(rows.to_pylist(), known.declared.increments)))
            self._read_from[BATCHES] = known.pointers[BATCHES]
        if self._is_new(known, RESULTS):
            rows = self._cache(RESULTS).read(self._records_table(known, RESULTS), since)
            yield replace(known, results=rows)
            self._read_from[RESULTS] = known.pointers[RESULTS]

    def _backups(self, known: Known) -> Iterator[Known]:
        """How backups stand; what never changes is not asked again."""
        backups = self.lake().backups
        yield (known := replace(known, has_backups=backups is not None))
        if backups is not None:
            yield replace(known, backups=backups.status(self.clock.now(), self._seen))

    def _is_new(self, known: Known, name: TableName) -> bool:
        return name in known.pointers and known.pointers[name] != self._read_from.get(name)

    def _cache(self, name: TableName) -> FileCache:
        return self._records.setdefault(name, FileCache(COLUMNS[name]))

    def _records_table(self, known: Known, name: TableName) -> Table:
        return self.lake().table(name, known.pointers[name])


def _unexpected(part: str, error: Exception) -> LakehouseError:
    return StackError(
        f"the {part} could not be read: {type(error).__name__}",
        todo="the API server's log says more; reload the page to try again",
    )
