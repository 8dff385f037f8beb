"""How far the logs of every source must go, by everybody who knows; never by a listing alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lakehouse.core.errors import IntegrityError
from lakehouse.ledger.decisions import decision_log
from lakehouse.ledger.journal import Journal
from lakehouse.ledger.log import landing_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import STAMP_PROPERTY
from lakehouse.recovery.claims import Claim
from lakehouse.recovery.known import Known

_ENTRY = re.compile(r"(log|decisions)/([^/]+)/(\d+)\.json\Z")
_OPENERS: Mapping[str, Callable[[ObjectStore, str], Journal[Any]]] = {"log": landing_log, "decisions": decision_log}


@dataclass
class Ends:
    """The greatest number of each log that anything has named: tables' stamps, sets, earlier checks, listings."""

    last: dict[tuple[str, str], int] = field(default_factory=dict)

    def take(self, summary: Mapping[str, str]) -> None:
        """What a snapshot has consumed was there."""
        try:
            inputs = json.loads(summary.get(STAMP_PROPERTY, "{}")).get("inputs", {})
            for source, consumed in inputs.items():
                self.reach("log", source, int(consumed["through"]))
                self.reach("decisions", source, int(consumed["decisions"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # the stamp of another version; its own readers say so

    def reach(self, root: str, source: str, number: int) -> None:
        """A log goes at least this far."""
        self.last[root, source] = max(number, self.last.get((root, source), 0))

    def take_key(self, key: str) -> None:
        """An entry that was seen."""
        if found := _ENTRY.search(key):
            self.reach(found[1], found[2], int(found[3]))


def log_claims(landing: ObjectStore, known: Known, ends: Ends) -> Iterator[Claim]:
    """Every entry that both logs of every source must have, and the copies of entries that are read in their place."""
    if known.newest:
        for source, end in known.newest.manifest.sources.items():
            ends.reach("log", source, end.log)
            ends.reach("decisions", source, end.decisions)
    for uri in known.memory.files:
        ends.take_key(uri)
    for root in _OPENERS:
        for source in landing.folders(f"{root}/"):
            for found in landing.list_after(f"{root}/{source}/"):
                ends.take_key(found.key)
    for (root, source), last in sorted(ends.last.items()):
        try:
            journal: Journal[Any] = _OPENERS[root](landing, source)
        except IntegrityError:
            continue  # a folder that is no source's
        for number in range(1, last + 1):
            says = {"journal": journal, "number": number}
            yield Claim(f"s3://{landing.bucket}/{journal.key(number)}", "log", says=says)
        yield from _segment_claims(journal)


def _segment_claims(journal: Journal[Any]) -> Iterator[Claim]:
    for last in journal.segments():
        uri = f"s3://{journal.store.bucket}/{journal.segment_key(last)}"
        yield Claim(uri, "segment", says={"journal": journal, "number": last})
