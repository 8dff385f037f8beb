"""What a JVM says, as an error that a person can read."""

from __future__ import annotations

import pytest

from lakehouse.core.errors import GateFailed, IntegrityError, TransientError
from lakehouse.engine.spark_errors import SparkFailed, marked, root_cause, translate

REFUSED = """An error occurred while calling o47.sql.
: org.apache.iceberg.jdbc.UncheckedSQLException: Failed to connect
\tat org.apache.iceberg.jdbc.JdbcClientPool.newClient(JdbcClientPool.java:70)
Caused by: org.postgresql.util.PSQLException: Connection to 127.0.0.1:1 refused
\tat org.postgresql.core.v3.ConnectionFactoryImpl.openConnectionImpl(ConnectionFactoryImpl.java:352)
"""


def test_a_server_that_is_away_is_worth_another_try() -> None:
    found = translate(REFUSED)
    assert isinstance(found, TransientError) and found.is_retryable
    assert "Connection to 127.0.0.1:1 refused" in found.what
    assert "\tat " not in str(found)


def test_an_error_of_a_worker_comes_back_as_it_was() -> None:
    said = IntegrityError("a landed file is missing", where="x.csv of batch 3", untouched="bronze", todo="restore it")
    found = translate(
        f"An error occurred while calling o1.append.\n: Job aborted\nCaused by: x: {marked(said)}\n\tat y"
    )
    assert type(found) is IntegrityError and str(found) == str(said) and found.exit_code == 7


def test_an_unknown_class_of_a_worker_is_still_no_stack_trace() -> None:
    found = translate('lakehouse-error {"class": "Nope", "what": "w", "where": "", "untouched": "", "todo": ""}')
    assert type(found) is IntegrityError and str(found) == "w"


@pytest.mark.parametrize("kind", [IntegrityError, TransientError, GateFailed])
def test_quotes_and_line_ends_survive(kind: type[IntegrityError]) -> None:
    said = kind('a "quoted"\nline', where="{brace}")
    assert str(translate(str(marked(said)))) == str(said)


def test_anything_else_says_its_innermost_cause() -> None:
    text = "An error occurred while calling o9.sql.\n: a.B: outer\n\tat c\nCaused by: d.E: inner reason\n\tat f\n"
    found = translate(text)
    assert type(found) is SparkFailed and not found.is_retryable and "inner reason" in found.what
    assert root_cause("plain words") == "plain words"
