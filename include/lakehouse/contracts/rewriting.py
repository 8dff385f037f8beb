"""What can be said of an expression without running it: under other column names, and where a column is null."""

from __future__ import annotations

from collections.abc import Mapping

from sqlglot import exp

from lakehouse.contracts.expressions import parse
from lakehouse.contracts.functions import signature_of

_COMPUTING = (
    *(exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg, exp.Cast, exp.TryCast),
    *(exp.SafeAdd, exp.SafeSubtract, exp.SafeMultiply, exp.SafeDivide),
)
_STRICT = (*_COMPUTING, exp.Paren, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
_FIRST_ONLY = (exp.Between, exp.In, exp.Nullif)
_NOT_STRICT = frozenset({"coalesce", "concat_ws", "if", "ifnull", "nvl", "isnull", "isnotnull", "greatest", "least"})


def rename_columns(text: str, names: Mapping[str, str]) -> str:
    """The expression with columns called otherwise. Raises ExpressionError where it is none."""
    tree = parse(text).copy()
    for column in list(tree.find_all(exp.Column)):
        if column.name in names:
            column.set("this", exp.to_identifier(names[column.name], quoted=True))
    return str(tree.sql("spark", comments=False))


def is_null_with(text: str, columns: frozenset[str]) -> bool:
    """Whether the expression is surely null where all of these columns are."""
    tree = parse(text)
    return any(column.name in columns and _carries_null(column, tree) for column in tree.find_all(exp.Column))


def computes_with(text: str, column: str) -> bool:
    """Whether the expression does more with a column than compare it: its type may then decide the outcome."""
    tree = parse(text)
    return any(found.name == column and _is_computed(found, tree) for found in tree.find_all(exp.Column))


def _carries_null(node: exp.Expression, root: exp.Expression) -> bool:
    while node is not root:
        parent = node.parent
        if parent is None or not _is_strict(parent, node):
            return False
        node = parent
    return True


def _is_strict(parent: exp.Expression, child: exp.Expression) -> bool:
    if isinstance(parent, _FIRST_ONLY):
        return parent.this is child
    if isinstance(parent, _STRICT):
        return True
    signature = signature_of(parent)
    return signature is not None and signature.name not in _NOT_STRICT


def _is_computed(node: exp.Expression, root: exp.Expression) -> bool:
    while node is not root and node.parent is not None:
        node = node.parent
        if isinstance(node, _COMPUTING) or signature_of(node) is not None:
            return True
    return False
