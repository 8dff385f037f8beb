"""``lakehouse land``: from the sources into the landing bucket."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lakehouse.contracts.model import Contract
    from lakehouse.landing.land import Request
    from lakehouse.landing.results import LandResult, Status, UnitResult

_MOST_ROWS = 40


def register(app: typer.Typer) -> None:
    """Add ``land`` to the program."""
    app.command("land")(land)


def land(
    source: Annotated[
        str | None, typer.Argument(help="A contract's name, as in retail.sales. All sources when left out.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="First day, included. Default: all there is.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last day, included.")] = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="DIR|s3://…",
            help="Where file sources are. With a SOURCE it may directly hold that source's files.",
        ),
    ] = None,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and compare, but land nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Land what is new: files as they came, and the rows of change tables that became visible since the last time.

    What has landed is never landed twice. Exit code 4 when something was refused; the rest has landed then.
    """
    from lakehouse.contracts.load import load_contracts
    from lakehouse.landing.land import Request

    request = Request(_day(start, "--from"), _day(end, "--to"), root, is_dry_run)
    current = settings()
    current.require_servers()
    contracts = _choose(load_contracts(current.contracts), source)
    began = time.monotonic()
    result = _land_with_progress(contracts, request)
    seconds = time.monotonic() - began
    if as_json:
        typer.echo(json.dumps(_as_json(result, seconds), ensure_ascii=False, indent=1))
    else:
        _print(result, seconds)
    result.raise_if_refused()


def _choose(contracts: Mapping[str, Contract], source: str | None) -> list[Contract]:
    if source is None:
        return list(contracts.values())
    if source not in contracts:
        raise SettingsError(f"there is no source {source!r}", todo=f"name one of {', '.join(sorted(contracts))}")
    return [contracts[source]]


def _day(text: str | None, option: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise SettingsError(f"{option} {text!r} is not a date", todo="write it as 2024-03-31") from None


def _land_with_progress(contracts: list[Contract], request: Request) -> LandResult:
    """Land, with a bar for each source on the terminal's error stream."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from lakehouse.landing.land import land as run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        tasks = {contract.name: bars.add_task(contract.name, total=None) for contract in contracts}

        def advance(name: str, done: int, total: int) -> None:
            bars.update(tasks[name], completed=done, total=total)

        return run(settings(), contracts, request, progress=advance)


def _as_json(result: LandResult, seconds: float) -> dict[str, Any]:
    return {
        "units": [{**asdict(unit), "unit": unit.unit.isoformat()} for unit in result.units],
        "refused_files": [asdict(note) for note in result.refused_files],
        "ignored_files": [asdict(note) for note in result.ignored_files],
        "seconds": round(seconds, 3),
    }


def _print(result: LandResult, seconds: float) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    if result.units:
        console.print(_units(result) if len(result.units) <= _MOST_ROWS else _summary(result))
    for note in result.ignored_files:
        console.print(f"passed over {escape(str(note))}", style="dim", highlight=False, soft_wrap=True)
    statuses: tuple[Status, ...] = ("landed", "would_land", "unchanged", "refused")
    counts = ", ".join(
        f"{len(units)} {status.replace('_', ' ')}" for status in statuses if (units := result.of(status))
    )
    size = sum(unit.size_bytes for unit in result.of("landed"))
    console.print(f"units: {counts or 'none'}; {size / 1e6:.1f} MB landed in {seconds:.1f} s", highlight=False)


def _units(result: LandResult) -> Any:
    from rich.markup import escape

    table = _table("source", "unit", "result", "batch", "files", "records", "bytes", "note")
    for unit in result.units:
        table.add_row(
            unit.source,
            unit.unit.isoformat(),
            unit.status.replace("_", " "),
            "" if unit.batch is None else str(unit.batch),
            str(unit.files),
            "" if unit.records is None else f"{unit.records:,}",
            f"{unit.size_bytes:,}",
            escape(unit.reason),
        )
    return table


def _summary(result: LandResult) -> Any:
    """One row for each source and result, where there are too many units to show each."""
    table = _table("source", "result", "units", "first", "last", "batches", "files", "bytes")
    groups: dict[tuple[str, str], list[UnitResult]] = {}
    for unit in result.units:
        groups.setdefault((unit.source, unit.status.replace("_", " ")), []).append(unit)
    for (source, status), units in groups.items():
        batches = [unit.batch for unit in units if unit.batch is not None]
        table.add_row(
            source,
            status,
            str(len(units)),
            min(unit.unit for unit in units).isoformat(),
            max(unit.unit for unit in units).isoformat(),
            f"{min(batches)}–{max(batches)}" if batches else "",
            str(sum(unit.files for unit in units)),
            f"{sum(unit.size_bytes for unit in units):,}",
        )
    return table


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        is_number = column in ("batch", "files", "records", "bytes", "units")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=column != "note")
    return table
