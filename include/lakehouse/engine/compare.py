"""A full snapshot against the table: which keys say something else. Rows that agree go no further.

Keys are compared by their columns. What is carried along is for all keys, so it is little: durable keys and version
keys are made again for the few that differ, and what is known of a row beside its values are the bits of a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lakehouse.contracts.model import Table
from lakehouse.core import names
from lakehouse.core.names import quote
from lakehouse.engine import encoding
from lakehouse.engine.apply import ROW_ID, located
from lakehouse.engine.history import DELETED, observation_columns
from lakehouse.engine.publish import Target
from lakehouse.engine.tables import silver_columns
from lakehouse.engine.typed import EFFECTIVE, STATUS, observed_flag

if TYPE_CHECKING:
    from lakehouse.engine.silver import Silver

_NEW = "_n_"
_GOOD = "_is_good"
_ROW = "_row"
_EARLIER = "_needs_earlier"
_UNSETTLED = "_is_unsettled"
_FLAGS = "_flags"
_FLAGS_EACH = 60


@dataclass(frozen=True)
class Compared:
    """The keys that a snapshot changes: what it observed of them, and their open rows; materialised.

    ``earlier`` are keys whose closed versions matter too, ``late`` those whose first values only bronze knows.
    ``absent`` of the ``opened`` keys that were open are not in the snapshot.
    """

    observations: DataFrame
    rows: DataFrame
    earlier: DataFrame | None
    late: Sequence[DataFrame]
    opened: int
    absent: int


def compare(target: Target, silver: Silver, fresh: tuple[int, datetime], rows_read: int) -> Compared | None:
    """Compare a snapshot later than everything consumed with the open rows; None where a key stands in it twice.

    ``rows_read`` is the number of its rows, all of which have a readable key.
    """
    batch, at = fresh
    table = silver.table
    opened = located(target).where(names.IS_CURRENT)
    stood = opened.select(*_own(table), ROW_ID)
    joined = stood.join(_arriving(silver, frozenset([batch])), _same_key(table), "full_outer")
    differs = _is_good(table) & _differs(table, is_first=False)
    found = joined.where(_is_absent() | _is_new() | differs).select(
        *_observed(table, at), _row(table), *_needs(table), (_is_absent() | _is_good(table)).alias(_GOOD)
    )
    found = found.localCheckpoint()
    counted = found.selectExpr(
        f"count_if({DELETED}) AS absent",
        f"count_if({_ROW} IS NULL) AS new",
        f"count_if({_EARLIER}) AS earlier",
        f"count_if({_UNSETTLED}) AS unsettled",
    ).collect()[0]
    keys = opened.count()
    if rows_read - counted["new"] > keys - counted["absent"]:
        return None
    return Compared(
        found.where(_GOOD).select(*observation_columns(table)),
        found.where(f"{_ROW} IS NOT NULL").select(f"{_ROW}.*"),
        found.where(_EARLIER).select(names.KEY) if counted["earlier"] else None,
        [found.where(_UNSETTLED).select(names.KEY)] if counted["unsettled"] else [],
        keys,
        counted["absent"],
    )


def differing_as_of(target: Target, silver: Silver, snapshots: Mapping[int, datetime]) -> DataFrame:
    """The keys of which late snapshots say something else than the table as of the time of each."""
    table = silver.table
    times = [(batch, at.astimezone(UTC)) for batch, at in snapshots.items()]
    asked = F.broadcast(target.lake.spark.createDataFrame(times, f"{names.BATCH} long, _at timestamp"))
    is_valid = F.expr(f"{names.EFFECTIVE_FROM} <= _at AND ({names.EFFECTIVE_TO} > _at OR {names.EFFECTIVE_TO} IS NULL)")
    stood = located(target).join(asked, is_valid)
    arriving = _arriving(silver, frozenset(snapshots))
    same = _same_key(table) & (F.col(names.BATCH) == F.col(f"{_NEW}{names.BATCH}"))
    joined = stood.join(arriving, same, "full_outer")
    differs = _is_new() | _differs(table, is_first=True)
    return joined.where(_is_absent() | (_is_good(table) & differs)).select(
        F.coalesce(names.KEY, _key(table)).alias(names.KEY)
    )


def _arriving(silver: Silver, batches: frozenset[int]) -> DataFrame:
    """The rows of snapshots under names of their own."""
    rows = silver.typed(batches)
    renamed = [F.col(name).alias(_NEW + name) for name in _carried(silver.table)]
    batch = F.col(names.BATCH).alias(_NEW + names.BATCH)
    return rows.select(*renamed, *_flags(silver.table), batch)


def _carried(table: Table) -> list[str]:
    made_here = {names.KEY, EFFECTIVE, DELETED, *map(observed_flag, table.attributes)}
    return [name for name in observation_columns(table) if name not in made_here]


def _new(name: str) -> Column:
    return F.col(_NEW + name)


def _flags(table: Table) -> list[Column]:
    """Whether a row is good, and which attributes it observes, as the bits of as few numbers as hold them."""
    bits: dict[str, list[Column]] = {}
    for name, known in [(_GOOD, F.col(STATUS) == "good"), *((n, F.col(observed_flag(n))) for n in table.attributes)]:
        number, bit = _bit(table, name)
        bits.setdefault(number, []).append(F.when(known, F.lit(bit).cast("long")).otherwise(F.lit(0).cast("long")))
    return [reduce(Column.__add__, each).alias(number) for number, each in bits.items()]


def _bit(table: Table, name: str) -> tuple[str, int]:
    index = [_GOOD, *table.attributes].index(name)
    return f"{_FLAGS}{index // _FLAGS_EACH}", 1 << index % _FLAGS_EACH


def _is_set(table: Table, name: str) -> Column:
    """Whether a bit of a joined row is set; false where the snapshot does not have the key."""
    number, bit = _bit(table, name)
    return F.coalesce(F.col(number).bitwiseAND(F.lit(bit).cast("long")) != 0, F.lit(False))


def _is_good(table: Table) -> Column:
    """Whether the snapshot has the key of a joined row, in a row that broke no rule."""
    return _is_set(table, _GOOD)


def _is_absent() -> Column:
    """Whether the snapshot does not have the key of a joined row."""
    return F.col(f"{_FLAGS}0").isNull()


def _is_new() -> Column:
    """Whether the table does not have the key of a joined row."""
    return F.col(names.EFFECTIVE_FROM).isNull()


def _same_key(table: Table) -> Column:
    return reduce(Column.__and__, [F.col(name) == _new(name) for name in table.key])


def _key(table: Table) -> Column:
    """The durable key of a joined row, made from the columns of whichever side is there."""
    parts = {name: f"coalesce({quote(name)}, {quote(_NEW + name)})" for name in table.key}
    return F.expr(encoding.durable_key([(sql, table.columns[name].type) for name, sql in parts.items()]))


def _own(table: Table) -> list[str]:
    """The columns of an open row that its being open does not tell."""
    return [name for name in silver_columns(table) if name not in (names.EFFECTIVE_TO, names.IS_CURRENT)]


def _differs(table: Table, *, is_first: bool) -> Column:
    """Whether an observed attribute is another than the one that stands. Later observations leave type 0 as it is."""
    parts = [F.lit(False)]
    for name in table.attributes:
        other = ~F.col(name).eqNullSafe(_new(name))
        if table.history(name) == 0 and not is_first:
            other = F.col(name).isNull() & _new(name).isNotNull()
        parts.append(_is_set(table, name) & other)
    return reduce(Column.__or__, parts)


def _observed(table: Table, at: datetime) -> list[Column]:
    """The observation that a compared row makes: what the snapshot said, or that the key was absent."""
    made = {
        EFFECTIVE: F.lit(f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}").cast("timestamp"),
        DELETED: _is_absent(),
    } | {observed_flag(name): _is_set(table, name) for name in table.attributes}
    found = [_key(table).alias(names.KEY)]
    for name in observation_columns(table)[1:]:
        value = made.get(name)
        if value is None:
            value = F.coalesce(_new(name), F.col(name)) if name in table.key else _new(name)
        found.append(value.alias(name))
    return found


def _row(table: Table) -> Column:
    """The open row of a key, whole again; null where there was none."""
    key = encoding.durable_key([(quote(name), table.columns[name].type) for name in table.key])
    made = {
        names.EFFECTIVE_TO: F.lit(None).cast("timestamp"),
        names.IS_CURRENT: F.lit(True),
        names.KEY: F.expr(key),
        names.VERSION_KEY: F.expr(encoding.version_key(key, names.EFFECTIVE_FROM)),
    }
    columns = [*silver_columns(table), names.KEY, names.VERSION_KEY, ROW_ID]
    whole = F.struct(*[made.get(name, F.col(name)).alias(name) for name in columns])
    return F.when(~_is_new(), whole).alias(_ROW)


def _needs(table: Table) -> list[Column]:
    """Whether closed versions matter: they show types 0, 1 and 3 too, and a key may come back to what it was."""
    shown = [name for name in table.attributes if table.history(name) != 2]
    is_other = [_is_set(table, n) & ~F.col(n).eqNullSafe(_new(n)) for n in shown]
    first = [n for n in table.columns_of_type(0) if table.attributes[n].null == "value"]
    is_unsettled = [F.col(n).isNull() & _new(n).isNotNull() for n in first]
    changes_closed = reduce(Column.__or__, is_other, F.lit(False)) & ~_is_new()
    if not table.per_life:
        unobserved = [~_is_set(table, n) for n in table.attributes]
        comes_back = F.lit(True) if shown else reduce(Column.__or__, unobserved, F.lit(False))
        changes_closed = changes_closed | (_is_new() & comes_back)
    return [
        (~_is_absent() & changes_closed).alias(_EARLIER),
        (~_is_absent() & ~_is_new() & reduce(Column.__or__, is_unsettled, F.lit(False))).alias(_UNSETTLED),
    ]
