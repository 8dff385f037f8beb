"""What a JVM says, as an error that a person can read."""

from __future__ import annotations

import pytest

from lakehouse.core.errors import ConcurrentCommit, GateFailed, IntegrityError, SettingsError, TransientError
from lakehouse.engine.spark_errors import SparkFailed, is_passing, marked, readable, root_cause, translate

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


CONFLICTS = [
    "org.apache.iceberg.exceptions.CommitFailedException: Table metadata refresh is required",
    "org.apache.iceberg.exceptions.ValidationException: Found concurrently added DV for s3://w/a.parquet: DV{x}",
]


@pytest.mark.parametrize("said", CONFLICTS)
def test_a_conflict_is_worth_another_try(said: str) -> None:
    """It may be the attempt's own commit, whose reply was lost."""
    text = f"An error occurred while calling o47.sql.\n: {said}\n\tat org.apache.iceberg.X.y(X.java:1)\n"
    found = translate(text)
    assert type(found) is ConcurrentCommit and found.is_retryable and is_passing(text)
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


WRONG_PASSWORD = 'FATAL: password authentication failed for user "lakehouse_transform"'
KNOWN = [
    ("java.io.IOException: No space left on device", "the disk of Spark's scratch files is full", "spark.local.dir"),
    (
        "org.postgresql.util.PSQLException: ERROR: cannot execute UPDATE in a read-only transaction",
        "the catalog database takes no changes",
        "writable",
    ),
    (
        'org.postgresql.util.PSQLException: FATAL: too many connections for role "lakehouse_transform"',
        "the catalog database has no connection left",
        "limit",
    ),
]


@pytest.mark.parametrize(("cause", "what", "todo"), KNOWN)
def test_a_known_cause_says_what_to_do(cause: str, what: str, todo: str) -> None:
    error = translate(f"An error occurred while calling o1.sql.\n: java.lang.X: y\nCaused by: {cause}\n\tat a.b(C:1)")
    assert isinstance(error, TransientError) and error.what.startswith(what)
    assert todo in error.todo and "\tat" not in str(error)


def test_a_refused_password_is_a_setting() -> None:
    error = translate(
        f"An error occurred\n: x: y\nCaused by: org.postgresql.util.PSQLException: {WRONG_PASSWORD}\n\tat a.b(C:1)"
    )
    assert isinstance(error, SettingsError) and "LAKEHOUSE_CATALOG_PASSWORD" in error.where


def test_what_does_not_exist_is_no_refusal() -> None:
    assert isinstance(translate("An error occurred\n: x: Branch does not exist: attempt_1"), SparkFailed)


def test_a_cause_without_words_is_passed_over() -> None:
    assert root_cause("x\nCaused by: a.B: An I/O error occurred\n\tat c\nCaused by: java.io.EOFException\n\tat d") == (
        "An I/O error occurred"
    )


CONNECT = """(org.apache.iceberg.jdbc.UncheckedSQLException) Failed to connect: jdbc:postgresql://127.0.0.1:1/x

JVM stacktrace:
org.apache.iceberg.jdbc.UncheckedSQLException
\tat org.apache.iceberg.jdbc.JdbcClientPool.newClient(JdbcClientPool.java:70)
Caused by: org.postgresql.util.PSQLException: Connection to 127.0.0.1:1 refused
\tat org.postgresql.core.v3.ConnectionFactoryImpl.openConnectionImpl(ConnectionFactoryImpl.java:352)"""


def test_a_connect_server_says_the_same_in_its_own_form() -> None:
    found = translate(CONNECT)
    assert isinstance(found, TransientError) and found.what.endswith(": Connection to 127.0.0.1:1 refused")
    conflict = (
        "(org.apache.iceberg.exceptions.CommitFailedException) Table metadata refresh is required\n\nJVM stacktrace:"
    )
    assert type(translate(conflict)) is ConcurrentCommit
    assert root_cause(conflict) == "Table metadata refresh is required"
    assert (
        root_cause("[TABLE_OR_VIEW_NOT_FOUND] The table x\n\nJVM stacktrace:\na.B")
        == "[TABLE_OR_VIEW_NOT_FOUND] The table x"
    )
    said = IntegrityError("a landed file is missing", where="x.csv")
    raised = f"(org.apache.spark.SparkException) Job aborted: {marked(said)}\n\nJVM stacktrace:\nx"
    assert str(translate(raised)) == str(said)


GONE = [
    "[INVALID_HANDLE.SESSION_CHANGED] The handle 1 is invalid. The server has restarted.",
    "[INVALID_HANDLE.OPERATION_ABANDONED] The handle 1 is invalid. Operation was considered abandoned",
    "<RPC that terminated with: status = StatusCode.UNAVAILABLE details = Connection refused",
]


@pytest.mark.parametrize("said", GONE)
def test_a_server_that_forgot_the_session_is_worth_another_try(said: str) -> None:
    found = translate(said, "silver.x")
    assert type(found) is TransientError and "connection to Spark was lost" in found.what and is_passing(said)


def test_the_exceptions_of_both_are_readable() -> None:
    from py4j.protocol import Py4JNetworkError
    from pyspark.errors.exceptions.connect import SparkConnectGrpcException, UnknownException

    for raised in (SparkConnectGrpcException(GONE[0]), Py4JNetworkError("gone"), ConnectionResetError()):
        with pytest.raises(TransientError, match="connection to Spark was lost"), readable("silver.x"):
            raise raised
    away = UnknownException("Failed", server_stacktrace="Caused by: a.PSQLException: y", display_server_stacktrace=True)
    with pytest.raises(TransientError, match="a server did not answer Spark: y"), readable():
        raise away
