"""Expressions: what is allowed compiles to SQL that cannot raise, and everything else is refused in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.contracts.expressions import (
    ExpressionError,
    compile_check,
    compile_expression,
    compile_typed,
    source_columns,
)
from lakehouse.contracts.functions import allowed_names
from lakehouse.contracts.functions import literal as text_literal
from lakehouse.contracts.load import contract_files, load_contract
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.core.types import DataType

COLUMNS = {
    "a": DataType("string"),
    "i": DataType("int"),
    "l": DataType("long"),
    "d": DataType("decimal", 18, 4),
    "f": DataType("double"),
    "dt": DataType("date"),
    "ts": DataType("timestamp"),
    "bo": DataType("boolean"),
    "Customer ID": DataType("string"),
}

COMPILED = [
    ("CAST(a AS int)", "try_cast(`a` AS int)", "int"),
    ("a::bigint", "try_cast(`a` AS bigint)", "long"),
    ("CAST(a AS decimal(18,4))", "try_cast(`a` AS decimal(18,4))", "decimal(18,4)"),
    ("i + 1", "try_add(`i`, 1)", "int"),
    ("i - l", "try_subtract(`i`, `l`)", "long"),
    ("i * d", "try_multiply(`i`, `d`)", "decimal(29,4)"),
    ("i / 2", "try_divide(`i`, 2)", "double"),
    ("i % 2", "try_mod(`i`, 2)", "int"),
    ("-i", "try_subtract(0, `i`)", "int"),
    ("-1", "(-1)", "int"),
    ("abs(i)", "if(`i` < 0, try_subtract(0, `i`), `i`)", "int"),
    ("`Customer ID` || '-'", "concat(`Customer ID`, '-')", "string"),
    ("a NOT LIKE 'x%'", "(`a` NOT LIKE 'x%')", "boolean"),
    ("a NOT IN ('b', 'c')", "(NOT (`a` IN ('b', 'c')))", "boolean"),
    ("i NOT BETWEEN 1 AND 2", "(NOT (`i` BETWEEN 1 AND 2))", "boolean"),
    ("a IS NOT NULL", "(NOT (`a` IS NULL))", "boolean"),
    ("a <=> NULL", "(`a` <=> NULL)", "boolean"),
    ("dt < ts", "(try_cast(`dt` AS timestamp) < `ts`)", "boolean"),
    ("dt >= DATE '2020-02-29'", "(`dt` >= DATE '2020-02-29')", "boolean"),
    ("CASE a WHEN 'x' THEN 1 ELSE 2.5 END", "CASE WHEN (`a` = 'x') THEN 1 ELSE 2.5 END", "decimal(11,1)"),
    ("if(bo, 'x', NULL)", "if(`bo`, 'x', NULL)", "string"),
    ("regexp_replace(trim(a), '[.]0$', '')", "regexp_replace(trim(`a`), '[.]0$', '')", "string"),
    ("trim(BOTH 'x' FROM a)", "trim(BOTH 'x' FROM `a`)", "string"),
    ("date_sub(dt, 3)", "date_add(`dt`, try_multiply(3, (-1)))", "date"),
    ("year(ts)", "year(`ts`)", "int"),
    ("r'\\d+'", r"'\\d+'", "string"),
    ("a /* why */", "`a`", "string"),
]


@pytest.mark.parametrize(("text", "sql", "kind"), COMPILED)
def test_compiles_to_safe_sql(text: str, sql: str, kind: str) -> None:
    compiled = compile_typed(text, COLUMNS)
    assert (compiled.sql, str(compiled.type)) == (sql, kind)


REFUSED = [
    ("reflect('java.lang.System', 'exit', 1)", "reflect is not allowed"),
    ("java_method('a', 'b')", "java_method is not allowed"),
    ("current_date", "current_date is not allowed"),
    ("current_timestamp()", "current_timestamp is not allowed"),
    ("now()", "now is not allowed"),
    ("rand()", "rand is not allowed"),
    ("uuid()", "uuid is not allowed"),
    ("input_file_name()", "input_file_name is not allowed"),
    ("read_files('x')", "read_files is not allowed"),
    ("my_udf(a)", "my_udf is not allowed"),
    ("transform(array(1), x -> x)", "transform is not allowed"),
    ("(SELECT 1)", "a subquery is not allowed"),
    ("a IN (SELECT 1)", "not allowed with query"),
    ("EXISTS (SELECT 1)", "exists is not allowed"),
    ("sum(i) OVER ()", "a window is not allowed"),
    ("count(a)", "count is not allowed"),
    ("date_format(dt, 'yyyy')", "date_format is not allowed"),
    ("to_date(a, 'yyyy')", "state the column's type and format"),
    ("to_timestamp(a)", "read in the source's zone"),
    ("CAST(a AS timestamp)", "read in the source's zone"),
    ("CAST('now' AS date)", "write DATE 'yyyy-MM-dd'"),
    ("DATE 'today'", "write DATE 'yyyy-MM-dd'"),
    ("DATE '2020-02-30'", "write DATE 'yyyy-MM-dd'"),
    ("CAST(a AS array<int>)", "is not allowed"),
    ("CAST(a AS varchar(3))", "CHAR and VARCHAR"),
    ("CAST(f AS boolean)", "cannot be cast to boolean"),
    ("a[0]", "is not allowed"),
    ("*", "is not allowed"),
    ("i DIV 2", "is not allowed"),
    ("i & 1", "is not allowed"),
    ("x'1f'", "is not allowed"),
    ("${secret}", "is not allowed"),
    ("a, i", "must be one expression"),
    ("i FROM t", "must be one expression"),
    ("DISTINCT i", "must be one expression"),
    ("i; DROP TABLE x", "must be one expression"),
    ("/*+ BROADCAST(t) */ a", "must be one expression"),
    ("", "must be one expression"),
    ("'abc", "is not closed"),
    ("if(a", "is not an expression"),
    ("a = 1", "cannot be compared"),
    ("a > DATE '2020-01-01'", "cannot be compared"),
    ("coalesce(a, i)", "cannot be compared"),
    ("a + 1", "a is string, where a number is wanted"),
    ("concat(a, i)", "where text is wanted"),
    ("NOT i", "where true or false is wanted"),
    ("a = NULL", "use IS NULL"),
    ("i IN (1, NULL)", "use IS NULL"),
    ("CAST(i AS decimal(38,0)) = d", "more than 38 digits"),
    ("a LIKE 'x\\\\'", "no backslash"),
    ("a LIKE Description", "unknown column"),
    ("a RLIKE a", "must be a text that is written out"),
    ("a RLIKE '('", "pattern '(' is wrong"),
    ("a RLIKE '(?P<x>a)'", "not plain"),
    ("a RLIKE 'x{y'", "repeats nothing"),
    ("regexp_replace(a, '(b)', '$2')", "may use $1 to $1"),
    ("regexp_extract(a, 'b', 1)", "has 0 groups"),
    ("lpad(a, 1000000000, '0')", "from 0 to 1000"),
    ("repeat(a, i)", "written out"),
    ("split_part(a, '-', 0)", "written out"),
    ("floor(f)", "int, long or decimal"),
    ("hour(dt)", "a timestamp is wanted"),
    ("99999999999999999999", "too large"),
    ("1e3", "not plain"),
    ("'it''s'", "two texts follow each other"),
    ("t.a", "unknown column 't.a'"),
    ("A", "did you mean 'a'?"),
    ("`Custmer ID`", "did you mean 'Customer ID'?"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_refuses_in_words(text: str, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_typed(text, COLUMNS)
    assert words in caught.value.what
    assert "\x1b" not in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_typed("rand() > 0 AND unknwn = 'x' AND reflect('a')", COLUMNS)
    assert len(caught.value.problems) == 3


def test_deep_nesting_is_a_problem_not_a_crash() -> None:
    with pytest.raises(ExpressionError):
        compile_typed("(" * 3000 + "i" + ")" * 3000, COLUMNS)
    with pytest.raises(ExpressionError):
        compile_typed("i" + " + i" * 3000, COLUMNS)


def test_source_columns_are_text_and_quoted() -> None:
    assert compile_expression("`Unit Price`", ["Unit Price"]) == "`Unit Price`"
    assert source_columns("CASE WHEN `Unit Price` IS NULL THEN Quantity END") == {"Unit Price", "Quantity"}


def test_a_check_is_true_or_false() -> None:
    with pytest.raises(ExpressionError, match="true or false"):
        compile_check("i + 1", COLUMNS)
    assert compile_check("i > 0", COLUMNS) == "(`i` > 0)"


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20))
def test_text_stays_inside_its_literal(text: str) -> None:
    """Whatever a literal holds, the SQL has one literal, and reading it again gives the same text."""
    sql = compile_typed(f"a = {text_literal(text)}", COLUMNS).sql
    body = re.fullmatch(r"\(`a` = '((?:[^'\\]|\\.)*)'\)", sql, re.DOTALL)
    assert body is not None
    assert re.sub(r"\\(.)", r"\1", body[1], flags=re.DOTALL) == text


_ATOMS = st.sampled_from(["a", "i", "l", "d", "f", "dt", "ts", "bo", "1", "2.5", "'x'", "NULL", "true", "'1'"])
_TREES = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "%", "=", "<", "AND", "OR", "||", "<=>"]), inner).map(
            lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
        ),
        st.tuples(st.sampled_from(["abs", "trim", "upper", "year", "round", "length", "isnull"]), inner).map(
            lambda parts: f"{parts[0]}({parts[1]})"
        ),
        st.tuples(inner, st.sampled_from(["int", "decimal(10,2)", "string", "date", "double"])).map(
            lambda parts: f"CAST({parts[0]} AS {parts[1]})"
        ),
        st.tuples(inner, inner, inner).map(lambda p: f"CASE WHEN {p[0]} THEN {p[1]} ELSE {p[2]} END"),
    ),
    max_leaves=8,
)


@given(_TREES)
def test_whatever_compiles_has_no_operator_that_raises(text: str) -> None:
    try:
        sql = compile_typed(text, COLUMNS).sql
    except ExpressionError as error:
        assert error.problems
        return
    bare = re.sub(r"'[^']*'", "''", sql)
    assert not re.search(r"(?<!try_)\bcast\(", bare, re.IGNORECASE)
    assert not re.search(r"[+*/%]|\babs\(", bare)
    assert "-" not in bare.replace("(-1)", "").replace("(-2.5)", "")


def test_every_expression_of_every_contract_compiles() -> None:
    compiled = 0
    for path in contract_files(PROJECT_ROOT / "include" / "contracts"):
        contract = load_contract(path)
        for table in contract.tables.values():
            for column in table.typed.values():
                if column.expression:
                    compile_expression(column.expression, contract.source.columns)
                    compiled += 1
    assert compiled >= 10


def test_the_documentation_lists_every_allowed_function() -> None:
    documented = set(re.findall(r"`(\w+)`", (PROJECT_ROOT / "docs" / "contracts.md").read_text("utf-8")))
    assert set(allowed_names()) <= documented
