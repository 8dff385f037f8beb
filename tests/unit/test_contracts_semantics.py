"""Fingerprints: whatever decides a table's rows changes them, and nothing else does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract, Model
from lakehouse.contracts.semantics import fingerprint, semantics, table_fingerprint
from lakehouse.core.settings import PROJECT_ROOT

BASE: dict[str, Any] = {
    "format": 1,
    "domain": "shop",
    "dataset": "orders",
    "owner": "shop team",
    "description": "Orders.",
    "source": {
        "connector": "files",
        "kind": "slice",
        "format": "csv",
        "pattern": "{date}.csv",
        "timezone": "UTC",
        "csv": {"delimiter": ",", "quote": '"', "encoding": "utf-8", "null_values": [""]},
        "columns": {name: {"description": "Text.", "classification": "internal"} for name in ("id", "at", "a", "b")},
    },
    "tables": {
        "fact_order": {
            "kind": "fact",
            "description": "Orders.",
            "key": ["id"],
            "partition": ["day(at)"],
            "sort": ["id"],
            "occurrence": False,
            "columns": {
                "id": {"type": "string", "description": "Number."},
                "at": {"type": "timestamp", "format": "yyyy-MM-dd", "description": "Moment."},
                "size": {
                    "type": "int",
                    "expression": "a",
                    "nullable": True,
                    "classification": "internal",
                    "declassified": "",
                    "description": "Pieces.",
                },
            },
            "references": [{"column": "k", "table": "dim_order", "key": ["id"], "before_first": "first_version"}],
            "rules": [
                {"name": "hard", "check": "size > 0", "level": "error", "description": "More."},
                {"name": "soft", "check": "size > 1", "level": "warn", "description": "More."},
            ],
            "batch_rules": [
                {"kind": "completeness", "column": "size", "min_share": 0.5, "level": "error"},
                {"kind": "uniqueness", "columns": ["id"], "level": "error"},
                {"kind": "relationship", "reference": "k", "min_share": 0.5, "level": "error"},
                {"kind": "timeliness", "within": "1d", "level": "error"},
            ],
        },
        "dim_order": {
            "kind": "dimension",
            "description": "Orders.",
            "key": ["id"],
            "effective_time": "at",
            "future_allowance": "1d",
            "tie_breakers": [{"column": "seq", "highest_wins": True}],
            "deletion": {"column": "op", "values": ["D"]},
            "per_life": False,
            "columns": {
                "id": {"type": "string", "nullable": False, "description": "Number."},
                "size": {"type": "int", "expression": "a", "history": 2, "null": "value", "description": "Pieces."},
            },
            "order": {
                "at": {"type": "timestamp", "nullable": False, "description": "Moment."},
                "seq": {"type": "long", "expression": "b", "description": "Serial."},
                "op": {"type": "string", "expression": "b", "description": "Operation."},
            },
        },
    },
    "bronze": {"partition": ["month(_unit)"]},
    "freshness": {"expected_every": "1d", "warn_after": "36h"},
    "retention": "10d",
    "residency": "eu",
}

FACT, DIM = ("tables", "fact_order"), ("tables", "dim_order")

# Every field of every model: a path to it, another value, and whether that value changes the table's fingerprint.
CHANGES: dict[str, list[tuple[tuple[Any, ...], Any, bool]]] = {
    "Contract.domain": [(("domain",), "store", False)],
    "Contract.dataset": [(("dataset",), "others", False)],
    "Contract.owner": [(("owner",), "somebody", False)],
    "Contract.description": [(("description",), "Other.", False)],
    "Contract.retention": [(("retention",), "20d", False)],
    "Contract.residency": [(("residency",), "us", False)],
    "Contract.tags": [(("tags",), {"daily": 1}, False)],
    **{f"Tags.{kind}": [(("tags",), {kind: 3}, False)] for kind in ("daily", "weekly", "monthly", "yearly")},
    "Contract.upkeep": [(("upkeep",), {"keep_snapshots": "9d"}, False)],
    "Table.upkeep": [((*FACT, "upkeep"), {"keep_snapshots": "9d"}, False)],
    **{
        f"Upkeep.{field}": [(("upkeep",), {field: value}, False)]
        for field, value in {
            "max_scan_cost": 2,
            "max_deleted_share": 0.5,
            "keep_snapshots": "9d",
            "min_snapshots": 9,
            "statistics": True,
        }.items()
    },
    "Table.batch_rules": [((*FACT, "batch_rules"), [], False)],  # a batch that they hold is judged anew, by limits_of
    **{
        f"{rule}.{field}": [((*FACT, "batch_rules", place, field), value, False)]
        for rule, place, given in (
            ("Completeness", 0, {"column": "at", "min_share": 0.6, "level": "warn"}),
            ("Uniqueness", 1, {"columns": ["at"], "level": "warn"}),
            ("Relationship", 2, {"reference": "l", "min_share": 0.6, "level": "warn"}),
            ("Timeliness", 3, {"within": "2d", "level": "warn"}),
        )
        for field, value in given.items()
    },
    **dict.fromkeys(("Completeness.kind", "Uniqueness.kind", "Relationship.kind", "Timeliness.kind"), []),
    "Freshness.expected_every": [(("freshness", "expected_every"), "2d", False)],
    "Freshness.expected_after": [(("freshness", "expected_after"), "2h", False)],
    "Freshness.warn_after": [(("freshness", "warn_after"), "9d", False)],
    "Bronze.partition": [(("bronze", "partition"), ["day(_unit)"], False)],
    "Source.connector": [(("source", "connector"), "postgres", False)],
    "Source.kind": [(("source", "kind"), "increment", True)],
    "Source.format": [(("source", "format"), "jsonl", True)],
    "Source.pattern": [(("source", "pattern"), "x/{date}", False)],
    "Source.timezone": [(("source", "timezone"), "Europe/London", True)],
    "CsvOptions.delimiter": [(("source", "csv", "delimiter"), ";", True)],
    "CsvOptions.quote": [(("source", "csv", "quote"), "'", True)],
    "CsvOptions.encoding": [(("source", "csv", "encoding"), "latin-1", True)],
    "CsvOptions.null_values": [(("source", "csv", "null_values"), ["", "NULL"], True)],
    "Source.postgres": [(("source", "postgres"), {"connection": "x", "table": "a.b", "order_by": "c"}, False)],
    "PostgresSource.connection": [],  # under Source.postgres: which rows are fetched, not what they mean
    "PostgresSource.table": [],
    "PostgresSource.transaction_column": [],
    "PostgresSource.order_by": [],
    "SourceColumn.description": [(("source", "columns", "a", "description"), "Other.", False)],
    "SourceColumn.classification": [(("source", "columns", "a", "classification"), "public", False)],
    "Table.kind": [],  # the two tables differ in it; see test_tables_differ
    "Table.description": [((*FACT, "description"), "Other.", False)],
    "Table.key": [((*FACT, "key"), ["id", "at"], True), ((*DIM, "key"), ["id", "size"], True)],
    "Table.partition": [((*FACT, "partition"), [], False)],
    "Table.sort": [((*FACT, "sort"), [], False)],
    "Table.occurrence": [((*FACT, "occurrence"), True, True)],
    "Table.effective_time": [((*DIM, "effective_time"), "_unit", True)],
    "Table.future_allowance": [((*DIM, "future_allowance"), "2d", True), ((*DIM, "future_allowance"), "24h", False)],
    "Table.per_life": [((*DIM, "per_life"), True, True)],
    "Table.tie_breakers": [((*DIM, "tie_breakers"), [], True)],
    "TieBreaker.column": [((*DIM, "tie_breakers", 0, "column"), "op", True)],
    "TieBreaker.highest_wins": [((*DIM, "tie_breakers", 0, "highest_wins"), False, True)],
    "Table.deletion": [((*DIM, "deletion"), None, True)],
    "Deletion.column": [((*DIM, "deletion", "column"), "size", True)],
    "Deletion.values": [((*DIM, "deletion", "values"), ["D", "X"], True)],
    "Table.references": [((*FACT, "references"), [], True)],
    "Reference.column": [((*FACT, "references", 0, "column"), "kk", True)],
    "Reference.table": [((*FACT, "references", 0, "table"), "dim_other", True)],
    "Reference.key": [((*FACT, "references", 0, "key"), ["size"], True)],
    "Reference.before_first": [((*FACT, "references", 0, "before_first"), "unknown", False)],
    "Table.rules": [((*FACT, "rules"), [], True)],
    "Rule.name": [((*FACT, "rules", 0, "name"), "other", True), ((*FACT, "rules", 1, "name"), "other", False)],
    "Rule.description": [((*FACT, "rules", 0, "description"), "Other.", False)],
    "Rule.check": [
        ((*FACT, "rules", 0, "check"), "size > 2", True),
        ((*FACT, "rules", 0, "check"), "( size   > 0 )  -- same", False),
        ((*FACT, "rules", 1, "check"), "size > 2", False),
    ],
    "Rule.level": [((*FACT, "rules", 0, "level"), "warn", True), ((*FACT, "rules", 1, "level"), "error", True)],
    "Column.type": [((*FACT, "columns", "size", "type"), "long", True), ((*DIM, "order", "seq", "type"), "int", True)],
    "Column.description": [((*FACT, "columns", "size", "description"), "Other.", False)],
    "Column.classification": [((*FACT, "columns", "size", "classification"), "pii", False)],
    "Column.declassified": [((*FACT, "columns", "size", "declassified"), "because", False)],
    "Column.expression": [
        ((*FACT, "columns", "size", "expression"), "b", True),
        ((*FACT, "columns", "size", "expression"), "  `a` ", False),
        ((*FACT, "columns", "id", "expression"), "id", False),
        ((*DIM, "order", "seq", "expression"), "trim(b)", True),
    ],
    "Column.format": [((*FACT, "columns", "at", "format"), "dd.MM.yyyy", True)],
    "Column.nullable": [((*FACT, "columns", "size", "nullable"), False, True)],
    "Column.valid": [
        ((*FACT, "columns", "size", "valid"), {"min": 0}, True),
        ((*FACT, "columns", "size", "valid"), {"min": 0, "level": "warn"}, False),
        ((*DIM, "order", "seq", "valid"), {"max": 9}, True),
    ],
    "Validity.min": [((*FACT, "columns", "size", "valid"), {"min": -1}, True)],
    "Validity.max": [((*FACT, "columns", "size", "valid"), {"max": 7}, True)],
    "Validity.values": [((*FACT, "columns", "size", "valid"), {"values": [1, 2]}, True)],
    "Validity.pattern": [((*FACT, "columns", "id", "valid"), {"pattern": "^[a-z]"}, True)],
    "Validity.min_length": [((*FACT, "columns", "id", "valid"), {"min_length": 1}, True)],
    "Validity.max_length": [((*FACT, "columns", "id", "valid"), {"max_length": 9}, True)],
    "Validity.level": [((*FACT, "columns", "size", "valid"), {"max": 7, "level": "warn"}, False)],
    "Column.history": [
        ((*DIM, "columns", "size", "history"), 1, True),
        ((*DIM, "columns", "size", "history"), None, False),  # 2 is the default
    ],
    "Column.null": [((*DIM, "columns", "size", "null"), "not_observed", True)],
    "Column.renamed_from": [((*DIM, "columns", "size", "renamed_from"), "was", False)],
    "Table.max_close_share": [((*DIM, "max_close_share"), 0.1, False)],
    "Table.max_quarantined_share": [((*FACT, "max_quarantined_share"), 0.1, False)],
    "Source.drift": [(("source", "drift"), "block", False)],
    "Source.volume": [(("source", "volume"), {}, False)],
    "Volume.days": [(("source", "volume"), {"days": 9}, False)],
    "Volume.min_days": [(("source", "volume"), {"min_days": 9}, False)],
    "Volume.deviations": [(("source", "volume"), {"deviations": 9}, False)],
    "Table.late_horizon": [((*DIM, "late_horizon"), "30d", False)],
    "Source.csv": [],
    "Source.columns": [(("source", "columns", "more"), {"description": "New."}, False)],
    "Table.columns": [
        ((*FACT, "columns", "more"), {"type": "string", "expression": "a", "description": "New."}, True),
        ((*DIM, "columns", "more"), {"type": "string", "expression": "a", "description": "New."}, True),
    ],
    "Table.order": [((*DIM, "order", "more"), {"type": "string", "expression": "a", "description": "New."}, True)],
    "Contract.format": [],
    "Contract.source": [],
    "Contract.tables": [],
    "Contract.bronze": [],
    "Contract.freshness": [],
}


def fingerprints(raw: dict[str, Any]) -> dict[str, str]:
    contract = Contract.model_validate(raw)
    return {name: table_fingerprint(contract, name) for name in contract.tables}


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(BASE)
    place = raw
    for part in path[:-1]:
        place = place[part]
    assert place.get(path[-1]) != value
    place[path[-1]] = value
    return raw


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and all those that its fields are made of."""
    yield model
    for field in model.model_fields.values():
        pending = [field.annotation]
        while pending:
            kind = pending.pop()
            pending.extend(get_args(kind))
            if isinstance(kind, type) and issubclass(kind, Model):
                yield from models(kind)


def test_every_field_of_the_model_is_classified() -> None:
    fields = {f"{model.__name__}.{field}" for model in models(Contract) for field in model.model_fields}
    assert len(fields) > 50
    assert fields == set(CHANGES)


@pytest.mark.parametrize(
    ("path", "value", "matters"), [change for changes in CHANGES.values() for change in changes], ids=str
)
def test_a_change_of_the_field(path: tuple[Any, ...], value: Any, matters: bool) -> None:
    before, after = fingerprints(BASE), fingerprints(changed(path, value))
    affected = [path[1]] if path[0] == "tables" else list(before)
    for table, fingerprint_before in before.items():
        assert (after[table] != fingerprint_before) == (matters and table in affected), table


def test_order_of_tables_columns_and_rules_does_not_matter() -> None:
    raw = copy.deepcopy(BASE)
    raw["tables"] = dict(reversed(raw["tables"].items()))
    for table in raw["tables"].values():
        table["columns"] = dict(reversed(table["columns"].items()))
        if "rules" in table:
            table["rules"].reverse()
    assert fingerprints(raw) == fingerprints(BASE)


def test_tables_differ() -> None:
    contracts = load_contracts(PROJECT_ROOT / "include" / "contracts")
    found = [table_fingerprint(contract, name) for contract in contracts.values() for name in contract.tables]
    assert len(found) == len(set(found)) >= 5
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in found)


def test_csv_options_matter_for_csv_only() -> None:
    as_json = changed(("source", "format"), "jsonl")
    other = copy.deepcopy(as_json)
    other["source"]["csv"]["delimiter"] = ";"
    assert fingerprints(as_json) == fingerprints(other)


def test_the_fingerprint_is_of_canonical_json() -> None:
    contract = Contract.model_validate(BASE)
    value = semantics(contract, "fact_order")
    assert fingerprint(value) == fingerprint(dict(reversed(value.items()))) != fingerprint({**value, "x": 1})
