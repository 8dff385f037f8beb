"""The canonical encoding of a typed row, and the hashes that stand on it.

Defined once. ``lakehouse.engine.encoding`` says the same in Spark SQL, and a property test holds the two together.

A field is ``~`` for null, ``<length>:<text>`` for a string, the length in characters, and ``<text>;`` for any other
type, whose texts have no ``;``: so no two rows share an encoding. Texts are fixed: integers in decimal, decimals
without trailing zeros (a widened type keeps its text), doubles as Java's hexadecimal form with -0.0 as 0.0, dates as
ISO, timestamps as microseconds since 1970 in UTC. Every hash is SHA-256; keys keep its first 128 bits as 32
hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from lakehouse.core.types import DataType

ENCODING_VERSION = 1
NULL = "~"
KEY_DIGITS = 32
LANES = 4
LANE_DIGITS = 15
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def canonical_text(kind: DataType, value: Any) -> str | None:
    """The fixed text of one value of a contract's type, None for null."""
    if value is None:
        return None
    if kind.name == "boolean":
        return "true" if value else "false"
    if kind.name == "decimal":
        return _decimal_text(value)
    if kind.name == "double":
        return _double_text(float(value))
    if kind.name == "date":
        return _as_date(value).isoformat()
    if kind.name == "timestamp":
        return str((value - _EPOCH) // timedelta(microseconds=1))
    return str(value)


def _as_date(value: date) -> date:
    return value.date() if isinstance(value, datetime) else value


def _decimal_text(value: Decimal) -> str:
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _double_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "0x0.0p0"
    mantissa, _, exponent = value.hex().partition("p")
    mantissa = mantissa.rstrip("0")
    return f"{mantissa + '0' if mantissa.endswith('.') else mantissa}p{int(exponent)}"


def encode(kinds: Sequence[DataType], values: Sequence[Any]) -> str:
    """The canonical encoding of a row: its fields, one after the other."""
    return "".join(_field(kind, canonical_text(kind, value)) for kind, value in zip(kinds, values, strict=True))


def _field(kind: DataType, text: str | None) -> str:
    if text is None:
        return NULL
    return f"{len(text)}:{text}" if kind.name == "string" else f"{text};"


def digest(text: str) -> str:
    """128 bits of SHA-256 as 32 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def durable_key(kinds: Sequence[DataType], values: Sequence[Any]) -> str | None:
    """The durable key of a natural key; None when any part is null."""
    return None if any(value is None for value in values) else digest(encode(kinds, values))


def origin(expression: str, pattern: str, kind: DataType) -> str:
    """What an attribute is read from, whatever it is called: 32 digits that a rename or a wider type leaves alone.

    ``expression`` is compiled SQL, ``pattern`` that of a date or timestamp. Ties between observations are decided by
    the attributes in this order, so neither a new name nor a column that nobody observed yet can change a winner.
    """
    family = {"long": "int", "decimal": f"decimal {kind.scale}"}.get(kind.name, kind.name)
    return digest(encode([DataType("string")] * 3, [expression, pattern, family]))


_VERSION_KINDS = (DataType("string"), DataType("timestamp"))


def version_key(key: str, effective_from: datetime) -> str:
    """The key of one version: a hash of the durable key and the moment that the version starts."""
    return digest(encode(_VERSION_KINDS, (key, effective_from)))


@dataclass
class ContentFingerprint:
    """A fingerprint of a multiset of rows: business columns only, independent of the order of rows and columns."""

    columns: Mapping[str, DataType]

    def __post_init__(self) -> None:
        self._names = sorted(self.columns)
        self._kinds = [self.columns[name] for name in self._names]
        self._rows = 0
        self._lanes = [0] * LANES

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row in."""
        encoded = encode(self._kinds, [row[name] for name in self._names])
        full = hashlib.sha256(encoded.encode()).hexdigest()
        self._rows += 1
        for lane in range(LANES):
            self._lanes[lane] += int(full[lane * LANE_DIGITS : (lane + 1) * LANE_DIGITS], 16)

    def hexdigest(self) -> str:
        """The fingerprint of what was counted in."""
        return seal_fingerprint(self._names, self._rows, self._lanes)


def seal_fingerprint(names: Iterable[str], rows: int, lanes: Sequence[int]) -> str:
    """The fingerprint from its parts: column names, number of rows, and the sums of the row hashes' lanes."""
    parts = {"encoding": ENCODING_VERSION, "columns": sorted(names), "rows": rows, "lanes": [int(x) for x in lanes]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fingerprint_table(table: pa.Table, columns: Mapping[str, DataType]) -> str:
    """The content fingerprint of an Arrow table that has at least ``columns``."""
    fingerprint = ContentFingerprint(columns)
    for batch in table.select(sorted(columns)).to_batches():
        for row in batch.to_pylist():
            fingerprint.add(row)
    return fingerprint.hexdigest()
