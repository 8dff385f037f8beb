"""Errors of Spark and of its workers, as errors that a person can read and an orchestrator can act on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark.errors import PySparkException

from lakehouse.core import errors
from lakehouse.core.errors import ConcurrentCommit, IntegrityError, LakehouseError, TransientError
from lakehouse.ledger.watermark import refused_login

_MARK = "lakehouse-error "
_CLASS = re.compile(r"\A\([\w.$]+\) (?=\S)")
_MARKED = re.compile(re.escape(_MARK) + r"(\{.*\})")
_AWAY = (
    "Connection refused",
    "ConnectException",
    "Connection reset",
    "SocketTimeoutException",
    "Unable to execute HTTP request",
    "SdkClientException",
    "PSQLException",
    "SQLTransientConnectionException",
    "SQLNonTransientConnectionException",
    "UncheckedSQLException",
)
_GONE = (
    "StatusCode.UNAVAILABLE",
    "failed to connect to all addresses",
    "[INVALID_HANDLE.SESSION_",
    "[INVALID_HANDLE.OPERATION_",
    "[INVALID_CURSOR.",
    "[NO_ACTIVE_SESSION]",
    "No DataFrame with id ",
)
"""A Spark Connect server that is gone, or has forgotten the session: it was started anew, or gave the client up."""
_REMEDIES = (
    (
        "No space left on device",
        "the disk of Spark's scratch files is full",
        "make room below LAKEHOUSE_HOME/spark/tmp, or set spark.local.dir in LAKEHOUSE_SPARK_CONF",
    ),
    (
        "read-only transaction",
        "the catalog database takes no changes",
        "make it writable again (default_transaction_read_only, or a standby that has to be promoted)",
    ),
    (
        "too many connections for ",
        "the catalog database has no connection left",
        "end other clients, or raise the limit of the role or the database",
    ),
    (
        "too many clients already",
        "the catalog database has no connection left",
        "end other clients, or raise max_connections",
    ),
)
"""What a cause says, what happened, and what to do."""
_CONFLICTS = ("CommitFailedException", "ValidationException: Found ")
"""A commit that came second, or one whose reply was lost (:mod:`lakehouse.engine.commits`)."""


class SparkFailed(LakehouseError):
    """Spark could not do what was asked, for a reason that is not known to pass by itself."""


def marked(error: LakehouseError) -> RuntimeError:
    """An error of a Python worker in a form that survives its way through the JVM."""
    parts = {"class": type(error).__name__, "what": error.what, "where": error.where}
    return RuntimeError(_MARK + json.dumps({**parts, "untouched": error.untouched, "todo": error.todo}))


@contextmanager
def readable(about: str = "") -> Iterator[None]:
    """Turn what Spark raises inside into a :class:`LakehouseError` about some tables; other errors pass."""
    try:
        yield
    except (Py4JNetworkError, ConnectionError) as error:
        raise _lost(type(error).__name__, about) from None
    except (Py4JError, PySparkException) as error:
        raise translate(str(error), about) from None


def _lost(how: str, about: str) -> TransientError:
    return TransientError(
        f"the connection to Spark was lost: {how}",
        where=about,
        untouched="every main; what was being written stays on a branch that the next run clears",
        todo="run again; what was pending is still pending",
    )


def is_passing(text: str) -> bool:
    """Whether what Spark said speaks of something that trying again can help."""
    return any(sign in text for sign in (*_AWAY, *_CONFLICTS, *_GONE))


def translate(text: str, about: str = "") -> LakehouseError:
    """The error that a JVM's stack trace speaks of, and that came up at ``about``."""
    if found := _MARKED.search(text):
        return _restored(json.loads(found[1]))
    cause = root_cause(text)
    if any(sign in text for sign in _GONE):
        return _lost(cause, about)
    if known := refused_login(text) or _known(text, cause, about):
        return known
    if any(sign in text for sign in _CONFLICTS):
        return ConcurrentCommit(
            f"Iceberg took a commit for a conflicting one: {cause}",
            where=about,
            untouched="every main; what was being written stays on a branch that the next run clears",
            todo="run again; what was pending is still pending",
        )
    if any(sign in text for sign in _AWAY):
        return TransientError(
            f"a server did not answer Spark: {cause}",
            where=about,
            untouched="every main; what was being written stays on a branch that the next run clears",
            todo="check `lakehouse status` and `lakehouse doctor`, then run again",
        )
    return SparkFailed(
        f"Spark could not do it: {cause}",
        where=about,
        untouched="every main; what was being written stays on a branch that the next run clears",
        todo="Spark's own words are in spark.log, in the folder that `lakehouse conf --writer` prints; those of a "
        "Spark Connect server are in LAKEHOUSE_HOME/connect",
    )


def _known(text: str, cause: str, about: str) -> LakehouseError | None:
    """The error of a few causes that pass, and whose remedy can be named."""
    what, todo = next(((what, todo) for sign, what, todo in _REMEDIES if sign in text), ("", ""))
    if not what:
        return None
    return TransientError(
        f"{what}: {cause}",
        where=about,
        untouched="every main; what was being written stays on a branch that the next run clears",
        todo=f"{todo}, then run again; what was pending is still pending",
    )


def _restored(parts: dict[str, str]) -> LakehouseError:
    found = getattr(errors, parts["class"], None)
    kind = found if isinstance(found, type) and issubclass(found, LakehouseError) else IntegrityError
    return kind(parts["what"], where=parts["where"], untouched=parts["untouched"], todo=parts["todo"])


def root_cause(text: str) -> str:
    """The innermost cause in a JVM's stack trace that has words, without its class; else the first such line.

    Classic PySpark begins with a line of its own, Spark Connect with the class in brackets.
    """
    lines = [line.strip().split(": ", 2) for line in text.splitlines() if line.lstrip().startswith("Caused by: ")]
    telling = [parts for parts in lines if len(parts) > 2] or lines  # some have a class and no message
    causes = [parts[-1] for parts in telling]
    said = [line.removeprefix(": ").strip() for line in text.splitlines()[1:] if line.strip()]
    first = text.splitlines()[0] if text else ""
    found = causes[-1] if causes else said[0] if said and first.startswith("An error occurred") else first
    return _CLASS.sub("", found).strip()
