"""What a table has still to consume of a source. One listing for each log, no JVM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lakehouse.core.errors import IntegrityError
from lakehouse.ledger.decisions import Decision, decision_log
from lakehouse.ledger.live import LiveSet, live, states_of
from lakehouse.ledger.log import Batch, landing_log
from lakehouse.ledger.store import ObjectStore


@dataclass(frozen=True, order=True)
class Position:
    """How far both logs of a source were consumed: numbers of the last batch and the last decision, 0 for none."""

    through: int = 0
    decisions: int = 0


@dataclass(frozen=True)
class Pending:
    """From one position to the next. ``log`` is the whole landing log up to ``end.through``; both empty when idle.

    ``remaining`` counts the batches that a limit left for a later pass; ``decided`` is the whole decision log.
    """

    source: str
    start: Position
    end: Position
    log: tuple[Batch, ...] = ()
    decisions: tuple[Decision, ...] = ()
    before: LiveSet = LiveSet()
    after: LiveSet = LiveSet()
    remaining: int = 0
    table: str | None = None
    frozen: Mapping[int, str] = field(default_factory=dict, repr=False)
    decided: tuple[Decision, ...] = field(default=(), repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether neither log has anything new."""
        return self.start == self.end

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The new batches, oldest first."""
        return self.log[self.start.through :]

    @property
    def added(self) -> frozenset[int]:
        """What became live: new batches, and old ones that were released or are live again."""
        return self.after.live - self.before.live

    @property
    def removed(self) -> frozenset[int]:
        """What was live and no longer is."""
        return self.before.live - self.after.live

    @property
    def released(self) -> frozenset[int]:
        """Batches that somebody released, so that no rule holds them."""
        states = states_of(self.decided, self.end.decisions, self.table)
        return frozenset(number for number, state in states.items() if state == "released")

    def batch(self, number: int) -> Batch:
        """A batch by its number."""
        return self.log[number - 1]

    def sets(self, held: frozenset[int]) -> LiveSet:
        """What counts at the end where a rule holds these batches."""
        return live(self.log, self.decided, self.end.through, self.end.decisions, self.table, held, self.frozen)


@dataclass(frozen=True)
class Ledger:
    """Both logs of a source, read once; several tables that consume it can ask what is pending for each."""

    source: str
    batches: tuple[Batch, ...]
    decisions: tuple[Decision, ...]

    @property
    def end(self) -> Position:
        """The last batch and the last decision."""
        return Position(len(self.batches), len(self.decisions))

    def live(
        self,
        position: Position,
        table: str | None = None,
        held: frozenset[int] = frozenset(),
        frozen: Mapping[int, str] = MappingProxyType({}),
    ) -> LiveSet:
        """What counted at a position, for a table that held some batches by itself, and lost some to a trim."""
        return live(self.batches, self.decisions, position.through, position.decisions, table, held, frozen)

    def pending(
        self,
        position: Position,
        limit: int | None = None,
        table: str | None = None,
        held: frozenset[int] = frozenset(),
        frozen: Mapping[int, str] = MappingProxyType({}),
    ) -> Pending:
        """What is new after a position: at most ``limit`` batches, and all decisions. Raises IntegrityError.

        ``held`` are the batches that the table held by itself at that position.
        """
        if position.through > self.end.through or position.decisions > self.end.decisions:
            raise IntegrityError(
                f"{self.source} was consumed through {position}, and its logs end at {self.end}",
                todo="check LAKEHOUSE_LANDING_BUCKET, or bring the logs back from a backup set",
            )
        last = self.end.through if limit is None else min(self.end.through, position.through + limit)
        end = Position(last, self.end.decisions)
        return Pending(
            self.source,
            position,
            end,
            self.batches[:last],
            self.decisions[position.decisions :],
            self.live(position, table, held, frozen),
            self.live(end, table, frozen=frozen),
            remaining=self.end.through - last,
            table=table,
            frozen=frozen,
            decided=self.decisions,
        )


def read_ledger(store: ObjectStore, source: str) -> Ledger:
    """Both logs, with one listing each."""
    return Ledger(source, tuple(landing_log(store, source).read()), tuple(decision_log(store, source).read()))


def pending(
    store: ObjectStore,
    source: str,
    position: Position,
    limit: int | None = None,
    table: str | None = None,
    held: frozenset[int] = frozenset(),
    frozen: Mapping[int, str] = MappingProxyType({}),
) -> Pending:
    """What is new after a position, as :meth:`Ledger.pending` says. One listing for each log when nothing is.

    Raises :class:`IntegrityError` where the position lies beyond the end of a log: entries were lost.
    """
    batches, decided = landing_log(store, source), decision_log(store, source)
    newest = Position(batches.last_number(position.through), decided.last_number(position.decisions))
    if newest == position:
        return Pending(source, position, position)
    log = tuple(batches.read_range(0, newest.through))
    ledger = Ledger(source, log, tuple(decided.read_range(0, newest.decisions)))
    return ledger.pending(position, limit, table, held, frozen)
