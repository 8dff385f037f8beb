"""Expressions and checks of contracts: parsed, held to an allow-list, typed, and compiled to SQL that cannot raise.

Every node is emitted here, never by a generator, so what is not known cannot get through. Spark runs with ANSI on:
an implicit cast or an overflow would fail the whole batch. So every cast and every sum is written in its ``try_`` form
(a bad value becomes null, which is a quarantine decision), and text is never cast in silence: a comparison of text
with a number is refused. Nothing that is allowed depends on the clock, on chance or on other rows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from lakehouse.contracts.functions import Signature, Typed, signature_of
from lakehouse.contracts.functions import literal as text_literal
from lakehouse.contracts.sql_types import (
    BOOLEAN,
    NULL,
    TEXT,
    arithmetic,
    can_cast,
    coerce,
    is_date_text,
    is_number,
    unify,
)
from lakehouse.core.errors import ContractError
from lakehouse.core.names import quote
from lakehouse.core.types import DataType

_LONGEST = 10_000
_COMPARISONS = {exp.EQ: "=", exp.NEQ: "<>", exp.GT: ">", exp.GTE: ">=", exp.LT: "<", exp.LTE: "<="}
_NULL_SAFE = {exp.NullSafeEQ: "{} <=> {}", exp.NullSafeNEQ: "NOT ({} <=> {})"}
_ARITHMETIC = {
    exp.Add: "try_add",
    exp.Sub: "try_subtract",
    exp.Mul: "try_multiply",
    exp.Div: "try_divide",
    exp.SafeAdd: "try_add",
    exp.SafeSubtract: "try_subtract",
    exp.SafeMultiply: "try_multiply",
    exp.SafeDivide: "try_divide",
    exp.Mod: "try_mod",
}
_CAST_TYPES = {
    "TEXT": "string",
    "VARCHAR": "string",
    "BOOLEAN": "boolean",
    "INT": "int",
    "BIGINT": "long",
    "DOUBLE": "double",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "timestamp",
    "TIMESTAMPLTZ": "timestamp",
}
_SIZED_TEXT = re.compile(r"\b(var)?char\s*\(", re.IGNORECASE)  # the parser forgets the size, so it never sees one
# Every table of a run asks for the same expressions again, a dozen times each.
_REMEMBERED = 4096
_PARTS = frozenset("this expression expressions to true false ifs default low high is_string safe typed table".split())


class ExpressionError(ContractError):
    """An expression or check that cannot be used; ``problems`` lists everything that is wrong with it."""

    def __init__(self, text: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems), where=text)


@dataclass(frozen=True)
class Compiled:
    """Safe Spark SQL, the type of its value, and the columns that it reads."""

    sql: str
    type: DataType
    columns: frozenset[str]


def compile_expression(text: str, columns: Iterable[str]) -> str:
    """Spark SQL of an expression over a source's columns, which are all text.

    Raises :class:`ExpressionError` with every problem, in people's words.
    """
    return compile_typed(text, dict.fromkeys(columns, TEXT)).sql


def compile_check(text: str, columns: Mapping[str, DataType]) -> str:
    """Spark SQL of a row rule over a table's typed columns. Raises :class:`ExpressionError`."""
    compiled = compile_typed(text, columns)
    if compiled.type != BOOLEAN:
        raise ExpressionError(text, [f"a check is true or false; this gives a value of type {compiled.type}"])
    return compiled.sql


def compile_typed(text: str, columns: Mapping[str, DataType]) -> Compiled:
    """Compile an expression over typed columns. Raises :class:`ExpressionError` with every problem."""
    return _compiled(text, tuple(columns.items()))


@lru_cache(_REMEMBERED)
def _compiled(text: str, columns: tuple[tuple[str, DataType], ...]) -> Compiled:
    compiler = _Compiler(dict(columns))
    try:
        result = compiler.emit(parse(text))
    except RecursionError:
        raise ExpressionError(text, ["is nested too deeply"]) from None
    if compiler.problems:
        raise ExpressionError(text, list(dict.fromkeys(compiler.problems)))
    return Compiled(result.sql, result.type, frozenset(compiler.read))


@lru_cache(_REMEMBERED)
def source_columns(text: str) -> frozenset[str]:
    """Names of the columns that an expression reads. Raises :class:`ExpressionError` where it is no expression."""
    return frozenset(column.name for column in parse(text).find_all(exp.Column))


def parse(text: str) -> exp.Expression:
    """The one expression that a text holds. Raises :class:`ExpressionError`."""
    if len(text) > _LONGEST:
        raise ExpressionError(text[:80] + "…", [f"is longer than {_LONGEST} characters"])
    if _SIZED_TEXT.search(text):
        raise ExpressionError(text, ["CHAR and VARCHAR are not allowed; CAST AS string, or use left()"])
    try:
        statements = sqlglot.parse("SELECT " + text, dialect="spark")
    except SqlglotError as error:
        raise ExpressionError(text, [f"is not an expression: {_explain(error)}"]) from None
    except RecursionError:
        raise ExpressionError(text, ["is nested too deeply"]) from None
    select = statements[0] if len(statements) == 1 else None
    parts = {name for name, value in select.args.items() if value} if isinstance(select, exp.Select) else set()
    if not isinstance(select, exp.Select) or parts != {"expressions"} or len(select.expressions) != 1:
        raise ExpressionError(text, ["must be one expression, without FROM, DISTINCT, hints or ;"])
    expression: exp.Expression = select.expressions[0]
    return expression


def _explain(error: SqlglotError) -> str:
    details = getattr(error, "errors", None)
    if not details:
        return "a quote or a bracket is not closed"
    return f"{details[0]['description'].rstrip('.')} near {details[0]['highlight']!r}"


class _Compiler:
    """Walks one expression; collects problems instead of stopping at the first."""

    def __init__(self, columns: Mapping[str, DataType]) -> None:
        self.columns = columns
        self.problems: list[str] = []
        self.read: set[str] = set()
        self._handlers: dict[type[exp.Expression], Callable[[exp.Expression], Typed]] = {
            exp.Column: self._column,
            exp.Literal: self._literal,
            exp.RawString: self._literal,
            exp.Boolean: lambda node: Typed("true" if node.this else "false", BOOLEAN),
            exp.Null: lambda node: Typed("NULL", NULL),
            exp.Paren: lambda node: self.emit(node.this),
            exp.And: self._logic,
            exp.Or: self._logic,
            exp.Not: lambda node: Typed(f"(NOT {self._boolean(node.this).sql})", BOOLEAN),
            exp.Neg: self._negate,
            exp.Is: self._is,
            exp.In: self._in,
            exp.Between: self._between,
            exp.If: self._if,
            exp.Case: self._case,
            exp.Cast: self._cast,
            exp.TryCast: self._cast,
            **dict.fromkeys(_COMPARISONS, self._compare),
            **dict.fromkeys(_NULL_SAFE, self._compare_null_safe),
            **dict.fromkeys(_ARITHMETIC, self._arithmetic),
        }

    def emit(self, node: exp.Expression) -> Typed:
        """SQL and type of a node; a problem is noted and stands for null."""
        if handler := self._handlers.get(type(node)):
            extra = {name for name, value in node.args.items() if value not in (None, False, [])} - _PARTS
            return self._problem(f"{_short(node)} is not allowed with {', '.join(extra)}") if extra else handler(node)
        if isinstance(node, exp.Concat) and "safe" not in node.args:
            return self._problem(f"two texts follow each other in {_short(node)}; write \\' for a quote inside a text")
        if signature := signature_of(node):
            return self._function(node, signature)
        return self._problem(f"{_name(node)} is not allowed; docs/contracts.md lists what is")

    def _problem(self, message: str) -> Typed:
        self.problems.append(message)
        return Typed("NULL", NULL)

    def _column(self, node: exp.Expression) -> Typed:
        name = node.name
        if node.args.get("table") or name not in self.columns:
            written = ".".join(part.name for part in node.parts)
            return self._problem(f"unknown column {written!r}{_near(written, self.columns)}")
        self.read.add(name)
        return Typed(quote(name), self.columns[name])

    def _literal(self, node: exp.Expression) -> Typed:
        text = str(node.this)
        if isinstance(node, exp.RawString) or node.is_string:
            return Typed(text_literal(text), TEXT)
        if text.isdigit():
            value = int(text)
            size = "int" if value < 2**31 else "long"
            return Typed(text, DataType(size)) if value < 2**63 else self._problem(f"the number {text} is too large")
        whole, dot, fraction = text.partition(".")
        if dot and (whole + fraction).isdigit() and len(whole + fraction) <= 38:
            return Typed(text, DataType("decimal", len(whole + fraction), len(fraction)))
        return self._problem(f"the number {text} is not plain; write it with digits and a point")

    def _boolean(self, node: exp.Expression) -> Typed:
        value = self.emit(node)
        if value.type not in (BOOLEAN, NULL):
            return self._problem(f"{_short(node)} is {value.type}, where true or false is wanted")
        return value

    def _logic(self, node: exp.Expression) -> Typed:
        word = "AND" if isinstance(node, exp.And) else "OR"
        return Typed(f"({self._boolean(node.this).sql} {word} {self._boolean(node.expression).sql})", BOOLEAN)

    def _negate(self, node: exp.Expression) -> Typed:
        value = self.emit(node.this)
        if isinstance(node.this, exp.Literal) and is_number(value.type):
            return Typed(f"(-{value.sql})", value.type)
        if not is_number(value.type):
            return self._not_a_number(node.this, value)
        return Typed(f"try_subtract(0, {value.sql})", arithmetic("try_subtract", DataType("int"), value.type))

    def _arithmetic(self, node: exp.Expression) -> Typed:
        name = _ARITHMETIC[type(node)]
        left, right = self.emit(node.this), self.emit(node.expression)
        for side, value in ((node.this, left), (node.expression, right)):
            if not is_number(value.type):
                return self._not_a_number(side, value)
        return Typed(f"{name}({left.sql}, {right.sql})", arithmetic(name, left.type, right.type))

    def _not_a_number(self, node: exp.Expression, value: Typed) -> Typed:
        if value.type == NULL:
            return value
        return self._problem(f"{_short(node)} is {value.type}, where a number is wanted; CAST it to a number")

    def _same(self, nodes: list[exp.Expression], *, nulls: bool = True) -> list[Typed]:
        """Several values brought to one type; text is never cast in silence."""
        values = [self.emit(node) for node in nodes]
        if not nulls and any(isinstance(node, exp.Null) for node in nodes):
            self._problem("a comparison with NULL is never true; use IS NULL or <=>")
        try:
            common = unify([value.type for value in values])
        except ValueError as error:
            self._problem(f"{', '.join(map(_short, nodes))}: {error}")
            return [Typed("NULL", NULL) for _ in nodes]
        return [Typed(coerce(value.sql, value.type, common), common) for value in values]

    def _compare(self, node: exp.Expression) -> Typed:
        left, right = self._same([node.this, node.expression], nulls=False)
        return Typed(f"({left.sql} {_COMPARISONS[type(node)]} {right.sql})", BOOLEAN)

    def _compare_null_safe(self, node: exp.Expression) -> Typed:
        left, right = self._same([node.this, node.expression])
        return Typed(f"({_NULL_SAFE[type(node)].format(left.sql, right.sql)})", BOOLEAN)

    def _is(self, node: exp.Expression) -> Typed:
        value, state = self.emit(node.this), node.expression
        if isinstance(state, exp.Null):
            return Typed(f"({value.sql} IS NULL)", BOOLEAN)
        if isinstance(state, exp.Boolean):
            return Typed(f"({self._boolean(node.this).sql} IS {'TRUE' if state.this else 'FALSE'})", BOOLEAN)
        return self._problem("IS takes NULL, TRUE or FALSE")

    def _in(self, node: exp.Expression) -> Typed:
        if not node.expressions or any(node.args.get(part) for part in ("query", "unnest", "field", "is_global")):
            return self._problem("IN takes a list of values")
        first, *others = self._same([node.this, *node.expressions], nulls=False)
        return Typed(f"({first.sql} IN ({', '.join(value.sql for value in others)}))", BOOLEAN)

    def _between(self, node: exp.Expression) -> Typed:
        if node.args.get("symmetric"):
            return self._problem("BETWEEN SYMMETRIC is not allowed")
        value, low, high = self._same([node.this, node.args["low"], node.args["high"]], nulls=False)
        return Typed(f"({value.sql} BETWEEN {low.sql} AND {high.sql})", BOOLEAN)

    def _if(self, node: exp.Expression) -> Typed:
        condition = self._boolean(node.this)
        yes, no = self._same([node.args["true"], node.args.get("false") or exp.Null()])
        return Typed(f"if({condition.sql}, {yes.sql}, {no.sql})", yes.type)

    def _case(self, node: exp.Expression) -> Typed:
        branches = node.args["ifs"]
        tests = [exp.EQ(this=node.this, expression=b.this) if node.this else b.this for b in branches]
        conditions = [self._boolean(test) for test in tests]
        *values, default = self._same([*(b.args["true"] for b in branches), node.args.get("default") or exp.Null()])
        whens = " ".join(f"WHEN {c.sql} THEN {v.sql}" for c, v in zip(conditions, values, strict=True))
        return Typed(f"CASE {whens} ELSE {default.sql} END", default.type)

    def _cast(self, node: exp.Expression) -> Typed:
        target = _cast_type(node.args["to"])
        if target is None or node.args.get("format") or node.args.get("default"):
            return self._problem(f"CAST AS {node.args['to'].sql('spark')} is not allowed; use a type of contracts")
        value = self.emit(node.this)
        if isinstance(node.this, exp.Literal) and node.this.is_string and target.name in ("date", "timestamp"):
            return self._moment(node.this.this, target)
        if not can_cast(value.type, target):
            hint = _cast_hint(value, target)
            return self._problem(f"{_short(node.this)} is {value.type}, and cannot be cast to {target}{hint}")
        return Typed(f"try_cast({value.sql} AS {target.spark})", target)

    def _moment(self, text: str, target: DataType) -> Typed:
        """A date written in the contract. Spark takes 'now' and 'today' too, which would be a clock."""
        if target.name == "timestamp" or not is_date_text(text):
            return self._problem(f"{text!r} cannot be a {target.name} here; write DATE 'yyyy-MM-dd'")
        return Typed(f"DATE '{text}'", target)

    def _function(self, node: exp.Expression, signature: Signature) -> Typed:
        try:
            arguments = signature.arguments(node)
        except ValueError as error:
            return self._problem(f"{signature.name}: {error}")
        values = self._same(arguments) if signature.is_same else [self.emit(argument) for argument in arguments]
        try:
            return signature.build(arguments, values)
        except ValueError as error:
            return self._problem(f"{signature.name}: {error}") if not self.problems else Typed("NULL", NULL)


def _cast_type(to: exp.DataType) -> DataType | None:
    """The contract's type that a CAST names, if it is one."""
    name = getattr(to.this, "name", str(to.this))
    if name == "DECIMAL" and len(to.expressions) == 2:
        try:
            return DataType.parse(f"decimal({to.expressions[0].name},{to.expressions[1].name})")
        except ValueError:
            return None
    return DataType(_CAST_TYPES[name]) if name in _CAST_TYPES and not to.expressions else None


def _cast_hint(value: Typed, target: DataType) -> str:
    if target.name == "timestamp" and value.type == TEXT:
        return ": leave it text, and state the column's type and format, so that it is read in the source's zone"
    return ""


def _name(node: exp.Expression) -> str:
    """How a person would call a node."""
    if isinstance(node, exp.TsOrDsToDate | exp.StrToTime | exp.StrToUnix):
        return "a function that reads dates (state the column's type and format)"
    if isinstance(node, exp.TimeToStr):
        return "the function date_format"
    if isinstance(node, exp.Anonymous):
        return f"the function {node.name.lower()}"
    if isinstance(node, exp.Func):
        return f"the function {node.sql_name().lower()}"
    return {"Subquery": "a subquery", "Window": "a window", "Star": "*"}.get(type(node).__name__, _short(node))


def _short(node: exp.Expression) -> str:
    text = str(node.sql("spark"))
    return text if len(text) <= 60 else text[:57] + "…"


def _near(name: str, columns: Iterable[str]) -> str:
    """``; did you mean …?`` where a column is spelled nearly so."""
    spelled = {column.lower(): column for column in columns}
    close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.6)
    return f"; did you mean {spelled[close[0]]!r}?" if close else f"; there are {', '.join(columns)}"
