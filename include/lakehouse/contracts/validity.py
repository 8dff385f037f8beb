"""What values a column may have, as row rules: the short way to say the checks that most columns need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from lakehouse.contracts.functions import literal
from lakehouse.core.names import quote
from lakehouse.core.types import DataType

if TYPE_CHECKING:
    from lakehouse.contracts.model import Column, Validity

_ORDERED = ("int", "long", "decimal", "double", "date", "timestamp")
_LISTED = ("string", "int", "long", "decimal", "date")
_BITS = {"int": 31, "long": 63}


def checks(name: str, column: Column) -> Iterator[tuple[str, str, str]]:
    """The rules of a column: name, SQL that holds for what is valid or null, and what it says in words."""
    valid, kind, here = column.valid, column.type, quote(name)
    if valid is None:
        return
    if valid.min is not None or valid.max is not None:
        bounds = [(">=", valid.min), ("<=", valid.max)]
        tests = [f"{here} {sign} {constant(text, kind)}" for sign, text in bounds if text is not None]
        words = [f"at {word} {text}" for word, text in (("least", valid.min), ("most", valid.max)) if text is not None]
        yield f"{name}_range", " AND ".join(tests), f"{name} is {' and '.join(words)}."
    if valid.values:
        known = ", ".join(constant(text, kind) for text in valid.values)
        yield f"{name}_values", f"{here} IN ({known})", f"{name} is one of {', '.join(valid.values)}."
    if valid.pattern:
        yield f"{name}_pattern", f"{here} RLIKE {literal(valid.pattern)}", f"{name} matches {valid.pattern}."
    if valid.min_length is not None or valid.max_length is not None:
        lengths = [(">=", "least", valid.min_length), ("<=", "most", valid.max_length)]
        tests = [f"length({here}) {sign} {number}" for sign, _, number in lengths if number is not None]
        words = [f"at {word} {number}" for _, word, number in lengths if number is not None]
        yield f"{name}_length", " AND ".join(tests), f"{name} has {' and '.join(words)} characters."


def constant(text: str, kind: DataType) -> str:
    """A value as SQL of a column's type."""
    if kind.name in _BITS and int(text) > -(1 << 63):  # SQL has no number for the least long: it is minus the next one
        return str(int(text))
    if kind.name == "string":
        return literal(text)
    return f"CAST({literal(text)} AS {kind})"


def problems(column: Column) -> Mapping[str, str]:
    """What is wrong with a column's checks, by field."""
    valid, kind = column.valid, column.type
    if valid is None:
        return {}
    given = valid.model_fields_set - {"level"}
    found = {name: f"is not for {kind}" for name, kinds in _KINDS.items() if name in given and kind.name not in kinds}
    if not given:
        found[""] = "checks nothing"
    bounds = [("min", valid.min), ("max", valid.max), *[("values", text) for text in valid.values]]
    unfit = {name: f"{text!r} is no {kind}" for name, text in bounds if text is not None and not _is_value(text, kind)}
    return found | {name: why for name, why in unfit.items() if name not in found} | _orders(valid, kind, found | unfit)


_TEXT = ("string",)
_KINDS = {
    **{"min": _ORDERED, "max": _ORDERED, "values": _LISTED},
    **dict.fromkeys(("pattern", "min_length", "max_length"), _TEXT),
}


def _orders(valid: Validity, kind: DataType, known: Mapping[str, str]) -> dict[str, str]:
    if {"min", "max"} & known.keys():
        return {}
    if valid.min is not None and valid.max is not None and _value(valid.min, kind) > _value(valid.max, kind):  # type: ignore[operator]
        return {"max": "is less than min: no value would be valid"}
    if valid.min_length is not None and valid.max_length is not None and valid.min_length > valid.max_length:
        return {"max_length": "is less than min_length: no value would be valid"}
    return {}


def _value(text: str, kind: DataType) -> object:
    """A text as a value of a type. Raises ValueError or InvalidOperation."""
    if kind.name in _BITS:
        number = int(text)
        if not -(1 << _BITS[kind.name]) <= number < 1 << _BITS[kind.name]:
            raise ValueError(text)
        return number
    if kind.name == "decimal":
        return _decimal(text, kind)
    if kind.name == "double":
        return float(text)
    if kind.name == "date":
        return date.fromisoformat(text)
    return datetime.fromisoformat(text).replace(tzinfo=None) if kind.name == "timestamp" else text


def _decimal(text: str, kind: DataType) -> Decimal:
    number = Decimal(text)
    whole = number.scaleb(kind.scale)
    if whole != whole.to_integral_value() or abs(whole) >= 10**kind.precision:
        raise ValueError(text)
    return number


def _is_value(text: str, kind: DataType) -> bool:
    try:
        _value(text, kind)
    except (ValueError, InvalidOperation):
        return False
    return True
