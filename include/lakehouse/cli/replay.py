"""``lakehouse replay``: rows are judged anew after a change of row rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from lakehouse.cli.plan import IfSeen, looked_at, owner_of
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings, settings

if TYPE_CHECKING:
    from lakehouse.contracts.model import Contract
    from lakehouse.engine.plan import TablePlan
    from lakehouse.engine.publish import Lake
    from lakehouse.engine.replay import Replay

_MOST = 20


def register(app: typer.Typer) -> None:
    """Add ``replay`` to the program."""
    app.command()(replay)


def replay(
    table: Annotated[str, typer.Argument(help="A silver table, as in silver.fact_sales_line.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what changes and publish nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Publish without asking.")] = False,
    if_seen: IfSeen = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Judge the rows of a silver table anew after a change of row rules; show what changes, and publish if confirmed.

    Rows that pass now enter the table and leave its quarantine; rows that fail now leave the table. Only what they
    concern is written. Other changes of the contract need `lakehouse rebuild`. Says so without a JVM where no rule
    changed. The result is what a rebuild would give, and `lakehouse rebuild TABLE --undo` takes it back.
    """
    current = settings()
    current.require_servers()
    name = TableName.parse(table)
    contract = owner_of(current, name)
    token = looked_at(current, contract, if_seen)
    plan = _plan(current, contract, name)
    if plan.verdict != "replay":
        _say_idle(plan, as_json)
        return
    from lakehouse.engine.publish import Lake
    from lakehouse.engine.replay import judge_anew
    from lakehouse.engine.session import session

    with Console(stderr=True).status("starting Spark") as status, session(current, "lakehouse replay") as spark:
        lake = Lake(spark, current)
        status.update(f"judging the rows of {name}")
        found = judge_anew(lake, contract, name.name)
        status.stop()
        _decide(lake, found, token, is_dry=dry_run, is_confirmed=yes, as_json=as_json)


def _plan(current: Settings, contract: Contract, name: TableName) -> TablePlan:
    from lakehouse.engine.plan import replay_plan
    from lakehouse.ledger.store import ObjectStore
    from lakehouse.ledger.watermark import open_catalog

    return replay_plan(open_catalog(current), ObjectStore.open(current), contract, name.name)


def _say_idle(plan: TablePlan, as_json: bool) -> None:
    if as_json:
        changes = [change.render() for change in plan.changes]
        print(json.dumps({"table": str(plan.table), "changes": changes, "verdicts": None, "published": None}))
    elif plan.changes:
        print(f"No row of {plan.table} is judged otherwise: `lakehouse run` takes the change over as it is.")
    else:
        print(f"The rules of {plan.table} are those that its rows were judged by.")


def _decide(lake: Lake, found: Replay, token: str, *, is_dry: bool, is_confirmed: bool, as_json: bool) -> None:
    from lakehouse.engine.replay import publish_replay
    from lakehouse.ledger.watermark import read_head

    if not as_json:
        _show(found)
    publishes = not is_dry and (is_confirmed or typer.confirm(f"Publish this as {found.table}?", err=True))
    report = publish_replay(lake, found) if publishes else None
    snapshot = read_head(lake.catalog, found.table).snapshot_id if report else None
    if as_json:
        told = report.to_json() if report else None
        print(json.dumps({**found.to_json(), "token": token, "report": told, "published": snapshot}, default=str))
    elif report:
        print(
            f"published as snapshot {snapshot}: {report.rows_added:,} rows written, {report.rows_removed:,} taken out; "
            f"`lakehouse rebuild {found.table} --undo` takes it back"
        )
    else:
        print(f"nothing was published; {found.table} is as it was")
    if not publishes and not is_dry:
        raise typer.Exit(1)


def _show(found: Replay) -> None:
    console, told = Console(width=max(Console().width, 120)), found.to_json()
    verdicts = told["verdicts"]
    for change in found.changes:
        console.print(f"  {escape(change.render())}", highlight=False)
    quarantined = verdicts["quarantined"]
    console.print(
        f"{found.table}: of {verdicts['rows']:,} rows {verdicts['coming']:,} come in and {verdicts['going']:,} go out; "
        f"in quarantine: {quarantined['before']:,} → {quarantined['after']:,}"
    )
    rules = {rule: (each["no_longer"], each["newly"]) for rule, each in verdicts["rules"].items()}
    batches = {f"{found.silver.contract.name}#{b}": (e["coming"], e["going"]) for b, e in verdicts["batches"].items()}
    _show_counts(console, ("rule", "rows that no longer break it", "rows that break it now"), rules)
    _show_counts(console, ("batch", "rows that come in", "rows that go out"), batches)
    if pending := told["pending_batches"]:
        console.print(f"{len(pending)} batches that were pending or held are taken too")
    for batch, reason in told["held"].items():
        console.print(f"{found.silver.contract.name}#{batch} stays held: {escape(reason)}", soft_wrap=True)


def _show_counts(console: Console, columns: tuple[str, str, str], rows: Mapping[str, tuple[int, int]]) -> None:
    if not rows:
        return
    grid = Grid(*columns)
    for name, (first, second) in list(rows.items())[:_MOST]:
        grid.add_row(escape(name), f"{first:,}", f"{second:,}")
    console.print(grid)
    if len(rows) > _MOST:
        console.print(f"  and {len(rows) - _MOST} more")
