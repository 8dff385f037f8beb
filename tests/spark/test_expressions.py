"""Compiled expressions in Spark with ANSI on: no value may raise, and types are those that were foretold."""

from __future__ import annotations

from typing import Any

import pytest

from lakehouse.contracts.expressions import compile_typed
from lakehouse.core.types import DataType

pytestmark = pytest.mark.spark

VALUES: dict[str, tuple[str, list[str]]] = {
    "a": (
        "string",
        ["", "abc", " 15 ", "99999999999999999999", "1e400", "+5881580-07-11", "it's", "\\", "é\u0301", "NaN"],
    ),
    "i": ("int", ["-2147483648", "2147483647", "0", "-1"]),
    "l": ("bigint", ["-9223372036854775808", "9223372036854775807", "0"]),
    "d": ("decimal(38,4)", ["9999999999999999999999999999999999.9999", "-0.0001", "0"]),
    "f": ("double", ["NaN", "Infinity", "-1e308", "0"]),
    "dt": ("date", ["+5881580-07-11", "-5877641-06-23", "2024-02-29", "0001-01-01"]),
    "ts": ("timestamp", ["+294247-01-10T04:00:54.775807Z", "-290308-12-21T19:59:05.224192Z", "2024-03-31T01:30:00Z"]),
}
TYPES = {name: DataType.parse("long" if kind == "bigint" else kind) for name, (kind, _) in VALUES.items()}

EXPRESSIONS = [
    *(f"CAST(a AS {kind})" for kind in ("int", "long", "double", "decimal(10,2)", "date", "boolean")),
    *(
        f"{x} {op} {y}"
        for op in "+-*/%"
        for x, y in (("i", "i"), ("l", "l"), ("i", "d"), ("d", "d"), ("f", "d"), ("i", "0"))
    ),
    *(f"{f}({x})" for f in ("-", "abs", "sign", "round") for x in "ildf"),
    *(f"{f}({x})" for f in ("floor", "ceil") for x in "ild"),
    "round(d, 2)",
    "CAST(f AS int)",
    "CAST(d AS int)",
    "CAST(l AS decimal(5,2))",
    "CAST(dt AS timestamp)",
    "CAST(ts AS date)",
    *(f"CAST({x} AS string)" for x in VALUES),
    "dt < ts",
    "greatest(i, l)",
    "coalesce(NULL, d, 1)",
    *(f"{f}(dt)" for f in ("year", "quarter", "month", "day", "dayofweek", "dayofyear", "weekofyear", "last_day")),
    *(f"{f}(ts)" for f in ("hour", "minute", "second", "year")),
    *(f"trunc(dt, '{unit}')" for unit in ("YEAR", "QUARTER", "MONTH", "WEEK")),
    "date_add(dt, 2147483647)",
    "date_sub(dt, 5)",
    "add_months(dt, 1000000)",
    "datediff(dt, DATE '0001-01-01')",
    "a LIKE '%_@_%'",
    "a NOT RLIKE '^[0-9]{5}'",
    "regexp_replace(a, '(b)', '[$1]')",
    "regexp_extract(a, '(x)?b', 1)",
    "split_part(a, 'b', -7)",
    "substring(a, -100, 1000)",
    "substring(a, i, i)",
    "left(a, i)",
    "right(a, i)",
    "lpad(a, 0, '')",
    "rpad(a, 1000, '')",
    "repeat(a, 3)",
    "translate(a, 'ab', 'x')",
    "initcap(reverse(upper(a)))",
    "md5(a) || sha2(a, 256)",
    "concat_ws('-', a, NULL)",
    "instr(a, '')",
    "btrim(a, '')",
    "nullif(trim(a), '')",
    "CASE WHEN a = 'it\\'s' THEN 1 WHEN i % 0 IS NULL THEN 2.5 END",
]


@pytest.fixture(scope="module")
def extremes(spark: Any) -> Any:
    """Every extreme value of every column, nulls included, in columns that the optimizer cannot fold."""
    rows = max(len(values) for _, values in VALUES.values()) + 1
    data = [tuple((values + [None] * rows)[row] for _, values in VALUES.values()) for row in range(rows)]
    texts = spark.createDataFrame(data, ", ".join(f"{name} string" for name in VALUES))
    return texts.selectExpr(*(f"CAST({name} AS {kind}) AS {name}" for name, (kind, _) in VALUES.items())).cache()


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_never_raises_and_has_the_foretold_type(extremes: Any, text: str) -> None:
    assert extremes.sparkSession.conf.get("spark.sql.ansi.enabled") == "true"
    compiled = compile_typed(text, TYPES)
    result = extremes.selectExpr(f"{compiled.sql} AS x")
    # Hashing reads every value in the JVM; collecting would refuse years that Python does not have.
    result.selectExpr("sum(xxhash64(x) % 7)").collect()
    assert result.schema["x"].dataType.simpleString() == compiled.type.spark


def test_columns_do_not_raise_in_combination(extremes: Any) -> None:
    """Extreme values of different columns meet in one row."""
    crossed = extremes.select("i").crossJoin(extremes.select("l")).crossJoin(extremes.select("d", "f"))
    sql = [compile_typed(t, TYPES).sql for t in ("i * l", "l - i", "l * d", "d / l", "i % l", "d % i", "f + l")]
    crossed.selectExpr(*(f"{one} AS x{n}" for n, one in enumerate(sql))).selectExpr("sum(xxhash64(*) % 7)").collect()


def test_text_of_a_literal_arrives(spark: Any) -> None:
    text = r"""'it\'s \\ "x" \\d %'"""
    assert spark.sql(f"SELECT {compile_typed(text, {}).sql}").collect()[0][0] == r"""it's \ "x" \d %"""
