"""Commands for the machine and the local stack: setup, up, down, status."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from lakehouse.core.errors import StackError
from lakehouse.core.settings import load_settings

if TYPE_CHECKING:
    from lakehouse.stack.model import StackStatus
    from lakehouse.stack.prepare import Prepared

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
_COLOURS = {"up": "green"}


def register(app: typer.Typer) -> None:
    """Add this area's commands to the application."""
    for command in (setup, up, down, status, prepare):
        app.command()(command)


def setup() -> None:
    """Fetch the pinned jars and make sure that an S3 server is there. Again: nothing to do, at once."""
    from lakehouse.core.jars import jar_paths
    from lakehouse.stack.jars import fetch_jars

    settings, progress = load_settings(), Console(stderr=True)
    with progress.status("checking jars") as shown:
        fetch_jars(settings, lambda jar: shown.update(f"fetching {jar.file_name} ({jar.size / 1e6:.0f} MB), once"))
    for path in jar_paths(settings.cache):
        typer.echo(path)
    if settings.s3_server in ("auto", "minio"):
        _prepare_minio(settings.s3_server == "minio", progress)


def _prepare_minio(is_required: bool, progress: Console) -> None:
    from lakehouse.stack import minio

    found = minio.find_or_build(load_settings().cache, progress)
    if is_required:
        minio.require(found)
    if found.path is None:
        progress.print(f"[bold red]no MinIO[/]: {found.reason}. `lakehouse up` will use a stand-in without storage")


def up(as_json: AsJson = False) -> None:
    """Start PostgreSQL and the S3 server on loopback, with generated credentials. Does nothing to what is up."""
    from lakehouse.stack import up as bring_up

    _print_status(bring_up(load_settings(), Console(stderr=True)), as_json)


def down(as_json: AsJson = False) -> None:
    """Stop the local servers. Data and credentials are kept."""
    from lakehouse.stack import down as bring_down

    stopped = bring_down(load_settings())
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(stopped)))
    else:
        typer.echo(f"stopped {', '.join(stopped.kinds)}" if stopped.kinds else "nothing of ours was running")


def status(as_json: AsJson = False) -> None:
    """Show the servers. Exits with 0 when all are up, with 5 when not."""
    from lakehouse.stack import status as look

    found = look(load_settings())
    _print_status(found, as_json)
    if not found.is_up:
        raise typer.Exit(StackError.exit_code)


def prepare(as_json: AsJson = False) -> None:
    """Make roles, databases and buckets on servers that something else starts, such as containers.

    PostgreSQL is only checked where its superuser's password is not given. Doing it again changes nothing.
    """
    from lakehouse.stack.prepare import prepare as make_ready

    done = make_ready(load_settings())
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done)))
        return
    for line in _prepared(done):
        typer.echo(line)


def _prepared(done: Prepared) -> tuple[str, str]:
    made = f"roles {', '.join(done.roles)}; databases {', '.join(done.databases)}" if done.roles else "only checked"
    return f"PostgreSQL at {done.postgres}: {made}", f"S3 at {done.s3}: buckets {', '.join(done.buckets)}"


def _print_status(found: StackStatus, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(found), "is_up": found.is_up}))
        return
    table = Table("server", "kind", "state", "address", "pid", "")
    for server in found.servers:
        state = f"[{_COLOURS.get(server.state, 'red')}]{server.state}[/]"
        table.add_row(server.name, server.kind, state, server.address, str(server.pid or ""), server.detail)
    Console().print(table)
    for notice in found.notices:
        Console(stderr=True).print(f"[bold red]{notice}[/]")
