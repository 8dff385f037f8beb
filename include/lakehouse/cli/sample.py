"""``lakehouse sample``: makes the sample sources."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from pathlib import Path

    from lakehouse.samples.make import Domain, Made
    from lakehouse.samples.plan import Options


def register(app: typer.Typer) -> None:
    """Add ``sample`` to the program."""
    app.command("sample")(sample)


def sample(
    days: Annotated[int, typer.Option("--days", help="How many days.")] = 14,
    start: Annotated[str, typer.Option("--from", metavar="DATE", help="First day.")] = "2024-03-25",
    size: Annotated[float, typer.Option("--size", help="1.0 is about 1,500 sales lines a day.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Same seed and size, same bytes.")] = 7,
    is_clean: Annotated[bool, typer.Option("--clean", help="Nothing that has to be rejected or quarantined.")] = False,
    revision: Annotated[int, typer.Option("--revision", help="2 and up: some days as their source re-sends them.")] = 1,
    out: Annotated[str | None, typer.Option("--out", metavar="DIR", help="Default: the sources' root.")] = None,
    only: Annotated[str | None, typer.Option("--only", metavar="retail|crm", help="One domain only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make the sample sources of both domains: sales files, catalogue snapshots and the CRM's change table.

    Files are written anew, with the same bytes; days that the change table already has are not added again.
    """
    from lakehouse.samples.make import folder
    from lakehouse.samples.plan import Options

    root = folder(out or settings().sources_root)
    options = Options(seed=seed, size=size, is_clean=is_clean, revision=revision)
    made = _make(options, _day(start), days, root, _domains(only), is_quiet=as_json)
    if as_json:
        parts = {name: asdict(part) for name, part in made.parts.items()}
        typer.echo(json.dumps({"root": str(root), "parts": parts, "notices": made.notices}, indent=2))
    else:
        _show(made, root)


def _make(
    options: Options, first: date, count: int, root: Path, domains: tuple[Domain, ...], *, is_quiet: bool
) -> Made:
    from rich.console import Console
    from rich.progress import Progress

    from lakehouse.samples.make import make_samples
    from lakehouse.samples.plan import days as days_from

    wanted = days_from(first, count)
    owner = settings().connections.get("crm_owner")
    dsn = owner.get_secret_value() if owner else ""
    with Progress(console=Console(stderr=True), transient=True, disable=is_quiet) as progress:
        task = progress.add_task("sample sources", total=len(wanted))
        return make_samples(
            options, wanted, root, crm_dsn=dsn, domains=domains, on_day=lambda _: progress.advance(task)
        )


def _show(made: Made, root: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Sample sources in {root}")
    for column in ("part", "files", "rows", "bytes"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, part in [*made.parts.items(), ("total", made.total)]:
        table.add_row(name, f"{part.files:,}", f"{part.rows:,}", f"{part.size_bytes:,}")
    console = Console()
    console.print(table)
    for notice in made.notices:
        console.print(f"[bold yellow]Notice:[/] {notice}")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"--from {text!r} is no date", todo="write it as 2024-03-25") from None


def _domains(only: str | None) -> tuple[Domain, ...]:
    if only is None:
        return ("retail", "crm")
    if only == "retail":
        return ("retail",)
    if only == "crm":
        return ("crm",)
    raise SettingsError(f"--only {only!r} is no domain of the samples", todo="use retail or crm")
