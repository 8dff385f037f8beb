"""One error family. A message says what happened, where, what was left untouched, and what to do next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class LakehouseError(Exception):
    """Base of every error that a person is meant to read.

    ``exit_code`` is the process's exit code; ``is_retryable`` tells an orchestrator whether trying again can help.
    """

    exit_code = 1
    is_retryable = False

    def __init__(self, what: str, *, where: str = "", untouched: str = "", todo: str = "") -> None:
        self.what = what
        self.where = where
        self.untouched = untouched
        self.todo = todo
        super().__init__(self.render())

    def render(self) -> str:
        """The whole message: one line for each part that is known."""
        parts = [
            self.what,
            f"  where: {self.where}" if self.where else "",
            f"  left untouched: {self.untouched}" if self.untouched else "",
            f"  what to do: {self.todo}" if self.todo else "",
        ]
        return "\n".join(part for part in parts if part)


class SettingsError(LakehouseError):
    """A setting, name or prerequisite is missing or wrong."""

    exit_code = 2


class ContractError(LakehouseError):
    """One or more contracts cannot be used."""

    exit_code = 3


class SourceError(LakehouseError):
    """A source cannot be read."""

    exit_code = 4


class StackError(LakehouseError):
    """A server of the local stack cannot be started, stopped or reached."""

    exit_code = 5


class GateFailed(LakehouseError):
    """The gate refused what an attempt wrote; nothing was published."""

    exit_code = 6


class IntegrityError(LakehouseError):
    """What is stored contradicts what must hold; a person has to look."""

    exit_code = 7


class TransientError(LakehouseError):
    """Trying again can help: a server was away, or another writer was there first."""

    exit_code = 8
    is_retryable = True


class BatchesHeld(LakehouseError):
    """A rule holds batches back; everything else was taken."""

    exit_code = 9


class TableBusy(TransientError):
    """Another writer holds the table's lock."""


class ConcurrentCommit(TransientError):
    """``main`` moved while an attempt was being written."""


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """Around a whole program: an error that a person is meant to read goes to stderr, and sets the exit code."""
    try:
        yield
    except LakehouseError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
