"""Which snapshots of a table may go. Pure: a metadata file as JSON, a policy and what is pinned in, a plan out.

What counts is how long ago ``main`` said something, not when it was committed: a snapshot that was superseded an hour
ago may be a month old, and is the one that somebody wants back. So a snapshot stays

- while ``main`` was at it within the policy's time, or it is one of its last publications;
- if a tag or a branch is at it;
- if a mart was made of it, and everything since: that mart compares it with what is there now;
- if it holds the last word of what the table, or one of these, has consumed.

Of ``main`` everything stays from its head back to the oldest of these, so that ancestry has no holes; a tag keeps its
own snapshot alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from lakehouse.contracts.derive import hours
from lakehouse.contracts.model import Upkeep
from lakehouse.ledger.watermark import STAMP_PROPERTY

Document = Mapping[str, Any]
_WAIT = timedelta(days=1)
_SHARE = 0.1


@dataclass(frozen=True)
class Expiry:
    """The snapshots that go, oldest first, and the tags whose time is over. ``kept``: what stays, and why."""

    going: tuple[int, ...]
    tags: tuple[str, ...]
    kept: Mapping[int, str]
    pays: bool

    def only(self, count: int) -> Expiry:
        """Its oldest snapshots alone; the others another time."""
        return replace(self, going=self.going[:count], tags=())


def plan_expiry(document: Document, policy: Upkeep, pins: Mapping[int, str], now: datetime) -> Expiry:
    """What may go. ``pins``: snapshots that others depend on, with the reason in words.

    ``pays`` where a tenth of all snapshots go, or one has been waiting for a day: each expiry writes the metadata anew.
    """
    chronicle = _Chronicle(document, policy, pins, now)
    kept = chronicle.kept()
    going = [each for each in chronicle.snapshots if each not in kept]
    going.sort(key=lambda each: (chronicle.snapshots[each]["sequence-number"], each))
    waited = any(chronicle.until(each) < chronicle.since - _WAIT / timedelta(milliseconds=1) for each in going)
    tags = tuple(sorted(chronicle.over))
    pays = bool(tags) or bool(going) and (waited or len(going) >= _SHARE * len(chronicle.snapshots))
    return Expiry(tuple(going), tags, kept, pays)


def without(document: Document, expiry: Expiry, now: datetime) -> dict[str, Any]:
    """The metadata without what goes. As Iceberg has it, the log of heads begins after the last one that is gone."""
    going, tags = frozenset(expiry.going), frozenset(expiry.tags)
    log = document.get("snapshot-log", [])
    gone = [place for place, entry in enumerate(log) if entry["snapshot-id"] in going]
    lists = {
        name: [each for each in document[name] if each["snapshot-id"] not in going]
        for name in ("snapshots", "statistics", "partition-statistics")
        if name in document
    }
    return {
        **document,
        **lists,
        "snapshot-log": log[gone[-1] + 1 :] if gone else log,
        "refs": {name: ref for name, ref in document.get("refs", {}).items() if name not in tags},
        "last-updated-ms": max(int(now.timestamp() * 1000), document["last-updated-ms"] + 1),
    }


@dataclass(frozen=True)
class _Chronicle:
    document: Document
    policy: Upkeep
    pins: Mapping[int, str]
    now: datetime

    @cached_property
    def snapshots(self) -> dict[int, Document]:
        return {each["snapshot-id"]: each for each in self.document.get("snapshots", [])}

    @cached_property
    def millis(self) -> float:
        return self.now.timestamp() * 1000

    @cached_property
    def since(self) -> float:
        """What ``main`` said from then on stays, in milliseconds."""
        return self.millis - hours(self.policy.keep_snapshots) * 3_600_000

    @cached_property
    def over(self) -> frozenset[str]:
        """The tags whose time is over, by Iceberg's rule: so long after their snapshot was committed."""
        return frozenset(
            name
            for name, ref in self.document.get("refs", {}).items()
            if ref["type"] == "tag"
            and "max-ref-age-ms" in ref
            and ref["snapshot-id"] in self.snapshots
            and self.snapshots[ref["snapshot-id"]]["timestamp-ms"] + ref["max-ref-age-ms"] < self.millis
        )

    @cached_property
    def main(self) -> list[int]:
        """``main`` and its ancestors, newest first."""
        return list(self._ancestors(self.document.get("current-snapshot-id")))

    @cached_property
    def _until(self) -> dict[int, float]:
        log = self.document.get("snapshot-log", [])
        ends = [*(entry["timestamp-ms"] for entry in log[1:]), float("inf")]
        return {entry["snapshot-id"]: end for entry, end in zip(log, ends, strict=True)}

    def until(self, snapshot_id: int) -> float:
        """When ``main`` was at it for the last time; for what never was a head, when it was committed."""
        found = self._until.get(snapshot_id)
        return float(self.snapshots[snapshot_id]["timestamp-ms"]) if found is None else found

    def kept(self) -> dict[int, str]:
        """All that stays, with the first reason that there is."""
        found: dict[int, str] = {}
        place, reached = {each: number for number, each in enumerate(self.main)}, -1
        for snapshot_id, reason in self._ends():
            if place[snapshot_id] > reached:  # else it is on the way to one that was here before
                way = self.main[reached + 1 : place[snapshot_id]]
                reached = place[snapshot_id]
                for each in (*way, *self._to_stamp(snapshot_id)):
                    found.setdefault(each, reason)
        for snapshot_id, reason in self._pinned_alone():
            for each in self._to_stamp(snapshot_id):
                found.setdefault(each, reason)
        return found

    def _ends(self) -> Iterator[tuple[int, str]]:
        """Snapshots of ``main`` that are needed, and with them all that came since."""
        main = frozenset(self.main)
        heads = [each for each in dict.fromkeys(self._heads()) if each in main] or self.main[:1]
        yield from ((each, "of the last publications") for each in self.main[:1])
        yield from ((each, "of the last publications") for each in self._publications()[: self.policy.min_snapshots])
        yield from ((each, "main was at it lately") for each in heads if self.until(each) >= self.since)
        yield from ((each, reason) for each, reason in self.pins.items() if each in main)

    def _publications(self) -> list[int]:
        """What of ``main`` was published, newest first: that has a stamp; all of it, where nothing has.

        Not by the log of heads: each expiry cuts it, and what was promised before must be promised after.
        """
        return [each for each in self.main if self._is_stamped(each)] or self.main

    def _is_stamped(self, snapshot_id: int) -> bool:
        return STAMP_PROPERTY in self.snapshots[snapshot_id].get("summary", {})

    def _pinned_alone(self) -> Iterator[tuple[int, str]]:
        """Snapshots that are needed for themselves."""
        for name, ref in self.document.get("refs", {}).items():
            if name not in self.over and name != "main":
                yield from ((each, f"{ref['type']} {name}") for each in self._own(ref))
        main = frozenset(self.main)
        for each in self._heads():
            if each in self.snapshots and each not in main and self.until(each) >= self.since:
                yield each, "main was at it lately"
        yield from ((each, reason) for each, reason in self.pins.items() if each in self.snapshots)

    def _heads(self) -> Iterable[int]:
        """What ``main`` was at, the last one first."""
        return (entry["snapshot-id"] for entry in reversed(self.document.get("snapshot-log", [])))

    def _own(self, ref: Document) -> Iterator[int]:
        """The snapshot of a tag; of a branch, all that ``main`` does not have."""
        main = frozenset(self.main)
        for each in self._ancestors(ref["snapshot-id"]):
            yield each
            if ref["type"] == "tag" or each in main:
                return

    def _to_stamp(self, snapshot_id: int) -> list[int]:
        """A snapshot, and those before it up to the nearest that says what was consumed; alone, where none does."""
        found = []
        for each in self._ancestors(snapshot_id):
            found.append(each)
            if self._is_stamped(each):
                return found
        return found[:1]

    def _ancestors(self, snapshot_id: int | None) -> Iterator[int]:
        while snapshot_id in self.snapshots:
            yield snapshot_id
            snapshot_id = self.snapshots[snapshot_id].get("parent-snapshot-id")
