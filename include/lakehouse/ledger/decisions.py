"""The decision log: what a person or a rule decided about batches. Append-only, beside the landing log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal, cast, get_args

from lakehouse.core.errors import SettingsError
from lakehouse.core.failpoints import failpoint
from lakehouse.ledger.journal import Journal, check_version
from lakehouse.ledger.store import ObjectStore

FORMAT_VERSION = 1
Action = Literal["hold", "release", "discard", "rollback"]


@dataclass(frozen=True)
class Decision:
    """One decision about batches of a source. ``number`` is 0 in a draft.

    A rollback names the batches that were undone: they are held until released, discarded or superseded. ``table``
    (as in ``silver.dim_customer``) is the only table that it concerns, so that one table can be rolled back alone;
    None when it is about the source, and so about every table made of it. What a rule holds is no decision: it stands
    in the table's stamp, and is judged again by the next run.
    """

    source: str
    number: int
    action: Action
    batches: tuple[int, ...]
    reason: str
    by: str
    at: datetime
    table: str | None = None
    format_version: int = FORMAT_VERSION


def decision_log(store: ObjectStore, source: str) -> Journal[Decision]:
    """A source's decision log."""
    return Journal(store, "decisions", source, partial(_parse, source), _render)


def read_decisions(store: ObjectStore, source: str, after: int = 0) -> list[Decision]:
    """The decisions after a number, oldest first. Raises :class:`IntegrityError` as the landing log does."""
    return decision_log(store, source).read(after)


def append_decision(store: ObjectStore, draft: Decision) -> Decision:
    """Give a decision the next number and write it. Raises :class:`SettingsError` unless it says what, why and who."""
    missing = [name for name in ("batches", "reason", "by") if not getattr(draft, name)]
    if missing or draft.at.tzinfo is None or min(draft.batches) < 1:
        raise SettingsError(
            f"a decision about {draft.source} needs batch numbers from 1, a reason, who took it, and when, with a zone",
            where=f"missing: {', '.join(missing)}" if missing else "",
        )

    def decide(_: Sequence[Decision], number: int) -> Decision:
        failpoint("decide.before_log", draft.source)
        return replace(draft, number=number)

    _, written = decision_log(store, draft.source).append((), decide)
    failpoint("decide.after_log", draft.source)
    return cast(Decision, written)  # decide() never declines


def _render(decision: Decision) -> Mapping[str, Any]:
    return {**asdict(decision), "at": decision.at.isoformat()}


def _parse(source: str, value: Mapping[str, Any]) -> Decision:
    check_version(value, FORMAT_VERSION)
    if value["source"] != source:
        raise ValueError(f"it belongs to {value['source']!r}")
    if value["action"] not in get_args(Action):
        raise ValueError(f"its action is {value['action']!r}")
    return Decision(
        source=source,
        number=int(value["number"]),
        action=cast(Action, value["action"]),
        batches=tuple(int(number) for number in value["batches"]),
        reason=value["reason"],
        by=value["by"],
        at=datetime.fromisoformat(value["at"]),
        table=value["table"],
    )
