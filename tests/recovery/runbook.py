"""Runbooks are done as they are written: each command of a page in a shell, each output as the page shows it.

A page names what a person fills in (``TABLE=silver.dim_customer``) in a block of its own; a test fills in the same
names. What another lake says otherwise (numbers, times, ids, sizes) is not compared, and a line with nothing but an
ellipsis stands for any lines.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lakehouse.core.settings import PROJECT_ROOT

PAGES = PROJECT_ROOT / "docs" / "runbooks"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ASSIGNED = re.compile(r"^(?:export )?([A-Z0-9_]+)=(.*)$")
_EXIT = re.compile(r"^# exit code (\d+)$", re.MULTILINE)
_DIFFERS = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\d{8}T\d{6}Z?(-[0-9a-f]+)?"), "TIME"),
    (re.compile(r"\b\d{8}t\d{6}z_[0-9a-f]+"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?(\+00:00|Z)?"), "TIME"),
    (re.compile(r"\bs3://\S+"), "FILE"),
    (re.compile(r"(?<![\w.])/[\w./-]+"), "PATH"),
    (re.compile(r"(?<=, by )\w+"), "WHO"),
    (re.compile(r"\b[0-9a-f]{8,}(-[0-9a-f]+)*\b"), "ID"),
    (re.compile(r"\d[\d,.]*( (B|bytes|kB|KB|KiB|MB|MiB|GB|GiB)\b)?"), "N"),
    (re.compile(r"[│┃┏┓┗┛┡┩├┤━─┳┻╇┴┬┼]"), " "),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Step:
    """A command, what it says, and the exit code that it ends with."""

    command: str
    expected: str
    exit_code: int


@dataclass(frozen=True)
class Done:
    """A step that was done: what the command printed."""

    step: Step
    printed: str


@dataclass(frozen=True)
class Runbook:
    """A page: the names that a person fills in, and the steps."""

    name: str
    given: Mapping[str, str]
    steps: tuple[Step, ...]

    @classmethod
    def read(cls, name: str) -> Runbook:
        """The page of this name."""
        given: dict[str, str] = {}
        steps: list[Step] = []
        for language, body in _BLOCK.findall((PAGES / f"{name}.md").read_text("utf-8")):
            if language == "sh":
                given |= dict(m.groups() for m in map(_ASSIGNED.match, body.splitlines()) if m)
            elif language == "console":
                steps += _steps(body)
        return cls(name, given, tuple(steps))

    def do(self, shell: Shell, meanwhile: Mapping[str, Callable[[], None]] | None = None, **filled: str) -> list[Done]:
        """Every step in order, with what a person fills in; each must say and end with what the page shows.

        ``meanwhile`` is what happens in the world before a command is given.
        """
        assert set(filled) == set(self.given), f"{self.name} asks for {sorted(self.given)}"
        done = []
        for step in self.steps:
            (meanwhile or {}).get(step.command, lambda: None)()
            code, printed = shell.run(step.command, filled)
            told = f"{self.name}: {step.command}\n{printed}"
            assert code == step.exit_code, told
            assert says(printed, step.expected), f"{told}\n--- the page shows\n{step.expected}"
            done.append(Done(step, printed))
        return done


@dataclass(frozen=True)
class Shell:
    """Where commands run: a folder and an environment."""

    folder: Path
    environment: Mapping[str, str] = field(repr=False)
    timeout: int = 300

    def run(self, command: str, names: Mapping[str, str] | None = None) -> tuple[int, str]:
        """The exit code and what was printed; of a command that failed also what it said of that."""
        finished = subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=self.folder,
            env={**self.environment, **(names or {}), "COLUMNS": "200", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.timeout,
            check=False,
        )
        failed = finished.stderr if finished.returncode else ""
        return finished.returncode, finished.stdout + failed


def says(printed: str, expected: str) -> bool:
    """Whether an output is the one that a page shows. A page that shows none asks for nothing."""
    if not expected.strip():
        return True
    parts = [_same(part) for part in re.split(r"^…$", expected, flags=re.MULTILINE)]
    return re.fullmatch(r"(?:.*\n)*?".join(map(re.escape, parts)), _same(printed)) is not None


def _same(text: str) -> str:
    """A text without what differs from one lake to the next, and without empty lines."""
    lines = []
    for line in text.splitlines():
        for pattern, mark in _DIFFERS:
            line = pattern.sub(mark, line)
        if line.strip():
            lines.append(line.strip() + "\n")
    return "".join(lines)


def _steps(block: str) -> list[Step]:
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = f"{command[:-1]}{more}"
        code = _EXIT.search(expected)
        found.append(Step(command.strip(), _EXIT.sub("", expected), int(code.group(1)) if code else 0))
    return found
