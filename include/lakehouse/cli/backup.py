"""``lakehouse backup``: create, databases, list, show, verify, prune, key; and from `cli.drill`: status, drill."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table as Grid

from lakehouse.cli.drill import drill, status
from lakehouse.core.clock import SystemClock
from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.settings import Settings, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lakehouse.backup.base_prune import BasePruning
    from lakehouse.backup.prune import Pruning
    from lakehouse.backup.records import Verification
    from lakehouse.backup.sets import Manifest
    from lakehouse.backup.vault import Vault
    from lakehouse.backup.verify import Share

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
SetId = Annotated[str, typer.Argument(metavar="[SET]", help="A set, as `list` names it; default: the newest.")]
_MOST = 50
_DIGITS = 8


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="Back the whole lake up, and see that the backups are whole.", no_args_is_help=True)
    for command in (create, databases, list_sets, show, status, verify, drill, prune, key):
        group.command("list" if command is list_sets else command.__name__)(command)
    app.add_typer(group, name="backup")


def create(
    is_full: Annotated[
        bool, typer.Option("--full", help="Read every file again, also those that an earlier set has.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a backup set of all tables, both logs and the landed files. One that was cut short is gone on with.

    Only what no earlier set has is read and copied. Runs beside everything else; only the removal of old files waits.
    """
    from lakehouse.backup.create import create as make

    current = settings()
    current.require_servers()
    current.require_backups()
    console = Console(stderr=True)
    with console.status("making a cut") as status:
        made = make(
            current,
            SystemClock(),
            lambda phase, files, size: status.update(_phase(phase, files, size)),
            is_full=is_full,
        )
    manifest = made.manifest
    if as_json:
        typer.echo(json.dumps(_plain(manifest), ensure_ascii=False))
        return
    typer.echo(
        f"{manifest.id} is complete: {len(manifest.tables)} tables, {manifest.files:,} files, "
        f"{decimal(manifest.size_bytes)}; new: {manifest.new_files:,} files, {decimal(manifest.new_bytes)}."
    )


def databases(as_json: Json = False) -> None:
    """Make a base backup of the local PostgreSQL: all its databases, the catalog's and Airflow's with them.

    Any later moment is reached from it along the log, which PostgreSQL archives by itself while `lakehouse up` knows a
    bucket of backups. One each day keeps the way short.
    """
    from lakehouse.recovery.base_backup import back_up

    current = settings()
    current.require_servers()
    current.require_backups()
    with Console(stderr=True).status("copying the databases"):
        base = back_up(current, SystemClock())
    if as_json:
        typer.echo(json.dumps({**asdict(base), "stored_bytes": base.stored_bytes}))
        return
    typer.echo(
        f"{base.id} is complete: {decimal(base.size_bytes)}, {decimal(base.stored_bytes)} compressed. "
        f"Any moment from {base.finished_at} on can be reached: `lakehouse restore-databases --at WHEN`."
    )


def list_sets(as_json: Json = False) -> None:
    """Say which sets there are, what each holds, and when it was last verified."""
    from lakehouse.backup.records import read_records
    from lakehouse.backup.sets import complete_ids, load_set, set_ids
    from lakehouse.backup.signing import public_key_of

    current = settings()
    vault, public_key = _vault(), public_key_of(current)
    complete = complete_ids(vault)
    found: list[tuple[Manifest, list[Verification]]] = []
    for set_id in reversed(complete):
        try:
            found.append((load_set(vault, set_id, public_key).manifest, read_records(vault, set_id, public_key)))
        except IntegrityError as error:
            typer.echo(f"{set_id} is of no use: {error.what}", err=True)
    if as_json:
        typer.echo(json.dumps([{**_plain(each), "verified": _verified(records)} for each, records in found], indent=1))
        return
    grid = Grid()
    for column in ("set", "tables", "files", "size", "new", "verified"):
        grid.add_column(column, no_wrap=column == "set")
    for each, records in found:
        counts = (str(len(each.tables)), f"{each.files:,}", decimal(each.size_bytes), decimal(each.new_bytes))
        grid.add_row(each.id, *counts, _verified(records) or "never")
    Console().print(grid)
    if rest := len(set_ids(vault)) - len(complete):
        typer.echo(f"{rest} more were begun and are not complete, or are being removed.")


def show(set_id: SetId = "", as_json: Json = False) -> None:
    """Say what a set holds of each table, and the file that a catalog registers to read it in place.

    `content` is the beginning of the content's fingerprint: equal ones are the same files, byte for byte.
    """
    from lakehouse.backup.sets import load_set, require_known
    from lakehouse.backup.signing import public_key_of

    vault = _vault()
    manifest = load_set(vault, require_known(vault, set_id), public_key_of(settings())).manifest
    if as_json:
        typer.echo(json.dumps(asdict(manifest), ensure_ascii=False, indent=1))
        return
    typer.echo(f"{manifest.id}: cut at {manifest.cut_at}, complete at {manifest.finished_at}")
    grid = Grid()
    for column in ("table", "rows", "files", "size", "snapshot", "content", "register to read in place"):
        grid.add_column(column, overflow="fold", no_wrap=column in ("table", "content"))
    for table in manifest.tables:
        rows = "unknown" if table.rows is None else f"{table.rows:,}"
        snapshot = "none" if table.snapshot_id is None else str(table.snapshot_id)
        counts = (rows, f"{table.files:,}", decimal(table.size_bytes), snapshot, table.content_fingerprint[:_DIGITS])
        grid.add_row(escape(table.table), *counts, escape(table.query_metadata or table.kind.lower()))
    Console().print(grid)
    for source, ends in manifest.sources.items():
        typer.echo(f"{source}: {ends.log} batches, {ends.decisions} decisions")


def verify(
    set_id: SetId = "",
    is_whole: Annotated[bool, typer.Option("--all", help="Read every byte of every file.")] = False,
    days: Annotated[
        int, typer.Option("--within", metavar="DAYS", min=1, help="Every byte is read within so many daily runs.")
    ] = 7,
    puts_back: Annotated[
        bool, typer.Option("--put-back", help="Where something lies over what was stored, lay that on top again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Walk every reference of a set and look at every file. Ends with 7 where one is missing or damaged.

    All base backups of the databases, and their log, are looked at as well, also where there is no set yet: where a
    segment is missing, it says which span that hurts.

    Metadata is always read whole; of data, size and the server's checksum are asked for, and a share of it is read:
    another one each day. In a bucket with versions what was stored is still there below a newer version, or a mark that
    it is gone: a restore reads it there, and --put-back makes the set one that is read in place again.
    """
    from lakehouse.backup.base_check import verify_bases
    from lakehouse.backup.records import write_record
    from lakehouse.backup.sets import require_known
    from lakehouse.backup.signing import public_key_of, signer_if_any
    from lakehouse.backup.verify import Share, put_back, tables_of
    from lakehouse.backup.verify import as_json as rendered
    from lakehouse.backup.verify import verify as look

    vault, console = _vault(), Console(stderr=True)
    share, public_key = Share() if is_whole else Share.of_day(vault.now, days), public_key_of(settings())
    known, signer = require_known(vault, set_id) if set_id else "", signer_if_any(settings())
    with console.status("verifying the databases") as status:
        bases = verify_bases(vault, public_key, share, vault.now)
        for each in bases:
            write_record(vault, each, signer)
            if not as_json:
                _say_verified(each)
        told = lambda phase, files, size: status.update(_phase(phase, files, size))  # noqa: E731
        known = known or _newest_set(vault, may_lack=bool(bases))
        record = _no_set(vault, share)
        if known:
            record = look(vault, known, public_key, share, vault.now, told)
            write_record(vault, record, signer)
        laid = put_back(vault, record.damages) if puts_back else ()
        if laid:
            record = look(vault, known, public_key, share, SystemClock().now(), told)
            write_record(vault, record, signer)
    if as_json:
        typer.echo(rendered(record, bases))
    elif known:
        typer.echo("".join(f"{key}: what was stored is on top again\n" for key in laid), nl=False)
        _say_verified(record)
    else:
        typer.echo("There is no complete backup set yet.")
    _raise_where_damaged(bases)
    if record.others:
        sets = sorted({damage.key.split("/")[1] for damage in record.others})
        raise IntegrityError(
            f"{len(sets)} other sets are lost or damaged, and so are {len(record.damages)} files of this one",
            where=", ".join(sets),
            untouched="this set" if record.is_good else "",
            todo="verify each with --put-back, which lays what was stored on top where the bucket still has it; "
            "`lakehouse backup prune` strikes out what is gone for good; `lakehouse backup create` stores damaged "
            "files of this one anew",
        )
    if not record.is_good:
        raise IntegrityError(
            f"{len(record.damages)} files of {record.set_id} are missing or damaged",
            where=f"they hurt {', '.join(tables_of(record.damages)) or 'no table'}",
            todo="those whose stored version is whole: --put-back; the others: run `lakehouse backup create`, which "
            "stores them anew from the lake, or use another set",
        )


def _newest_set(vault: Vault, *, may_lack: bool) -> str:
    """The newest set; '' where none was ever complete, if that may be. Raises :class:`LakehouseError` otherwise."""
    from lakehouse.backup.sets import require_known

    try:
        return require_known(vault, "")
    except SettingsError:
        if may_lack:
            return ""
        raise


def _no_set(vault: Vault, share: Share) -> Verification:
    """What is said of sets where there is none: nothing was looked at."""
    from lakehouse.backup.records import Verification

    return Verification("", vault.now.isoformat(), str(share), 0, 0, 0, ())


def _raise_where_damaged(bases: Sequence[Verification]) -> None:
    """Name damage of the databases' backups. What a set lacks is named by itself."""
    if damaged := [each for each in bases if not each.is_good]:
        count = len({damage.key for each in damaged for damage in each.damages})
        raise IntegrityError(
            f"{count} files of the databases' backups are missing or damaged",
            where=f"they hurt {', '.join(each.set_id for each in damaged)}",
            todo="run `lakehouse backup databases`: moments after a new base backup need none of them",
        )


def prune(
    hours: Annotated[int, typer.Option(min=0, help="Every set younger than this is kept.")] = 48,
    daily: Annotated[int, typer.Option(min=0, help="Days of which the newest set is kept.")] = 14,
    weekly: Annotated[int, typer.Option(min=0, help="Weeks.")] = 8,
    monthly: Annotated[int, typer.Option(min=0, help="Months.")] = 12,
    yearly: Annotated[int, typer.Option(min=0, help="Years.")] = 3,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Remove the sets that no rule keeps, and the files that only they have. Never the newest, nor the last verified.

    Base backups of the databases go by the same rules. Their log is kept from the oldest one of the days on.
    What is locked stays until its lock has passed.
    """
    from lakehouse.backup.base_prune import plan_base_prune, run_base_prune
    from lakehouse.backup.prune import Policy, plan_prune, run_prune
    from lakehouse.backup.signing import public_key_of
    from lakehouse.ledger.retention_lock import pruning_backups

    current = settings()
    current.require_servers()
    policy = Policy(hours, daily, weekly, monthly, yearly)
    with pruning_backups(current):
        vault = _vault(current.as_backup_pruner())
        with Console(stderr=True).status("looking at the sets"):
            plan = plan_prune(vault, policy, public_key_of(current))
            bases = plan_base_prune(vault, policy, public_key_of(current))
        if not as_json:
            _say_plan(plan)
            _say_bases(bases)
        takes = bool(plan.going or not bases.is_empty) and not is_dry_run
        what = f"{len(plan.going)} sets, {len(bases.going)} base backups and {len(bases.log)} files of the log"
        if takes and not yes:
            typer.confirm(f"Remove {what} for good?", abort=True, err=as_json)
        refused = run_prune(vault, plan) + run_base_prune(vault, bases) if takes else 0
    locked = plan.locked + bases.locked
    if as_json:
        found = {**_plain_plan(plan, bases), "is_removed": takes, "refused": refused}
        typer.echo(json.dumps(found))
    elif takes:
        typer.echo(f"Removed are {what}; {locked + refused} files stay until their lock has passed.")
    else:
        typer.echo("Nothing was removed.")


def key() -> None:
    """Make a key that backups are signed with, as `lakehouse up` does.

    Keep it where the loss of the lake cannot reach it.
    """
    from lakehouse.backup.signing import new_key

    private, public = new_key()
    typer.echo(f"LAKEHOUSE_BACKUP_SIGNING_KEY={private}")
    typer.echo(f"LAKEHOUSE_BACKUP_PUBLIC_KEY={public}")


def _vault(mine: Settings | None = None) -> Vault:
    from lakehouse.backup.vault import Vault

    return Vault.open(mine or settings(), SystemClock().now())


def _phase(phase: str, files: int, size: int) -> str:
    return f"{phase}: {files:,} files" + (f", {decimal(size)}" if size else "")


def _plain(manifest: Manifest) -> dict[str, Any]:
    """A set in one line: its tables are counted, `show` names them."""
    plain = asdict(manifest)
    return {**plain, "tables": len(manifest.tables), "namespaces": len({each[0] for each in manifest.namespaces})}


def _verified(records: list[Verification]) -> str:
    if not records:
        return ""
    last = records[-1]
    return f"{last.at[:19].replace('T', ' ')} {'good' if last.is_good else f'{len(last.damages)} damaged'}"


def _say_verified(record: Verification) -> None:
    for damage in (*record.others, *record.damages)[:_MOST]:
        typer.echo(f"{damage.key} ({damage.kind}): {damage.problem}")
        typer.echo(f"  of {damage.uri or 'the set itself'}; hurts {', '.join(damage.tables) or 'no table'}")
        if damage.snapshots:
            typer.echo(f"  snapshots: {', '.join(map(str, damage.snapshots[:_MOST]))}")
        if damage.good_version:
            typer.echo(f"  the version that was stored is still whole: {damage.good_version}")
    if len(record.damages) > _MOST:
        typer.echo(f"and {len(record.damages) - _MOST} more; --json has all")
    part = f", share {record.share} of the data" if record.share else ""
    typer.echo(
        f"{record.set_id}: {record.files:,} files looked at, {record.read:,} read whole "
        f"({decimal(record.read_bytes)}{part}), {len(record.damages)} damaged."
    )


def _plain_plan(plan: Pruning, bases: BasePruning) -> dict[str, Any]:
    return {
        "sets": [asdict(fate) for fate in plan.fates],
        "files": len(plan.objects),
        "bytes": plan.size_bytes,
        "locked": plan.locked + bases.locked,
        "bases": [asdict(fate) for fate in bases.fates],
        "log_files": len(bases.log),
    }


def _say_bases(plan: BasePruning) -> None:
    for fate in plan.fates:
        typer.echo(f"databases {fate.set_id}  {'stays' if fate.is_kept else 'goes'}: {fate.reason}")
    if plan.log:
        size = decimal(sum(stored.size_bytes for stored in plan.log))
        typer.echo(f"{len(plan.log):,} files of the databases' log go: no base backup needs them, {size}.")


def _say_plan(plan: Pruning) -> None:
    for fate in plan.fates:
        typer.echo(f"{fate.set_id}  {'stays' if fate.is_kept else 'goes'}: {fate.reason}")
    if plan.going:
        typer.echo(f"With those that go: {len(plan.objects):,} files, {decimal(plan.size_bytes)}.")
