"""The fold of the engine against the reference: thousands of random histories, many in one job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from tests import reference
from tests.reference import Observation, Rules, Version

from lakehouse.contracts.model import Contract, Table
from lakehouse.core import names
from lakehouse.core.encoding import durable_key, version_key
from lakehouse.core.types import DataType
from lakehouse.engine.history import fold, observations
from lakehouse.engine.tables import silver_columns
from lakehouse.engine.typed import EFFECTIVE, STATUS, observed_flag

ZONE = "Europe/London"
UNITS = [date(2024, 3, 29) + timedelta(days=day) for day in range(6)]  # clocks go forward on the 31st
TIMES = [datetime.combine(unit, time(12), UTC) for unit in UNITS]
NOTHING = "not observed"
TEXTS = (NOTHING, None, "", "x", "y")
VALUES: dict[str, tuple[Any, ...]] = {
    "born": TEXTS,
    "name": TEXTS,
    "city": TEXTS,
    "size": (NOTHING, None, 0, -1),
    "segment": TEXTS,
}
TYPES = {name: DataType("int" if name == "size" else "string") for name in VALUES}
SEQUENCES = (None, 1, 2)
TAGS = (None, "a", "ab")
OPERATIONS = ("U", "U", "U", "D")
PARTS = (len(TIMES), len(OPERATIONS), len(SEQUENCES), len(TAGS), *(len(values) for values in VALUES.values()))
CHOICES = 1
for part in PARTS:
    CHOICES *= part


@dataclass(frozen=True)
class Shape:
    """A kind of dimension."""

    history: Mapping[str, int]
    ties: Mapping[str, bool]
    per_life: bool = False
    is_snapshot: bool = False

    def contract(self) -> Contract:
        columns: dict[str, Any] = {
            name: {"type": str(TYPES[name]), "history": kind, "description": "an attribute"}
            for name, kind in self.history.items()
        }
        order = {
            "at": {"type": "timestamp", "description": "effective time"},
            "operation": {"type": "string", "description": "U or D"},
            "sequence": {"type": "long", "description": "a number"},
            "tag": {"type": "string", "description": "a text"},
        }
        table = {
            "kind": "dimension",
            "description": "made for a test",
            "key": ["id"],
            "effective_time": names.UNIT if self.is_snapshot else "at",
            "tie_breakers": [{"column": name, "highest_wins": highest} for name, highest in self.ties.items()],
            "deletion": None if self.is_snapshot else {"column": "operation", "values": ["D"]},
            "per_life": self.per_life,
            "columns": {"id": {"type": "string", "description": "the key"}, **columns},
            "order": order,
        }
        source = {
            "connector": "files",
            "kind": "snapshot" if self.is_snapshot else "increment",
            "timezone": ZONE,
            "columns": {"id": {"description": "the key"}},
        }
        whole = {"format": 1, "domain": "test", "dataset": "histories", "owner": "tests", "description": "for a test"}
        return Contract.model_validate({**whole, "source": source, "tables": {"dim": table}})

    def rules(self) -> Rules:
        kinds = {name: TYPES[name] for name in self.history}
        return Rules(self.history, kinds, tuple(self.ties.values()), self.per_life)


ALL_TYPES = {"born": 0, "name": 1, "city": 2, "size": 2, "segment": 3}
BY_SEQUENCE = {"sequence": True}
BY_TAG = {"tag": False, "sequence": False}
FEEDS = {
    "all types": Shape(ALL_TYPES, BY_SEQUENCE),
    "all types, per life": Shape(ALL_TYPES, BY_TAG, per_life=True),
    "ties by hash alone": Shape(ALL_TYPES, {}),
    "no type 2": Shape({"born": 0, "name": 1, "segment": 3}, BY_SEQUENCE, per_life=True),
    "type 2 only": Shape({"city": 2, "size": 2}, BY_TAG),
}
SNAPSHOTS = {
    "all types": Shape(ALL_TYPES, {}, is_snapshot=True),
    "all types, per life": Shape(ALL_TYPES, BY_SEQUENCE, per_life=True, is_snapshot=True),
}


@dataclass(frozen=True)
class Row:
    """One typed row, as :mod:`lakehouse.engine.typed` makes it."""

    key: str
    batch: int
    status: str
    observation: Observation
    sequence: int | None
    tag: str | None

    def typed(self, table: Table) -> dict[str, Any]:
        observation = self.observation
        row: dict[str, Any] = {
            names.KEY: durable_key([DataType("string")], [self.key]),
            names.BATCH: self.batch,
            STATUS: self.status,
            EFFECTIVE: observation.at,
            "id": self.key,
            "operation": "D" if observation.deleted else "U",
            "sequence": self.sequence,
            "tag": self.tag,
        }
        for name in table.attributes:
            row[name] = observation.values.get(name)
            row[observed_flag(name)] = name in observation.values
        return row


def decode(code: int, key: str, shape: Shape) -> Row:
    """One drawn number is one observation: quick to draw, and small numbers are simple observations."""
    digits = []
    for size in PARTS:
        code, digit = divmod(code, size)
        digits.append(digit)
    at, operation, sequence, tag, *attributes = digits
    drawn = zip(VALUES.items(), attributes, strict=True)
    chosen = {name: values[-1 - digit] for (name, values), digit in drawn}
    values = {n: value for n, value in chosen.items() if value != NOTHING and n in shape.history}
    ties = {"sequence": SEQUENCES[sequence], "tag": TAGS[tag]}
    is_deleted = OPERATIONS[operation] == "D" and not shape.is_snapshot
    time_of = [midnight(unit) for unit in UNITS] if shape.is_snapshot else TIMES
    observation = Observation(time_of[at], values, is_deleted, tuple(ties[name] for name in shape.ties))
    return Row(key, at + 1, "good", observation, ties["sequence"], ties["tag"])


def midnight(unit: date) -> datetime:
    return datetime.combine(unit, time(), ZoneInfo(ZONE)).astimezone(UTC)


def engine_versions(
    spark: SparkSession, shape: Shape, rows: Sequence[Row], units: Mapping[int, date]
) -> dict[str, list[Version]]:
    contract = shape.contract()
    table = contract.tables["dim"]
    typed = spark.createDataFrame(arrow([row.typed(table) for row in rows], table))
    return collected(fold(observations(typed, contract, table, units), table), table)


def collected(versions: DataFrame, table: Table) -> dict[str, list[Version]]:
    """The engine's versions as the reference has them, by the text of the key."""
    folded = versions.toArrow().to_pylist()
    assert {*folded[0]} == {*silver_columns(table), names.KEY, names.VERSION_KEY} if folded else True
    found: dict[str, list[Version]] = defaultdict(list)
    for version in sorted(folded, key=lambda version: version[names.EFFECTIVE_FROM]):
        key = version.pop(names.KEY)
        assert key == durable_key([DataType("string")], [version["id"]])
        assert version.pop(names.VERSION_KEY) == version_key(key, version[names.EFFECTIVE_FROM])
        found[version.pop("id")].append(version)
    return found


def arrow(rows: list[dict[str, Any]], table: Table) -> pa.Table:
    text = pa.string()
    fields = {names.KEY: text, names.BATCH: pa.int64(), STATUS: text, EFFECTIVE: pa.timestamp("us", tz="UTC")}
    fields |= {"id": text, "operation": text, "sequence": pa.int64(), "tag": text}
    for name, column in table.attributes.items():
        fields |= {name: column.type.arrow, observed_flag(name): pa.bool_()}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(fields.items())))


def compare(rows: Sequence[Row], expected: Mapping[str, list[Version]], found: Mapping[str, list[Version]]) -> None:
    """Keys are independent, so that the first one that differs is a whole, small example."""
    for key in sorted({row.key for row in rows}):
        observed = [row for row in rows if row.key == key]
        assert found.get(key, []) == expected.get(key, []), "\n".join(map(str, observed))


class Histories(tuple[list[int], ...]):
    """Many histories; too many to be printed."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"<{len(self)} histories>")


CODES = st.integers(0, CHOICES - 1)
HISTORIES = st.lists(st.lists(CODES, min_size=1, max_size=9), min_size=150, max_size=300).map(Histories)
MANY = settings(
    max_examples=3,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # what fails is small already: see compare()
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow, HealthCheck.large_base_example],
)


def drawn_rows(histories: Histories, shape: Shape) -> Iterator[Row]:
    for number, history in enumerate(histories):
        for code in history:
            yield decode(code, f"key {number:03d}", shape)


@pytest.mark.parametrize("shape", FEEDS.values(), ids=FEEDS.keys())
@MANY
@given(histories=HISTORIES)
def test_feeds_fold_as_the_reference_says(spark: SparkSession, shape: Shape, histories: Histories) -> None:
    rows = list(drawn_rows(histories, shape))
    by_key: dict[str, list[Observation]] = defaultdict(list)
    for row in rows:
        by_key[row.key].append(row.observation)
    expected = {key: reference.fold(found, shape.rules()) for key, found in by_key.items()}
    compare(rows, expected, engine_versions(spark, shape, rows, {}))


@pytest.mark.parametrize("shape", SNAPSHOTS.values(), ids=SNAPSHOTS.keys())
@MANY
@given(histories=HISTORIES, landed=st.sets(st.integers(1, len(UNITS)), min_size=1), bad=st.sets(st.integers(0, 2999)))
def test_snapshots_fold_as_the_reference_says(
    spark: SparkSession, shape: Shape, histories: Histories, landed: set[int], bad: set[int]
) -> None:
    """Snapshots that did not land are as if they had never been; a refused row closes nothing."""
    drawn = (row for row in drawn_rows(histories, shape) if row.batch in landed)
    rows = [
        Row(r.key, r.batch, "quarantined", r.observation, r.sequence, r.tag) if number in bad else r
        for number, r in enumerate(drawn)
    ]
    units = {batch: UNITS[batch - 1] for batch in landed}
    snapshots: dict[int, dict[str, list[Observation]]] = {batch: {} for batch in landed}
    for row in rows:
        present = snapshots[row.batch].setdefault(row.key, [])
        present += [row.observation] if row.status == "good" else []
    by_key = reference.from_snapshots([(midnight(units[batch]), found) for batch, found in snapshots.items()])
    expected = {key: reference.fold(found, shape.rules()) for key, found in by_key.items()}
    compare(rows, expected, engine_versions(spark, shape, rows, units))


TIE_VALUES: dict[str, list[Any]] = {
    "int": [None, -(2**31), -1, 0, 2**31 - 1],
    "long": [None, -(2**63), -1, 0, 2**63 - 1],
    "double": [None, float("-inf"), -1.5, 0.0, 5e-324, float("inf"), float("nan")],
    "decimal(38,4)": [None, Decimal("-9999999999999999999999999999999999.9999"), Decimal("-0.0001"), Decimal(0)],
    "boolean": [None, False, True],
    "date": [None, date(1, 1, 1), date(2024, 2, 29), date(9999, 12, 31)],
    "timestamp": [None, *(datetime(year, 1, 1, tzinfo=UTC) for year in (1, 1969, 2024, 9999))],
    "string": [None, "", "\0", "a", "a\0", "ab", "b", "é", "\uffff", "\U0001f600"],
}  # fmt: skip


@pytest.mark.parametrize("highest_wins", [True, False])
@pytest.mark.parametrize("kind", TIE_VALUES)
def test_of_two_values_the_contract_says_which_wins(spark: SparkSession, kind: str, highest_wins: bool) -> None:
    """Values stand in their order, with no value first: that one always loses."""
    from pyspark.sql import functions as F

    from lakehouse.engine.history import _ordered

    values = TIE_VALUES[kind]
    pairs = [(i, j, values[i], values[j]) for i in range(len(values)) for j in range(i + 1, len(values))]
    arrow_type = DataType.parse(kind).arrow
    columns = [("i", pa.int32()), ("j", pa.int32()), ("low", arrow_type), ("high", arrow_type)]
    table = pa.Table.from_pylist([dict(zip("i j low high".split(), p, strict=True)) for p in pairs], pa.schema(columns))
    frame = spark.createDataFrame(table)
    low, high = (
        F.struct(_ordered(F.col(name), DataType.parse(kind), highest_wins=highest_wins)) for name in ("low", "high")
    )
    wrong = frame.where(~F.when(F.lit(highest_wins) | F.col("low").isNull(), high > low).otherwise(low > high))
    assert [(values[row.i], values[row.j]) for row in wrong.collect()] == []
