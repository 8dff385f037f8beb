"""Plausible ways to write the engine wrong. Each is a change at one small seam, made for the time of a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lakehouse.contracts.model import Table
from lakehouse.core import names
from lakehouse.engine import apply, arrivals, compare, dimension, history, silver, typed
from lakehouse.engine.history import DELETED
from lakehouse.engine.typed import EFFECTIVE, STATUS

Mutant = Callable[[pytest.MonkeyPatch], None]


def _changed(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Change what a function answers."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: change(original(*args, **kwargs)))


def nothing(_: pytest.MonkeyPatch) -> None:
    """The engine as it is: red must come from the change, not from the histories."""


def looks_for_keys(patch: pytest.MonkeyPatch) -> None:
    """Late keys are looked for in bronze by the texts of their keys, as they are where bronze is large: still right."""
    patch.setattr(silver, "_WORTH_A_LOOK", 0)
    patch.setattr(silver, "_FEW_TEXTS", 10_000)


def late_path_dropped(patch: pytest.MonkeyPatch) -> None:
    """Late keys go on from the table's versions, as if nothing had been lost in these."""
    _changed(patch, dimension, "arrivals", lambda found: replace(found, late=None, late_keys=0))


def changes_by_unequal(patch: pytest.MonkeyPatch) -> None:
    """``<>`` where nulls have to be seen: a change to or from null is none."""
    patch.setattr(type(F.col("any")), "eqNullSafe", lambda self, other: self == other)


def late_by_arrival(patch: pytest.MonkeyPatch) -> None:
    """What arrives later is taken to have happened later."""
    original = silver.write_changes
    patch.setattr(silver, "write_changes", lambda t, s, intake: original(t, s, replace(intake, since="")))


def ties_by_arrival(patch: pytest.MonkeyPatch) -> None:
    """Of two observations of one moment, the one that arrived last wins."""
    _changed(patch, history, "observation_columns", lambda columns: [*columns, names.BATCH])
    patch.setattr(history, "_tie_breakers", lambda table: [F.col(names.BATCH).alias("arrived")])


def nulls_settled(patch: pytest.MonkeyPatch) -> None:
    """A stored null of type 0 is taken for an observed one."""
    patch.setattr(arrivals, "_unsettled_keys", lambda *_: [])


def previous_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Type 3 of keys that go on looks at new observations only."""

    def forget(found: DataFrame) -> DataFrame:
        return found.drop(*[name for name in found.columns if name.startswith("_seed_")])

    _changed(patch, dimension, "seeds", forget)


def removals_lost(patch: pytest.MonkeyPatch) -> None:
    """A merge that opens and changes versions, and leaves those that are no more."""
    original = apply._merge
    patch.setattr(apply, "_merge", lambda t, changes, c: original(t, changes.where("_change <> 'remove'"), c))
    patch.setattr(apply, "_require_merged", lambda *_, **__: None)


def lives_confused(patch: pytest.MonkeyPatch) -> None:
    """Types 0, 1 and 3 start anew with each life, whatever the contract says."""
    scope = Window.partitionBy(names.KEY, "_life").orderBy(EFFECTIVE)
    patch.setattr(history, "_scope", lambda table: scope)


def missing_is_null(patch: pytest.MonkeyPatch) -> None:
    """A field that is not there is read as null."""
    patch.setattr(typed, "_is_observed", lambda *_: "true")


def deletes_carry(patch: pytest.MonkeyPatch) -> None:
    """The attributes of a deletion count as observed."""
    original = history.moments

    def moments(observations: DataFrame, table: Table) -> DataFrame:
        carried = original(observations.withColumn(DELETED, F.lit(False)), table).drop(DELETED)
        return carried.join(original(observations, table).select(names.KEY, EFFECTIVE, DELETED), [names.KEY, EFFECTIVE])

    for module in (arrivals, dimension):
        patch.setattr(module, "moments", moments)


def refused_is_absent(patch: pytest.MonkeyPatch) -> None:
    """A key whose row was refused is taken for absent from its snapshot."""
    original = history.presence
    for module in (history, arrivals):
        patch.setattr(module, "presence", lambda rows: original(rows.where(f"{STATUS} = 'good'")))
    # The lowest bit says that a row is good.
    _changed(patch, compare, "_arriving", lambda rows: rows.where(f"{compare._FLAGS}0 & 1 = 1"))


def late_snapshots_ignored(patch: pytest.MonkeyPatch) -> None:
    """A snapshot that is older than what was consumed makes no key late."""
    patch.setattr(arrivals._Snapshots, "_inserted", lambda _: [])


def closed_rows_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A key that a snapshot changes goes on from its open row alone."""
    _changed(patch, arrivals, "compare", lambda found: found and replace(found, earlier=None))


RIGHT: tuple[Mutant, ...] = (nothing, looks_for_keys)
FEED: tuple[Mutant, ...] = (late_path_dropped, changes_by_unequal, late_by_arrival, ties_by_arrival)
SNAPSHOTS: tuple[Mutant, ...] = (late_path_dropped, changes_by_unequal)
MORE_FEED: tuple[Mutant, ...] = (
    *(nulls_settled, previous_forgotten, removals_lost, lives_confused, missing_is_null, deletes_carry),
)
MORE_SNAPSHOTS: tuple[Mutant, ...] = (refused_is_absent, late_snapshots_ignored, closed_rows_forgotten)
