"""``lakehouse dropped`` and ``undrop``: tables that somebody dropped, found and brought back. No JVM."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lakehouse.cli.show import rows_grid
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from lakehouse.engine.dropped import Checked, Dropped, Warehouse
    from lakehouse.recovery.lost_catalog import CatalogPlan, Rebuilt

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(dropped)
    app.command()(undrop)


def dropped(as_json: Json = False) -> None:
    """List the tables that were dropped and whose files are still there, the last changed first. No JVM.

    What was dropped with PURGE has no files, and is not listed.
    """
    with Console(stderr=True).status("looking through the warehouse"):
        found = _warehouse().dropped()
    if as_json:
        typer.echo(json.dumps([each.to_json() for each in found]))
        return
    if not found:
        typer.echo("Nothing that was dropped is left in the warehouse.")
        return
    columns = ["table", "last changed", "rows", "", "metadata file"]
    rows = [
        (str(d.table), f"{d.updated_at:%Y-%m-%d %H:%M:%S}", f"{d.rows:,}", _note(d), d.metadata_location) for d in found
    ]
    Console(width=max(Console().width, 160)).print(rows_grid(columns, rows))


def _note(one: Dropped) -> str:
    notes = {"its metadata is damaged": one.damaged, "another has its name": one.is_replaced}
    return "; ".join(words for words, is_so in notes.items() if is_so)


def undrop(
    table: Annotated[str, typer.Argument(help="A table that was dropped, as in silver.dim_customer.")] = "",
    metadata: Annotated[
        str | None,
        typer.Option("--metadata", metavar="FILE", help="Its metadata file, s3://…; default: the last one found."),
    ] = None,
    takes_all: Annotated[
        bool, typer.Option("--all", help="Every table that the catalog does not know: where the catalog is lost.")
    ] = False,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Look for its files, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a dropped table back as it was last: rows, snapshots, tags, and what it has consumed. No JVM.

    Looks for every file that the table needs before. The next run takes what landed since. With --all the newest backup
    set, if there is one, says which tables were dropped before it, and stay so; views and namespaces come out of it.

    A table whose own metadata file is lost, with no good copy, goes back to the former one that `lakehouse fsck` names:
    give that with --metadata.
    """
    if takes_all == bool(table) or (takes_all and metadata):
        raise SettingsError("name a table, or give --all alone", untouched="everything")
    if takes_all:
        _undrop_all(is_dry_run, as_json)
        return
    warehouse = _warehouse()
    with Console(stderr=True).status(f"looking for the files of {table}"):
        checked = warehouse.check(warehouse.choose(TableName.parse(table), metadata))
    if not is_dry_run or checked.lost:  # what has lost files is refused in a dry run, too
        warehouse.bring_back(checked)
    if as_json:
        told = {"files": checked.files, "lost_of_older_snapshots": list(checked.older), "is_back": not is_dry_run}
        typer.echo(json.dumps({**checked.dropped.to_json(), **told}))
    else:
        _tell(checked, is_dry_run)


def _undrop_all(is_dry_run: bool, as_json: bool) -> None:
    from lakehouse.core.clock import SystemClock
    from lakehouse.recovery.lost_catalog import CatalogRebuild, Rebuilt

    current = settings()
    current.require_servers()
    with Console(stderr=True).status("looking through the warehouse") as status:
        rebuild = CatalogRebuild.open(current, SystemClock())
        plan = rebuild.plan()
        done = Rebuilt((), (), {}) if is_dry_run else rebuild.carry_out(plan, status.update)
    if as_json:
        told = {"back": [str(each.dropped.table) for each in done.tables], "failed": done.failed}
        typer.echo(json.dumps({**plan.to_json(), **told, "views_back": done.views}))
    else:
        _tell_all(plan, done, is_dry_run)
    if done.failed or plan.lost:
        names = ", ".join([*done.failed, *plan.lost][:5])
        raise IntegrityError(
            f"{len(done.failed) + len(plan.lost)} tables did not come back: their files are gone",
            where=names,
            untouched="all other tables are back",
            todo="bring these back from a backup set; silver and gold tables are made anew by `lakehouse run`",
        )


def _tell_all(plan: CatalogPlan, done: Rebuilt, is_dry_run: bool) -> None:
    for each in plan.tables:
        reason = done.failed.get(str(each.table))
        typer.echo(f"{each.table}  {reason or f'{each.rows:,} rows as of {each.updated_at:%Y-%m-%d %H:%M:%S} UTC'}")
    for each in plan.left:
        typer.echo(f"{each.table}  was dropped before the set {plan.known.set_id if plan.known else ''}: it stays so")
    if is_dry_run:
        typer.echo(f"{len(plan.tables)} tables and {len(plan.views)} views would be back. Nothing was done.")
        return
    typer.echo(f"{len(done.tables)} tables and {len(done.views)} views are back. `lakehouse run` goes on from here.")


def _warehouse() -> Warehouse:
    from lakehouse.engine.dropped import Warehouse
    from lakehouse.ledger.watermark import open_catalog

    current = settings()
    current.require_servers()
    return Warehouse.open(current, open_catalog(current))


def _tell(checked: Checked, is_dry_run: bool) -> None:
    one = checked.dropped
    typer.echo(
        f"{one.table} {'would be' if is_dry_run else 'is'} back: {one.rows:,} rows in snapshot {one.snapshot_id}, "
        f"as of {one.updated_at:%Y-%m-%d %H:%M:%S} UTC; all of its {checked.files} files are there"
    )
    if checked.older:
        typer.echo(f"  {len(checked.older)} files of former snapshots are gone: these can no longer be read")
        for file in checked.older[:5]:
            typer.echo(f"    {file}")
    typer.echo("`lakehouse run` goes on from here." if not is_dry_run else "Nothing was done.")
