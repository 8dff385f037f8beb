"""``lakehouse history`` and ``lakehouse diff``: what was valid when, and what was known when. No JVM."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lakehouse.cli.show import plain, ranges, rows_grid
from lakehouse.core.clock import moment
from lakehouse.core.errors import SettingsError
from lakehouse.core.names import EFFECTIVE_FROM, EFFECTIVE_TO, IS_CURRENT, TableName
from lakehouse.core.settings import settings

if TYPE_CHECKING:
    from lakehouse.ledger.between import Between
    from lakehouse.ledger.changes import Step
    from lakehouse.ledger.diff import Diff, KeyChange, RowChange
    from lakehouse.ledger.points import Point
    from lakehouse.ledger.reading import Subject

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Classified = Annotated[
    bool, typer.Option("--show-classified", help="Show values of sensitive and pii columns; default: ***.")
]
_WORDS = {
    "opened": "opened: not there or deleted before, current now",
    "closed": "closed: current before, deleted now",
    "changed": "changed",
    "past": "only in the past: what is current stayed as it was",
    "added": "added",
    "removed": "removed",
}
_LATE = ("inserted", "removed", "rewritten")
_HIDDEN = (IS_CURRENT,)
_LONG = 60
_VERSION_COLUMNS = ["version", EFFECTIVE_FROM, "before", "after"]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(history)
    app.command()(diff)


def history(
    table: Annotated[str, typer.Argument(help="A dimension, as in silver.dim_customer.")],
    key: Annotated[list[str], typer.Option("--key", help="The natural key; once for each of its columns.")],
    valid_at: Annotated[
        str | None, typer.Option("--valid-at", metavar="TIME", help="Only the version that was valid then.")
    ] = None,
    known_at: Annotated[
        str | None,
        typer.Option(
            "--known-at",
            "--as-of",
            metavar="T",
            help="As known then: ISO date or time (UTC unless it says), snapshot id, tag or branch.",
        ),
    ] = None,
    is_changes: Annotated[
        bool, typer.Option("--changes", help="What each publication that touched the key changed about it.")
    ] = False,
    show_classified: Classified = False,
    as_json: Json = False,
) -> None:
    """Show every version of one key, oldest first, or how they came to be known. No JVM.

    Exit code 1 when there is nothing to show.
    """
    from lakehouse.ledger.points import resolve
    from lakehouse.ledger.reading import key_versions, parse_key

    subject = _dimension(table)
    durable = parse_key(subject.spec, key)
    if is_changes:
        if valid_at is not None or known_at is not None:
            raise SettingsError("--changes shows all times", todo="leave --valid-at and --known-at out")
        _show_changes(subject, durable, show_classified, as_json)
        return
    at = moment(valid_at) if valid_at is not None else None
    point = resolve(subject.table, subject.name, known_at) if known_at is not None else None
    rows = [_business(row) for row in key_versions(subject, durable, point, at)]
    _show_versions(subject, rows if show_classified else [_masked(subject, row) for row in rows], as_json)


def diff(
    table: Annotated[str, typer.Argument(help="A silver table, as in silver.dim_customer.")],
    start: Annotated[
        str,
        typer.Option("--from", metavar="T", help="ISO date or time (UTC unless it says), snapshot, tag, branch."),
    ],
    end: Annotated[str | None, typer.Option("--to", metavar="T", help="The same; default: now.")] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="One natural key, once for each column.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Most keys to show of each kind of change.")] = 10,
    show_classified: Classified = False,
    as_json: Json = False,
) -> None:
    """Show what changed in a table between two known times. Reads only the files that differ; no JVM.

    Dimensions: keys opened, closed and changed, and versions in the past that were rewritten, as by late data, told
    apart from what is current. Facts: rows added, removed and changed. Then the batches that came and went, columns,
    and properties. No change is no error.
    """
    from lakehouse.ledger.between import between
    from lakehouse.ledger.diff import diff as compare
    from lakehouse.ledger.points import resolve
    from lakehouse.ledger.reading import parse_key
    from lakehouse.ledger.store import ObjectStore

    subject = _subject(table)
    durable = parse_key(subject.spec, key) if key else None
    points = [resolve(subject.table, subject.name, asked) for asked in (start, end)]
    found = compare(subject, points[0], points[1], limit=limit, key=durable, show_classified=show_classified)
    more = between(ObjectStore.open(settings()), subject, points[0], points[1] if end else None)
    if as_json:
        print(json.dumps(found.to_json() | more.to_json(), default=plain))
        return
    console = Console(width=max(Console().width, 120))
    _show_diff(console, found)
    for line in _beside_lines(more):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _subject(table: str) -> Subject:
    from lakehouse.contracts.load import load_contracts
    from lakehouse.ledger.reading import subject_of
    from lakehouse.ledger.watermark import open_catalog

    name = TableName.parse(table)
    return subject_of(open_catalog(settings()), load_contracts(settings().contracts).values(), name)


def _dimension(table: str) -> Subject:
    subject = _subject(table)
    if subject.spec.kind != "dimension":
        raise SettingsError(
            f"{subject.name} is a fact table: its rows have no versions",
            todo="ask it with `lakehouse sql`, or compare two times with `lakehouse diff`",
        )
    return subject


def _business(row: Mapping[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in row.items() if not column.startswith("_")}


def _masked(subject: Subject, row: Mapping[str, Any]) -> dict[str, Any]:
    from lakehouse.ledger.columns import masked

    return masked(subject.spec, row)


def _show_versions(subject: Subject, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, default=plain))
    elif rows:
        Console().print(rows_grid(list(rows[0]), [tuple(row.values()) for row in rows]))
    else:
        print(f"{subject.name} has no version of this key, or had none then")
    if not rows:
        raise typer.Exit(1)


def _show_changes(subject: Subject, key: str, show_classified: bool, as_json: bool) -> None:
    from lakehouse.ledger.changes import key_changes

    steps = key_changes(subject, key, show_classified=show_classified)
    if as_json:
        print(json.dumps([_step_json(step) for step in steps], default=plain))
    elif steps:
        _show_steps(Console(width=max(Console().width, 120)), steps)
    else:
        print(f"no publication of {subject.name} that is kept touched this key")
    if not steps:
        raise typer.Exit(1)


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "known_at": step.point.at,
        "snapshot_id": step.point.snapshot.snapshot_id,
        "is_earliest_kept": step.is_earliest,
        **asdict(step.change),
    }


def _show_steps(console: Console, steps: Iterable[Step]) -> None:
    for step in steps:
        console.print(f"{_point(step.point)}: {_step_words(step)}", highlight=False, soft_wrap=True)
        console.print(rows_grid(_VERSION_COLUMNS, [_row_cells(row, step.change.natural) for row in step.change.rows]))


def _step_words(step: Step) -> str:
    if step.is_earliest:
        return "known already; what came before is not kept"
    words = [] if step.change.what == "past" else [step.change.what]
    words += ["past rewritten"] if step.change.is_late else []
    return ", ".join(words) or "only versions that are closed"


def _show_diff(console: Console, found: Diff) -> None:
    console.print(f"{found.table}, {_point(found.start)} → {_point(found.end)}", soft_wrap=True, highlight=False)
    for line in _schema_lines(found):
        console.print(line, highlight=False)
    if found.is_empty:
        console.print(f"no change; {found.files_shared} files are the same, {found.files_opened} were compared")
        return
    for line in _count_lines(found):
        console.print(line, highlight=False)
    for what, keys in found.keys.items():
        samples = [sample for sample in found.samples if sample.what == what]
        if samples:
            console.print(f"\n{what}" if found.kind == "fact" else f"\nkeys {_WORDS[what]}", highlight=False)
            console.print(_samples_grid(found, what, samples))
        if keys and found.more(what):
            console.print(f"… and {found.more(what):,} more; --limit shows more", highlight=False)
    _show_past(console, found)


def _show_past(console: Console, found: Diff) -> None:
    """Versions that were rewritten in the past, of the keys that are shown for something else."""
    others = [sample for sample in found.samples if sample.what != "past"]
    late = [(sample, [row for row in sample.rows if row.what in _LATE]) for sample in others]
    if found.kind == "dimension" and any(rows for _, rows in late):
        console.print("\nversions rewritten in the past, of the keys above", highlight=False)
        console.print(_versions_grid(late))


def _versions_grid(samples: Sequence[tuple[KeyChange, Sequence[RowChange]]]) -> Any:
    names = list(samples[0][0].natural)
    rows = [(*s.natural.values(), *_row_cells(row, s.natural)) for s, rows in samples for row in rows]
    return rows_grid([*names, *_VERSION_COLUMNS], rows)


def _samples_grid(found: Diff, what: str, samples: Sequence[KeyChange]) -> Any:
    """Keys with the values that came or went; for those that changed, a line for each column with both values."""
    names = list(samples[0].natural)
    if what == "past":
        return _versions_grid([(sample, sample.rows) for sample in samples])
    if what == "changed":
        rows = [(*s.natural.values(), *cells) for s in samples for cells in _side_by_side(s)]
        return rows_grid([*names, "column", "before", "after"], rows)
    is_new = what in ("opened", "added")
    values = [side for s in samples if (side := _current(s, found.kind, is_new=is_new)) is not None]
    columns = [column for column in values[0] if column not in (*_HIDDEN, EFFECTIVE_TO)]
    return rows_grid(columns, [[each.get(column) for column in columns] for each in values])


def _side_by_side(sample: KeyChange) -> Iterable[tuple[str, Any, Any]]:
    return [(each.column, each.old, each.new) for each in sample.values if each.column not in _HIDDEN]


def _current(sample: KeyChange, kind: str, *, is_new: bool) -> Mapping[str, Any] | None:
    """The row of a fact, or the open version of a key, on one side."""
    sides = [row.new if is_new else row.old for row in sample.rows]
    return next((side for side in sides if side is not None and (kind == "fact" or side[IS_CURRENT])), None)


def _row_cells(row: RowChange, natural: Mapping[str, Any]) -> tuple[str, str, str, str]:
    values = row.new or row.old or {}
    shown = row.columns or [column for column in values if column not in (*natural, EFFECTIVE_FROM)]
    return row.what, _short(values.get(EFFECTIVE_FROM)), _values(row.old, shown), _values(row.new, shown)


def _values(values: Mapping[str, Any] | None, columns: Iterable[str]) -> str:
    if values is None:
        return ""
    pairs = [(column, values.get(column)) for column in columns if column not in _HIDDEN]
    return ", ".join(f"{column}={_short(value)}" for column, value in pairs)


def _short(value: Any) -> str:
    """A value in few characters: times without their zone, which is UTC, and midnight as the day."""
    if isinstance(value, datetime):
        return plain(value.replace(tzinfo=None)).removesuffix(" 00:00:00")
    return "null" if value is None else plain(value)


def _count_lines(found: Diff) -> Iterable[str]:
    if found.kind == "dimension":
        yield "keys: " + ", ".join(f"{keys:,} {what}" for what, keys in found.keys.items())
        yield f"      {found.late_keys:,} with a rewritten past (late data, corrections)"
    counted = [f"{rows:,} {what}" for what, rows in sorted(found.rows.items())]
    yield ("versions: " if found.kind == "dimension" else "rows: ") + (", ".join(counted) or "none that differ")
    if found.unchanged:
        yield f"{found.unchanged:,} rows were written anew as they were"
    yield f"{found.files_opened} files compared, {found.files_shared} are the same"


def _schema_lines(found: Diff) -> Iterable[str]:
    change = found.schema
    if change.added:
        yield f"columns added: {', '.join(change.added)}"
    if change.dropped:
        yield f"columns dropped: {', '.join(change.dropped)}"
    for old, new in change.renamed.items():
        yield f"column renamed: {old} → {new}"
    for column, (old, new) in change.retyped.items():
        yield f"column widened: {column}, {old} → {new}"


def _beside_lines(more: Between) -> Iterable[str]:
    for each in more.batches:
        yield f"consumed: {each.source}#{each.was_through} → #{each.through}"
        yield from (f"  batches {ranges(n)} {words}" for n, words in ((each.came, "came"), (each.went, "went")) if n)
    if more.properties is None:
        yield "properties: what they were then is not kept"
    for name, (old, new) in (more.properties or {}).items():
        yield f"property {name}: {_cut(old)} → {_cut(new)}"


def _cut(value: str | None) -> str:
    if value is None:
        return "none"
    return value if len(value) <= _LONG else f"{value[:_LONG]}…"


def _point(point: Point | None) -> str:
    return f"{_time(point.at)} UTC (snapshot {point.snapshot.snapshot_id})" if point else "nothing"


def _time(at: Any) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
