"""``lakehouse restore`` and ``kept``: tables out of backup sets, and what they were before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from lakehouse.cli.plan import IfSeen
from lakehouse.cli.show import rows_grid
from lakehouse.core.clock import SystemClock, moment
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from lakehouse.recovery.catalog import Kept
    from lakehouse.recovery.choose import Wanted
    from lakehouse.recovery.restore import Restored, RestorePlan
    from lakehouse.recovery.target import Target

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_MOST = 30


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(restore)
    app.command()(kept)


def restore(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TABLE|NAMESPACE]...", help="Tables or namespaces, as in silver.dim_customer or gold."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All tables and views, both logs of every source, and what landed.")
    ] = False,
    set_id: Annotated[str, typer.Option("--set", metavar="SET", help="To this set; default: the newest.")] = "",
    at: Annotated[
        str | None, typer.Option("--at", metavar="WHEN", help="To this moment: ISO date or time, UTC unless it says.")
    ] = None,
    snapshot: Annotated[
        int | None, typer.Option("--snapshot", metavar="ID", help="To this snapshot of the one table.")
    ] = None,
    is_thorough: Annotated[
        bool, typer.Option("--thorough", help="Read every byte of what is in the lake already, not only sizes.")
    ] = False,
    is_undo: Annotated[
        bool, typer.Option("--undo", help="Take the last restore back, or that of the tables named.")
    ] = False,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Restore without asking.")] = False,
    if_seen: IfSeen = None,
    as_json: Json = False,
) -> None:
    """Bring tables, namespaces or everything back out of a backup: to a set, a moment, or a snapshot. No JVM.

    Files are brought back beside what is there, and every reference is verified, before anything is swapped. What the
    tables were stays in the catalog: `--undo` brings it back, `lakehouse kept` lists it. The next run catches up.
    """
    from lakehouse.recovery.restore import plan_restore

    if is_undo:
        _undo(what or [], is_dry_run, yes, as_json)
        return
    wanted = _wanted(what or [], everything, set_id, at, snapshot, is_thorough)
    current, place = settings(), _target()
    console = Console(stderr=True)
    with console.status("reading the backup") as status:
        plan = plan_restore(current, SystemClock(), wanted, lambda *seen: status.update(_phase(*seen)), place)
    _require_seen(plan, if_seen)
    if not as_json:
        for line in _plan_lines(plan):
            typer.echo(line)
    goes = not is_dry_run and (is_thorough or not plan.is_empty)
    if goes and not yes:
        typer.confirm("Restore?", abort=True, err=as_json)
    done = _carry_out(plan, place, console) if goes else None
    if as_json:
        typer.echo(json.dumps({**plan.to_json(), **(done.to_json() if done else {})}, ensure_ascii=False))
    elif done:
        for line in _done_lines(done):
            typer.echo(line)
    else:
        typer.echo("Nothing was done." if is_dry_run else "All of it is there already; nothing to do.")


def kept(
    restore_id: Annotated[str, typer.Argument(metavar="[RESTORE]", help="One restore; default: all.")] = "",
    is_drop: Annotated[
        bool, typer.Option("--drop", help="Let go what this restore kept. Maintenance removes the files later.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Without asking.")] = False,
    as_json: Json = False,
) -> None:
    """List what restores took the place of and is kept, or let it go. No JVM."""
    from lakehouse.recovery.restore import drop

    place = _target()
    notes = [note for note in place.rows.kept() if restore_id in ("", note.restore)]
    if is_drop:
        if not restore_id:
            raise SettingsError("say which restore", todo="`lakehouse kept` lists them")
        if not yes:
            typer.confirm(f"Let go what {restore_id} kept of {len(notes)} tables?", abort=True, err=as_json)
        notes = drop(place, restore=restore_id)
    if as_json:
        typer.echo(json.dumps([{**note.to_json(), "is_dropped": is_drop} for note in notes]))
    elif is_drop:
        typer.echo(f"{len(notes)} tables are let go. Their files go with maintenance, where nothing refers to them.")
    else:
        _say_kept(notes)


def _wanted(
    names: list[str], everything: bool, set_id: str, at: str | None, snapshot: int | None, is_thorough: bool
) -> Wanted:
    from lakehouse.recovery.choose import Wanted

    when = moment(at) if at else None
    return Wanted(tuple(names), everything, set_id, when, snapshot, is_thorough)


def _target() -> Target:
    from lakehouse.recovery.target import Target

    current = settings()
    current.require_servers()
    return Target.of(current)


def _carry_out(plan: RestorePlan, place: Target, console: Console) -> Restored:
    from lakehouse.recovery.restore import carry_out

    with console.status("restoring") as status:
        return carry_out(settings(), SystemClock(), plan, lambda *seen: status.update(_phase(*seen)), place)


def _phase(phase: str, files: int, size: int) -> str:
    return f"{phase}: {files:,} files, {decimal(size)}" if files else phase


def _require_seen(plan: RestorePlan, token: str | None) -> None:
    if token is not None and token != plan.token:
        raise SettingsError(
            f"this is not what the dry run said that said {token!r}: a table changed since, or there are other sets",
            untouched="everything",
            todo="look again with --dry-run, and confirm what it says then",
        )


def _plan_lines(plan: RestorePlan) -> Iterator[str]:
    for table in plan.tables[:_MOST]:
        before = "is not there" if table.is_new else f"{_rows(table.rows_before)} rows now"
        move = "" if table.moves else "; it is there already, only files are looked at"
        yield f"{table.table}: {before}, {_rows(table.aim.rows)} then, from {table.aim.found.id}{move}"
    if len(plan.tables) > _MOST:
        yield f"and {len(plan.tables) - _MOST} more tables; --json has all"
    for name, seconds in plan.older.items():
        yield f"  {name}: no set after that moment has it; this is as of {seconds / 60:,.0f} minutes before it"
    if plan.stays:
        yield f"  not in the set, stay as they are: {', '.join(plan.stays)}"
    yield f"To copy: {plan.copy.files:,} files, {decimal(plan.copy.bytes)}" + (
        f"; {plan.missing_logs.files:,} entries of logs and {plan.missing_landed.files:,} landed files, "
        f"{decimal(plan.missing_logs.bytes + plan.missing_landed.bytes)}"
        if plan.wanted.everything
        else ""
    )
    if plan.wanted.thorough:
        yield "  What is there already is read besides, and copied where its bytes are others."
    if plan.replaced:
        old = "the bucket keeps the old bytes as versions" if plan.is_versioned else "the bucket keeps no old bytes"
        yield f"  {len(plan.replaced)} of these are there with another size, and are replaced; {old}"
    yield f"About {plan.seconds:,.0f} s. --if-seen {plan.token}"


def _rows(count: int | None) -> str:
    return "an unknown number of" if count is None else f"{count:,}"


def _done_lines(done: Restored) -> Iterator[str]:
    what = f"{len(done.tables)} tables are restored" if done.tables else "The catalog named all tables, files are back"
    yield (
        f"{what}: {done.copied.files:,} files, {decimal(done.copied.bytes)} copied, "
        f"{done.verified.files:,} files verified, in {done.seconds_taken:,.1f} s."
    )
    if done.replaced:
        yield f"{len(done.replaced)} files had other bytes, and were replaced."
    if done.kept:
        yield f"What {len(done.kept)} tables were is kept as {done.id}: `lakehouse restore --undo` brings it back."
    yield "`lakehouse run` goes on from here."


def _undo(tables: list[str], is_dry_run: bool, yes: bool, as_json: bool) -> None:
    from lakehouse.recovery.restore import to_undo, undo

    place = _target()
    notes = to_undo(place, tables)
    if not as_json:
        for note in notes:
            typer.echo(f"{note.table}: {_what_undo_does(note)}")
    if not is_dry_run:
        if not yes:
            typer.confirm("Do it?", abort=True, err=as_json)
        undo(place, tables)
    if as_json:
        typer.echo(json.dumps([{**note.to_json(), "is_done": not is_dry_run} for note in notes]))
    else:
        typer.echo("Nothing was done." if is_dry_run else "Done; the same command again takes that back.")


def _what_undo_does(note: Kept) -> str:
    if note.is_undone:
        return f"becomes again what {note.restore} restored from {note.set_id}"
    return f"becomes again what it was before {note.restore}"


def _say_kept(notes: list[Kept]) -> None:
    if not notes:
        typer.echo("Nothing is kept of any restore.")
        return
    rows = [
        (note.restore, str(note.table), note.kept or "nothing", note.set_id, "restored" if note.is_undone else "before")
        for note in notes
    ]
    Console(width=max(Console().width, 140)).print(rows_grid(["restore", "table", "kept as", "set", "kept is"], rows))
