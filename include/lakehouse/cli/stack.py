"""Commands for the machine and the local stack: setup, up, down, status."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from lakehouse.core.errors import StackError
from lakehouse.core.settings import Settings, load_settings
from lakehouse.core.spark_place import place_of

if TYPE_CHECKING:
    from lakehouse.stack.model import StackStatus
    from lakehouse.stack.prepare import Prepared

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
Spark = Annotated[bool, typer.Option("--spark", help="Spark Connect servers too, on which jobs start warm.")]
Airflow = Annotated[bool, typer.Option("--airflow", help="Airflow too, with its web UI; says how to log in.")]
_COLOURS = {"up": "green"}


def register(app: typer.Typer) -> None:
    """Add this area's commands to the application."""
    for command in (setup, up, down, status, prepare):
        app.command()(command)
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(context_settings=passed_on)(airflow)
    app.command()(airflow_roles)


def setup() -> None:
    """Fetch the pinned jars, find or build an S3 server, and make Spark start faster. Again: nothing to do, at once."""
    from lakehouse.core.jars import jar_paths
    from lakehouse.stack.jars import fetch_jars

    settings, progress = load_settings(), Console(stderr=True)
    with progress.status("checking jars") as shown:
        fetch_jars(settings, lambda jar: shown.update(f"fetching {jar.file_name} ({jar.size / 1e6:.0f} MB), once"))
    for path in jar_paths(settings.cache):
        typer.echo(path)
    if settings.s3_server in ("auto", "minio"):
        _prepare_minio(settings.s3_server == "minio", progress)
    _prepare_archive(progress)


def _prepare_minio(is_required: bool, progress: Console) -> None:
    from lakehouse.stack import minio

    found = minio.find_or_build(load_settings().cache, progress)
    if is_required:
        minio.require(found)
    if found.path is None:
        progress.print(f"[bold red]no MinIO[/]: {found.reason}. `lakehouse up` will use a stand-in without storage")


def _prepare_archive(progress: Console) -> None:
    """A small demo on servers of its own is what the archive of Spark's classes is made from."""
    from lakehouse.stack.archive import make_archive, refusal, trained_by

    cache = load_settings().cache
    demo = [sys.executable, "-m", "lakehouse.cli.main", "demo", "--days", "2", "--size", "0.02"]
    with progress.status("checking the archive of Spark's classes") as shown:
        words = "archiving Spark's classes (a minute or two), once"
        reason = make_archive(cache, trained_by(demo, cache), refusal, lambda: shown.update(words))
    if reason:
        progress.print(f"[bold yellow]Spark will start more slowly than it could[/]: {reason}", highlight=False)


def up(spark: Spark = False, airflow: Airflow = False, as_json: AsJson = False) -> None:
    """Start PostgreSQL, the S3 server and one for backups on loopback, with generated credentials. Does nothing to what
    is up. Says where backups go.

    With --spark, or LAKEHOUSE_SPARK_MASTER=connect, two Spark Connect servers as well: one for jobs, and one with the
    reader's role for consoles. Jobs, Airflow's tasks and consoles use them until `down`, unless LAKEHOUSE_SPARK_MASTER
    names another place. One that runs with other settings or code than now is started anew.
    """
    from lakehouse.stack import up as bring_up

    settings, console = load_settings(), Console(stderr=True)
    with console.status("starting servers" + (" and Airflow: a minute or two the first time" if airflow else "")):
        found = bring_up(settings, console, spark=spark, with_airflow=airflow)
    _print_status(found, as_json)
    if not as_json:
        _say_backups(load_settings())
    place = load_settings().spark_master
    if spark and place_of(place) != "connect" and not as_json:
        console.print(
            f"Jobs and consoles use no Spark Connect server: LAKEHOUSE_SPARK_MASTER is {place}.", markup=False
        )
    if airflow and not as_json:
        _say_logins()


def airflow(context: typer.Context) -> None:
    """Run Airflow's own command with the settings of the stack's Airflow: all that follows is passed on."""
    from lakehouse.stack.airflow import command_environment

    words = [sys.executable, "-m", "airflow", *context.args]
    os.execve(sys.executable, words, command_environment(load_settings()))  # noqa: S606 - no shell, and this Python


def airflow_roles() -> None:
    """Make the roles of Airflow's FAB auth manager what they should be. `up --airflow` does so, too."""
    from lakehouse.stack.airflow import command_environment
    from lakehouse.stack.airflow_supervisor import ROLES

    os.execve(sys.executable, ROLES, command_environment(load_settings()))  # noqa: S606 - no shell, and this Python


def _say_backups(current: Settings) -> None:
    if not current.backup_bucket:
        typer.echo("There is no place for backups: docs/backup.md says how to give one.", err=True)
        return
    place = f"s3://{current.backup_bucket} at {current.backup_s3_endpoint or current.s3_endpoint or 'AWS'}"
    typer.echo(f"Backups go to {place}, signed with LAKEHOUSE_BACKUP_SIGNING_KEY: keep a copy of that somewhere else.")


def _say_logins() -> None:
    from lakehouse.stack import logins

    current = load_settings()
    console = Console()
    console.print(f"\nAirflow: {current.airflow_url}", highlight=False)
    found = logins(current)
    if not found:
        console.print("  Its auth manager keeps its own users: docs/users.md says how to make them", highlight=False)
    for login in found:
        console.print(f"  {login.user:9} {login.password}  ({login.role})", highlight=False, markup=False)


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
    """Make roles, databases, buckets and the place of backups on servers that something else starts: containers.

    PostgreSQL is only checked where its superuser's password is not given, and the place of backups where its root's
    secret is not. Doing it again changes nothing.
    """
    from lakehouse.stack.prepare import prepare as make_ready

    done = make_ready(load_settings())
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done)))
        return
    for line in _prepared(done):
        typer.echo(line)


def _prepared(done: Prepared) -> tuple[str, ...]:
    made = f"roles {', '.join(done.roles)}; databases {', '.join(done.databases)}" if done.roles else "only checked"
    servers = f"PostgreSQL at {done.postgres}: {made}", f"S3 at {done.s3}: buckets {', '.join(done.buckets)}"
    return (*servers, f"backups: {done.backups or 'they have no place yet'}")


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
