"""Errors of Spark and of its workers, as errors that a person can read and an orchestrator can act on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark.errors import PySparkException

from lakehouse.core import errors
from lakehouse.core.errors import IntegrityError, LakehouseError, TransientError

_MARK = "lakehouse-error "
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


class SparkFailed(LakehouseError):
    """Spark could not do what was asked, for a reason that is not known to pass by itself."""


def marked(error: LakehouseError) -> RuntimeError:
    """An error of a Python worker in a form that survives its way through the JVM."""
    parts = {"class": type(error).__name__, "what": error.what, "where": error.where}
    return RuntimeError(_MARK + json.dumps({**parts, "untouched": error.untouched, "todo": error.todo}))


@contextmanager
def readable() -> Iterator[None]:
    """Turn what Spark raises inside into a :class:`LakehouseError`; other errors pass."""
    try:
        yield
    except (Py4JNetworkError, ConnectionError) as error:
        raise TransientError(
            f"the connection to Spark was lost: {type(error).__name__}",
            untouched="every main; what was being written stays on a branch that the next run clears",
            todo="run again; what was pending is still pending",
        ) from None
    except (Py4JError, PySparkException) as error:
        raise translate(str(error)) from None


def translate(text: str) -> LakehouseError:
    """The error that a JVM's stack trace speaks of."""
    if found := _MARKED.search(text):
        return _restored(json.loads(found[1]))
    cause = root_cause(text)
    if any(sign in text for sign in _AWAY):
        return TransientError(
            f"a server did not answer Spark: {cause}",
            untouched="every main; what was being written stays on a branch that the next run clears",
            todo="check `lakehouse status` and `lakehouse doctor`, then run again",
        )
    return SparkFailed(
        f"Spark could not do it: {cause}",
        untouched="every main; what was being written stays on a branch that the next run clears",
        todo="Spark's own words are in spark.log, in the folder that `lakehouse conf --writer` prints",
    )


def _restored(parts: dict[str, str]) -> LakehouseError:
    found = getattr(errors, parts["class"], None)
    kind = found if isinstance(found, type) and issubclass(found, LakehouseError) else IntegrityError
    return kind(parts["what"], where=parts["where"], untouched=parts["untouched"], todo=parts["todo"])


def root_cause(text: str) -> str:
    """The innermost cause in a JVM's stack trace, without its class; else the first line that says something."""
    causes = [line.split(": ", 2)[-1] for line in text.splitlines() if line.lstrip().startswith("Caused by: ")]
    said = [line.removeprefix(": ").strip() for line in text.splitlines()[1:] if line.strip()]
    first = text.splitlines()[0] if text else ""
    return (causes[-1] if causes else said[0] if said and first.startswith("An error occurred") else first).strip()
