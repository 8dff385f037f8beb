"""Writing a dimension: keys in order go on from the table's own versions, late keys are folded again from bronze.

Both ways give the versions that a fold of everything observed would give, and reach the branch in one merge of the
versions that differ (ADR 11).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from lakehouse.core import names
from lakehouse.engine.apply import revise
from lakehouse.engine.arrivals import Arrivals, arrivals
from lakehouse.engine.baseline import observed
from lakehouse.engine.history import DELETED, TIED, moments, observation_columns, seeds, versions_of
from lakehouse.engine.publish import Target
from lakehouse.engine.tables import silver_columns
from lakehouse.engine.typed import STATUS

if TYPE_CHECKING:
    from lakehouse.engine.silver import Intake, Silver


@dataclass(frozen=True)
class Written:
    """What a pass did to a dimension: versions opened and closed.

    ``ties`` counts moments for which different observations were ranked, ``late_keys`` and ``late_rows`` what was
    folded again from bronze.
    """

    opened: int = 0
    closed: int = 0
    ties: int = 0
    late_keys: int = 0
    late_rows: int = 0


def write_all(target: Target, silver: Silver, intake: Intake) -> Written:
    """Fold everything that is live into a branch that has no rows."""
    rows = silver.typed(intake.live)
    found = moments(observed(silver, rows, intake.live_units), silver.table)
    counted = Observation()
    target.append(versions_of(found.observe(counted, F.count_if(TIED).alias("ties")), silver.table))
    return Written(ties=counted.get["ties"])


def write_changes(target: Target, silver: Silver, intake: Intake) -> Written:
    """Bring the branch from what the table has consumed to what is live now."""
    arrived = arrivals(target, silver, intake)
    found, late_rows = _in_order(arrived, silver), 0
    ties = arrived.ties
    if arrived.late is not None:
        again = late_observations(silver, intake, arrived.late)
        late_rows = again.count()
        late = moments(observed(silver, again, intake.live_units, arrived.late), silver.table)
        late = late.localCheckpoint()
        ties += late.where(TIED).count()
        found = found.unionByName(late, allowMissingColumns=True)
    revised = revise(target, arrived.present, versions_of(found, silver.table), list(silver_columns(silver.table)))
    return Written(revised.opened, revised.closed, ties, arrived.late_keys, late_rows)


def _in_order(arrived: Arrivals, silver: Silver) -> DataFrame:
    """The moments of keys that go on from the versions that they have."""
    found = seeds(arrived.present, silver.table).unionByName(arrived.moments, allowMissingColumns=True)
    return found if arrived.late is None else found.join(F.broadcast(arrived.late), names.KEY, "left_anti")


def late_observations(silver: Silver, intake: Intake, keys: DataFrame) -> DataFrame:
    """All rows of late keys in live batches, the good ones unless presence counts too; materialised."""
    table = silver.table
    observed = [name for name in observation_columns(table) if name != DELETED]
    wanted = dict.fromkeys([names.BATCH, STATUS, *observed, *table.typed])
    rows = silver.typed_of(intake.live, keys).select(*wanted)
    if silver.contract.source.kind != "snapshot":
        rows = rows.where(f"{STATUS} = 'good'")
    return rows.join(F.broadcast(keys), names.KEY, "left_semi").localCheckpoint()
