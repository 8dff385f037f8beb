"""The rows of a silver table beside those of its fork: added, removed, changed, with samples side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.model import STRICTNESS, Contract
from lakehouse.core import names
from lakehouse.core.names import TableName, quote
from lakehouse.engine.alter import LiveTable
from lakehouse.engine.publish import Lake
from lakehouse.engine.tables import silver_spec
from lakehouse.ledger.recorded import recorded
from lakehouse.ledger.watermark import head_of, load_table

SAMPLES = 5
MASK = "***"
_CHANGE = "_change"
_CLASSIFIED = STRICTNESS.index("sensitive")


@dataclass(frozen=True)
class Sample:
    """One row: the values that tell which, and per column the old and the new value, classified ones masked."""

    change: str
    row: Mapping[str, str | None]
    values: Mapping[str, tuple[str | None, str | None]]


@dataclass(frozen=True)
class Difference:
    """Rows by what became of them, and some of each. Rows are told apart by their version key, or a fact's key."""

    added: int
    removed: int
    changed: int
    same: int
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class _Pairing:
    """Columns of the fork with those of the table that they are compared with; names where there is no partner."""

    pairs: Mapping[str, str]
    added: tuple[str, ...]
    removed: tuple[str, ...]


def compare_tables(lake: Lake, contract: Contract, name: str, fork: TableName) -> Difference:
    """Compare ``main`` of a table with its fork: one pass over both."""
    table = contract.silver_table(name)
    is_version = contract.tables[name].kind == "dimension"
    key = names.VERSION_KEY if is_version else names.KEY
    pairing = _pair(lake, contract, name, fork)
    joined = _joined(lake.table(table), lake.table(fork), key, pairing).cache()
    try:
        counts = {row[_CHANGE]: row["count"] for row in joined.groupBy(_CHANGE).count().collect()}
        found = [
            row
            for change in ("added", "removed", "changed")
            if counts.get(change)
            for row in joined.where(f"{_CHANGE} = '{change}'").orderBy(key).limit(SAMPLES).collect()
        ]
    finally:
        joined.unpersist()
    hidden = _classified(lake, contract, name, pairing.removed)
    shown = [*contract.tables[name].key, *([names.EFFECTIVE_FROM] if is_version else [])]
    samples = tuple(_sample(row, pairing, shown, hidden) for row in found)
    number = {change: counts.get(change, 0) for change in ("added", "removed", "changed", "same")}
    return Difference(**number, columns_added=pairing.added, columns_removed=pairing.removed, samples=samples)


def _pair(lake: Lake, contract: Contract, name: str, fork: TableName) -> _Pairing:
    """Columns are the same by field id, which a rename keeps, or else by name."""
    before = {c.name: c.field_id for c in _live(lake, contract.silver_table(name)).columns}
    after = {c.name: c.field_id for c in _live(lake, fork).columns}
    by_id = {field_id: column for column, field_id in before.items()}
    pairs = {}
    business = [column for column in silver_spec(contract, name).columns if not column.startswith("_")]
    for column in business:
        former = by_id.get(after[column], column if column in before else None)
        if former is not None:
            pairs[column] = former
    removed = [column for column in before if not column.startswith("_") and column not in pairs.values()]
    return _Pairing(pairs, tuple(c for c in business if c not in pairs), tuple(removed))


def _live(lake: Lake, table: TableName) -> LiveTable:
    loaded = load_table(lake.catalog, table)
    assert loaded is not None  # noqa: S101 - both were made or read a moment ago
    return LiveTable.of(loaded)


def _joined(before: DataFrame, after: DataFrame, key: str, pairing: _Pairing) -> DataFrame:
    """Texts of both sides, null-safe, with what became of each row."""
    old = {column: former for column, former in pairing.pairs.items()} | {c: c for c in pairing.removed}
    new = [*pairing.pairs, *pairing.added]
    left = before.select(key, F.struct(*[_text(f).alias(c) for c, f in old.items()]).alias("_old"))
    right = after.select(key, F.struct(*[_text(c).alias(c) for c in new]).alias("_new"))
    equal = [f"_old.{quote(c)} <=> _new.{quote(c)}" for c in pairing.pairs]
    equal += [f"_new.{quote(c)} IS NULL" for c in pairing.added] + [f"_old.{quote(c)} IS NULL" for c in pairing.removed]
    change = (
        "CASE WHEN _old IS NULL THEN 'added' WHEN _new IS NULL THEN 'removed' "
        f"WHEN {' AND '.join(equal)} THEN 'same' ELSE 'changed' END"
    )
    return left.join(right, key, "full_outer").withColumn(_CHANGE, F.expr(change))


def _text(column: str) -> Any:
    return F.col(quote(column)).cast("string")


def _classified(lake: Lake, contract: Contract, name: str, removed: Sequence[str]) -> frozenset[str]:
    """Columns that either contract classifies, and all removed ones where the earlier contract isn't known."""
    loaded = load_table(lake.catalog, contract.silver_table(name))
    stamp = head_of(loaded).stamp
    before = recorded(loaded, stamp.fingerprint) if loaded and stamp else None
    specs = [silver_spec(one, name).columns for one in (contract, *([before.contract] if before else []))]
    found = {c for spec in specs for c, s in spec.items() if STRICTNESS.index(s.classification) >= _CLASSIFIED}
    former = {spec.renamed_from for column, spec in specs[0].items() if column in found and spec.renamed_from}
    return frozenset(found | former | (set() if before else set(removed)))


def _sample(row: Any, pairing: _Pairing, shown: Sequence[str], hidden: frozenset[str]) -> Sample:
    old = row["_old"].asDict() if row["_old"] else {}
    new = row["_new"].asDict() if row["_new"] else {}

    def masked(column: str, value: str | None) -> str | None:
        is_hidden = column in hidden or pairing.pairs.get(column) in hidden
        return MASK if value is not None and is_hidden else value

    side = new or old
    values = {
        column: (masked(column, old.get(column)), masked(column, new.get(column)))
        for column in dict.fromkeys([*new, *old])
        if old.get(column) != new.get(column)
    }
    return Sample(row[_CHANGE], {column: masked(column, side.get(column)) for column in shown}, values)
