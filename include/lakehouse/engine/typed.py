"""From bronze text to typed rows with the names of the rules that each one fails.

Pure functions from DataFrame to DataFrame. Every rule here reads one row only, so the split into good rows and
quarantine does not depend on order. Nothing raises: a value that cannot be cast is null and fails ``<column>_type``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.expressions import compile_check, compile_typed
from lakehouse.contracts.model import Column, Contract, Table
from lakehouse.core import names
from lakehouse.core.names import quote
from lakehouse.core.types import DataType
from lakehouse.engine import encoding

FAILED = "_failed"
WARNED = "_warned"
SOURCE = "_source"
STATUS = "_status"
_OBSERVED = "_observed_"
_ZONED = "(Z|[+-][0-9]{2}:?[0-9]{2})$"
_UNITS = {"h": "HOURS", "d": "DAYS"}
EFFECTIVE = "_effective"
PROVENANCE = (names.BATCH, names.UNIT, names.FILE, names.RECORD, names.LINE, names.LANDED_AT)


def observed_flag(column: str) -> str:
    """The column that says whether a row observed an attribute."""
    return _OBSERVED + column


def typed_rows(bronze: DataFrame, contract: Contract, name: str) -> DataFrame:
    """Typed columns, ``_key``, the rules each row failed, its status, what it observed, and where it came from.

    The row as it came is kept in the struct ``_source``: its columns may differ from the typed ones in case only.
    """
    table = contract.tables[name]
    columns = table.typed
    source = ", ".join(quote(column) for column in contract.source.columns)
    raw = {column: _raw(contract, column, spec) for column, spec in columns.items()}
    first = [f"struct({source}) AS {SOURCE}", *PROVENANCE, names.REJECTED, names.RAW, names.EXTRA, names.MISSING]
    first += [f"{_typed(raw[c], spec, contract.source.timezone)} AS {quote(c)}" for c, spec in columns.items()]
    first += [f"{_uncastable(raw[c], spec, contract.source.timezone)} AS {_bad(c)}" for c, spec in columns.items()]
    first += [
        f"{_is_observed(contract, column, spec)} AS {quote(observed_flag(column))}"
        for column, spec in table.attributes.items()
        if table.kind == "dimension"
    ]
    typed = bronze.selectExpr(*first)
    key = encoding.durable_key([(quote(c), columns[c].type) for c in table.key])
    second = ["*", f"{_failed(contract, table)} AS {FAILED}", f"{_names(_rules(table, 'warn'))} AS {WARNED}"]
    if table.kind == "dimension":
        second += [f"{key} AS {names.KEY}", f"{_effective(contract, table)} AS {EFFECTIVE}"]
    split = typed.selectExpr(*second).drop(*[_bad(column) for column in columns])
    return split.withColumn(STATUS, F.expr(_status(table)))


def _bad(column: str) -> str:
    return f"_bad_{column}"


class _Raw:
    """An expression before the cast to its column's type."""

    def __init__(self, sql: str, kind: DataType) -> None:
        self.sql = sql
        self.kind = kind


def _raw(contract: Contract, column: str, spec: Column) -> _Raw:
    text = spec.expression or column
    compiled = compile_typed(text, dict.fromkeys(contract.source.columns, DataType("string")))
    return _Raw(compiled.sql, compiled.type)


def _typed(raw: _Raw, spec: Column, timezone: str) -> str:
    kind = spec.type
    if raw.kind.name == kind.name == "string" or raw.kind == kind:
        return f"CAST({raw.sql} AS {kind.spark})"
    if kind.name == "timestamp" and raw.kind.name == "string":
        return _timestamp(raw.sql, spec.format, timezone)
    if kind.name == "date" and spec.format:
        return f"CAST(try_to_timestamp({raw.sql}, '{spec.format}') AS date)"
    if kind.name == "double":
        return f"(try_cast({raw.sql} AS double) + 0.0D)"  # -0.0 and 0.0 are one value
    return f"try_cast({raw.sql} AS {kind.spark})"


def _timestamp(sql: str, pattern: str, timezone: str) -> str:
    parsed = f"try_to_timestamp({sql}, '{pattern}')" if pattern else f"try_cast({sql} AS timestamp)"
    if timezone == "UTC":
        return parsed
    local = f"to_utc_timestamp({parsed}, '{timezone}')"
    return f"CASE WHEN {sql} RLIKE '{_ZONED}' THEN {parsed} ELSE {local} END"


def _uncastable(raw: _Raw, spec: Column, timezone: str) -> str:
    """SQL that is true where there was a value and the cast would lose it."""
    typed = _typed(raw, spec, timezone)
    lost = f"({raw.sql} IS NOT NULL AND {typed} IS NULL)"
    if spec.type.name != "decimal" or raw.kind == spec.type:
        return lost
    # A cast rounds; a value that does not fit its scale is refused instead.
    wide = f"try_cast({raw.sql} AS decimal(38, {min(38, spec.type.scale + 9)}))"
    return f"({lost} OR coalesce({wide} <> {typed}, false))"


def _is_observed(contract: Contract, column: str, spec: Column) -> str:
    """A column that the record did not have says nothing; null says nothing where the contract says so."""
    text = spec.expression or column
    read = compile_typed(text, dict.fromkeys(contract.source.columns, DataType("string"))).columns
    parts = [f"NOT coalesce(array_contains({names.MISSING}, '{name}'), false)" for name in sorted(read)]
    if spec.null == "not_observed":
        # The value itself, which stands under its own name only in the next projection.
        parts.append(f"{_typed(_raw(contract, column, spec), spec, contract.source.timezone)} IS NOT NULL")
    return " AND ".join(parts) or "true"


def _rules(table: Table, level: str) -> list[tuple[str, str]]:
    """The contract's rules of one level: name, and SQL that is true where the row fails."""
    types = {name: spec.type for name, spec in table.typed.items()}
    return [
        (rule.name, f"NOT coalesce({compile_check(rule.check, types)}, true)")
        for rule in table.rules
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
    if not rules:
        return "CAST(array() AS array<string>)"
    tests = ", ".join(f"CASE WHEN {sql} THEN '{rule}' END" for rule, sql in rules)
    return f"filter(array({tests}), rule -> rule IS NOT NULL)"


def _is_deleted(table: Table) -> str:
    if table.deletion is None:
        return "false"
    values = ", ".join("'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in table.deletion.values)
    return f"coalesce({quote(table.deletion.column)} IN ({values}), false)"


is_deleted = _is_deleted


def _effective(contract: Contract, table: Table) -> str:
    if table.effective_time != names.UNIT:
        return quote(table.effective_time)
    midnight = f"CAST({names.UNIT} AS timestamp)"
    zone = contract.source.timezone
    return midnight if zone == "UTC" else f"to_utc_timestamp({midnight}, '{zone}')"


def _status(table: Table) -> str:
    """SQL for what becomes of a typed row: ``rejected``, ``quarantined``, ``without_key`` or ``good``."""
    without_key = f"WHEN {names.KEY} IS NULL THEN 'without_key' " if table.kind == "dimension" else ""
    return (
        f"CASE WHEN {names.REJECTED} IS NOT NULL THEN 'rejected' WHEN size({FAILED}) > 0 THEN 'quarantined' "
        f"{without_key}ELSE 'good' END"
    )

