"""``lakehouse held``, ``hold``, ``release`` and ``discard``: which batches count, decided by a person."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from lakehouse.core.actor import user_name
from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import Settings, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lakehouse.contracts.model import Contract
    from lakehouse.ledger.decisions import Action
    from lakehouse.ledger.holds import Hold
    from lakehouse.ledger.pending import Ledger
    from lakehouse.ledger.store import ObjectStore
    from lakehouse.ledger.watermark import Baseline

_BATCH = re.compile(r"([a-z0-9_]+\.[a-z0-9_]+)#([0-9]{1,12})\Z")
_DONE = {"hold": "held", "release": "released", "discard": "discarded"}

Batch = Annotated[str, typer.Argument(metavar="BATCH", help="A batch, as in crm.catalogue#12.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the decision log for good.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (held, hold, release, discard):
        app.command()(command)


def held(
    sources: Annotated[list[str] | None, typer.Argument(help="Contracts, as in crm.catalogue; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Say what landed and is not in the tables: held by a rule or a person, or discarded; why, and what to do."""
    from lakehouse.cli.run import pick
    from lakehouse.ledger.holds import holds
    from lakehouse.ledger.store import ObjectStore
    from lakehouse.ledger.watermark import open_catalog

    current = settings()
    current.require_servers()
    found = holds(open_catalog(current), ObjectStore.open(current), pick(current, sources))
    if as_json:
        typer.echo(json.dumps([each.to_json() for each in found], ensure_ascii=False, indent=1))
    elif found:
        show_holds(Console(), found)
    else:
        typer.echo("Nothing is held or discarded.")


def hold(batch: Batch, reason: Reason) -> None:
    """Keep a batch out of the tables until it is released or superseded. The next run takes it out where it is."""
    _decide("hold", batch, reason)


def release(batch: Batch, reason: Reason) -> None:
    """Let a held batch go. No rule holds it any more either: all tables of its source take it as it is."""
    _decide("release", batch, reason)


def discard(
    batch: Batch,
    reason: Reason,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and decide nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Discard without asking.")] = False,
) -> None:
    """Keep a batch out of the tables for good. This is final: the same bytes can only land again, as a new batch."""
    _decide("discard", batch, reason, is_dry_run=is_dry_run, ask=not yes)


@dataclass(frozen=True)
class _Place:
    """One batch of one source, with both logs."""

    contract: Contract
    store: ObjectStore
    ledger: Ledger
    number: int

    @property
    def name(self) -> str:
        return f"{self.ledger.source}#{self.number}"


def _decide(action: Action, batch: str, reason: str, *, is_dry_run: bool = False, ask: bool = False) -> None:
    """Write a decision, unless the batch is already what it would become."""
    from lakehouse.ledger.decisions import append_decision

    place = _find(settings(), batch)
    draft = _draft(place, action, reason)
    _refuse_trimmed(place, action)
    if already := _already(place, action):
        typer.echo(already)
        return
    for line in _consequences(place, draft):
        typer.echo(line)
    if is_dry_run:
        typer.echo("Nothing was decided.")
        return
    if ask:
        typer.confirm(f"A discard is final. Discard {place.name}?", abort=True)
    written = append_decision(place.store, draft)
    typer.echo(f"{place.name} is {_DONE[action]} (decision {written.number}). `lakehouse run` brings it to the tables.")


def _find(current: Settings, batch: str) -> _Place:
    """The batch of this name. Raises :class:`SettingsError` where there is none."""
    from lakehouse.cli.run import pick
    from lakehouse.ledger.pending import read_ledger
    from lakehouse.ledger.store import ObjectStore

    current.require_servers()
    parts = _BATCH.match(batch)
    if not parts:
        raise SettingsError(f"{batch!r} names no batch", todo="write source#number, as in crm.catalogue#12")
    contract = _contract(pick(current, [parts[1]]))
    store = ObjectStore.open(current)
    ledger, number = read_ledger(store, contract.name), int(parts[2])
    if not 1 <= number <= ledger.end.through:
        last = ledger.end.through
        has = f"its batches are 1 to {last}" if last else "nothing has landed from it"
        raise SettingsError(f"{contract.name} has no batch {number}: {has}", todo="see `lakehouse held`")
    return _Place(contract, store, ledger, number)


def _refuse_trimmed(place: _Place, action: Action) -> None:
    """Raise :class:`SettingsError` where a trim took what the decision would need."""
    from lakehouse.ledger.watermark import open_catalog, read_head

    catalog = open_catalog(settings())
    for name in place.contract.tables:
        baseline = read_head(catalog, place.contract.silver_table(name)).baseline
        if baseline and (refusal := _refusal(place, action, baseline)):
            what, todo = refusal
            raise SettingsError(f"{place.name} {what}", untouched="everything", todo=todo)


def _refusal(place: _Place, action: Action, baseline: Baseline) -> tuple[str, str] | None:
    """Why a decision is void for a table with this baseline, and what to do instead; None where it is not."""
    from lakehouse.ledger.beyond import why_beyond

    if place.number in baseline.trimmed:
        what = f"was trimmed from bronze: what it said is part of the baseline of {baseline.effective}"
        return what, "land a correction with an effective time after the baseline"
    if place.number in baseline.partly and action in ("hold", "discard"):
        what = f"can no longer be taken out: part of what it said is in the baseline of {baseline.effective}"
        return what, "land the unit again: what that says of the time after the baseline replaces what this batch said"
    why = why_beyond(place.contract, baseline, place.ledger.batches[place.number - 1])
    if why and action == "release":
        return f"cannot be released: {why}", f"say `lakehouse discard '{place.name}'`; land it with a later day"
    return None


def _contract(found: Sequence[Contract]) -> Contract:
    return found[0]


def _draft(place: _Place, action: Action, reason: str) -> Any:
    from lakehouse.ledger.decisions import Decision

    if not reason.strip():
        raise SettingsError("a decision needs a reason", todo="say it with --reason")
    return Decision(
        place.ledger.source, 0, action, (place.number,), reason.strip(), user_name(settings()), SystemClock().now()
    )


def _already(place: _Place, action: Action) -> str:
    """What to say when there is nothing to decide, else ''. Raises :class:`SettingsError` after a discard."""
    from lakehouse.ledger.holds import last_decision
    from lakehouse.ledger.live import states_of

    state = states_of(place.ledger.decisions, place.ledger.end.decisions).get(place.number)
    last = last_decision(place.ledger.decisions, place.number)
    if state is None or last is None:
        return ""
    said = f"by {last.by} at {last.at:%Y-%m-%d %H:%M} UTC: {last.reason}"
    # A decision about one table after it still leaves something to say for all tables.
    newer = [d for d in place.ledger.decisions if place.number in d.batches and d.number > last.number]
    if state == _DONE[action] and not newer:
        return f"{place.name} is {state} already, {said}"
    if state == "discarded":
        raise SettingsError(
            f"{place.name} was discarded {said}",
            untouched="everything; a discard is final",
            todo="land the unit again: it becomes a new batch, even with the same bytes",
        )
    return ""


def _consequences(place: _Place, draft: Any) -> list[str]:
    """What the decision changes, by the logs."""
    ledger, number = place.ledger, place.number
    batch = ledger.batches[number - 1]
    after = replace(ledger, decisions=(*ledger.decisions, replace(draft, number=ledger.end.decisions + 1)))
    was, will = ledger.live(ledger.end), after.live(after.end)
    files = f"{len(batch.files)} file{'' if len(batch.files) == 1 else 's'}, {batch.size_bytes:,} bytes"
    lines = [f"{place.name}: {batch.kind} of {batch.unit}, landed {batch.landed_at:%Y-%m-%d %H:%M} UTC, {files}"]
    if number in will.superseded:
        newer = max(b.number for b in ledger.batches if b.unit == batch.unit and b.number in will.live)
        lines.append(f"  it is superseded by batch {newer} of the same unit, and stays so")
    back, gone = sorted(will.live - was.live - {number}), sorted(was.live - will.live - {number})
    lines += [f"  batch {each} of the same unit counts again" for each in back]
    return [*lines, *(f"  batch {each} of the same unit is superseded by it" for each in gone)]


def show_holds(console: Console, found: Sequence[Hold]) -> None:
    """Each hole in a few lines."""
    for each in found:
        who = f"by {escape(each.by)}" if each.by else "by a rule"
        where = each.table or "all tables of the source"
        console.print(
            f"[bold]{each.name}[/] ({each.unit}) is {each.state} for {where} since "
            f"{each.since:%Y-%m-%d %H:%M} UTC, {who}",
            highlight=False,
            soft_wrap=True,
        )
        for line in (f"  why: {each.reason}", f"  what to do: {each.todo}"):
            console.print(escape(line), highlight=False, soft_wrap=True)
