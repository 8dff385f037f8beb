"""``lakehouse snapshots``, ``tag`` and ``rollback``: what a table was, kept by name, and brought back. No JVM."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from lakehouse.cli.plan import IfSeen
from lakehouse.cli.show import ranges, rows_grid
from lakehouse.core.actor import user_name
from lakehouse.core.clock import SystemClock, moment
from lakehouse.core.errors import LakehouseError, SettingsError, TableBusy
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings, settings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

    from lakehouse.contracts.model import Tags
    from lakehouse.engine.travel import Tagging
    from lakehouse.ledger.points import Point
    from lakehouse.ledger.rollback import Rollback, Undoing

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_KEEP = re.compile(r"([1-9][0-9]{0,4})([hd])\Z")
_OURS = ("attempt_", "baseline-", "before-rollback-")
_DUE_SECONDS = 10

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
When = "ISO date or time (UTC unless it says), snapshot id or tag"


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (snapshots, tag, rollback):
        app.command()(command)


def snapshots(
    table: Annotated[str, typer.Argument(help="A table, as in silver.dim_customer.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most to show, the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """List what a table was: every snapshot that was published and is kept, newest first, with its tags. No JVM."""
    from lakehouse.ledger.points import existing_table, publications
    from lakehouse.ledger.watermark import open_catalog

    found = existing_table(open_catalog(settings()), TableName.parse(table))
    heads = publications(found)
    rows = [_snapshot(found, head) for head in reversed(heads[-limit:])] + _only_tagged(found, heads)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    shown = [[_cell(value) for value in row.values()] for row in rows]
    Console(width=max(Console().width, 140)).print(rows_grid(list(rows[0]), shown))
    if len(heads) > limit:
        typer.echo(f"and {len(heads) - limit} older ones; --limit shows more")


def _snapshot(table: Table, head: Point) -> dict[str, Any]:
    from lakehouse.ledger.points import rows_of
    from lakehouse.ledger.watermark import head_of

    snapshot_id = head.snapshot.snapshot_id
    stamp = head_of(table, snapshot_id).stamp
    return {
        "published": f"{head.at:%Y-%m-%d %H:%M:%S}",
        "snapshot": snapshot_id,
        "rows": rows_of(head.snapshot),
        "consumed": {source: consumed.through for source, consumed in stamp.inputs.items()} if stamp else {},
        "refs": sorted(name for name, ref in table.metadata.refs.items() if ref.snapshot_id == snapshot_id),
    }


def _only_tagged(table: Table, heads: Sequence[Point]) -> list[dict[str, Any]]:
    """Snapshots that the log of heads has lost, and that a tag keeps; newest first."""
    from lakehouse.ledger.points import resolve

    known = {head.snapshot.snapshot_id for head in heads}
    tags = [
        n for n, ref in table.metadata.refs.items() if ref.snapshot_ref_type == "tag" and ref.snapshot_id not in known
    ]
    points = {(point := resolve(table, TableName(*table.name()), name)).snapshot.snapshot_id: point for name in tags}
    return [_snapshot(table, point) for point in sorted(points.values(), key=lambda point: point.at, reverse=True)]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{source}#{through}" for source, through in value.items())
    return ", ".join(value) if isinstance(value, list) else f"{value:,}" if _is_count(value) else str(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value < 10**12  # snapshot ids are longer, and are copied


def tag(
    table: Annotated[str | None, typer.Argument(help="A table, as in silver.dim_customer; none with --due.")] = None,
    name: Annotated[str | None, typer.Argument(help="The tag, as in before-migration; none with --due.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="WHEN", help=f"{When}. Default: now.")] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="TIME", help="As in 36h or 30d. Default: until it is dropped.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the tag.")] = False,
    due: Annotated[
        bool, typer.Option("--due", help="Tag every table by day, week, month and year, as its contract says.")
    ] = False,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Give a snapshot a name: no expiry removes it as long as the tag is kept. No JVM.

    With --due, the tags that contracts ask for: `daily-2024-03-31`, `weekly-2024-W13`, `monthly-2024-03`,
    `yearly-2024`, each the last snapshot of its period in UTC, made once that has ended. Those that the contract no
    longer asks for are dropped. A table that a job works on is left for the next time, and the command ends with 8.
    """
    if due:
        if table or name or at or keep or drop:
            raise SettingsError("--due tags all tables", todo="leave the other arguments out")
        _tag_due(settings(), is_dry_run, as_json)
        return
    if not table or not name:
        raise SettingsError("a tag needs a table and a name", todo="say both, or --due")
    done = _tag_one(settings(), TableName.parse(table), _Wish(name, at, _duration(keep), drop, is_dry_run))
    if as_json:
        typer.echo(json.dumps({"table": table, "tag": name, **done}))
    elif drop:
        typer.echo(f"The tag {name} of {table} {'would be' if is_dry_run else 'is'} dropped.")
    else:
        typer.echo(f"{table} at snapshot {done['snapshot_id']} {'would be' if is_dry_run else 'is'} tagged {name}.")


@dataclass(frozen=True)
class _Wish:
    name: str
    at: str | None
    keep: timedelta | None
    drop: bool
    is_dry_run: bool


def _tag_one(current: Settings, table: TableName, wish: _Wish) -> dict[str, Any]:
    from lakehouse.engine.travel import Tagging, tag_table
    from lakehouse.ledger.points import existing_table
    from lakehouse.ledger.watermark import open_catalog

    _check_name(wish.name, is_new=not wish.drop)

    def choose(found: Table) -> Tagging:
        if wish.drop:
            _require_tag(found, table, wish.name)
            return Tagging(drop=(wish.name,))
        return Tagging({wish.name: _head(found, table, wish)}, keep=wish.keep)

    current.require_servers()
    catalog = open_catalog(current)
    if wish.is_dry_run:
        chosen = choose(existing_table(catalog, table))
    else:
        chosen = tag_table(current, catalog, table, choose, SystemClock().now())
    return {"snapshot_id": chosen.make.get(wish.name), "dropped": list(chosen.drop), "is_dry_run": wish.is_dry_run}


def _head(found: Table, table: TableName, wish: _Wish) -> int:
    """The published snapshot that is meant, for a name that is free."""
    from lakehouse.engine.travel import require_tag_name
    from lakehouse.ledger.points import resolve
    from lakehouse.ledger.rollback import require_published

    require_tag_name(found, wish.name)
    point = resolve(found, table, wish.at)
    require_published(found, table, point)
    return point.snapshot.snapshot_id


def _check_name(name: str, *, is_new: bool) -> None:
    """Raise :class:`SettingsError` for a name that is not a person's to give, or to take."""
    from lakehouse.ledger.tagging import is_periodic

    ours = _OURS if is_new else _OURS[:-1]  # the tag of a rollback may be dropped: then it can't be taken back
    if not _NAME.match(name) or is_periodic(name) or name.startswith(ours) or name == "main" or _is_when(name):
        raise SettingsError(
            f"{name!r} cannot be a tag of yours",
            todo="use letters, digits, '.', '_' and '-', and nothing that reads as a time or a snapshot; daily-…, "
            "weekly-…, monthly-… and yearly-… are made by --due, attempt_… and baseline-… by jobs, before-rollback-… "
            "by rollbacks",
        )


def _is_when(name: str) -> bool:
    """Whether a name would hide a time or a snapshot from whoever asks for that."""
    try:
        moment(name)
    except SettingsError:
        return name.isdigit()
    return True


def _require_tag(found: Table, table: TableName, name: str) -> None:
    ref = found.metadata.refs.get(name)
    if ref is None or ref.snapshot_ref_type != "tag":
        raise SettingsError(f"{table} has no tag {name!r}", todo=f"`lakehouse snapshots {table}` lists them")


def _duration(text: str | None) -> timedelta | None:
    if text is None:
        return None
    parts = _KEEP.match(text)
    if not parts:
        raise SettingsError(f"--keep {text!r} is no time", todo="write hours or days, as in 36h or 30d")
    return timedelta(hours=int(parts[1]) * (24 if parts[2] == "d" else 1))


def _tag_due(current: Settings, is_dry_run: bool, as_json: bool) -> None:
    """Make and drop the tags of all tables; what is busy is left, and said at the end."""
    from lakehouse.ledger.watermark import open_catalog

    current.require_servers()
    catalog, console = open_catalog(current), Console(stderr=True)
    done: dict[TableName, Tagging] = {}
    failed: list[LakehouseError] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for name, policy in progress.track(list(_policies(current, catalog)), description="tagging"):
            try:
                done[name] = _tag_by(current, catalog, name, policy, is_dry_run)
            except TableBusy as error:
                failed.append(error)
    _tell_due(done, is_dry_run, as_json)
    if failed:
        raise TableBusy(
            f"{len(failed)} tables were not tagged: " + "; ".join(error.what for error in failed),
            untouched="these tables; the others are tagged",
            todo="run it again; tags that are due stay due",
        )


def _policies(current: Settings, catalog: Catalog) -> Iterator[tuple[TableName, Tags]]:
    """Every table that has something, with what its contract says; marts are of no contract, and have the default."""
    from lakehouse.cli.run import pick
    from lakehouse.contracts.marts import mart_names
    from lakehouse.contracts.model import Tags
    from lakehouse.ledger.watermark import load_table

    named: dict[TableName, Tags] = {}
    for contract in pick(current, None):
        tables = [n for name in contract.tables for n in (contract.silver_table(name), TableName("quarantine", name))]
        named |= dict.fromkeys([contract.bronze_table, *tables], contract.tags)
    named |= dict.fromkeys(mart_names(current.dbt), Tags())
    for name, policy in named.items():
        table = load_table(catalog, name)
        if table is not None and table.current_snapshot() is not None:
            yield name, policy


def _tag_by(current: Settings, catalog: Catalog, name: TableName, policy: Tags, is_dry_run: bool) -> Tagging:
    from lakehouse.engine.travel import Tagging, tag_table
    from lakehouse.ledger.points import existing_table, publications
    from lakehouse.ledger.tagging import due_tags

    now = SystemClock().now()

    def choose(table: Table) -> Tagging:
        heads = [(head.at, head.snapshot.snapshot_id) for head in publications(table)]
        found = due_tags(heads, table.metadata.refs, policy, now)
        return Tagging(found.make, found.drop)

    chosen = choose(existing_table(catalog, name))
    if is_dry_run or chosen.is_empty:  # no lock is taken for nothing
        return chosen
    return tag_table(current, catalog, name, choose, now, wait_seconds=_DUE_SECONDS)


def _tell_due(done: dict[TableName, Tagging], is_dry_run: bool, as_json: bool) -> None:
    changed = {str(name): {"made": dict(t.make), "dropped": list(t.drop)} for name, t in done.items() if not t.is_empty}
    if as_json:
        typer.echo(json.dumps({"tables": changed, "is_dry_run": is_dry_run}))
        return
    for name, each in changed.items():
        words = [f"+{tag_name}" for tag_name in each["made"]] + [f"-{tag_name}" for tag_name in each["dropped"]]
        typer.echo(f"{name}: {' '.join(words)}")
    if not changed:
        typer.echo(f"No tag is due; {len(done)} tables were looked at.")
    elif is_dry_run:
        typer.echo("Nothing was changed.")


def rollback(
    table: Annotated[str, typer.Argument(help="A bronze, silver or gold table, as in silver.dim_customer.")],
    to: Annotated[str, typer.Option("--to", metavar="WHEN", help=f"{When}.")],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the decision log for good.")
    ] = "",
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Roll back without asking.")] = False,
    if_seen: IfSeen = None,
    as_json: Json = False,
) -> None:
    """Make a table what it was: rows, quarantine, and how far it has consumed its source. No JVM.

    The batches that a silver table loses are held for it until somebody releases or discards them, or they land anew.
    What it was before the rollback is kept by a tag for 30 days: `--to` that tag takes the rollback back.
    """
    from lakehouse.ledger.rollback import plan_rollback
    from lakehouse.ledger.store import ObjectStore
    from lakehouse.ledger.watermark import open_catalog

    current = settings()
    current.require_servers()
    catalog, store = open_catalog(current), ObjectStore.open(current)
    plan = plan_rollback(catalog, store, TableName.parse(table), to)
    _require_seen(plan, if_seen)
    if not as_json:
        for line in [*_plan_lines(plan), *_downstream(current, plan)]:
            typer.echo(line)
    goes = not is_dry_run and not plan.is_empty
    if goes and not yes:
        typer.confirm(f"Roll {plan.table} back?", abort=True, err=as_json)
    tags = _roll_back(current, catalog, store, plan, reason) if goes else {}
    if as_json:
        kept = {str(name): tag_name for name, tag_name in tags.items()}
        published = plan.point.snapshot.snapshot_id if goes else None
        typer.echo(json.dumps({**plan.to_json(), "published": published, "kept": kept}))
    elif goes:
        for line in _done_lines(plan, tags):
            typer.echo(line)
    else:
        typer.echo("Nothing was done." if is_dry_run else "It is there already; nothing to do.")


def _roll_back(current: Settings, catalog: Any, store: Any, plan: Rollback, reason: str) -> dict[TableName, str]:
    from lakehouse.engine.travel import roll_back

    why = reason.strip() or f"{plan.table} was rolled back to {plan.asked}"
    return roll_back(current, catalog, store, plan, why, user_name(current), SystemClock().now())


def _require_seen(plan: Rollback, token: str | None) -> None:
    if token is not None and token != plan.token:
        raise SettingsError(
            f"{plan.table} changed since the dry run that said {token!r}: it, its quarantine, or its source's logs",
            untouched=f"{plan.table}",
            todo="look again with --dry-run, and confirm what it says then",
        )


def _plan_lines(plan: Rollback) -> Iterator[str]:
    before, after = plan.rows
    yield (
        f"{plan.table} goes back to snapshot {plan.point.snapshot.snapshot_id}, published "
        f"{plan.point.at:%Y-%m-%d %H:%M:%S} UTC: {before:,} rows now, {after:,} then"
    )
    for move in plan.moves[:-1]:
        yield f"  {move.table} goes along: " + ("as it is" if move.was == move.becomes else f"snapshot {move.becomes}")
    if plan.undoing:
        yield from _batch_lines(plan.undoing)
    if plan.is_other_contract:
        yield "  the contract changed in between: `lakehouse plan` says afterwards what the next run does about it"


def _batch_lines(undoing: Undoing) -> Iterator[str]:
    yield f"  it will have consumed {undoing.source} through #{undoing.through} (now #{undoing.was_through})"
    for numbers, words in (
        (undoing.lost, "leave the table, and are held until released, discarded or landed anew"),
        (undoing.release, "come back, and are released"),
        (undoing.takes, "will be taken by the next run"),
        (undoing.drops, "will be taken out by the next run, as was decided or landed since"),
    ):
        if numbers:
            yield f"  batches {ranges(numbers)} {words}"


def _downstream(current: Settings, plan: Rollback) -> Iterator[str]:
    """What the next run does to the tables that are made of this one."""
    from lakehouse.contracts.marts import mart_inputs

    name = plan.table
    if name.namespace == "gold":
        yield f"  the next `lakehouse run` makes {name} anew from silver: to undo data, roll the silver table back"
        return
    if name.namespace == "bronze":
        yield "  silver tables stay as they are"
        return
    inputs = mart_inputs(current.dbt)
    reached = {str(name)}
    while more := {f"gold.{m}" for m, made_of in inputs.items() if reached & set(made_of)} - reached:
        reached |= more
    marts = sorted(reached - {str(name)})
    if marts:
        yield f"  the next `lakehouse run` makes anew what is made of it: {', '.join(marts)}; until then they stay"


def _done_lines(plan: Rollback, tags: dict[TableName, str]) -> Iterator[str]:
    yield f"{plan.table} is at snapshot {plan.point.snapshot.snapshot_id}."
    if plan.table in tags:
        yield f"`lakehouse rollback {plan.table} --to {tags[plan.table]}` takes it back."
    yield "`lakehouse run` goes on from here."
