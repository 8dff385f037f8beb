"""What the model cannot say field by field: each check looks at one contract, or at all, and yields what is wrong.

Pure: contract in, findings out. A finding names a path in the file, so that the line can be found.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from zoneinfo import available_timezones

from lakehouse.contracts import derive, validity
from lakehouse.contracts.expressions import ExpressionError
from lakehouse.contracts.model import STRICTNESS, Column, Contract, Reference, Rule, Source, Table
from lakehouse.contracts.partitions import parse_partition
from lakehouse.contracts.yaml_lines import Path
from lakehouse.core import names
from lakehouse.core.types import DataType

_TEMPORAL = ("date", "timestamp")
_FORMAT = re.compile(
    r"(?:y{1,4}|M{1,4}|d{1,2}|H{1,2}|h{1,2}|m{1,2}|s{1,2}|S{1,9}|a|X{1,3}|x{1,3}|VV|z|'[^']*'|[^A-Za-z'\[\]#{}])+\Z"
)
_GENERATED = (names.EFFECTIVE_FROM, names.EFFECTIVE_TO, names.IS_CURRENT, names.OCCURRENCE)
_BRONZE_COLUMNS = {names.UNIT: DataType("date"), names.LANDED_AT: DataType("timestamp"), names.BATCH: DataType("long")}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and where in the contract."""

    path: Path
    message: str


Findings = Iterator[Finding]


def check_contract(contract: Contract) -> Findings:
    """Everything that is wrong within one contract."""
    yield from _check_source(contract)
    yield from _check_partition(contract.bronze.partition, _BRONZE_COLUMNS, ("bronze", "partition"))
    for name, table in contract.tables.items():
        path: Path = ("tables", name)
        yield from _check_names(table, path)
        yield from _check_columns(contract, table, path)
        yield from _check_renames(table, path)
        yield from _check_key(table, path)
        yield from _check_kind(contract, table, path)
        yield from _check_layout(table, path)
        yield from _check_batch_rules(table, path)
        yield from _check_rules(table, path)


def _check_source(contract: Contract) -> Findings:
    source = contract.source
    if source.connector == "files":
        yield from _check_pattern(source.pattern)
        if source.postgres is not None:
            yield Finding(("source", "postgres"), "is for connector postgres only")
    elif source.postgres is None:
        yield Finding(("source",), "connector postgres needs the postgres block")
    elif (source.kind, source.format, source.pattern) != ("increment", "jsonl", ""):
        yield Finding(("source",), "connector postgres has kind increment, format jsonl and no pattern")
    yield from _check_zone(source.timezone)
    if source.csv.delimiter == source.csv.quote:
        yield Finding(("source", "csv"), "delimiter and quote are the same character")
    if source.volume and source.volume.min_days > source.volume.days:
        yield Finding(("source", "volume", "min_days"), "is more than days: nothing would ever be held")
    yield from _check_source_columns(source)


def _check_source_columns(source: Source) -> Findings:
    spelled: dict[str, str] = {}
    for column in source.columns:
        if column.lower() in spelled:
            yield Finding(("source", "columns", column), f"differs from {spelled[column.lower()]!r} in case only")
        spelled[column.lower()] = column
        if column != column.strip():
            yield Finding(("source", "columns", column), "begins or ends with a space")


def _check_zone(zone: str) -> Findings:
    if zone not in available_timezones():
        yield Finding(("source", "timezone"), f"unknown zone {zone!r}{_near(zone, available_timezones())}")


def _check_pattern(pattern: str) -> Findings:
    path: Path = ("source", "pattern")
    if not pattern:
        yield Finding(("source",), "connector files needs a pattern")
        return
    if pattern.count("{date}") != 1:
        yield Finding(path, "must have {date} once, for the unit")
    if pattern.startswith("/") or ".." in pattern.split("/") or "\\" in pattern:
        yield Finding(path, "must stay below the sources' root: no leading /, no .., no backslash")
    if re.search(r"[{}\[\]?]|\*\*", pattern.replace("{date}", "")):
        yield Finding(path, "knows {date} and * only")


def _check_names(table: Table, path: Path) -> Findings:
    generated = derive.generated_columns(table)
    reserved = {*generated, *_GENERATED}
    for part, columns in (("columns", table.columns), ("order", table.order)):
        for name in columns:
            if name in reserved:
                yield Finding((*path, part, name), "is the name of a generated column")
    for name in table.order:
        if name in table.columns:
            yield Finding((*path, "order", name), "stands under columns too")
    for name in sorted({name for name in generated if generated.count(name) > 1}):
        yield Finding(path, f"the generated column {name!r} would stand twice")


def _check_columns(contract: Contract, table: Table, path: Path) -> Findings:
    for part, columns in (("columns", table.columns), ("order", table.order)):
        for name, column in columns.items():
            yield from _check_expression(contract, name, column, (*path, part, name))
            yield from _check_format(column, (*path, part, name))
            yield from _check_valid(table, name, column, (*path, part, name, "valid"))


def _check_valid(table: Table, name: str, column: Column, path: Path) -> Findings:
    wrong = validity.problems(column)
    yield from (Finding((*path, field) if field else path, why) for field, why in wrong.items())
    if wrong:
        return
    for rule, check, words in validity.checks(name, column):
        try:
            derive.compile_rule(table, Rule.model_construct(name=rule, check=check, description=words))
        except ExpressionError as error:
            yield from (Finding(path, problem) for problem in error.problems)


def _check_renames(table: Table, path: Path) -> Findings:
    """A former name belongs to one column, and to none that still is: else two columns would claim its values."""
    taken: dict[str, str] = {}
    for part, columns in (("columns", table.columns), ("order", table.order)):
        for name, column in columns.items():
            former, where = column.renamed_from, (*path, part, name, "renamed_from")
            if former is None:
                continue
            if former in table.typed:
                yield Finding(where, f"{former!r} is a column of this table; if it is a new one, remove renamed_from")
            elif taken.setdefault(former, name) != name:
                yield Finding(where, f"{taken[former]!r} was renamed from {former!r} already")


def _check_expression(contract: Contract, name: str, column: Column, path: Path) -> Findings:
    where = (*path, "expression")
    try:
        compiled = derive.compile_column(contract, name, column)
    except ExpressionError as error:
        hint = "" if column.expression else "has no expression, and "
        yield from (Finding(where, hint + problem) for problem in error.problems)
        return
    given, wanted = compiled.type, column.type
    if given.name not in ("string", "null") and not _fits(given, wanted):
        yield Finding(where, f"gives {given}, which is no {wanted}")
    if column.format and given.name != "string":
        yield Finding((*path, "format"), f"reads text, and the expression gives {given}")
    strictest = max(
        (contract.source.columns[c].classification for c in compiled.columns), key=STRICTNESS.index, default="public"
    )
    is_laxer = STRICTNESS.index(column.classification) < STRICTNESS.index(strictest)
    if is_laxer and not column.declassified:
        yield Finding(
            (*path, "classification"),
            f"{column.classification} is laxer than its source ({strictest}); say why under declassified",
        )
    if column.declassified and not is_laxer:
        yield Finding((*path, "declassified"), "nothing is declassified here; remove it")


def _fits(given: DataType, wanted: DataType) -> bool:
    """Whether a computed value may become the column's type; a number that overflows is quarantined."""
    numbers = ("int", "long", "decimal", "double")
    return given.name == wanted.name or (given.name in numbers and wanted.name in numbers)


def _check_format(column: Column, path: Path) -> Findings:
    if not column.format:
        return
    if column.type.name not in _TEMPORAL:
        yield Finding((*path, "format"), f"is for dates and timestamps, not for {column.type}")
    elif not _FORMAT.match(column.format):
        yield Finding((*path, "format"), "is no pattern of Spark, such as yyyy-MM-dd HH:mm:ss")
    elif not all(letter in column.format for letter in "yMd"):
        yield Finding((*path, "format"), "needs year (y), month (M) and day (d)")


def _check_key(table: Table, path: Path) -> Findings:
    for place, name in enumerate(table.key):
        where = (*path, "key", place)
        if name not in table.columns:
            yield Finding(where, f"unknown column {name!r}{_near(name, table.columns)}")
            continue
        if table.key.index(name) != place:
            yield Finding(where, f"{name!r} stands twice")
        if table.kind == "dimension":
            yield from _check_dimension_key(table.columns[name], (*path, "columns", name))


def _check_dimension_key(column: Column, path: Path) -> Findings:
    if column.nullable:
        yield Finding(path, "a dimension's key is not null; set nullable: false")
    if column.history is not None:
        yield Finding((*path, "history"), "a key has no history")
    if column.null != "value":
        yield Finding((*path, "null"), "a key is always observed")


def _check_kind(contract: Contract, table: Table, path: Path) -> Findings:
    yield from _check_dimension(contract, table, path) if table.kind == "dimension" else _check_fact(table, path)


def _check_fact(table: Table, path: Path) -> Findings:
    for field in ("effective_time", "tie_breakers", "deletion", "per_life", "order"):
        if getattr(table, field):
            yield Finding((*path, field), "is for dimensions only")
    if "future_allowance" in table.model_fields_set:
        yield Finding((*path, "future_allowance"), "is for dimensions only")
    for name, column in table.columns.items():
        if column.history is not None:
            yield Finding((*path, "columns", name, "history"), "a fact has no history")
        if column.null != "value":
            yield Finding((*path, "columns", name, "null"), "is for dimensions only")


def _check_dimension(contract: Contract, table: Table, path: Path) -> Findings:
    for field in ("occurrence", "references"):
        if getattr(table, field):
            yield Finding((*path, field), "is for facts only")
    for name, column in table.order.items():
        if column.history is not None:
            yield Finding((*path, "order", name, "history"), "is not published, so it has no history")
        if column.null != "value":
            yield Finding((*path, "order", name, "null"), "is not published, so nothing carries forward")
    yield from _check_effective_time(contract, table, path)
    yield from _check_ties(contract, table, path)
    yield from _check_deletion(contract, table, path)


def _check_effective_time(contract: Contract, table: Table, path: Path) -> Findings:
    name, where = table.effective_time, (*path, "effective_time")
    if not name:
        yield Finding(path, "a dimension needs effective_time: a timestamp column, or _unit")
    elif name == names.UNIT:
        if contract.source.kind == "increment":
            yield Finding(where, "_unit is for slices and snapshots; a feed says when each change took effect")
    elif contract.source.kind == "snapshot":
        yield Finding(
            where,
            f"{name!r}: the rows of a full snapshot all show the state of its day; say effective_time: _unit, or, if "
            "each row has its own time, make the source a slice or an increment",
        )
    elif name not in table.typed:
        yield Finding(where, f"unknown column {name!r}{_near(name, table.typed)}")
    elif table.typed[name].type.name != "timestamp":
        yield Finding(where, f"{name!r} is {table.typed[name].type}, not timestamp")
    elif table.typed[name].nullable:
        yield Finding(where, f"{name!r} may be null; an observation has a time: set nullable: false")


def _check_ties(contract: Contract, table: Table, path: Path) -> Findings:
    if not table.tie_breakers and contract.source.kind != "snapshot":
        yield Finding(path, "a dimension fed by a slice or an increment needs tie_breakers")
    for place, tie in enumerate(table.tie_breakers):
        if tie.column not in table.typed:
            yield Finding(
                (*path, "tie_breakers", place, "column"),
                f"unknown column {tie.column!r}{_near(tie.column, table.typed)}",
            )


def _check_deletion(contract: Contract, table: Table, path: Path) -> Findings:
    if table.deletion is None:
        return
    where = (*path, "deletion")
    if contract.source.kind == "snapshot":
        yield Finding(where, "in a snapshot absence means deleted")
    name = table.deletion.column
    if name not in table.typed:
        yield Finding((*where, "column"), f"unknown column {name!r}{_near(name, table.typed)}")
    elif table.typed[name].type.name != "string":
        yield Finding((*where, "column"), f"{name!r} is {table.typed[name].type}, not string")


def _check_layout(table: Table, path: Path) -> Findings:
    types = {name: column.type for name, column in table.columns.items()}
    kinds = {
        names.OCCURRENCE: "int",
        names.IS_CURRENT: "boolean",
        names.EFFECTIVE_FROM: "timestamp",
        names.EFFECTIVE_TO: "timestamp",
    }
    generated = {name: DataType(kinds.get(name, "string")) for name in derive.generated_columns(table)}
    units = {names.UNIT: DataType("date")} if table.kind == "fact" else {}
    known = {**types, **generated, **units}
    yield from _check_partition(table.partition, known, (*path, "partition"))
    for place, name in enumerate(table.sort):
        if name not in known:
            yield Finding((*path, "sort", place), f"unknown column {name!r}{_near(name, known)}")


def _check_partition(fields: Iterable[str], known: Mapping[str, DataType], path: Path) -> Findings:
    for place, text in enumerate(fields):
        field = parse_partition(text)
        if field.column not in known:
            yield Finding((*path, place), f"unknown column {field.column!r}{_near(field.column, known)}")
        elif field.transform in ("year", "month", "day") and known[field.column].name not in _TEMPORAL:
            yield Finding((*path, place), f"{field.column!r} is {known[field.column]}, not a date or timestamp")


def _check_rules(table: Table, path: Path) -> Findings:
    automatic = set(derive.rule_names(table))
    seen = {name for column, spec in table.typed.items() for name, _, _ in _made(column, spec)}
    for name in sorted(seen & automatic):
        yield Finding(path, f"the name of rule {name!r}, made for a column, would stand twice")
    for place, rule in enumerate(table.rules):
        where = (*path, "rules", place)
        if rule.name in automatic:
            yield Finding((*where, "name"), f"{rule.name!r} is an automatic rule's name")
        if rule.name in seen:
            yield Finding((*where, "name"), f"{rule.name!r} stands twice")
        seen.add(rule.name)
        try:
            derive.compile_rule(table, rule)
        except ExpressionError as error:
            yield from (Finding((*where, "check"), problem) for problem in error.problems)


def _check_batch_rules(table: Table, path: Path) -> Findings:
    references = [reference.column for reference in table.references]
    made = (rule for column, spec in table.typed.items() for rule, _, _ in _made(column, spec))
    automatic = {*derive.rule_names(table), *made, *(rule.name for rule in table.rules)}
    seen: set[str] = set()
    for place, rule in enumerate(table.batch_rules):
        where = (*path, "batch_rules", place)
        if rule.name in seen | automatic:
            yield Finding(where, f"the name of rule {rule.name!r} would stand twice")
        seen.add(rule.name)
        if rule.kind == "completeness":
            yield from _check_known([rule.column], table.columns, (*where, "column"))
        elif rule.kind == "uniqueness":
            yield from _check_known(rule.columns, table.columns, (*where, "columns"))
        elif rule.kind == "relationship":
            yield from _check_known([rule.reference], references, (*where, "reference"))


def _check_known(columns: Iterable[str], known: Iterable[str], path: Path) -> Findings:
    yield from (Finding(path, f"unknown column {c!r}{_near(c, known)}") for c in columns if c not in known)


def _made(name: str, column: Column) -> Iterator[tuple[str, str, str]]:
    """The rules of a column's own checks; none where these are wrong, which is said by itself."""
    return iter(()) if validity.problems(column) else validity.checks(name, column)


def check_together(contracts: Mapping[str, Contract]) -> Iterator[tuple[str, Finding]]:
    """What is wrong between contracts, each with the name of the contract that has to change."""
    owners: dict[str, str] = {}
    for name, contract in contracts.items():
        made: dict[str, Path] = {f"silver.{table}": ("tables", table) for table in contract.tables}
        for full, path in {**made, str(contract.bronze_table): ("dataset",)}.items():
            if owners.setdefault(full, name) != name:
                yield name, Finding(path, f"{full} is made by {owners[full]} already")
    tables = {name: table for contract in contracts.values() for name, table in contract.tables.items()}
    for name, contract in contracts.items():
        yield from ((name, finding) for finding in _check_references(contract, tables))


def _check_references(contract: Contract, tables: Mapping[str, Table]) -> Findings:
    for name, table in contract.tables.items():
        for place, reference in enumerate(table.references):
            yield from _check_reference(table, reference, tables, ("tables", name, "references", place))


def _check_reference(table: Table, reference: Reference, tables: Mapping[str, Table], path: Path) -> Findings:
    missing = [name for name in reference.key if name not in table.columns]
    yield from (Finding((*path, "key"), f"unknown column {name!r}{_near(name, table.columns)}") for name in missing)
    target = tables.get(reference.table)
    if target is None or target.kind != "dimension":
        dimensions = [name for name, candidate in tables.items() if candidate.kind == "dimension"]
        yield Finding(
            (*path, "table"), f"no contract makes a dimension {reference.table!r}{_near(reference.table, dimensions)}"
        )
        return
    if len(reference.key) != len(target.key):
        yield Finding(
            (*path, "key"), f"has {len(reference.key)} columns; the key of {reference.table} has {len(target.key)}"
        )
        return
    for mine, theirs in zip(reference.key, target.key, strict=True):
        have, want = table.columns.get(mine), target.columns.get(theirs)
        if have and want and have.type != want.type:
            yield Finding((*path, "key"), f"{mine!r} is {have.type}, {theirs!r} of {reference.table} is {want.type}")


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
