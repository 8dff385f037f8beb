"""The functions that expressions may use: their arguments, their result, and the SQL that cannot raise.

Left out on purpose: whatever depends on a clock, on chance, on other rows, on the session (current_*, rand, uuid,
aggregates, windows), what reaches code (reflect, java_method, UDFs), and what has no form that cannot raise (arrays,
integer division, date_format, to_timestamp).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlglot import exp

from lakehouse.contracts.sql_types import (
    BOOLEAN,
    DATE,
    DOUBLE,
    INT,
    LONG,
    NULL,
    TEXT,
    TIMESTAMP,
    is_number,
)
from lakehouse.core.types import DataType

_LONGEST_TEXT = 1000


@dataclass(frozen=True)
class Typed:
    """A piece of SQL and the type of its value."""

    sql: str
    type: DataType


Kind = Callable[[exp.Expression, Typed], None]


def literal(text: str) -> str:
    """A text as a Spark SQL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _is_literal(node: exp.Expression) -> bool:
    return isinstance(node, exp.RawString) or (isinstance(node, exp.Literal) and node.is_string)


def _takes(what: str, fits: Callable[[DataType], bool]) -> Kind:
    def check(node: exp.Expression, value: Typed) -> None:
        if value.type != NULL and not fits(value.type):
            raise ValueError(f"{node.sql('spark')} is {value.type}, where {what} is wanted")

    return check


_text = _takes("text", lambda kind: kind == TEXT)
_number = _takes("a number", is_number)
_exact = _takes("an int, long or decimal", lambda kind: is_number(kind) and kind != DOUBLE)
_whole = _takes("an int", lambda kind: kind == INT)
_day = _takes("a date or timestamp", lambda kind: kind in (DATE, TIMESTAMP))
_moment = _takes("a timestamp", lambda kind: kind == TIMESTAMP)
_any = _takes("anything", lambda kind: True)


def _count(lowest: int, highest: int, *, but: tuple[int, ...] = ()) -> Kind:
    def check(node: exp.Expression, value: Typed) -> None:
        sign, digits = (-1, node.this) if isinstance(node, exp.Neg) else (1, node)
        is_plain = isinstance(digits, exp.Literal) and not digits.is_string and str(digits.this).isdigit()
        if not is_plain or not lowest <= sign * int(str(digits.this)) <= highest or sign * int(str(digits.this)) in but:
            raise ValueError(f"{node.sql('spark')} must be a number from {lowest} to {highest}, written out")

    return check


def _literal_text(node: exp.Expression, value: Typed) -> None:
    if not _is_literal(node):
        raise ValueError(f"{node.sql('spark')} must be a text that is written out")


def _like(node: exp.Expression, value: Typed) -> None:
    _literal_text(node, value)
    if "\\" in str(node.this):
        raise ValueError("a pattern of LIKE has no backslash; use RLIKE where % or _ are meant as such")


def _pattern(node: exp.Expression, value: Typed) -> None:
    _literal_text(node, value)
    _groups(str(node.this))


def _groups(pattern: str) -> int:
    """Number of groups of a regular expression; ValueError where Python's and Java's dialects don't both take it."""
    if re.search(r"\(\?P|\(\?\(|\\[AZGQEpP]|&&|\[[^\]]*\[", pattern):
        raise ValueError(f"the pattern {pattern!r} uses what is not plain; use groups, sets and repetition only")
    if re.search(r"(?<!\\)\{(?!\d+(,\d*)?\})", pattern):
        raise ValueError(f"the pattern {pattern!r} has a {{ that repeats nothing; write [{{]")
    try:
        return re.compile(pattern).groups
    except (re.error, OverflowError) as error:
        raise ValueError(f"the pattern {pattern!r} is wrong: {error}") from None


def _trunc_unit(node: exp.Expression, value: Typed) -> None:
    if not _is_literal(node) or str(node.this).upper() not in ("YEAR", "QUARTER", "MONTH", "MM", "WEEK"):
        raise ValueError("the unit is 'YEAR', 'QUARTER', 'MONTH' or 'WEEK'")


@dataclass(frozen=True)
class Signature:
    """How a function is called. The last kind repeats for further arguments."""

    name: str
    parts: tuple[str, ...]
    kinds: tuple[Kind, ...]
    gives: DataType | Callable[[list[Typed]], DataType]
    flags: tuple[str, ...] = ()
    is_same: bool = False
    template: Callable[[list[Typed]], str] | None = None
    check: Callable[[list[exp.Expression]], None] | None = None

    def arguments(self, node: exp.Expression) -> list[exp.Expression]:
        """The arguments as they were written; raises ValueError where there is one that isn't known."""
        unknown = {name for name, value in node.args.items() if value not in (None, False, [])}
        unknown -= {*self.parts, *self.flags}
        if unknown:
            raise ValueError(f"is not allowed with {', '.join(sorted(unknown))}")
        values = [node.args.get(part) for part in self.parts]
        found = [item for value in values for item in (value if isinstance(value, list) else [value])]
        return [_written(item) for item in found if item is not None]

    def build(self, nodes: list[exp.Expression], values: list[Typed]) -> Typed:
        """The call; raises ValueError where an argument does not fit."""
        if not nodes:
            raise ValueError("takes an argument")
        for place, (node, value) in enumerate(zip(nodes, values, strict=True)):
            self.kinds[min(place, len(self.kinds) - 1)](node, value)
        if self.check:
            self.check(nodes)
        sql = self.template(values) if self.template else f"{self.name}({', '.join(value.sql for value in values)})"
        return Typed(sql, self.gives(values) if callable(self.gives) else self.gives)


def _written(node: exp.Expression) -> exp.Expression:
    """Without the conversion to a date that the parser puts around arguments of date functions."""
    if isinstance(node, exp.TsOrDsToDate) and not node.args.get("format") and not node.args.get("safe"):
        return node.this
    return node


def _first(values: list[Typed]) -> DataType:
    return values[0].type


def _absolute(values: list[Typed]) -> str:
    return f"if({values[0].sql} < 0, try_subtract(0, {values[0].sql}), {values[0].sql})"


def _rounded(values: list[Typed]) -> DataType:
    """Spark's type of round(decimal, n), which may be narrower."""
    kind = values[0].type
    if kind.name != "decimal":
        return kind
    scale = min(kind.scale, int(values[1].sql) if len(values) > 1 else 0)
    return DataType("decimal", min(38, kind.precision - kind.scale + 1 + scale), scale)


def _integral(values: list[Typed]) -> DataType:
    """Spark's type of floor and ceil."""
    kind = values[0].type
    return DataType("decimal", min(38, kind.precision - kind.scale + 1), 0) if kind.name == "decimal" else LONG


def _within_calendar(name: str) -> Callable[[list[Typed]], str]:
    """Only for the years that a calendar has: at the ends of what a date can hold, Spark's function raises."""

    def template(values: list[Typed]) -> str:
        day, other = (value.sql for value in values)
        return f"if({day} BETWEEN DATE '0001-01-01' AND DATE '9999-12-31', {name}({day}, {other}), NULL)"

    return template


def _infix(word: str) -> Callable[[list[Typed]], str]:
    return lambda values: f"({values[0].sql} {word} {values[1].sql})"


def _check_replacement(nodes: list[exp.Expression]) -> None:
    groups = _groups(str(nodes[1].this))
    wanted = str(nodes[2].this)
    if "\\" in wanted or re.search(r"\$(?!\d)", wanted) or any(int(n) > groups for n in re.findall(r"\$(\d)", wanted)):
        raise ValueError(f"the replacement {wanted!r} may use $1 to ${groups} only, and no backslash")


def _check_group(nodes: list[exp.Expression]) -> None:
    groups = _groups(str(nodes[1].this))
    if len(nodes) < 3 or int(str(nodes[2].this)) > groups:
        raise ValueError(f"the pattern has {groups} groups; name one of them, or 0 for the whole")


def _text_function(name: str, *parts: str, kinds: tuple[Kind, ...] = (_text,), **more: object) -> Signature:
    return Signature(name, parts, kinds, more.pop("gives", TEXT), **more)  # type: ignore[arg-type]


def _date_part(name: str, kind: Kind = _day) -> Signature:
    return Signature(name, ("this",), (kind,), INT)


_ONE = ("this",)
_TWO = ("this", "expression")
_MANY = ("this", "expressions")
_LENGTH = _count(0, _LONGEST_TEXT)
_INTEGER = _count(-1_000_000, 1_000_000)

_FUNCTIONS: dict[type[exp.Expression], Signature] = {
    exp.Upper: _text_function("upper", *_ONE),
    exp.Lower: _text_function("lower", *_ONE),
    exp.Reverse: _text_function("reverse", *_ONE),
    exp.Initcap: _text_function("initcap", *_ONE, flags=("expression",)),
    exp.Length: _text_function("length", *_ONE, gives=INT),
    exp.MD5: _text_function("md5", *_ONE),
    exp.SHA2: _text_function("sha2", "this", "length", kinds=(_text, _count(224, 512))),
    exp.Concat: _text_function("concat", "expressions", flags=("safe", "coalesce")),
    exp.ConcatWs: _text_function("concat_ws", "expressions", flags=("safe", "coalesce", "flatten")),
    exp.DPipe: _text_function("concat", *_TWO, flags=("safe",)),
    exp.Substring: _text_function("substring", "this", "start", "length", kinds=(_text, _whole)),
    exp.Left: _text_function("left", *_TWO, kinds=(_text, _whole)),
    exp.Right: _text_function("right", *_TWO, kinds=(_text, _whole)),
    exp.Repeat: _text_function("repeat", "this", "times", kinds=(_text, _LENGTH)),
    exp.Replace: _text_function("replace", "this", "expression", "replacement"),
    exp.Translate: _text_function("translate", "this", "from_", "to"),
    exp.SplitPart: _text_function(
        "split_part", "this", "delimiter", "part_index", kinds=(_text, _literal_text, _count(-1000, 1000, but=(0,)))
    ),
    exp.StrPosition: _text_function("instr", "this", "substr", gives=INT),
    exp.StartsWith: _text_function("startswith", *_TWO, gives=BOOLEAN),
    exp.EndsWith: _text_function("endswith", *_TWO, gives=BOOLEAN),
    exp.Contains: _text_function("contains", *_TWO, gives=BOOLEAN),
    exp.RegexpReplace: _text_function(
        "regexp_replace",
        *("this", "expression", "replacement"),
        kinds=(_text, _pattern, _literal_text),
        check=_check_replacement,
    ),
    exp.RegexpExtract: _text_function(
        "regexp_extract",
        *("this", "expression", "group"),
        kinds=(_text, _pattern, _count(0, 99)),
        flags=("null_if_pos_overflow",),
        check=_check_group,
    ),
    exp.RegexpLike: _text_function("RLIKE", *_TWO, kinds=(_text, _pattern), gives=BOOLEAN, template=_infix("RLIKE")),
    exp.Abs: Signature("abs", _ONE, (_number,), _first, template=_absolute),
    exp.Sign: Signature("signum", _ONE, (_number,), DOUBLE),
    exp.Floor: Signature("floor", _ONE, (_exact,), _integral),
    exp.Ceil: Signature("ceil", _ONE, (_exact,), _integral),
    exp.Round: Signature("round", ("this", "decimals"), (_number, _count(0, 37)), _rounded),
    exp.Coalesce: Signature("coalesce", _MANY, (_any,), _first, is_same=True),
    exp.Greatest: Signature("greatest", _MANY, (_any,), _first, flags=("ignore_nulls",), is_same=True),
    exp.Least: Signature("least", _MANY, (_any,), _first, flags=("ignore_nulls",), is_same=True),
    exp.Nullif: Signature("nullif", _TWO, (_any,), _first, is_same=True),
    exp.Year: _date_part("year"),
    exp.Quarter: _date_part("quarter"),
    exp.Month: _date_part("month"),
    exp.WeekOfYear: _date_part("weekofyear"),
    exp.Day: _date_part("day"),
    exp.DayOfMonth: _date_part("day"),
    exp.DayOfWeek: _date_part("dayofweek"),
    exp.DayOfYear: _date_part("dayofyear"),
    exp.Hour: _date_part("hour", _moment),
    exp.Minute: _date_part("minute", _moment),
    exp.Second: _date_part("second", _moment),
    exp.TsOrDsAdd: Signature("date_add", _TWO, (_day, _whole), DATE, flags=("unit",)),
    exp.DateDiff: Signature("datediff", _TWO, (_day,), INT),
    exp.AddMonths: Signature("add_months", _TWO, (_day, _INTEGER), DATE, template=_within_calendar("add_months")),
    exp.LastDay: Signature("last_day", _ONE, (_day,), DATE),
    exp.DateTrunc: Signature("trunc", ("this", "unit"), (_day, _trunc_unit), DATE, template=_within_calendar("trunc")),
}
_BY_NAME = {
    "isnull": Signature("isnull", ("expressions",), (_any,), BOOLEAN),
    "isnotnull": Signature("isnotnull", ("expressions",), (_any,), BOOLEAN),
    "btrim": _text_function("btrim", "expressions"),
}
_TRIMS = {"": "trim", "BOTH": "trim", "LEADING": "ltrim", "TRAILING": "rtrim"}


def signature_of(node: exp.Expression) -> Signature | None:
    """The signature of a call, or None where it is not allowed."""
    if isinstance(node, exp.Anonymous):
        known = _BY_NAME.get(node.name.lower())
        return known and _of_anonymous(known, node)
    if isinstance(node, exp.Trim):
        return _trim(node)
    if isinstance(node, exp.Like | exp.ILike):
        word = ("NOT " if node.args.get("negate") else "") + ("LIKE" if isinstance(node, exp.Like) else "ILIKE")
        return _text_function(
            word, *_TWO, kinds=(_text, _like), flags=("negate",), gives=BOOLEAN, template=_infix(word)
        )
    if isinstance(node, exp.Pad):
        name = "lpad" if node.args.get("is_left") else "rpad"
        return _text_function(name, *_TWO, "fill_pattern", kinds=(_text, _LENGTH, _text), flags=("is_left",))
    return _FUNCTIONS.get(type(node))


def _of_anonymous(signature: Signature, node: exp.Anonymous) -> Signature | None:
    most = 2 if signature.name == "btrim" else 1
    return replace(signature, flags=("this",)) if 1 <= len(node.expressions) <= most else None


def _trim(node: exp.Trim) -> Signature:
    position = str(node.args.get("position") or "")
    side = position or "BOTH"

    def template(values: list[Typed]) -> str:
        if len(values) == 1:
            return f"{_TRIMS[position]}({values[0].sql})"
        return f"trim({side} {values[1].sql} FROM {values[0].sql})"

    return _text_function(_TRIMS[position], *_TWO, flags=("position",), template=template)


def allowed_names() -> list[str]:
    """Names of the functions that expressions may use, sorted."""
    others = {"ltrim", "rtrim", "trim", "lpad", "rpad", "if", "nvl", "ifnull", "date_sub"}
    names = {signature.name.lower() for signature in (*_FUNCTIONS.values(), *_BY_NAME.values())}
    return sorted((names | others) - {"rlike"})
