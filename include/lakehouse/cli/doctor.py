"""``lakehouse doctor``: this machine, the installation, the servers, and what killed attempts left behind."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lakehouse.core.errors import LakehouseError, SettingsError, StackError, TableBusy
from lakehouse.core.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lakehouse.core.settings import Settings
    from lakehouse.engine.leftovers import Leftover, Leftovers, Removal
    from lakehouse.stack.checks import Check

_COLOURS = {"ok": "green", "warn": "yellow", "kept": "green", "alive": "green", "dead": "yellow"}

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
Fix = Annotated[bool, typer.Option("--fix", help="Remove what is dead. Without it, nothing is changed.")]
Kept = Annotated[
    bool,
    typer.Option(
        "--kept", help="With --fix: also drop branches and forks that are kept for a while, unless their owner lives."
    ),
]
Hours = Annotated[
    float, typer.Option("--staged-hours", min=0, metavar="N", help="How old a staged object is when it counts as dead.")
]
Files = Annotated[
    bool, typer.Option("--files", help="Also look for old files that no table refers to; reads all manifests.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)


def doctor(
    as_json: AsJson = False, fix: Fix = False, kept: Kept = False, files: Files = False, staged_hours: Hours = 24
) -> None:
    """Check this machine, the installation and the servers, and say what to do. Exits with 0 unless a check failed.

    Then list what killed attempts left behind: branches, forks of rebuilds, staged objects, locks, and files if asked.
    --fix removes what is dead; what has an owner that lives is never touched, so it is safe beside running jobs.
    """
    from lakehouse.engine.leftovers import Leftovers
    from lakehouse.stack.doctor import run_checks

    if kept and not fix:
        raise SettingsError("--kept says what --fix removes", todo="add --fix")
    current = load_settings()
    found = (*run_checks(current), *_databases(current))
    left, removed, problem = _leftovers(Leftovers(current, datetime.now(UTC), staged_hours, files), fix, kept)
    scratch = _scratch(current, fix) if not problem else ""
    is_healthy = all(check.result != "fail" for check in found) and not problem
    if as_json:
        typer.echo(json.dumps({**_as_json(is_healthy, found, left, removed, problem), "drills": scratch}))
    else:
        _print_checks(found)
        _print_leftovers(left, removed, problem, fix)
        Console().print(scratch, end="\n" if scratch else "")
    if not is_healthy:
        raise typer.Exit(StackError.exit_code)


def _databases(current: Settings) -> Iterator[Check]:
    """Whether the databases can be brought back up to now, where they are backed up at all."""
    from lakehouse.backup.base_status import asking, look
    from lakehouse.backup.signing import public_key_of
    from lakehouse.backup.status import Limits
    from lakehouse.backup.vault import Vault
    from lakehouse.stack.checks import Check, check_databases

    asked = asking(current)
    if not current.backup_bucket or asked is None:
        return
    now = datetime.now(UTC)
    try:
        stands = look(Vault.open(current.as_backup_reader(), now), public_key_of(current), asked)
    except LakehouseError as error:
        yield Check("backups of databases", "warn", f"nobody could look: {error.what}", error.todo or "see `backups`")
        return
    overdue = stands.overdue(now, Limits.of(current).base, None)
    yield check_databases(stands.words(now), overdue, stands.base is not None)


def _leftovers(looking: Leftovers, fix: bool, kept: bool) -> tuple[Sequence[Leftover], Sequence[Removal], str]:
    """What was found, what became of it, and why nobody could look, if so."""
    try:
        left = looking.find()
        return left, looking.remove(left, kept=kept) if fix else [], ""
    except LakehouseError as error:
        return [], [], str(error)


def _scratch(current: Settings, fix: bool) -> str:
    """What became of what a drill left that died, in words; '' where there is nothing."""
    from lakehouse.ledger.retention_lock import drilling
    from lakehouse.recovery.drill import has_scratch, remove_scratch

    try:
        if not has_scratch(current):
            return ""
        with drilling(current):
            if not fix:
                return "a drill that died left files: `lakehouse doctor --fix` removes them"
            return f"{remove_scratch(current)} files that a drill left that died are removed"
    except TableBusy:
        return "a drill is being made, and has files below drills/"
    except LakehouseError as error:
        return f"nobody could look for what drills left: {error.what}"


def _as_json(
    is_healthy: bool, found: Sequence[Check], left: Sequence[Leftover], removed: Sequence[Removal], problem: str
) -> dict[str, Any]:
    return {
        "is_healthy": is_healthy,
        "checks": [dataclasses.asdict(check) for check in found],
        "leftovers": [dataclasses.asdict(each) for each in left],
        "removals": [dataclasses.asdict(each) for each in removed],
        "leftovers_problem": problem,
    }


def _print_checks(found: Sequence[Check]) -> None:
    table = Table("check", "", "found", "what to do")
    for check in found:
        colour = _COLOURS.get(check.result, "red")
        table.add_row(check.name, f"[{colour}]{check.result}[/]", escape(check.detail), escape(check.todo))
    Console().print(table)


def _print_leftovers(left: Sequence[Leftover], removed: Sequence[Removal], problem: str, fix: bool) -> None:
    console = Console()
    if problem:
        console.print(f"nobody could look for what was left behind: {escape(problem)}")
        return
    outcome = {each.leftover: each.left or "removed" for each in removed}
    if left:
        table = Table("left behind", "where", "", "", "removed" if fix else "")
        for each in left:
            state = f"[{_COLOURS[each.state]}]{each.state}[/]"
            name = f"{each.kind} {each.name}"
            table.add_row(escape(name), each.where, state, escape(each.why), escape(outcome.get(each, "")))
        console.print(table)
    dead = sum(each.state == "dead" for each in left)
    if not fix:
        console.print(f"{dead} things of dead attempts" + (": `lakehouse doctor --fix` removes them" if dead else ""))
