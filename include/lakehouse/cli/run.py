"""``lakehouse run``: from the landing log to the marts."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Grid

from lakehouse.cli.decide import show_holds
from lakehouse.core.errors import BatchesHeld, LakehouseError, SettingsError
from lakehouse.core.settings import Settings, settings

if TYPE_CHECKING:
    from lakehouse.contracts.model import Contract
    from lakehouse.engine.report import TableReport
    from lakehouse.engine.run import RunResult
    from lakehouse.ledger.holds import Hold

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(run)


def run(
    sources: Annotated[list[str] | None, typer.Argument(help="Contracts, as in retail.sales; default: all.")] = None,
    max_batches: Annotated[
        int | None, typer.Option("--max-batches", min=1, help="Most batches of a source in one pass.")
    ] = None,
    no_gold: Annotated[bool, typer.Option("--no-gold", help="Leave the marts as they are.")] = False,
    gold_only: Annotated[bool, typer.Option("--gold-only", help="The marts alone, from what silver has.")] = False,
    as_json: Json = False,
) -> None:
    """Take everything pending: landed batches into bronze, silver and the marts, each published once.

    Found out without a JVM when nothing is pending. A dataset that cannot go on does not stop the others; its error
    is printed, and sets the exit code. Exit code 9 when all went on and a rule holds batches back.
    """
    started = time.perf_counter()
    current = settings()
    current.require_servers()
    everything = pick(current, None)
    contracts = _chosen(current, sources, everything, no_gold=no_gold, gold_only=gold_only)
    waiting = _outstanding(current, contracts, everything, with_gold=not no_gold)
    if not waiting:
        held = _held(current, contracts)
        _say_idle(as_json, time.perf_counter() - started, held)
        _exit([], held)
        return
    from lakehouse.engine.run import run_everything

    console = Console(stderr=True)
    with console.status("starting Spark") as status:
        result = run_everything(current, contracts, waiting, max_batches, status.update)
    held = _held(current, contracts)
    _show(result, as_json, time.perf_counter() - started, held)
    _exit(result.errors, held)


def _chosen(
    current: Settings, sources: list[str] | None, everything: list[Contract], *, no_gold: bool, gold_only: bool
) -> list[Contract]:
    """The contracts whose tables are to be looked at."""
    if gold_only and (sources or no_gold):
        raise SettingsError("--gold-only takes no source", todo="leave out the sources and --no-gold, or --gold-only")
    return [] if gold_only else pick(current, sources) if sources else everything


def pick(current: Settings, sources: list[str] | None) -> list[Contract]:
    """The contracts of these names, or all. Raises :class:`SettingsError` naming those that do not exist."""
    from lakehouse.contracts.load import load_contracts

    contracts = load_contracts(current.contracts)
    unknown = sorted(set(sources or []) - set(contracts))
    if unknown:
        raise SettingsError(
            f"no contract is called {', '.join(unknown)}", todo=f"use one of {', '.join(contracts) or '(none yet)'}"
        )
    return [contract for name, contract in contracts.items() if not sources or name in sources]


def _outstanding(
    current: Settings, contracts: list[Contract], everything: list[Contract], *, with_gold: bool
) -> list[str]:
    from lakehouse.ledger.outstanding import outstanding
    from lakehouse.ledger.store import ObjectStore
    from lakehouse.ledger.watermark import open_catalog

    found = outstanding(open_catalog(current), ObjectStore.open(current), contracts, everything, current.dbt)
    names = list(found)
    if not with_gold:
        return [name for name in names if name != "gold"]
    return names if not names or "gold" in names else [*names, "gold"]


def _held(current: Settings, contracts: list[Contract]) -> list[Hold]:
    """What rules hold back from the tables, this run's and what it found: it is said until somebody resolves it."""
    from lakehouse.ledger.holds import held_by_rules
    from lakehouse.ledger.store import ObjectStore
    from lakehouse.ledger.watermark import open_catalog

    return held_by_rules(open_catalog(current), ObjectStore.open(current), contracts)


def _exit(errors: list[LakehouseError], held: list[Hold]) -> None:
    """Leave with the code of the errors, or the one that says that something is held."""
    if errors:
        raise typer.Exit(max(error.exit_code for error in errors))
    if held:
        raise typer.Exit(BatchesHeld.exit_code)


def _say_idle(as_json: bool, seconds: float, held: list[Hold]) -> None:
    if as_json:
        plain = {"tables": [], "errors": [], "held": [hold.to_json() for hold in held], "seconds": round(seconds, 2)}
        print(json.dumps(plain))
        return
    show_holds(Console(), held)
    Console().print(f"Nothing is pending: every table has what landed and was decided ({seconds:.1f} s, no JVM).")


def _show(result: RunResult, as_json: bool, seconds: float, held: list[Hold]) -> None:
    if as_json:
        print(json.dumps(_plain(result, seconds, held), default=str))
        return
    console = Console(width=max(Console().width, 120))
    show_reports(console, result.reports, with_holds=False)
    show_holds(console, held)
    for note in result.notes:
        console.print(note, markup=False)
    for error in result.errors:
        Console(stderr=True).print(str(error), markup=False)
    console.print(f"{len(result.reports)} publications in {seconds:.1f} s")


def show_reports(console: Console, reports: list[TableReport], *, with_holds: bool = True) -> None:
    """A row for each table, then what a person should know; without holds where the caller says more about them."""
    if not reports:
        console.print("Nothing was published.")
        return
    console.print(_grid(reports))
    for report in reports:
        for line in _remarks(report):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for batch, reason in report.held.items() if with_holds else ():
            console.print(f"  {report.table}: batch {batch} is held: {reason}", markup=False)


def _plain(result: RunResult, seconds: float, held: list[Hold]) -> dict[str, Any]:
    errors = [{"error": type(e).__name__, "message": str(e)} for e in result.errors]
    tables = [report.to_json() for report in result.reports]
    holds = [hold.to_json() for hold in held]
    return {"tables": tables, "errors": errors, "held": holds, "notes": result.notes, "seconds": round(seconds, 2)}


_COUNTS = {
    "batches": "batches",
    "received": "rows in",
    "good": "good",
    "quarantined": "quarantined",
    "rejected": "rejected",
    "without_key": "no key",
    "rows_added": "added",
    "rows_removed": "removed",
    "opened": "opened",
    "closed": "closed",
    "files": "files",
}


def _grid(reports: list[TableReport]) -> Grid:
    """Only the counts that are not zero everywhere, so that it fits."""
    used = [field for field in _COUNTS if any(getattr(report, field) for report in reports)]
    grid = Grid()
    grid.add_column("table", no_wrap=True)
    for title in (*[_COUNTS[field] for field in used], "MB", "s"):
        grid.add_column(title, justify="right")
    for r in reports:
        cells = [f"{n:,}" if (n := getattr(r, field)) else "·" for field in used]
        grid.add_row(str(r.table), *cells, f"{r.bytes / 1e6:.1f}", f"{r.seconds:.1f}")
    return grid


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def _refused(report: TableReport) -> list[str]:
    """Which rows failed which rule, where they are kept, and what to do."""
    if not report.quarantined:
        return []
    kept = f"quarantine.{report.table.name}"
    lines = [f"  {report.table} refused {_rows(report.quarantined)}; {kept} keeps them as they came:"]
    lines += [f"    {r.rule}: {_rows(r.rows)}, the first in {r.place}. {r.words}" for r in report.refusals]
    show = f"SELECT _source_file, _line, _rules, * FROM {kept}"  # noqa: S608 - a checked name, and for a person
    return [
        *lines,
        f'    see them:  lakehouse sql -e "{show}"',
        "    then:      correct the files at the source, `lakehouse land` and `lakehouse run`; or, where a rule is",
        f"               wrong, change it in the contract and `lakehouse replay {report.table}`",
    ]


def _remarks(report: TableReport) -> list[str]:
    lines = [f"  {report.table}: {n:,} rows warn: {rule}" for rule, n in sorted(report.warned.items()) if n]
    lines += _refused(report)
    if report.rejected and report.table.namespace == "silver":
        lines.append(
            f"  {report.table}: {report.rejected:,} records could not be read; bronze keeps each as it came in _raw, "
            "with the reason in _rejected"
        )
    if report.drifted:
        lines.append(
            f"  {report.table}: {report.drifted:,} rows did not have the columns of the contract; bronze keeps what is "
            "new in _extra, and names what is missing in _missing"
        )
    if report.ties:
        lines.append(
            f"  {report.table}: {report.ties:,} moments had different observations; the contract's order decided"
        )
    if report.late_keys:
        rows = f"{report.late_rows:,} rows of bronze"
        lines.append(f"  {report.table}: {report.late_keys:,} late keys were folded again from {rows}")
    if report.beyond_horizon:
        lines.append(
            f"  {report.table}: {report.beyond_horizon:,} rows took effect before {report.horizon}, the horizon of its "
            "baseline, and are in quarantine (effective_time_beyond_horizon): bronze no longer has what was observed "
            "then. To have them count, their source must send them with an effective time after the horizon"
        )
    return lines
