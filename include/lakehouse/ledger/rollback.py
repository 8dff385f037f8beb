"""A rollback of one table, planned: where ``main`` goes, what is undone by it, and what the next run makes of that.

The stamp of the new head is the truth, so a table that goes back has consumed less. Batches that it loses are held by a
decision of its own, or the next run would publish them again; those that it gets back, because a rollback is undone,
are released.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.ledger.decisions import Decision
from lakehouse.ledger.holds import last_decision
from lakehouse.ledger.live import LiveSet, states_of
from lakehouse.ledger.pending import Ledger, Position, read_ledger
from lakehouse.ledger.points import Point, existing_table, publications, resolve, rows_of
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import ATTEMPT_PROPERTY, Baseline, Head, ancestors, head_of, load_table, summary_of

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

_GO_ALONG = "quarantine"


@dataclass(frozen=True)
class Move:
    """One table's ``main``, from a snapshot to another, in the metadata file that was read."""

    table: TableName
    metadata_location: str
    was: int
    becomes: int


@dataclass(frozen=True)
class Undoing:
    """What a rollback means for the batches of the table's source. All are numbers of batches.

    ``through`` is what the table will have consumed, ``was_through`` what it has. ``lost`` are in the table and will
    not be; of these, ``hold`` are to be held, and the others are by an earlier decision. ``regained`` are not and will
    be; of these, ``release`` are to be released. The next run ``takes`` and ``drops`` what the logs say then.
    """

    source: str
    was_through: int
    through: int
    lost: tuple[int, ...]
    hold: tuple[int, ...]
    regained: tuple[int, ...]
    release: tuple[int, ...]
    takes: tuple[int, ...]
    drops: tuple[int, ...]


@dataclass(frozen=True)
class Rollback:
    """What a rollback will do. ``moves`` are made together: a table, and the quarantine that belongs to it."""

    table: TableName
    asked: str
    point: Point
    moves: tuple[Move, ...]
    rows: tuple[int, int]
    undoing: Undoing | None
    is_other_contract: bool

    @property
    def is_empty(self) -> bool:
        """Whether everything is where it would go, and is decided."""
        decided = not self.undoing or not (self.undoing.hold or self.undoing.release)
        return decided and all(move.was == move.becomes for move in self.moves)

    @property
    def token(self) -> str:
        """The same as long as the rollback would do the same: what lands meanwhile, and a new tag, change nothing."""
        moves = [(str(move.table), move.was, move.becomes) for move in self.moves]
        state = json.dumps([moves, (self.undoing.hold, self.undoing.release) if self.undoing else ()])
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "table": str(self.table),
            "to": self.point.to_json(),
            "moves": [{"table": str(m.table), "from": m.was, "to": m.becomes} for m in self.moves],
            "rows": {"before": self.rows[0], "after": self.rows[1]},
            "batches": asdict(self.undoing) if self.undoing else None,
            "is_other_contract": self.is_other_contract,
            "is_empty": self.is_empty,
            "token": self.token,
        }

    def decisions(self, reason: str, by: str, at: datetime) -> list[Decision]:
        """The decisions to be written before ``main`` moves, as drafts."""
        if self.undoing is None:
            return []
        about = str(self.table)
        drafts = [
            Decision(self.undoing.source, 0, "rollback", self.undoing.hold, reason, by, at, about),
            Decision(self.undoing.source, 0, "release", self.undoing.release, reason, by, at, about),
        ]
        return [draft for draft in drafts if draft.batches]


def plan_rollback(catalog: Catalog, store: ObjectStore, name: TableName, asked: str) -> Rollback:
    """Plan to bring a table back to a time, snapshot or tag. Raises :class:`SettingsError` where that cannot be."""
    _require_its_own(name)
    table = existing_table(catalog, name)
    point = resolve(table, name, asked)
    now, then = head_of(table), head_of(table, point.snapshot.snapshot_id)
    require_published(table, name, point)
    _require_stamp(name, point, then)
    _require_columns(table, name, point)
    _require_same_trim(name, now, then)
    return Rollback(
        name,
        asked,
        point,
        (*_going_along(catalog, table, name, point), _move(table, name, point.snapshot.snapshot_id)),
        (rows_of(table.current_snapshot()), rows_of(point.snapshot)),
        _undoing(store, name, now, then),
        bool(now.stamp and then.stamp and not then.stamp.is_first and now.stamp.fingerprint != then.stamp.fingerprint),
    )


def _require_its_own(name: TableName) -> None:
    if name.namespace == _GO_ALONG:
        raise SettingsError(
            f"{name} goes along with silver.{name.name}", todo=f"roll silver.{name.name} back: both move together"
        )
    if name.namespace == "ops":
        raise SettingsError(f"{name} is the lakehouse's own record", todo="roll a bronze, silver or gold table back")


def require_published(table: Table, name: TableName, point: Point) -> None:
    """Raise :class:`SettingsError` unless ``main`` was at this snapshot once."""
    heads = {each.snapshot.snapshot_id for each in publications(table)} | {
        each.snapshot_id for each in ancestors(table)
    }
    # An expiry clears the log of heads behind what it took; a tag keeps its snapshot, and is only given to heads.
    heads |= {ref.snapshot_id for ref in table.metadata.refs.values() if ref.snapshot_ref_type == "tag"}
    if point.snapshot.snapshot_id not in heads:
        raise SettingsError(
            f"the snapshot {point.snapshot.snapshot_id} of {name} was never published: it is a step of an attempt",
            untouched=f"{name}",
            todo=f"choose one that `lakehouse snapshots {name}` lists",
        )


def _require_stamp(name: TableName, point: Point, then: Head) -> None:
    """Raise unless it is known what the table had consumed."""
    if then.stamp is None:
        raise IntegrityError(
            f"what {name} had consumed at snapshot {point.snapshot.snapshot_id} is not known: its stamp has expired",
            untouched=f"{name}",
            todo=f"choose a later one that `lakehouse snapshots {name}` lists, or bring the table back from a backup",
        )


def _require_columns(table: Table, name: TableName, point: Point) -> None:
    """Raise where the table no longer has a column that it had: what stood in it could not be seen."""
    schemas = table.schemas()
    then = schemas.get(point.snapshot.schema_id or 0, table.schema())
    now = {field.field_id: field.field_type for field in table.schema().fields}
    gone = [field.name for field in then.fields if field.field_id not in now]
    if gone:
        raise SettingsError(
            f"{name} was rebuilt since: {', '.join(sorted(gone))} of then is not a column of now",
            untouched=f"{name}",
            todo=f"`lakehouse rebuild {name} --undo` takes the last rebuild back, columns included",
        )


def _require_same_trim(name: TableName, now: Head, then: Head) -> None:
    """Raise where bronze was trimmed between both: what stood then could not be folded on."""
    if _same(now.baseline) != _same(then.baseline) or now.trimmed != then.trimmed:
        raise SettingsError(
            f"{name} cannot go back to before its source was trimmed: bronze has lost what it was made of",
            untouched=f"{name}",
            todo="the rows of then can be read with --as-of; choose a later time to go back to",
        )


def _same(baseline: Baseline | None) -> Baseline | None:
    """Without its fingerprint: a free change of the contract renames the semantics of the same baseline."""
    return replace(baseline, fingerprint="") if baseline else None


def _move(table: Table, name: TableName, becomes: int) -> Move:
    head = table.current_snapshot()
    return Move(name, table.metadata_location, head.snapshot_id if head else 0, becomes)


def _going_along(catalog: Catalog, table: Table, name: TableName, point: Point) -> list[Move]:
    """The quarantine of a silver table, back to where it was: both are published by the same attempts."""
    quarantine = TableName(_GO_ALONG, name.name) if name.namespace == "silver" else None
    refused = load_table(catalog, quarantine) if quarantine else None
    if quarantine is None or refused is None or refused.current_snapshot() is None:
        return []
    stays = {_attempt(each) for each in ancestors(table, point.snapshot.snapshot_id)}
    undone = {_attempt(head.snapshot) for head in publications(table)} - stays - {""}
    # By commit, not by log: where a rollback is undone, what it left is older than what comes back.
    heads = sorted({head.snapshot.snapshot_id: head.snapshot for head in publications(refused)}.values(), key=_commit)
    for snapshot in reversed(heads):
        if not undone & {_attempt(each) for each in ancestors(refused, snapshot.snapshot_id)}:
            return [_move(refused, quarantine, snapshot.snapshot_id)]
    raise SettingsError(
        f"what {quarantine} had when {name} was at snapshot {point.snapshot.snapshot_id} has expired",
        untouched=f"{name} and {quarantine}",
        todo="choose a later time, or bring both back from a backup",
    )


def _commit(snapshot: Any) -> int:
    return int(snapshot.sequence_number or 0)


def _attempt(snapshot: Any) -> str:
    return str(summary_of(snapshot).get(ATTEMPT_PROPERTY, ""))


def _undoing(store: ObjectStore, name: TableName, now: Head, then: Head) -> Undoing | None:
    """What becomes of the source's batches; None for tables that have no source, or take all that landed."""
    stamps = [head.stamp for head in (now, then) if head.stamp is not None]
    source = next((source for stamp in stamps for source in stamp.inputs), None)
    if source is None:
        return None
    if name.namespace != "silver":
        was, through = now.consumed(source).through, then.consumed(source).through
        return Undoing(source, was, through, (), (), (), (), tuple(range(through + 1, was + 1)), ())
    return undoing(read_ledger(store, source), str(name), now, then)


def undoing(ledger: Ledger, table: str, now: Head, then: Head) -> Undoing:
    """What becomes of the batches of a silver table whose head goes from one to another. Pure."""
    had, has = live_at(ledger, table, now).live, live_at(ledger, table, then).live
    lost, regained = had - has, has - had
    states = states_of(ledger.decisions, ledger.end.decisions, table)
    hold = tuple(sorted(b for b in lost if states.get(b) not in ("held", "discarded")))
    release = tuple(sorted(b for b in regained if states.get(b) == "held" and _is_rolled_back(ledger, b, table)))
    after = _decided(ledger, table, {"rollback": hold, "release": release})
    frozen = then.baseline.frozen if then.baseline else {}
    pending = after.pending(_position(ledger, then), None, table, then.held, frozen)
    return Undoing(
        ledger.source,
        _position(ledger, now).through,
        _position(ledger, then).through,
        tuple(sorted(lost)),
        hold,
        tuple(sorted(regained)),
        release,
        tuple(sorted(pending.added)),
        tuple(sorted(pending.removed)),
    )


def _position(ledger: Ledger, head: Head) -> Position:
    consumed = head.consumed(ledger.source)
    return Position(consumed.through, consumed.decisions)


def live_at(ledger: Ledger, table: str, head: Head) -> LiveSet:
    """What counted for a table at one of its heads, by the logs up to there."""
    frozen = head.baseline.frozen if head.baseline else {}
    return ledger.live(_position(ledger, head), table, head.held, frozen)


def _is_rolled_back(ledger: Ledger, batch: int, table: str) -> bool:
    last = last_decision(ledger.decisions, batch, table)
    return last is not None and last.action == "rollback" and last.table == table


def _decided(ledger: Ledger, table: str, batches: Mapping[str, Sequence[int]]) -> Ledger:
    """The logs as they will be."""
    made: list[Any] = [
        Decision(ledger.source, ledger.end.decisions + place, action, tuple(numbers), "-", "-", datetime.min, table)  # type: ignore[arg-type]
        for place, (action, numbers) in enumerate(((a, n) for a, n in batches.items() if n), start=1)
    ]
    return replace(ledger, decisions=(*ledger.decisions, *made))
