"""``lakehouse plan`` and ``rebuild``: a changed contract, before and when it takes effect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from lakehouse.core.errors import ContractError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings, settings

if TYPE_CHECKING:
    from lakehouse.contracts.model import Contract
    from lakehouse.engine.compare_tables import Difference
    from lakehouse.engine.plan import TablePlan
    from lakehouse.engine.publish import Lake
    from lakehouse.engine.rebuild import Prepared

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
IfSeen = Annotated[
    str | None,
    typer.Option("--if-seen", metavar="TOKEN", help="Only if nothing changed since the dry run that said this token."),
]
NEEDS_REBUILD = 10
_COLOURS = {"free": "green", "replay": "cyan", "rebuild": "yellow", "refused": "red"}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (plan, rebuild):
        app.command()(command)


def plan(
    sources: Annotated[list[str] | None, typer.Argument(help="Contracts, as in retail.sales; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the contracts with the live tables: what would change, and whether it is free. No JVM; writes nothing.

    Ends with 0 where nothing changes or all is free (the next run does it), with 10 where a table needs
    `lakehouse replay` or `lakehouse rebuild`, and with 3 where a column cannot hold its new type, so that a rebuild has
    to replace it, or where the table's source was trimmed, so that the change has to be taken back.
    """
    from lakehouse.cli.run import pick
    from lakehouse.engine.plan import plan as make
    from lakehouse.engine.plan import plan_json
    from lakehouse.ledger.store import ObjectStore
    from lakehouse.ledger.watermark import open_catalog

    current = settings()
    found = make(open_catalog(current), ObjectStore.open(current), pick(current, sources))
    told = plan_json(found)
    if as_json:
        print(json.dumps(told))
    else:
        _show_plan(found)
    code = {"free": 0, "replay": NEEDS_REBUILD, "rebuild": NEEDS_REBUILD, "refused": ContractError.exit_code}[
        told["verdict"]
    ]
    if code:
        raise typer.Exit(code)


def _show_plan(plans: Sequence[TablePlan]) -> None:
    console = Console(width=max(Console().width, 120))
    if not plans:
        console.print("Every table is as its contract says.")
    for one in plans:
        if one.is_new:
            console.print(f"{one.table}: the next run that has something for it creates it")
            continue
        console.print(f"{one.table}: [{_COLOURS[one.verdict]}]{one.verdict}[/]")
        for change in one.changes:
            console.print(f"  [{_COLOURS[change.verdict]}]{change.verdict:8}[/] {escape(change.render())}")
    stuck = [one for one in plans if one.verdict != "free"]
    if stuck:
        console.print("`lakehouse run` refuses until: " + ", ".join(map(_way_out, stuck)))


def _way_out(stuck: TablePlan) -> str:
    """What ends a refusal. A table whose source was trimmed cannot be made anew."""
    return f"the change of {stuck.table} is taken back" if stuck.is_trimmed else f"`{stuck.command}`"


def rebuild(
    table: Annotated[str, typer.Argument(help="A silver table, as in silver.dim_customer.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference and publish nothing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last rebuild of the table back.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Publish, or take back, without asking.")] = False,
    if_seen: IfSeen = None,
    as_json: Json = False,
) -> None:
    """Make a silver table anew from bronze, as its contract says now; show what differs, and publish on confirmation.

    The table stays readable, and its history too. Nothing is locked while you look; where the table changes meanwhile,
    nothing is published. Classified values are masked.
    """
    current = settings()
    current.require_servers()
    name = TableName.parse(table)
    contract = owner_of(current, name)
    token = looked_at(current, contract, if_seen)
    from lakehouse.engine.publish import Lake
    from lakehouse.engine.session import session

    if undo and not yes:
        typer.confirm(f"Make {name} what it was before its last rebuild?", abort=True, err=True)
    with Console(stderr=True).status("starting Spark") as status, session(current, "lakehouse rebuild") as spark:
        lake = Lake(spark, current)
        if undo:
            _undo(lake, contract, name, as_json)
            return
        from lakehouse.engine.rebuild import prepare_rebuild

        status.update(f"computing {name} from bronze")
        prepared = prepare_rebuild(lake, contract, name.name)
        status.stop()
        _decide(lake, prepared, token, is_dry=dry_run, is_confirmed=yes, as_json=as_json)


def _decide(lake: Lake, prepared: Prepared, token: str, *, is_dry: bool, is_confirmed: bool, as_json: bool) -> None:
    from lakehouse.engine.rebuild import drop_rebuild, publish_rebuild

    told = {**prepared.to_json(), "token": token}
    if not as_json:
        _show_difference(prepared)
    try:
        publishes = not is_dry and (is_confirmed or typer.confirm(f"Publish this as {prepared.table}?", err=True))
        snapshot = publish_rebuild(lake, prepared) if publishes else None
    finally:
        drop_rebuild(lake, prepared)
    if as_json:
        print(json.dumps({**told, "published": snapshot}, default=str))
    elif snapshot:
        print(f"published as snapshot {snapshot}; `lakehouse rebuild {prepared.table} --undo` takes it back")
    else:
        print(f"nothing was published; {prepared.table} is as it was")
    if not publishes and not is_dry:
        raise typer.Exit(1)


def _undo(lake: Lake, contract: Contract, name: TableName, as_json: bool) -> None:
    from lakehouse.engine.rebuild import undo_rebuild

    done = undo_rebuild(lake, contract, name.name)
    if as_json:
        print(json.dumps({**vars(done), "table": str(done.table)}))
        return
    print(
        f"{name} is what it was before its rebuild (snapshot {done.was} → {done.snapshot_id}, "
        f"{contract.name} consumed through #{done.consumed_through})"
    )
    print("Take the contract back too: runs go on then. With the contract as it is they refuse; see `lakehouse plan`.")


def _show_difference(prepared: Prepared) -> None:
    console = Console(width=max(Console().width, 120))
    difference = prepared.difference
    console.print(
        f"{prepared.table}, made anew: {difference.added:,} rows added, {difference.removed:,} removed, "
        f"{difference.changed:,} changed, {difference.same:,} as they were"
    )
    for word, columns in (("added", difference.columns_added), ("removed", difference.columns_removed)):
        if columns:
            console.print(f"  columns {word}: {', '.join(columns)}")
    if prepared.quarantined_before != prepared.report.quarantined:
        console.print(f"  rows in quarantine: {prepared.quarantined_before:,} → {prepared.report.quarantined:,}")
    if difference.samples:
        console.print(_samples_grid(difference))


def _samples_grid(difference: Difference) -> Grid:
    grid = Grid("row", "change", "column", "now", "rebuilt", title="Some of them")
    for sample in difference.samples:
        row = ", ".join(f"{column}={_shown(value)}" for column, value in sample.row.items())
        for column, (old, new) in sample.values.items():
            grid.add_row(escape(row), sample.change, escape(column), _shown(old), _shown(new))
            row = ""
        grid.add_section()
    return grid


def _shown(value: str | None) -> str:
    return "null" if value is None else escape(value)


def looked_at(current: Settings, contract: Contract, token: str | None) -> str:
    """Today's token of what a person looks at. Raises :class:`SettingsError` where one is given, and it is another."""
    from lakehouse.ledger.seen import require_seen, seen_token
    from lakehouse.ledger.store import ObjectStore
    from lakehouse.ledger.watermark import open_catalog

    catalog, store = open_catalog(current), ObjectStore.open(current)
    require_seen(catalog, store, contract, token)
    return token or seen_token(catalog, store, contract)


def owner_of(current: Settings, table: TableName) -> Contract:
    """The contract that makes a silver table. Raises :class:`SettingsError` where none does."""
    from lakehouse.cli.run import pick

    for contract in pick(current, None):
        if table.namespace == "silver" and table.name in contract.tables:
            return contract
    raise SettingsError(f"no contract makes {table}", todo="name a silver table; `lakehouse tables` lists them")
