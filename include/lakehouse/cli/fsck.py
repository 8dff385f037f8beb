"""``lakehouse fsck`` and ``repair``: is every file of the lake what it must be, and what is not is brought back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from lakehouse.backup.verify import Share
    from lakehouse.recovery.repair import Mended
    from lakehouse.recovery.report import LakeDamage, Report

Tables = Annotated[
    list[str] | None, typer.Argument(metavar="[TABLE]...", help="As in silver.dim_customer; default: the whole lake.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
_DAYS = 7
_MOST = 50
_MOST_SNAPSHOTS = 10


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (fsck, repair):
        app.command()(command)


def fsck(
    tables: Tables = None,
    is_whole: Annotated[bool, typer.Option("--all", help="Read every byte of every file.")] = False,
    share: Annotated[
        str,
        typer.Option("--share", metavar="N/M", help="The share of data to read, as in 3/7; default: the day's."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Look at every file that the lake refers to. Ends with 7 where one is missing or damaged. No JVM.

    From the catalog to data, deletes and statistics, and along the logs to what landed. Metadata is always read whole,
    and so is what no check has seen; of other data size and ETag are asked for, and a seventh is read each day.
    """
    from lakehouse.recovery.fsck import check
    from lakehouse.recovery.report import hurt_tables

    chosen = _share(share, is_whole=is_whole)
    names = [str(TableName.parse(table)) for table in tables or ()]
    current = settings()
    current.require_servers()
    with _progress() as told:
        report = check(current, SystemClock(), names, chosen, told)
    if as_json:
        typer.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=1))
    else:
        _say(report)
    if report.damages:
        raise _damaged(report, "run `lakehouse repair` for those that have a good copy", hurt_tables(report.damages))


def repair(
    tables: Tables = None,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would come back, and write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Repair without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Bring back just the files that are missing or damaged, from a backup set or an object version. No JVM.

    Reads everything first, and again after. Damaged bytes are kept. Ends with 7 where something could not be repaired.
    """
    from lakehouse.ledger.retention_lock import keeping_files
    from lakehouse.ledger.watermark import open_catalog
    from lakehouse.recovery import repair as work
    from lakehouse.recovery.report import hurt_tables

    names = [str(TableName.parse(table)) for table in tables or ()]
    current = settings()
    current.require_servers()
    engine = getattr(open_catalog(current), "engine")  # noqa: B009 - of a catalog in PostgreSQL
    with keeping_files(current):
        with _progress() as told:
            plan = work.plan_repair(current, engine, SystemClock(), names, told)
        if not as_json:
            _say(plan)
        open_ones = [damage for damage in plan.damages if damage.copy]
        goes = bool(open_ones) and not is_dry_run
        if goes and not yes:
            typer.confirm(f"Bring {len(open_ones)} files back?", abort=True, err=as_json)
        with _progress() as told:
            done = work.repair(current, engine, SystemClock(), names, plan, told) if goes else None
    after = done.after if done else plan
    if as_json:
        result = done.to_json() if done else {"repaired": [], "after": plan.to_json()}
        typer.echo(json.dumps({"plan": plan.to_json(), **result}, ensure_ascii=False, indent=1))
    elif done:
        _say_mended(done.mended)
    elif not plan.damages:
        typer.echo("Nothing is to be repaired.")
    if after.damages and not (is_dry_run and len(open_ones) == len(plan.damages)):
        raise _damaged(after, "see above what can be done about each", hurt_tables(after.damages))


def _share(text: str, *, is_whole: bool) -> Share:
    from lakehouse.backup.verify import Share

    if is_whole and text:
        raise SettingsError("--all reads everything: there is no share to choose", todo="leave one of them out")
    if is_whole:
        return Share()
    if not text:
        return Share.of_day(SystemClock().now(), _DAYS)
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise SettingsError(f"{text!r} is no share", todo="write it as 3/7: the third of seven")
    return Share(int(number) - 1, int(of))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    with Console(stderr=True).status("reading the catalog") as status:
        yield lambda phase, files, size: status.update(
            f"{phase}: {files:,} files" + (f", {decimal(size)}" if size else "")
        )


def _damaged(report: Report, todo: str, tables: list[str]) -> IntegrityError:
    return IntegrityError(
        f"{len(report.damages)} files of the lake are missing or damaged",
        where=f"they hurt {', '.join(tables) or 'no table'}",
        untouched="everything else",
        todo=todo,
    )


def _say(report: Report) -> None:
    for note in report.notes:
        typer.echo(note, err=True)
    for damage in report.damages[:_MOST]:
        for line in _lines(damage):
            typer.echo(line)
    if len(report.damages) > _MOST:
        typer.echo(f"and {len(report.damages) - _MOST} more; --json has all")
    part = f", share {report.share} of the data" if report.share else ""
    typer.echo(
        f"{report.tables:,} tables, {report.files:,} files looked at, {report.read:,} read whole "
        f"({decimal(report.read_bytes)}{part}), {len(report.damages)} damaged."
    )
    for by, count in sorted(_named(report).items()):
        typer.echo(f"  {count:,} {by}")


def _named(report: Report) -> dict[str, int]:
    words = {
        "structure": "new to everybody: judged by their structure, and remembered (--json names them)",
        "entries": "segments of logs, by the entries that they are copies of",
        "size": "by their size; they are read on their day",
        "size and ETag": "by their size and ETag",
    }
    return {words.get(by, f"by their hash in {by}"): count for by, count in report.compared.items()}


def _lines(damage: LakeDamage) -> Iterator[str]:
    yield f"{damage.uri} ({damage.kind.replace('_', ' ')}): {damage.problem}"
    if damage.hidden:
        yield f"  {damage.hidden}"
    snapshots = [hurt for hurt in damage.hurts if hurt.snapshot_id is not None]
    yield f"  hurts {', '.join(damage.tables) or 'no table'}"
    for hurt in snapshots[-_MOST_SNAPSHOTS:]:
        when = f" of {hurt.at[:19].replace('T', ' ')}" if hurt.at else ""
        yield f"    {hurt.table}: snapshot {hurt.snapshot_id}{when}{', the current one' if hurt.is_current else ''}"
    if len(snapshots) > _MOST_SNAPSHOTS:
        yield f"    and {len(snapshots) - _MOST_SNAPSHOTS} older ones; --json has all"
    if damage.copy is not None:
        sure = "" if damage.copy.is_sure else " (whole by its structure; nobody knows its hash)"
        yield f"  a good copy is in {damage.copy.source}{sure}: `{damage.repair}`"
    else:
        yield f"  no good copy is known; {damage.todo}"


def _say_mended(mended: tuple[Mended, ...]) -> None:
    for each in mended:
        typer.echo(f"{each.uri} is back, from {each.source}")
        if each.kept:
            typer.echo(f"  what was there is kept: {each.kept}")
    typer.echo(f"{len(mended)} files are back; everything was looked at again.")
