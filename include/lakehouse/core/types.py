"""The column types that a contract may use, and their names in Spark and Arrow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

_DECIMAL = re.compile(r"decimal\((\d{1,2}),\s*(\d{1,2})\)\Z")
_SIMPLE = ("string", "boolean", "int", "long", "double", "date", "timestamp")
_SPARK = {"long": "bigint"}


@dataclass(frozen=True)
class DataType:
    """A contract's column type: one of the simple names, or ``decimal(precision,scale)``. Timestamps are UTC."""

    name: str
    precision: int = 0
    scale: int = 0

    @classmethod
    def parse(cls, text: str) -> DataType:
        """Read a type as it stands in a contract; raises ValueError naming what is allowed."""
        if text in _SIMPLE:
            return cls(text)
        if match := _DECIMAL.match(text):
            precision, scale = int(match[1]), int(match[2])
            if 1 <= precision <= 38 and scale <= precision:
                return cls("decimal", precision, scale)
        raise ValueError(f"unknown type {text!r}; use one of {', '.join(_SIMPLE)} or decimal(precision,scale)")

    def __str__(self) -> str:
        return f"decimal({self.precision},{self.scale})" if self.name == "decimal" else self.name

    @property
    def spark(self) -> str:
        """The type in Spark SQL."""
        return _SPARK.get(self.name, str(self))

    @cached_property
    def arrow(self) -> pa.DataType:
        """The type in Arrow."""
        if self.name == "decimal":
            return pa.decimal128(self.precision, self.scale)
        simple = {
            "string": pa.string(),
            "boolean": pa.bool_(),
            "int": pa.int32(),
            "long": pa.int64(),
            "double": pa.float64(),
            "date": pa.date32(),
            "timestamp": pa.timestamp("us", tz="UTC"),
        }
        return simple[self.name]
