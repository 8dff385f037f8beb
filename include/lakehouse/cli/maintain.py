"""``lakehouse maintain``: files of tables put in order, old snapshots and orphans away, where it pays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from lakehouse.core.clock import SystemClock
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from lakehouse.engine.maintain import Report, Upkept
    from lakehouse.engine.upkeep import Needs

_MIB = 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add ``maintain`` to the program."""
    app.command()(maintain)


def maintain(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables, as in silver.dim_customer; default: all.", metavar="TABLE")
    ] = None,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    max_delete: Annotated[
        int, typer.Option("--max-delete", min=0, metavar="N", help="Most files that this run may delete.")
    ] = 10_000,
    orphans: Annotated[bool, typer.Option("--orphans/--no-orphans", help="Whether to look for orphans.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Put tables in order, each step only where it pays: compaction, manifests, old snapshots, orphans, statistics.

    What is needed is found without a JVM. No row changes, writers go on, and one that is faster wins. What somebody may
    still ask for stays: what tables said lately, tags, what marts have not read, what a running backup copies.
    """
    from lakehouse.engine.upkeep import Budget, House
    from lakehouse.ledger.watermark import open_catalog

    current = settings()
    current.require_servers()
    house = House(current, open_catalog(current), SystemClock().now(), looks_for_orphans=orphans)
    with Console(stderr=True).status("looking at the tables") as status:
        from lakehouse.engine.maintain import look
        from lakehouse.engine.maintain import maintain as carry_out

        names = house.tables(tables or ())
        found = look(house, names, status.update)
        done = None if is_dry_run else carry_out(house, found, Budget(max_delete), status.update)
    if as_json:
        typer.echo(json.dumps(_plain(len(names), found, done), default=str))
    elif done is None:
        _show_needs(len(names), found)
    else:
        _show_done(len(names), done)
    if done and done.errors:
        for error in done.errors:
            typer.echo(str(error), err=True)
        raise typer.Exit(max(error.exit_code for error in done.errors))


def _plain(tables: int, found: Sequence[Needs], done: Upkept | None) -> dict[str, object]:
    return {
        "tables": tables,
        "needs": [needs.to_json() for needs in found],
        "done": None if done is None else [report.to_json() for report in done.reports],
        "errors": [] if done is None else [{"error": type(e).__name__, "message": str(e)} for e in done.errors],
    }


def _show_needs(tables: int, found: Sequence[Needs]) -> None:
    grid = Grid("table", "scan cost", "would be done")
    for needs in found:
        grid.add_row(str(needs.table), f"{needs.cost:.2f}", escape("\n".join(_would(needs))))
    console = Console(width=max(Console().width, 120))
    console.print(grid if found else f"Nothing is to be done for {tables} tables.")
    if found:
        console.print(f"{len(found)} of {tables} tables need something. Nothing was changed.")


def _would(needs: Needs) -> Iterator[str]:
    if needs.skipped:
        yield f"nothing: {needs.skipped}"
    if plan := needs.compaction:
        yield f"compact {plan.files:,} files, {plan.bytes / _MIB:,.1f} MiB; scan cost {plan.becomes:.2f} then"
    if needs.manifests:
        yield f"write {needs.manifests:,} manifests anew"
    if needs.expiry:
        size = sum(file.size_bytes for file in needs.expired) / _MIB
        tags = f" and {len(needs.expiry.tags)} tags" if needs.expiry.tags else ""
        going, files = len(needs.expiry.going), len(needs.expired)
        yield f"expire {going:,} snapshots{tags}; delete {files:,} files, {size:,.1f} MiB"
    if needs.orphans:
        yield f"delete {len(needs.orphans.files):,} orphans, {needs.orphans.size_bytes / _MIB:,.1f} MiB"
    if needs.has_fork:
        yield "drop the fork of a run that died, unless it is worked on"
    if needs.statistics:
        yield f"count distinct values of {', '.join(needs.statistics)}"


def _show_done(tables: int, done: Upkept) -> None:
    grid = Grid("table", "scan cost", "done", "left")
    for report in done.reports:
        cost = f"{report.cost_before:.2f} → {report.cost_after:.2f}"
        grid.add_row(str(report.table), cost, escape("\n".join(_did(report))), escape("\n".join(report.postponed)))
    Console(width=max(Console().width, 120)).print(
        grid if done.reports else f"Nothing was to be done for {tables} tables."
    )


def _did(report: Report) -> Iterator[str]:
    rewritten, expired, orphans = report.rewritten, report.expired, report.orphans
    if rewritten.steps:
        yield f"{rewritten.files_before:,} files became {rewritten.files_after:,} in {rewritten.steps} commits"
    if expired.snapshots or expired.files:
        size = expired.bytes / _MIB
        yield f"{expired.snapshots:,} snapshots expired; {expired.files:,} files deleted, {size:,.1f} MiB"
    if orphans.files:
        yield f"{orphans.files:,} orphans deleted, {orphans.bytes / _MIB:,.1f} MiB"
    if report.is_counted:
        yield "statistics counted"
