"""How a task runs one command of the program, and what its exit code means for the task."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lakehouse.core.errors import (
    BatchesHeld,
    ContractError,
    GateFailed,
    IntegrityError,
    SettingsError,
    SourceError,
)
from lakehouse.core.process import PARENT
from lakehouse.orchestration.process import Child

HELD = BatchesHeld.exit_code
_FINAL = {
    error.exit_code for error in (SettingsError, ContractError, SourceError, GateFailed, IntegrityError, BatchesHeld)
}
_LAST_LINES = 25
# A task's own environment knows Airflow's database and connections; the program has no use for them.
_NOT_PASSED_ON = ("AIRFLOW", "_AIRFLOW", "__AIRFLOW")


class Log(Protocol):
    """Where a task says what happens."""

    def info(self, event: str, *args: Any) -> Any:
        """Say something."""
        ...


@dataclass(frozen=True)
class Answer:
    """What a command ended with: exit code, what its JSON says, and the last lines of what it told people."""

    code: int
    said: Any
    last_lines: tuple[str, ...] = ()

    def require(self, *also: int) -> Answer:
        """This answer, where the command did what it should or ended with one of these codes.

        Raises ``AirflowFailException`` where trying again cannot help, ``AirflowException`` where it can: a server was
        away, another writer was first, the process was killed, or nobody knows.
        """
        if self.code == 0 or self.code in also:
            return self
        message = "\n".join(self.last_lines) or f"the program ended with {self.code} and said nothing"
        if self.code in _FINAL and not self._is_transient:
            raise AirflowFailException(f"{message}\n(exit code {self.code}: trying again cannot help)")
        raise AirflowException(f"{message}\n(exit code {self.code}: trying again may help)")

    @property
    def _is_transient(self) -> bool:
        """Whether a landing was refused for a reason that may pass, such as a source that was away."""
        if self.code != SourceError.exit_code or not isinstance(self.said, Mapping):
            return False
        return any(note.get("is_retryable") for note in self.said.get("refused_files", ()))


def command(words: Sequence[str]) -> list[str]:
    """The program with its arguments; no shell ever sees them."""
    return [sys.executable, "-m", "lakehouse.cli.main", *words]


def environment(actor: str = "", inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the program inherits: all but Airflow's own, and whose process it is a part of."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_NOT_PASSED_ON)}
    return {**kept, PARENT: str(os.getpid()), **({"LAKEHOUSE_ACTOR": actor} if actor else {})}


def run(words: Sequence[str], log: Log, actor: str = "", started: Callable[[Child], None] = lambda _: None) -> Answer:
    """Run one command to its end, with what it tells people in the task's log.

    ``started`` is given the process, for whoever may have to end it. However this ends, the process has ended then.
    """
    log.info("lakehouse %s", " ".join(words))
    child, last = Child(command(words), environment(actor)), deque[str](maxlen=_LAST_LINES)
    try:
        started(child)
        for line in child.lines():
            last.append(line)
            log.info("%s", line)
        code, output = child.wait()
    finally:
        child.close()
    said = parsed(output)
    for line in output.splitlines() if said is None else told_errors(said):
        last.append(line)
        log.info("%s", line)
    return Answer(code, said, tuple(line for line in last if line))


def told_errors(said: Any) -> list[str]:
    """What a command's JSON says went wrong, line by line: there it stands for programs, here people read it."""
    errors = said.get("errors", ()) if isinstance(said, Mapping) else ()
    return [line for error in errors for line in str(error["message"]).splitlines()]


def parsed(output: str) -> Any:
    """The JSON that a command printed; None where it printed something else, or was ended in the middle."""
    try:
        return json.loads(output)
    except ValueError:
        return None
