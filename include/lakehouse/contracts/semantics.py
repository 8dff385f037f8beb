"""The part of a contract that decides a table's rows, and its fingerprint.

A changed fingerprint means that the table has to be built anew. Descriptions, owners, classes, layout and warnings
change no row, and are left out; so is what decides which files are fetched, but not what they mean.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lakehouse.contracts import derive
from lakehouse.contracts.model import Column, Contract, Table

_FORMAT = 2


def semantics(contract: Contract, table: str) -> dict[str, Any]:
    """Everything that the rows of one of the contract's tables depend on, as plain JSON values."""
    definition = contract.tables[table]
    return {
        "format": _FORMAT,
        "source": _source(contract),
        "kind": definition.kind,
        "columns": {name: _column(contract, definition, name) for name in definition.columns},
        "key": list(definition.key),
        "rules": {
            rule.name: derive.compile_rule(definition, rule) for rule in definition.all_rules if rule.level == "error"
        },
        **(_fact(definition) if definition.kind == "fact" else _dimension(contract, definition)),
    }


def fingerprint(semantics: dict[str, Any]) -> str:
    """32 hexadecimal digits: the first half of the sha256 of the canonical JSON."""
    canonical = json.dumps(semantics, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def table_fingerprint(contract: Contract, table: str) -> str:
    """The fingerprint of a table's semantics."""
    return fingerprint(semantics(contract, table))


def limits_of(contract: Contract, table: str) -> str:
    """The limits that batches of a table are judged by, as canonical JSON: what is held by others is judged anew."""
    source, definition = contract.source, contract.tables[table]
    limits: dict[str, Any] = {
        "close": definition.max_close_share,
        "quarantined": definition.max_quarantined_share,
        "drift": source.drift == "block",
        "volume": source.volume and source.volume.model_dump(mode="json"),
    }
    rules = [rule.model_dump(mode="json") for rule in definition.batch_rules if rule.level == "error"]
    limits |= {"rules": rules} if rules else {}
    return json.dumps(limits, sort_keys=True, separators=(",", ":"))


def _source(contract: Contract) -> dict[str, Any]:
    source = contract.source
    csv = source.csv.model_dump(mode="json") if source.format == "csv" else None
    return {"kind": source.kind, "format": source.format, "csv": csv, "timezone": source.timezone}


def _column(contract: Contract, table: Table, name: str) -> dict[str, Any]:
    column = table.typed[name]
    return {**_value(contract, name, column), "history": derive.history_of(table, name), "null": column.null}


def _value(contract: Contract, name: str, column: Column) -> dict[str, Any]:
    return {
        "type": str(column.type),
        "expression": derive.compile_column(contract, name, column).sql,
        "format": column.format,
        "nullable": column.nullable,
    }


def _fact(table: Table) -> dict[str, Any]:
    references = {ref.column: {"table": ref.table, "key": list(ref.key)} for ref in table.references}
    return {"occurrence": table.occurrence, "references": references}


def _dimension(contract: Contract, table: Table) -> dict[str, Any]:
    deletion = table.deletion
    return {
        "effective_time": table.effective_time,
        "future_allowance_hours": derive.hours(table.future_allowance),
        "tie_breakers": [[tie.column, tie.highest_wins] for tie in table.tie_breakers],
        "deletion": deletion and {"column": deletion.column, "values": sorted(deletion.values)},
        "per_life": table.per_life,
        "order": {name: _value(contract, name, column) for name, column in table.order.items()},
    }
