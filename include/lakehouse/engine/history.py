"""The fold: from observations to versions, as a pure function of what was observed.

An observation is one row of the typed DataFrame (:mod:`lakehouse.engine.typed`): a durable key, an effective time,
and attributes, or a deletion. The same set gives the same versions, whatever the order or grouping of arrivals. The
reference that defines the result is ``tests/reference.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from lakehouse.contracts.derive import origin_of, snapshot_time
from lakehouse.contracts.model import Contract, Table
from lakehouse.core import names
from lakehouse.core.names import quote
from lakehouse.core.types import DataType
from lakehouse.engine import encoding
from lakehouse.engine.tables import silver_columns
from lakehouse.engine.typed import EFFECTIVE, STATUS, is_deleted, observed_flag

DELETED = "_deleted"
_RANK = "_rank"
TIED = "_tied"
_LIFE = "_life"
_START = "_start"
_END = "_end"
_NEXT = "_next"


def _filled(column: str) -> str:
    return f"_filled_{column}"


def _seed(column: str) -> str:
    return f"_seed_{column}"


def fold(observations: DataFrame, table: Table) -> DataFrame:
    """The versions of every key in ``observations``: business columns, ``_key`` and ``_version_key``."""
    return versions_of(moments(observations, table), table)


def versions_of(moments: DataFrame, table: Table) -> DataFrame:
    """The versions of every key in ``moments``."""
    return versions(events(moments, table), table)


def observations(typed: DataFrame, contract: Contract, table: Table, units: Mapping[int, date]) -> DataFrame:
    """The observations that typed rows make. ``units`` are the live batches: an empty snapshot has no rows.

    In a feed or a slice each good row is one. In a full snapshot so is each first absence of a key; presence is judged
    on all rows with a readable key, so that a quarantined row closes nothing.
    """
    good = good_rows(typed, table)
    if contract.source.kind != "snapshot":
        return good
    snapshots = [(batch, snapshot_time(contract, unit)) for batch, unit in units.items()]
    return good.unionByName(absences(presence(typed), snapshots), allowMissingColumns=True)


def good_rows(typed: DataFrame, table: Table) -> DataFrame:
    """The rows that passed all rules, each with whether it is a deletion."""
    return typed.where(f"{STATUS} = 'good'").withColumn(DELETED, F.expr(is_deleted(table)))


def presence(typed: DataFrame) -> DataFrame:
    """Which key is in which batch, whatever else its row says."""
    return typed.where(f"{names.KEY} IS NOT NULL").select(names.KEY, names.BATCH)


def effective_text(at: datetime) -> str:
    """An effective time as stamps write it, which is how Spark does: texts sort as the times do."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def absences(presence: DataFrame, snapshots: Sequence[tuple[int, datetime]]) -> DataFrame:
    """The first absence of each key after each snapshot that had it: a deletion at the following snapshot's time."""
    spark = presence.sparkSession
    ordered = sorted(snapshots, key=lambda snapshot: snapshot[1])
    index = spark.createDataFrame(
        [(batch, i, at) for i, (batch, at) in enumerate(ordered)], "_batch long, _index int, _at timestamp"
    )
    by_key = Window.partitionBy(names.KEY).orderBy("_index")
    seen = presence.distinct().join(F.broadcast(index), names.BATCH)
    following = index.select((F.col("_index") - 1).alias("_index"), F.col("_at").alias(EFFECTIVE))
    return (
        seen.select(names.KEY, "_index", F.lead("_index").over(by_key).alias("_seen_next"))
        .where("_seen_next IS NULL OR _seen_next <> _index + 1")
        .join(F.broadcast(following), "_index")  # the last snapshot has no following one
        .select(names.KEY, EFFECTIVE, F.lit(True).alias(DELETED))
    )


def moments(observations: DataFrame, table: Table) -> DataFrame:
    """One row for each key and effective time.

    Where several observations share both, the deletion or not is that of the highest rank, and each attribute is that
    of the highest rank among those which observed it; a deletion carries none. Rank: tie-breakers, upsert over delete,
    hash of the attributes. ``_tied`` says whether observations of different content had to be ranked.
    """
    rank = F.struct(*_tie_breakers(table), (~F.col(DELETED)).alias("u"), F.expr(_tie_hash(table)).alias("h"))
    ranked = _distinct(observations, table).withColumn(_RANK, rank)
    aggregates = [F.max_by(DELETED, _RANK).alias(DELETED)]
    aggregates += [F.max_by(name, _RANK).alias(name) for name in table.key]
    for name in table.attributes:
        observed = F.when(_observes(name), F.col(_RANK))
        aggregates.append(F.max_by(F.struct(name), observed).alias(name))
    tied = (F.min(f"{_RANK}.h") != F.max(f"{_RANK}.h")).alias(TIED)
    merged = ranked.groupBy(names.KEY, EFFECTIVE).agg(*aggregates, tied)
    carried = [F.when(~F.col(DELETED), F.col(name)).alias(name) for name in table.attributes]
    return merged.select(names.KEY, EFFECTIVE, DELETED, *table.key, *carried, TIED)


def seeds(versions: DataFrame, table: Table) -> DataFrame:
    """Moments that fold to ``versions``: what a table's rows say of the observations behind them.

    Each version observed all its attributes when it started, and a gap is a deletion. This tells all that later
    observations depend on, except whether the null of a type 0 attribute was observed (:func:`unsettled`). Of a life's
    earlier values, type 3 needs the one that the last row still shows.
    """
    values = [_stood(name, table).alias(name) for name in table.attributes]
    shown = [F.struct(f"previous_{name}").alias(_seed(name)) for name in table.columns_of_type(3)]
    starts = versions.select(
        names.KEY,
        F.col(names.EFFECTIVE_FROM).alias(EFFECTIVE),
        F.lit(False).alias(DELETED),
        *table.key,
        *values,
        *shown,
    )
    following = F.lead(names.EFFECTIVE_FROM).over(Window.partitionBy(names.KEY).orderBy(names.EFFECTIVE_FROM))
    ended = F.col(EFFECTIVE).isNotNull() & ~F.col(EFFECTIVE).eqNullSafe(F.col(_NEXT))
    gaps = versions.select(names.KEY, F.col(names.EFFECTIVE_TO).alias(EFFECTIVE), following.alias(_NEXT)).where(ended)
    return starts.unionByName(gaps.select(names.KEY, EFFECTIVE, F.lit(True).alias(DELETED)), allowMissingColumns=True)


def _stood(name: str, table: Table) -> Column:
    """A stored attribute as observed; where null says nothing, it says so here too."""
    value = F.struct(name)
    return F.when(F.col(name).isNotNull(), value) if table.attributes[name].null == "not_observed" else value


def unsettled(table: Table) -> list[str]:
    """Type 0 attributes whose stored null may have been observed, or not: their first value is known to bronze only."""
    return [name for name in table.columns_of_type(0) if table.attributes[name].null == "value"]


def observation_columns(table: Table) -> list[str]:
    """What an observation is made of: two rows that agree in these columns are one observation."""
    ties = [tie.column for tie in table.tie_breakers]
    flags = [observed_flag(name) for name in table.attributes]
    return list(dict.fromkeys([names.KEY, EFFECTIVE, DELETED, *ties, *table.columns, *flags]))


def _distinct(observations: DataFrame, table: Table) -> DataFrame:
    """Observations without exact repeats, and all of a key in one place: the one exchange of the fold."""
    return observations.select(*observation_columns(table)).repartition(names.KEY).dropDuplicates()


def _observes(name: str) -> Column:
    # The flag is null in the deletions that snapshots imply.
    return F.coalesce(F.col(observed_flag(name)), F.lit(False)) & ~F.col(DELETED)


def _tie_breakers(table: Table) -> list[Column]:
    return [
        _ordered(F.col(tie.column), table.typed[tie.column].type, highest_wins=tie.highest_wins).alias(f"t{i}")
        for i, tie in enumerate(table.tie_breakers)
    ]


def _ordered(value: Column, kind: DataType, *, highest_wins: bool) -> Column:
    """A value whose greatest wins; no value at all loses either way. No arithmetic here may overflow or round."""
    if highest_wins:
        return value
    if kind.name in ("int", "long"):
        return F.bitwise_not(value)
    if kind.name == "timestamp":
        return F.bitwise_not(F.unix_micros(value))
    if kind.name == "date":
        return F.bitwise_not(F.unix_date(value))
    if kind.name == "boolean":
        return ~value
    if kind.name == "double":  # NaN is the highest, and so is its negation
        return F.when(value.isNotNull(), F.struct(~F.isnan(value), -value))
    if kind.name == "decimal":
        return _inverted_decimal(value)
    inverted = F.translate(F.hex(F.encode(value, "utf-8")), "0123456789ABCDEF", "FEDCBA9876543210")
    return F.concat(inverted, F.lit("Z"))


def _inverted_decimal(value: Column) -> Column:
    """Text that sorts the other way: Spark's own negation rounds to 34 digits."""
    digits = F.lpad(F.ltrim(value.cast("string"), F.lit("-")), 40, "0")
    inverted = F.translate(digits, "0123456789", "9876543210")
    return F.when(value < 0, F.concat(F.lit("1"), digits)).when(value >= 0, F.concat(F.lit("0"), inverted))


def _tie_hash(table: Table) -> str:
    """A hash of the canonical typed attributes that were observed, without provenance.

    In the order of what they are read from, so that renaming or adding a column leaves earlier winners alone.
    """
    parts = []
    for origin, name in sorted((origin_of(name, column), name) for name, column in table.attributes.items()):
        field = encoding.encode([(quote(name), table.attributes[name].type)])
        parts.append(f"CASE WHEN {quote(observed_flag(name))} THEN concat('{origin}', {field}) ELSE '' END")
    return encoding.digest(f"concat({', '.join([*parts, encoding.encode([(DELETED, DataType('boolean'))])])})")


def events(moments: DataFrame, table: Table) -> DataFrame:
    """What changes a key's versions: starts of versions, and deletions that end one. One row each, with its end."""
    key = Window.partitionBy(names.KEY).orderBy(EFFECTIVE)
    before = key.rowsBetween(Window.unboundedPreceding, -1)
    lives = moments.withColumn(_LIFE, F.coalesce(F.sum(F.col(DELETED).cast("int")).over(before), F.lit(0)))
    filled = _with_previous(_with_carried(lives, table), table)
    was_deleted = F.lag(DELETED).over(key)
    is_first = was_deleted.isNull() | was_deleted
    differs = F.lit(False)
    for name in table.columns_of_type(2):
        differs = differs | ~F.col(_filled(name)).eqNullSafe(F.lag(_filled(name)).over(key))
    marked = filled.withColumn(_START, ~F.col(DELETED) & (is_first | differs))
    marked = marked.withColumn(_END, F.col(DELETED) & ~is_first).where(f"{_START} OR {_END}")
    return marked.withColumn(_NEXT, F.lead(EFFECTIVE).over(key))


def _scope(table: Table) -> WindowSpec:
    """What one value of types 0, 1 and 3 covers: all versions of a key, or those of one life."""
    return Window.partitionBy(names.KEY, *([_LIFE] if table.per_life else [])).orderBy(EFFECTIVE)


def _whole(table: Table) -> WindowSpec:
    return _scope(table).rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)


def _with_carried(lives: DataFrame, table: Table) -> DataFrame:
    """The value of each attribute on each version; a struct around it tells null from not observed."""
    past = _scope(table).rowsBetween(Window.unboundedPreceding, Window.currentRow)
    carried = []
    for name in table.attributes:
        history = table.history(name)
        pick = F.first if history == 0 else F.last
        value = pick(F.col(name), ignorenulls=True).over(past if history == 2 else _whole(table))
        carried.append(value[name].alias(_filled(name)))
    return lives.select("*", *carried)


def _with_previous(filled: DataFrame, table: Table) -> DataFrame:
    """Type 3: the last value that differs from the one that stands."""
    previous = []
    for name in table.columns_of_type(3):
        value = F.col(name)
        differs = value.isNotNull() & ~value[name].eqNullSafe(F.col(_filled(name)))
        last = F.last(F.when(differs, value), ignorenulls=True).over(_whole(table))[name]
        if _seed(name) in filled.columns:
            found = F.max(differs).over(_whole(table))
            shown = F.last(_seed(name), ignorenulls=True).over(_whole(table))[f"previous_{name}"]
            last = F.when(found, last).otherwise(shown)
        previous.append(last.alias(_filled(f"previous_{name}")))
    return filled.select("*", *previous)


def versions(events: DataFrame, table: Table) -> DataFrame:
    """The rows of the dimension, from its events."""
    values = {name: F.col(name) for name in table.key}
    values |= {name: F.col(_filled(name)) for name in table.attributes}
    values |= {f"previous_{n}": F.col(_filled(f"previous_{n}")) for n in table.columns_of_type(3)}
    values[names.EFFECTIVE_FROM] = F.col(EFFECTIVE)
    values[names.EFFECTIVE_TO] = F.col(_NEXT)
    values[names.IS_CURRENT] = F.col(_NEXT).isNull()
    columns = [values[name].alias(name) for name in silver_columns(table)]
    version = F.expr(encoding.version_key(names.KEY, EFFECTIVE)).alias(names.VERSION_KEY)
    return events.where(_START).select(*columns, names.KEY, version)
