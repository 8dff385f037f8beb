"""``lakehouse restore-databases``: the catalog's and Airflow's databases, at a moment. No JVM."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from lakehouse.core.clock import SystemClock, moment
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from lakehouse.recovery.databases import Done, Plan

_MOST = 10


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("restore-databases")(restore_databases)


def restore_databases(
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="WHEN", help="The moment, as 2024-03-31T14:05:00, UTC. Default: the last known."),
    ] = None,
    base: Annotated[str, typer.Option("--base", metavar="ID", help="A base backup; default: the one that fits.")] = "",
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    removes_kept: Annotated[
        bool, typer.Option("--remove-kept", help="Only remove the databases that earlier restores took out of use.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Bring the databases of the local PostgreSQL, the catalog's and Airflow's, back to a moment.

    They are recovered beside those in use, looked at, and then swapped: what works with them, PostgreSQL, Airflow and
    Spark, is stopped for that. The former ones are kept. Needs the bucket of backups and the secrets, and nothing else.
    """
    if removes_kept:
        _remove_kept(yes, is_dry_run, as_json)
        return
    from lakehouse.recovery.databases import carry_out, plan_databases

    current, clock, console = settings(), SystemClock(), Console(stderr=True)
    with console.status("looking at the backups"):
        plan = plan_databases(current, clock, moment(at) if at else None, base)
    if is_dry_run and as_json:
        typer.echo(json.dumps(plan.to_json()))
        return
    if not as_json:
        _say_plan(plan, clock.now())
    if is_dry_run:
        typer.echo("Nothing was done.")
        return
    if not yes:
        typer.confirm("Stop what works with the databases, and put these in their place?", abort=True, err=as_json)
    with console.status("starting") as status:
        done = carry_out(current, plan, clock, status.update)
    typer.echo(json.dumps(done.to_json())) if as_json else _say_done(done)


def _say_plan(plan: Plan, now: datetime) -> None:
    size = plan.base.stored_bytes + sum(file.size_bytes for file in plan.files)
    typer.echo(
        f"From base backup {plan.base.id} of server {plan.base.server}, and {len(plan.files)} segments of its log on "
        f"timeline {plan.timeline}: {decimal(size)}."
    )
    typer.echo(
        f"To {plan.at.isoformat()}."
        if plan.at
        else f"To the end of the log, which was archived until {plan.until.isoformat(timespec='seconds')}: "
        f"{(now - plan.until).total_seconds() / 60:.0f} minutes ago."
    )
    if plan.gap:
        typer.echo(
            f"The archive lacks {', '.join(plan.gap.names)}: nothing after {plan.gap.after.isoformat()} is there."
        )
    typer.echo("The databases in use are kept beside." if plan.has_data else "There are no databases here yet.")


def _say_done(done: Done) -> None:
    look = done.look
    runs = f", Airflow's with {look.airflow_runs:,} runs" if look.airflow_runs is not None else ""
    typer.echo(f"{', '.join(look.databases)} are back: the catalog with {len(look.pointers):,} tables{runs}.")
    typer.echo(f"Their last commit is of {look.last_commit or 'before the base backup'}.")
    if not done.reached_moment:
        typer.echo("The log ends before the moment that was named: nothing is known to have happened between.")
    if changed := done.differences:
        for words, names in (("back", changed.back), ("gone", changed.gone), ("at another state", changed.moved)):
            if names:
                more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
                typer.echo(f"  {words}: {', '.join(names[:_MOST])}{more}")
    if done.kept:
        typer.echo(
            f"The former ones are kept in {done.kept}; `lakehouse restore-databases --remove-kept` removes them."
        )
    typer.echo(
        "`lakehouse up` starts PostgreSQL, with --airflow and --spark what else there was; `lakehouse run` goes on."
    )


def _remove_kept(yes: bool, is_dry_run: bool, as_json: bool) -> None:
    from lakehouse.recovery.databases import kept_folders, remove_kept

    home = settings().home
    folders = tuple(map(str, kept_folders(home)))
    takes = bool(folders) and not is_dry_run
    if not as_json:
        typer.echo("\n".join(folders) or "No former databases are kept.")
    if takes and not yes:
        typer.confirm("Remove these folders for good?", abort=True, err=as_json)
    removed = remove_kept(home) if takes else ()
    if as_json:
        typer.echo(json.dumps({"kept": folders, "removed": removed}))
    elif folders:
        typer.echo("They are removed." if removed else "Nothing was done.")
