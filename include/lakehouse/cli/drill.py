"""``lakehouse backup status`` and ``lakehouse backup drill``: how backups stand, and the proof that they come back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table as Grid

from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from lakehouse.backup.drills import Drill
    from lakehouse.backup.status import Status
    from lakehouse.recovery.drill import DrillPlan

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
_LONGEST_NAME = 200


def status(as_json: Json = False) -> None:
    """Say how backups stand: the last set, verification and drill, and what would be lost now. Ends with 7 if overdue.

    Overdue is what misses a goal: LAKEHOUSE_BACKUP_RPO_MINUTES, LAKEHOUSE_BACKUP_RTO_MINUTES,
    LAKEHOUSE_BACKUP_DRILL_DAYS, and a look at every set within two days. Of the databases of the local PostgreSQL: a
    base backup within two days, and a log that is archived within ten minutes.
    """
    from lakehouse.backup.base_status import asking
    from lakehouse.backup.signing import public_key_of
    from lakehouse.backup.status import Limits, read_status
    from lakehouse.backup.vault import Vault

    current, now = settings(), SystemClock().now()
    vault = Vault.open(current.as_backup_reader(), now)
    found = read_status(vault, public_key_of(current), Limits.of(current), now, asked=asking(current))
    if as_json:
        typer.echo(found.to_json())
    else:
        _say_status(found)
    if found.overdue:
        raise IntegrityError(
            f"{len(found.overdue)} things about backups want a look",
            where="; ".join(found.overdue),
            todo="see docs/drills.md",
        )


def drill(
    tables: Annotated[
        list[str] | None,
        typer.Argument(help="Tables, as in silver.dim_customer; default: all.", metavar="TABLE"),
    ] = None,
    set_id: Annotated[str, typer.Option("--set", metavar="ID", help="The set to restore; default: the newest.")] = "",
    approved_by: Annotated[
        str, typer.Option("--approved-by", metavar="NAME", help="Who approved the drill, for its report.")
    ] = "",
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be restored, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Restore a set from the backup alone into a scratch catalog, compare it, measure it, and write a signed report.

    Nothing of the lake is touched. Every table's rows and old snapshots are compared. Ends with 7 where the set does
    not give back what it should.
    """
    from lakehouse.core.actor import user_name
    from lakehouse.recovery.drill import plan_drill, run_drill

    if len(approved_by) > _LONGEST_NAME or not approved_by.isprintable():
        raise SettingsError("--approved-by is no name", todo="say it in one line")
    current, clock, console = settings(), SystemClock(), Console(stderr=True)
    current.require_backups()
    plan = plan_drill(current, clock, tables or [], set_id)
    if is_dry_run:
        typer.echo(json.dumps(asdict(plan), ensure_ascii=False) if as_json else _plan_words(plan))
        return
    with console.status("restoring") as shown:
        made = run_drill(
            current,
            clock,
            plan,
            actor=user_name(current),
            approved_by=approved_by,
            told=lambda phase, files, size: shown.update(f"{phase}: {files:,} files, {decimal(size)}"),
        )
    if as_json:
        typer.echo(json.dumps(_plain(made), ensure_ascii=False, indent=1))
    else:
        _say_drill(made)
    if not made.is_good:
        raise IntegrityError(
            f"the drill of {made.set_id} failed: {len(made.problems)} problems",
            where="; ".join(made.problems[:20]),
            untouched="the lake",
            todo=f"see the report drills/{made.id}.html; run `lakehouse backup verify --all` and make a new set",
        )


def _plain(made: Drill) -> dict[str, object]:
    """A drill for scripts: the record, with what follows from it."""
    return {
        **asdict(made),
        "is_good": made.is_good,
        "is_whole": made.is_whole,
        "problems": list(made.problems),
        "missed_goals": list(made.missed_goals),
        "report": f"drills/{made.id}.html",
    }


def _plan_words(plan: DrillPlan) -> str:
    whole = "" if len(plan.tables) == plan.tables_of_set else f" of {plan.tables_of_set}"
    return (
        f"{plan.set_id}, cut at {plan.cut_at[:19]}: {len(plan.tables)}{whole} tables, {plan.files:,} files, "
        f"{decimal(plan.size_bytes)} would be restored into a scratch catalog."
    )


def _say_drill(made: Drill) -> None:
    from lakehouse.backup.drill_report import result_words

    grid = Grid()
    for column in ("table", "rows", "files", "size", "snapshots", "compared by", "s", "result"):
        grid.add_column(column, overflow="fold")
    for each in made.tables:
        rows = "unknown" if each.rows is None else f"{each.rows:,}"
        counts = (rows, f"{each.files:,}", decimal(each.size_bytes), str(each.snapshots), each.compared)
        grid.add_row(escape(each.table), *counts, f"{each.seconds:.1f}", escape("; ".join(each.problems)) or "the same")
    Console().print(grid)
    typer.echo(result_words(made))
    typer.echo(f"Report: drills/{made.id}.html in the bucket of backups.")


def _say_status(found: Status) -> None:
    from lakehouse.backup.drills import duration

    if found.last and found.exposure:
        typer.echo(
            f"last set: {found.last.id}, {found.last.tables} tables, {found.last.files:,} files, "
            f"{decimal(found.last.size_bytes)}"
        )
        typer.echo(
            f"would be lost now (RPO): {duration(found.exposure.now.total_seconds())}; at worst since "
            f"{found.exposure.since:%Y-%m-%d %H:%M}: {duration(found.exposure.worst.total_seconds())}"
        )
    if found.verification:
        word = "good" if found.verification.is_good else f"{len(found.verification.damages)} damaged files"
        typer.echo(f"last verification: {found.verification.at[:19]}, {found.verification.set_id}: {word}")
    if found.drill:
        word = "passed" if found.drill.is_good else "failed"
        typer.echo(
            f"last drill: {found.drill.started_at[:19]}, {word}; restore of everything (RTO): "
            f"{duration(found.drill.rto_all_seconds)}"
        )
    if found.databases:
        typer.echo(f"databases: {found.databases.words(found.at)}")
    for words in found.overdue:
        typer.echo(f"! {words}")
