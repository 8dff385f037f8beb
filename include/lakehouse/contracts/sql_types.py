"""Types of expressions: what may be cast, compared and computed without Spark raising or losing digits."""

from __future__ import annotations

import re
from datetime import date

from lakehouse.core.types import DataType

BOOLEAN = DataType("boolean")
INT = DataType("int")
LONG = DataType("long")
DOUBLE = DataType("double")
DATE = DataType("date")
TIMESTAMP = DataType("timestamp")
TEXT = DataType("string")
NULL = DataType("null")

_DIGITS = {"int": 10, "long": 20}
_MOST_DIGITS = 38
_LEAST_SCALE = 6
_NUMBERS = ("int", "long", "decimal", "double")


def is_number(kind: DataType) -> bool:
    """Whether one may compute with a value of this type."""
    return kind.name in _NUMBERS


def is_date_text(text: str) -> bool:
    """Whether a text is a day, written yyyy-MM-dd."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def can_cast(value: DataType, target: DataType) -> bool:
    """Whether ``try_cast`` takes this pair and its result depends on nothing but the value.

    Text is no source of timestamps: the session's zone would decide, not the contract's.
    """
    if value == NULL or target == TEXT or value.name == target.name:
        return True
    if value == TEXT:
        return target != TIMESTAMP
    if is_number(value):
        return is_number(target)
    return {value.name, target.name} == {"date", "timestamp"} or (value == BOOLEAN and is_number(target))


def unify(kinds: list[DataType]) -> DataType:
    """The type that holds all of them; raises ValueError where there is none, or where digits could be lost."""
    known = [kind for kind in dict.fromkeys(kinds) if kind != NULL]
    if len(known) <= 1:
        return known[0] if known else NULL
    names = {kind.name for kind in known}
    if names == {"date", "timestamp"}:
        return TIMESTAMP
    if not names <= set(_NUMBERS):
        raise ValueError(f"{' and '.join(map(str, known))} cannot be compared; CAST one of them")
    if "double" in names:
        return DOUBLE
    return _wider(known) if "decimal" in names else LONG


def _wider(kinds: list[DataType]) -> DataType:
    decimals = [as_decimal(kind) for kind in kinds]
    scale = max(kind.scale for kind in decimals)
    precision = max(kind.precision - kind.scale for kind in decimals) + scale
    if precision > _MOST_DIGITS:
        raise ValueError(f"{' and '.join(map(str, kinds))} need more than 38 digits together; CAST one of them")
    return DataType("decimal", precision, scale)


def coerce(sql: str, kind: DataType, common: DataType) -> str:
    """SQL of a value in the common type. Numbers widen by themselves; a date beyond what timestamps hold does not."""
    return f"try_cast({sql} AS timestamp)" if (kind, common) == (DATE, TIMESTAMP) else sql


def as_decimal(kind: DataType) -> DataType:
    """The decimal that holds an integer type."""
    return kind if kind.name == "decimal" else DataType("decimal", _DIGITS[kind.name], 0)


def arithmetic(function: str, left: DataType, right: DataType) -> DataType:
    """The type that Spark gives to a sum, product, quotient or remainder (``try_add`` and so on)."""
    names = {left.name, right.name}
    if "double" in names:
        return DOUBLE
    if "decimal" not in names:
        return DOUBLE if function == "try_divide" else unify([left, right])
    return _decimal_result(function, as_decimal(left), as_decimal(right))


def _decimal_result(function: str, left: DataType, right: DataType) -> DataType:
    whole = max(left.precision - left.scale, right.precision - right.scale)
    scale = max(left.scale, right.scale)
    if function == "try_multiply":
        return _bounded(left.precision + right.precision + 1, left.scale + right.scale)
    if function == "try_divide":
        scale = max(_LEAST_SCALE, left.scale + right.precision + 1)
        return _bounded(left.precision - left.scale + right.scale + scale, scale)
    if function == "try_mod":
        return _bounded(min(left.precision - left.scale, right.precision - right.scale) + scale, scale)
    return _bounded(whole + scale + 1, scale)


def _bounded(precision: int, scale: int) -> DataType:
    """Spark keeps at least six digits after the point when 38 do not suffice."""
    if precision <= _MOST_DIGITS:
        return DataType("decimal", precision, scale)
    return DataType("decimal", _MOST_DIGITS, max(_MOST_DIGITS - (precision - scale), min(scale, _LEAST_SCALE)))
