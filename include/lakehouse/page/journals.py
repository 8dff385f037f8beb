"""The landing and decision logs of all sources. An entry never changes, so each is read once."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from lakehouse.ledger.decisions import decision_log
from lakehouse.ledger.log import Batch, landing_log
from lakehouse.ledger.pending import Ledger, Position
from lakehouse.ledger.store import ObjectStore


@dataclass
class Journals:
    """What is known of the logs. Asking where a source's logs end takes two listings, from the known end on."""

    _ends: dict[str, Position] = field(default_factory=dict)
    _batches: dict[tuple[str, int], Batch] = field(default_factory=dict)
    _ledgers: dict[str, Ledger] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def position(self, store: ObjectStore, source: str) -> Position:
        """The last batch that landed and the last decision."""
        known = self._ends.get(source, Position())
        batches, decisions = landing_log(store, source), decision_log(store, source)
        found = Position(batches.last_number(known.through), decisions.last_number(known.decisions))
        self._ends[source] = found
        return found

    def batch(self, store: ObjectStore, source: str, number: int) -> Batch:
        """One batch."""
        if (source, number) not in self._batches:
            [self._batches[source, number]] = landing_log(store, source).read_range(number - 1, number)
        return self._batches[source, number]

    def ledger(self, store: ObjectStore, source: str, end: Position) -> Ledger:
        """Both logs as they were at a position that was found: reads what was not read before."""
        with self._lock:
            known = self._ledgers.get(source, Ledger(source, (), ()))
        batches = landing_log(store, source).read_range(len(known.batches), end.through)
        decisions = decision_log(store, source).read_range(len(known.decisions), end.decisions)
        grown = Ledger(source, (*known.batches, *batches), (*known.decisions, *decisions))
        with self._lock:
            self._ledgers[source] = grown
        return Ledger(source, grown.batches[: end.through], grown.decisions[: end.decisions])
