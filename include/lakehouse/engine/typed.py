"""From bronze text to typed rows with the names of the rules that each one fails.

Pure functions from DataFrame to DataFrame. Every rule here reads one row only, so the split into good rows and
quarantine does not depend on order. Nothing raises: a value that cannot be cast is null and fails ``<column>_type``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.derive import compile_column, compile_rule
from lakehouse.contracts.model import Column, Contract, Table
from lakehouse.core import names
from lakehouse.core.names import quote
from lakehouse.core.types import DataType
from lakehouse.engine import encoding
from lakehouse.engine.tables import literal

FAILED = "_failed"
FAILED_BEFORE = "_failed_before"
WARNED = "_warned"
SOURCE = "_source"
STATUS = "_status"
STATUS_BEFORE = "_status_before"
_FENCE = "_fence"
_OBSERVED = "_observed_"
_ZONED = "(Z|[+-][0-9]{2}:?[0-9]{2})$"
_UNITS = {"h": "HOURS", "d": "DAYS"}
EFFECTIVE = "_effective"
PROVENANCE = (names.BATCH, names.UNIT, names.FILE, names.RECORD, names.LINE, names.LANDED_AT)


def observed_flag(column: str) -> str:
    """The column that says whether a row observed an attribute."""
    return _OBSERVED + column


def typed_rows(bronze: DataFrame, contract: Contract, name: str, before: Table | None = None) -> DataFrame:
    """Typed columns, ``_key``, the rules each row failed, its status, what it observed, and where it came from.

    The row as it came is kept in the struct ``_source``: its columns may differ from the typed ones in case only.
    ``before`` is the same table with other row rules; what these say of each row stands beside it.
    """
    table = contract.tables[name]
    # One projection for each stage, so that Spark evaluates what is costly once and then refers to it by name.
    rows = bronze.selectExpr(f"struct({_list(contract.source.columns)}) AS {SOURCE}", "*")
    rows = rows.selectExpr(SOURCE, *_SYSTEM, *_raw_values(contract, table))
    rows = rows.selectExpr(SOURCE, *_SYSTEM, *_casts(contract, table))
    rows = rows.selectExpr(SOURCE, *_SYSTEM, *_values(contract, table), f"monotonically_increasing_id() AS {_FENCE}")
    judged = [*_judgements(contract, table), *([f"{_failed(contract, before)} AS {FAILED_BEFORE}"] if before else [])]
    rows = rows.selectExpr("*", *judged).drop(*[_bad(column) for column in table.typed])
    statuses = {STATUS: FAILED} | ({STATUS_BEFORE: FAILED_BEFORE} if before else {})
    return rows.withColumns({status: F.expr(_status(table, by)) for status, by in statuses.items()}).drop(_FENCE)


_SYSTEM = (*PROVENANCE, names.REJECTED, names.RAW, names.EXTRA, names.MISSING)


def _list(columns: Iterable[str]) -> str:
    return ", ".join(quote(column) for column in columns)


def _raw_values(contract: Contract, table: Table) -> list[str]:
    return [f"{compile_column(contract, c, spec).sql} AS {_raw(c)}" for c, spec in table.typed.items()]


def _casts(contract: Contract, table: Table) -> list[str]:
    """The value as it came, beside its cast."""
    found = []
    for name, spec in table.typed.items():
        kind = compile_column(contract, name, spec).type
        found += [f"{_raw(name)}", f"{_cast(_raw(name), kind, spec, contract.source.timezone)} AS {quote(name)}"]
    return found


def _values(contract: Contract, table: Table) -> list[str]:
    """Values that fit, whether one was lost, and whether attributes were observed."""
    found = []
    for name, spec in table.typed.items():
        value, kind = _fitting(name, spec), compile_column(contract, name, spec).type
        found += [f"{value} AS {quote(name)}", f"{_is_lost(name, value, spec, kind)} AS {_bad(name)}"]
        if table.kind == "dimension" and name in table.attributes:
            found.append(f"{_is_observed(contract, name, spec)} AS {quote(observed_flag(name))}")
    return found


def _judgements(contract: Contract, table: Table) -> list[str]:
    found = [f"{_failed(contract, table)} AS {FAILED}", f"{_names(_rules(table, 'warn'))} AS {WARNED}"]
    if table.kind == "dimension":
        key = encoding.durable_key([(quote(name), table.columns[name].type) for name in table.key])
        found += [f"{key} AS {names.KEY}", f"{_effective(contract, table)} AS {EFFECTIVE}"]
    return found


def _raw(column: str) -> str:
    return quote(f"_raw_{column}")


def _bad(column: str) -> str:
    return f"_bad_{column}"


def _cast(raw: str, raw_kind: DataType, spec: Column, timezone: str) -> str:
    kind = spec.type
    if raw_kind == kind:
        return raw
    if kind.name == "timestamp" and raw_kind.name == "string":
        return _timestamp(raw, spec.format, timezone)
    if kind.name == "date" and spec.format:
        return f"CAST(try_to_timestamp({raw}, {literal(spec.format)}) AS date)"
    if kind.name == "double":
        return f"(try_cast({raw} AS double) + 0.0D)"  # -0.0 and 0.0 are one value
    return f"try_cast({raw} AS {kind.spark})"


def _timestamp(raw: str, pattern: str, timezone: str) -> str:
    parsed = f"try_to_timestamp({raw}, {literal(pattern)})" if pattern else f"try_cast({raw} AS timestamp)"
    if timezone == "UTC" or (pattern and not set(pattern) & set("XxZzVO")):
        return f"to_utc_timestamp({parsed}, {literal(timezone)})"
    local = f"to_utc_timestamp({parsed}, {literal(timezone)})"
    return f"CASE WHEN {raw} RLIKE '{_ZONED}' THEN {parsed} ELSE {local} END"


_RANGE = {
    "date": ("DATE '0001-01-01'", "DATE '+10000-01-01'"),
    "timestamp": ("TIMESTAMP '0001-01-01 00:00:00'", "TIMESTAMP '+10000-01-01 00:00:00'"),
}


def _fitting(name: str, spec: Column) -> str:
    """The cast value, unless its year is one that Spark reads and no client can."""
    if spec.type.name not in _RANGE:
        return quote(name)
    first, end = _RANGE[spec.type.name]
    return f"CASE WHEN {quote(name)} >= {first} AND {quote(name)} < {end} THEN {quote(name)} END"


def _is_lost(name: str, value: str, spec: Column, raw_kind: DataType) -> str:
    """SQL that is true where there was a value and the cast would lose it."""
    lost = f"({_raw(name)} IS NOT NULL AND {value} IS NULL)"
    if spec.type.name != "decimal" or raw_kind == spec.type:
        return lost
    # A cast rounds; a value that does not fit its scale is refused instead. Digits past it are looked for in the text,
    # and by a wider cast where the text has an exponent.
    scale, spare = spec.type.scale, 38 - spec.type.precision
    wide = f"coalesce(try_cast({_raw(name)} AS decimal(38, {scale + spare})) <> {quote(name)}, false)"
    if raw_kind.name != "string":
        return f"({lost} OR {wide})"
    digits = f"coalesce({_raw(name)} RLIKE '^[^eE]*[.][0-9]{{{scale}}}[0-9]*[1-9][0-9]*$', false)"
    return f"({lost} OR {wide} OR {digits})"


def _is_observed(contract: Contract, name: str, spec: Column) -> str:
    """A column that the record did not have says nothing; null says nothing where the contract says so."""
    read = sorted(compile_column(contract, name, spec).columns)
    parts = [f"NOT coalesce(array_contains({names.MISSING}, {literal(column)}), false)" for column in read]
    if spec.null == "not_observed":
        parts.append(f"{_fitting(name, spec)} IS NOT NULL")
    return " AND ".join(parts) or "true"


def _rules(table: Table, level: str) -> list[tuple[str, str]]:
    """The contract's rules of one level: name, and SQL that is true where the row fails."""
    return [
        (rule.name, f"NOT coalesce({compile_rule(table, rule)}, true)")
        for rule in table.all_rules
        if rule.level == level
    ]


def _failed(contract: Contract, table: Table) -> str:
    rules = [(f"{column}_type", _bad(column)) for column in table.typed]
    deleted = _is_deleted(table)
    for column, spec in table.typed.items():
        # A deletion carries no attributes; a key that is missing is accounted for by itself.
        attribute = f" AND NOT {deleted}" if column in table.attributes else ""
        if not spec.nullable and not (table.kind == "dimension" and column in table.key):
            rules.append((f"{column}_not_null", f"({quote(column)} IS NULL{attribute})"))
    rules += _rules(table, "error")
    if table.kind == "dimension" and table.effective_time != names.UNIT:
        amount, unit = table.future_allowance[:-1], _UNITS[table.future_allowance[-1]]
        future = f"{quote(table.effective_time)} > {names.LANDED_AT} + INTERVAL {amount} {unit}"
        rules.append(("effective_time_future", f"coalesce({future}, false)"))
    return _names(rules)


def _names(rules: Sequence[tuple[str, str]]) -> str:
    """SQL for the names of the rules whose test is true. A lambda over an array would keep Spark from compiling it."""
    none = "CAST(array() AS array<string>)"
    if not rules:
        return none
    joined = ", ".join(f"CASE WHEN {sql} THEN '{rule}' END" for rule, sql in rules)
    return f"CASE WHEN {' OR '.join(sql for _, sql in rules)} THEN split(concat_ws(',', {joined}), ',') ELSE {none} END"


def _is_deleted(table: Table) -> str:
    if table.deletion is None:
        return "false"
    values = ", ".join(map(literal, table.deletion.values))
    return f"coalesce({quote(table.deletion.column)} IN ({values}), false)"


is_deleted = _is_deleted


def _effective(contract: Contract, table: Table) -> str:
    if table.effective_time != names.UNIT:
        return quote(table.effective_time)
    midnight = f"CAST({names.UNIT} AS timestamp)"
    zone = contract.source.timezone
    return midnight if zone == "UTC" else f"to_utc_timestamp({midnight}, '{zone}')"


def _status(table: Table, failed: str) -> str:
    """SQL for what becomes of a typed row: ``rejected``, ``quarantined``, ``without_key`` or ``good``."""
    missing = " OR ".join(f"{quote(name)} IS NULL" for name in table.key)
    without_key = f"WHEN {missing} THEN 'without_key' " if table.kind == "dimension" else ""
    # A filter on the status would be pushed below the casts, which would then run twice. It cannot pass a column that
    # is not deterministic, as long as the status refers to it.
    return (
        f"CASE WHEN {_FENCE} < 0 THEN NULL WHEN {names.REJECTED} IS NOT NULL THEN 'rejected' "
        f"WHEN size({failed}) > 0 THEN 'quarantined' {without_key}ELSE 'good' END"
    )
