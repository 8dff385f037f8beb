"""``lakehouse trim``: old batches leave bronze, and folds start from a baseline."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.console import Console

from lakehouse.cli.plan import IfSeen, looked_at
from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from lakehouse.engine.trim import Trim

_MOST = 20


def register(app: typer.Typer) -> None:
    """Add ``trim`` to the program."""
    app.command()(trim)


def trim(
    source: Annotated[str, typer.Argument(help="A contract, as in crm.catalogue.")],
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="DATE", help="First day to keep. Default: today less the contract's horizon."),
    ] = None,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and take nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Trim without asking.")] = False,
    if_seen: IfSeen = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Take old batches from bronze for good. The tables keep their history: folds start from a recorded baseline.

    From then on an observation from before that day is refused, and nothing that was observed before it can change.
    Landed files stay where they are.
    """
    from lakehouse.cli.run import pick

    current = settings()
    current.require_servers()
    [contract] = pick(current, [source])
    day, token = _day(before), looked_at(current, contract, if_seen)
    from lakehouse.engine.publish import Lake
    from lakehouse.engine.session import session
    from lakehouse.engine.trim import horizon, plan_trim, run_trim

    at = horizon(contract, day, SystemClock().now())
    console = Console(stderr=True)
    with session(current, "lakehouse trim") as spark:
        lake = Lake(spark, current)
        with console.status("looking for batches"):
            plan = plan_trim(lake, contract, at)
        if not as_json:
            _show(plan)
        takes = bool(plan.batches) and not is_dry_run
        if takes and not yes:
            text = f"Take {len(plan.batches)} batches from {contract.bronze_table} for good?"
            typer.confirm(text, abort=True, err=as_json)
        if takes:
            with console.status("recording baselines, and trimming"):
                run_trim(lake, plan)
    if as_json:
        typer.echo(json.dumps({**_plain(plan), "token": token, "is_trimmed": takes}))
    elif takes:
        typer.echo(f"{contract.bronze_table} lost {plan.rows:,} rows; folds start from {at:%Y-%m-%d %H:%M} UTC.")
    else:
        typer.echo("Nothing was taken.")


def _plain(plan: Trim) -> dict[str, Any]:
    zone = ZoneInfo(plan.contract.source.timezone)
    return {
        "source": plan.contract.name,
        "before": plan.before.astimezone(zone).date().isoformat(),
        "batches": sorted(plan.batches),
        "rows": plan.rows,
        "kept": {str(batch): reason for batch, reason in plan.kept.items()},
    }


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise SettingsError(f"--before {text!r} is not a date", todo="write it as 2024-03-31") from None


def _show(plan: Trim) -> None:
    name = plan.contract.name
    at = f"{plan.before:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"{name}: {len(plan.batches)} batches with {plan.rows:,} rows lie before {at}")
    for batch, reason in list(plan.kept.items())[:_MOST]:
        typer.echo(f"  {name}#{batch} stays: {reason}")
    if len(plan.kept) > _MOST:
        typer.echo(f"  and {len(plan.kept) - _MOST} more stay")
