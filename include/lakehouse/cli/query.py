"""``lakehouse tables``, ``sql`` and ``conf``: reading the lake."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Grid

from lakehouse.cli.show import plain, rows_grid
from lakehouse.core.clock import moment
from lakehouse.core.errors import LakehouseError
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lakehouse.engine.query import Answer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
AsOf = Annotated[
    str | None, typer.Option("--as-of", metavar="TIME", help="As known then: ISO date or time, UTC unless it says.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (tables, sql, conf):
        app.command()(command)


def tables(as_json: Json = False) -> None:
    """List the tables of the lake: rows, files, size, last commit, how far each source was consumed. No JVM."""
    from lakehouse.ledger.reading import list_tables
    from lakehouse.ledger.watermark import open_catalog

    found = list_tables(open_catalog(settings()))
    if as_json:
        rows = [{**vars(t), "table": str(t.table), "committed_at": t.committed_at} for t in found]
        print(json.dumps(rows, default=plain))
        return
    grid = Grid()
    for title in ("table", "rows", "files", "MB", "snapshots", "last commit (UTC)", "consumed"):
        is_number = title in ("rows", "files", "MB", "snapshots")
        grid.add_column(title, justify="right" if is_number else "left", no_wrap=True)
    for t in found:
        consumed = ", ".join(f"{source} #{through}" for source, through in t.consumed.items())
        when = f"{t.committed_at:%Y-%m-%d %H:%M:%S}" if t.committed_at else ""
        size = f"{t.bytes / 1e6:.1f}"
        grid.add_row(str(t.table), f"{t.rows:,}", str(t.files), size, str(t.snapshots), when, consumed)
    Console(width=max(Console().width, 120)).print(
        grid if found else "No tables yet: `lakehouse land`, then `lakehouse run`."
    )


def sql(
    execute: Annotated[str | None, typer.Option("-e", "--execute", help="Statements to run.")] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", exists=True, dir_okay=False, help="A script.")] = None,
    as_of: AsOf = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most rows of one answer.")] = 1000,
    as_json: Json = False,
) -> None:
    """Spark SQL over the tables, with the reader's role: nothing can be changed from here.

    Interactive without -e or -f. With --as-of every table is read as it was then.
    """
    at = moment(as_of) if as_of is not None else None
    current = settings()
    current.require_servers()
    from lakehouse.engine.session import session

    with session(current, "lakehouse sql", read_only=True) as spark:
        if execute is None and file is None:
            _console(spark, at, limit)
            return
        from lakehouse.engine.query import run_script

        text = execute if execute is not None else Path(str(file)).read_text("utf-8")
        for result in run_script(spark, text, at, limit):
            _print_answer(result, as_json)


def conf(
    is_writer: Annotated[bool, typer.Option("--writer", help="For programs that write; default: read-only.")] = False,
) -> None:
    """Write the Spark configuration of this lake and print its folder, for SPARK_CONF_DIR. It holds secrets."""
    current = settings()
    from lakehouse.core.spark_conf import conf_folder, session_conf, write_conf

    folder = conf_folder(current, read_only=not is_writer)
    print(write_conf(folder, session_conf(current, read_only=not is_writer)))


def _console(spark: SparkSession, at: datetime | None, limit: int) -> None:
    from lakehouse.engine.query import run_script

    if sys.stdin.isatty():
        import readline  # noqa: F401 - gives input() its line editing and history

        print("Spark SQL over the lake, read-only. End a statement with ; and leave with exit or Ctrl-D.")
    pending = ""
    while True:
        try:
            line = input("   ...> " if pending else "sql> ") if sys.stdin.isatty() else input()
        except EOFError:
            line, ended = "", True
        else:
            ended = False
        if not pending and line.strip().rstrip(";").lower() in ("exit", "quit"):
            return
        pending += line + "\n"
        if line.rstrip().endswith(";") or (ended and pending.strip()):
            _answer_pending(spark, pending, at, limit, run_script)
            pending = ""
        elif not pending.strip():
            pending = ""
        if ended:
            return


def _answer_pending(spark: SparkSession, text: str, at: datetime | None, limit: int, run: Any) -> None:
    try:
        for result in run(spark, text, at, limit):
            _print_answer(result, as_json=False)
    except LakehouseError as error:
        print(error, file=sys.stderr)


def _print_answer(result: Answer, as_json: bool) -> None:
    if as_json:
        for row in result.rows:
            print(json.dumps(dict(zip(result.columns, row, strict=True)), default=plain))
    elif result.columns:
        Console().print(rows_grid(list(result.columns), result.rows))
    if result.is_cut:
        print(f"(more than {len(result.rows)} rows; raise --limit to see them)", file=sys.stderr)
