"""Reading the lake with SQL: statements, time travel, and results as plain rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlglot
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException, UnknownException
from pyspark.sql import SparkSession
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from lakehouse.core.errors import LakehouseError
from lakehouse.core.settings import CATALOG
from lakehouse.engine.spark_errors import root_cause, translate

_LAYERS = ("bronze", "silver", "gold", "quarantine", "ops")


class QueryError(LakehouseError):
    """A statement cannot be run."""

    exit_code = 2


@dataclass(frozen=True)
class Answer:
    """The rows of one statement; ``is_cut`` when there were more than the limit."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    is_cut: bool


def statements(text: str) -> list[str]:
    """Cut a script into its statements at semicolons outside quotes and comments."""
    try:
        tokens = sqlglot.tokenize(text, read="spark")
    except SqlglotError as error:
        raise QueryError(f"this is no SQL: {error}") from None
    cuts = [-1, *[token.start for token in tokens if token.token_type == TokenType.SEMICOLON], len(text)]
    parts = (text[start + 1 : end].strip() for start, end in zip(cuts, cuts[1:], strict=False))
    return [part for part in parts if part]


def as_of(statement: str, moment: datetime) -> str:
    """The statement with every table of the lake read as it was at a moment."""
    try:
        tree = sqlglot.parse_one(statement, read="spark")
    except SqlglotError as error:
        raise QueryError(f"--as-of cannot read this statement: {error}", where=statement) from None
    text = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    for table in tree.find_all(exp.Table):
        if table.db in _LAYERS and table.catalog in ("", CATALOG) and not table.args.get("version"):
            version = exp.Version(this="TIMESTAMP", kind="AS OF", expression=exp.Literal.string(text))
            table.set("version", version)
    return tree.sql(dialect="spark")


def answer(spark: SparkSession, statement: str, limit: int) -> Answer:
    """Run one statement and fetch at most ``limit`` rows. Raises :class:`QueryError` in the engine's own words."""
    try:
        frame = spark.sql(statement)
        rows = frame.limit(limit + 1).collect() if frame.columns else []
    except (Py4JJavaError, UnknownException) as error:  # not Spark's own: of the catalog, of S3, of the connection
        raise _refused(statement, str(error)) from None
    except PySparkException as error:
        raise QueryError(_plain(error), where=_shown(statement)) from None
    return Answer(tuple(frame.columns), [tuple(row) for row in rows[:limit]], len(rows) > limit)


def _shown(statement: str) -> str:
    return " ".join(statement.split())[:200]


def _refused(statement: str, text: str) -> LakehouseError:
    if "read-only transaction" not in text:
        return translate(text)
    return QueryError(
        root_cause(text),
        where=_shown(statement),
        untouched="the tables: this console signs in with the reader's role",
        todo="change data through `lakehouse land` and `lakehouse run`",
    )


def _plain(error: PySparkException) -> str:
    """The message without the plan and the JVM's stack."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    kept = []
    for line in lines:
        if line.lstrip().startswith(("at ", "'", "+-", ":-", "JVM stacktrace", "== SQL")):
            break
        kept.append(line)
    return "\n".join(kept) or type(error).__name__


def run_script(spark: SparkSession, text: str, moment: datetime | None, limit: int) -> Iterator[Answer]:
    """Run the statements of a script one after another."""
    for statement in statements(text):
        yield answer(spark, as_of(statement, moment) if moment else statement, limit)
