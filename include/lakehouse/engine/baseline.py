"""The baseline: what is left of a dimension's old observations, so that a fold can start from it.

Of all observations before a horizon, :func:`condense` keeps those that later ones can depend on: whatever is observed
at or after the horizon, a fold of these and the later ones gives the versions that a fold of everything would give.
They are kept as observations, not as versions: so it stays known whether a null was observed, which a version does not
say and type 0 needs, and what stood before a value of type 1 or 3 that a later, corrected batch takes back.

An observation before the horizon that arrives later is refused, by :func:`refuse_beyond`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lakehouse.contracts.derive import snapshot_time
from lakehouse.contracts.model import Contract, Table
from lakehouse.core import names
from lakehouse.core.errors import ContractError
from lakehouse.core.names import TableName
from lakehouse.engine.history import (
    DELETED,
    events,
    moments,
    observation_columns,
    observations,
)
from lakehouse.engine.tables import ColumnSpec, TableSpec, qualified
from lakehouse.engine.typed import EFFECTIVE, FAILED, STATUS, observed_flag
from lakehouse.ledger.watermark import Baseline, Horizon, read_head

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from lakehouse.engine.silver import Silver

BEYOND = "effective_time_beyond_horizon"
_LIFE = "_life"
_DELETION = "_is_deletion"  # Iceberg reserves _deleted
_STOOD = 0  # the batch number of what stood at the horizon; landing logs count from 1


def condense(observed: DataFrame, table: Table) -> DataFrame:
    """The observations that later ones can depend on, as they came; no exact repeats.

    These are the ones at the start and end of each version, and those that decide the values of types 0, 1 and 3: in
    each scope (key, or life) the first that observed a type 0, the last that observed a type 1 or 3, and for type 3 the
    last whose value differs from that.
    """
    rows = observed.select(*observation_columns(table)).dropDuplicates().localCheckpoint()
    found = moments(rows, table).localCheckpoint()
    ends = events(found, table).select(names.KEY, EFFECTIVE)
    kept = ends.unionByName(_decisive(found, table)).distinct()
    return rows.join(kept, [names.KEY, EFFECTIVE], "left_semi")


def _decisive(found: DataFrame, table: Table) -> DataFrame:
    """Moments at which an attribute got its value of type 0, 1 or 3."""
    before = Window.partitionBy(names.KEY).orderBy(EFFECTIVE).rowsBetween(Window.unboundedPreceding, -1)
    lives = found.withColumn(_LIFE, F.coalesce(F.sum(F.col(DELETED).cast("int")).over(before), F.lit(0)))
    scope = Window.partitionBy(names.KEY, *([_LIFE] if table.per_life else []))
    decides = F.lit(False)
    for name in table.attributes:
        value, history = F.col(name), table.history(name)
        at = F.when(value.isNotNull(), F.col(EFFECTIVE))
        if history == 0:
            decides = decides | _is_at(F.min(at).over(scope))
        elif history in (1, 3):
            decides = decides | _is_at(F.max(at).over(scope))
        if history == 3:
            last = F.max_by(value, at).over(scope)
            lives = lives.withColumn(f"_last_{name}", last)
            differs = value.isNotNull() & ~value[name].eqNullSafe(F.col(f"_last_{name}")[name])
            decides = decides | _is_at(F.max(F.when(differs, F.col(EFFECTIVE))).over(scope))
    return lives.withColumn("_decides", decides).where("_decides").select(names.KEY, EFFECTIVE)


def _is_at(time: Column) -> Column:
    return F.coalesce(F.col(EFFECTIVE) == time, F.lit(False))


def baseline_table(name: str) -> TableName:
    """Where a dimension's condensed observations are."""
    return TableName("ops", f"baseline_{name}")


def baseline_spec(contract: Contract, name: str) -> TableSpec:
    """The table of a dimension's condensed observations; classes as in the dimension."""
    table = contract.tables[name]
    system = {
        names.KEY: ColumnSpec("string", "Durable key: a hash of the natural key."),
        EFFECTIVE: ColumnSpec("timestamp", "Effective time of the observation, UTC."),
        _DELETION: ColumnSpec("boolean", "Whether it says that the key was deleted."),
    }
    flags = {
        observed_flag(column): ColumnSpec("boolean", f"Whether {column} was observed.") for column in table.attributes
    }
    typed = {
        column: ColumnSpec(spec.type.spark, spec.description, spec.classification)
        for column, spec in table.typed.items()
    }
    columns = {**system, **typed, **flags}
    wanted = {column: columns[column] for column in map(_stored, observation_columns(table))}
    text = f"What is left of the observations of silver.{name} that bronze no longer has."
    return TableSpec(baseline_table(name), text, wanted, (), (names.KEY,))


def _stored(column: str) -> str:
    return _DELETION if column == DELETED else column


def stored(observed: DataFrame, table: Table) -> DataFrame:
    """Condensed observations as their table has them."""
    return observed.select(*[F.col(name).alias(_stored(name)) for name in observation_columns(table)])


def baseline_observations(silver: Silver, keys: DataFrame | None = None) -> DataFrame:
    """The observations of a dimension's baseline, of some keys or of all. Columns that it lacks were not observed.

    Raises :class:`ContractError` where the contract's semantics are no longer those that the baseline was made with.
    """
    baseline = silver.baseline
    if baseline is None:
        raise ValueError(f"{silver.target} has no baseline")
    if baseline.fingerprint != silver.fingerprint:
        raise _made_otherwise(silver, baseline)
    name = qualified(baseline_table(silver.name))
    found = silver.lake.spark.sql(f"SELECT * FROM {name} VERSION AS OF {baseline.snapshot_id:d}")  # noqa: S608
    found = _widened(found.withColumnRenamed(_DELETION, DELETED), silver)
    return found if keys is None else found.join(F.broadcast(keys), names.KEY, "left_semi")


def _widened(found: DataFrame, silver: Silver) -> DataFrame:
    """A baseline with the columns that the contract got since: nobody observed them."""
    wanted = baseline_spec(silver.contract, silver.name).columns
    missing = {name: spec for name, spec in wanted.items() if name not in found.columns and name != _DELETION}
    return found.withColumns({name: F.lit(None).cast(spec.spark_type) for name, spec in missing.items()})


def _made_otherwise(silver: Silver, baseline: Baseline) -> ContractError:
    return ContractError(
        f"{silver.target} cannot be made anew: its contract says something else than when bronze was trimmed",
        where=f"baseline of {baseline.effective}: semantics {baseline.fingerprint}, contract {silver.fingerprint}",
        untouched=f"{silver.target}, its baseline and bronze",
        todo="take the change of the contract back; what was observed before the baseline is no longer in bronze",
    )


def observed(silver: Silver, rows: DataFrame, units: Mapping[int, date], keys: DataFrame | None = None) -> DataFrame:
    """The observations that a fold of typed rows starts from: those of the baseline, if any, and the later ones.

    ``units`` are the live batches, ``keys`` those that ``rows`` were chosen by (None for all).
    """
    baseline = silver.baseline
    if baseline is None:
        return observations(rows, silver.contract, silver.table, units)
    return join_baseline(silver.contract, silver.table, rows, units, baseline_observations(silver, keys), baseline.at)


def join_baseline(
    contract: Contract, table: Table, rows: DataFrame, units: Mapping[int, date], kept: DataFrame, horizon: datetime
) -> DataFrame:
    """Condensed observations together with the ones that rows make at or after the horizon."""
    if contract.source.kind == "snapshot":
        # What stood at the horizon was there before the first snapshot after it: its absence there is a deletion.
        since = {batch: unit for batch, unit in units.items() if snapshot_time(contract, unit) >= horizon}
        later = rows.where(F.col(names.BATCH).isin(sorted(since)))
        stood = standing(kept, table).select(
            names.KEY, F.lit(_STOOD).cast("long").alias(names.BATCH), F.lit("baseline").alias(STATUS)
        )
        rows = later.unionByName(stood, allowMissingColumns=True)
        units = {**since, _STOOD: (horizon - timedelta(days=2)).date()}
    later = observations(rows, contract, table, units).where(F.col(EFFECTIVE) >= F.lit(horizon))
    columns = [name for name in observation_columns(table) if name in later.columns]
    return later.select(*columns).unionByName(kept, allowMissingColumns=True)


def standing(kept: DataFrame, table: Table) -> DataFrame:
    """The keys that stood at the horizon: the last that was said of them is no deletion."""
    last = moments(kept, table).groupBy(names.KEY).agg(F.max_by(DELETED, EFFECTIVE).alias(DELETED))
    return last.where(f"NOT {DELETED}").select(names.KEY)


def require_in_bronze(silver: Silver, batches: frozenset[int]) -> None:
    """Raise :class:`ContractError` where batches that a fold needs were trimmed, and no baseline stands in for them.

    So it is with a table that was set back to before the trim, and with one that came to the contract after it.
    """
    head = read_head(silver.lake.catalog, silver.contract.bronze_table)
    lacking = sorted((head.trimmed & batches) - silver.frozen.keys())
    if lacking:
        shown = ", ".join(f"{silver.contract.name}#{batch}" for batch in lacking[:3])
        raise ContractError(
            f"{silver.target} cannot be made of what bronze has: {len(lacking)} of the batches that count for it were "
            f"trimmed, such as {shown}",
            where="baseline of the table: " + (silver.baseline.effective if silver.baseline else "none"),
            untouched=f"{silver.target} and bronze; nothing was written",
            todo="roll the table forward again to where it was after the trim; a table that is new to the contract "
            "needs a contract of its own, which lands its source anew",
        )


def refuse_beyond(typed: DataFrame, baseline: Baseline) -> DataFrame:
    """Typed rows, of which those that lie before a horizon and are not in the baseline fail a rule of their own."""
    readable = F.col(STATUS).isin("good", "quarantined")
    too_late = reduce(Column.__or__, map(_is_past, baseline.horizons))
    is_beyond = F.coalesce(readable & too_late, F.lit(False))
    failed = F.when(is_beyond, F.array_append(FAILED, F.lit(BEYOND))).otherwise(F.col(FAILED))
    status = F.when(is_beyond, F.lit("quarantined")).otherwise(F.col(STATUS))
    return typed.withColumns({FAILED: failed, STATUS: status})


def _is_past(horizon: Horizon) -> Column:
    """Whether a row lies before a horizon, and its batch came after that trim, or did not count then."""
    effective, through, passed = horizon
    was_out = F.col(names.BATCH).isin(list(passed)) if passed else F.lit(False)
    before = F.col(EFFECTIVE) < F.lit(datetime.fromisoformat(effective))
    return before & ((F.col(names.BATCH) > through) | was_out)
