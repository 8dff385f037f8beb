"""``lakehouse quality``: what the rules said, Data Docs, and the suites themselves. No JVM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from lakehouse.cli.run import pick
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from lakehouse.quality.history import Finding

Tables = Annotated[list[str] | None, typer.Argument(help="Tables, as in silver.fact_sales_line; default: all.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_STYLES = {"passed": "green", "warned": "yellow", "quarantined": "yellow", "held": "red", "blocked": "red"}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="What the rules of the contracts said, as a list and as a site.", no_args_is_help=True)
    for command in (results, docs, suites):
        group.command()(command)
    app.add_typer(group, name="quality")


def results(
    tables: Tables = None,
    history: Annotated[bool, typer.Option("--history", help="Every attempt, not the last one of each rule.")] = False,
    as_json: Json = False,
) -> None:
    """What each rule said last: rows checked, rows that fail, and what came of them."""
    from lakehouse.quality.history import newest

    found = _findings(tables)
    shown = found if history else newest(found)
    if as_json:
        print(json.dumps([each.to_json() for each in shown], default=str))
        return
    if not shown:
        Console().print("No results yet: `lakehouse run` records them in ops.quality_results.")
        return
    Console(width=max(Console().width, 120)).print(_grid(shown))


def _grid(shown: list[Finding]) -> Grid:
    grid = Grid()
    for title in ("table", "rule", "dimension", "level", "checked", "failed", "passes", "outcome", "last unit"):
        grid.add_column(title, justify="right" if title in ("checked", "failed", "passes") else "left")
    for each in shown:
        style = _STYLES[each.outcome]
        grid.add_row(
            each.table, each.expected.rule, each.expected.dimension, each.expected.level, f"{each.checked:,}",
            f"{each.failed:,}", f"{each.share:.2%}", f"[{style}]{each.outcome}[/{style}]", str(each.last_unit),
        )  # fmt: skip
    return grid


def docs(
    output: Annotated[Path | None, typer.Option("--output", help="Folder; default: data-docs in the home.")] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Newest attempts of each table that get a page.")] = 30,
) -> None:
    """Make the Data Docs of Great Expectations from what was recorded. They hold counts, never a value of a row."""
    found = _findings(None)
    folder = output or settings().home / "data-docs"
    if folder.exists() and any(folder.iterdir()) and not (folder / "index.html").exists():
        raise SettingsError(
            f"{folder} is not empty, and is no site of ours", untouched=str(folder), todo="name another folder"
        )
    with Console(stderr=True).status("making the pages"):
        from lakehouse.quality.data_docs import build_site

        page = build_site(found, folder, runs)
    Console().print(f"{page}", markup=False, soft_wrap=True)


def suites(
    output: Annotated[Path, typer.Option("--output", help="Folder for a JSON file of each silver table.")],
    sources: Annotated[list[str] | None, typer.Argument(help="Contracts, as in retail.sales; default: all.")] = None,
) -> None:
    """Write the suites that follow from the contracts, as Great Expectations has them."""
    from lakehouse.quality.expectations import suite_json

    output.mkdir(parents=True, exist_ok=True)
    for contract in pick(settings(), sources):
        for name in contract.tables:
            path = output / f"{name}.json"
            path.write_text(json.dumps(suite_json(contract, name), indent=2) + "\n")
            Console().print(str(path), markup=False, soft_wrap=True)


def _findings(tables: list[str] | None) -> list[Finding]:
    from lakehouse.ledger.watermark import load_table, open_catalog
    from lakehouse.quality.history import RESULTS, read_findings

    current = settings()
    current.require_servers()
    found = read_findings(load_table(open_catalog(current), RESULTS), tables or ())
    unknown = sorted(set(tables or ()) - {each.table for each in found})
    if unknown:
        raise SettingsError(
            f"nothing is recorded of {', '.join(unknown)}", todo="name a table as in silver.dim_customer"
        )
    return found
