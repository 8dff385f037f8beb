"""``python -m lakehouse.cli.reference``: docs/cli.md, made from the commands so that it cannot drift."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

_HEAD = """# Commands

`lakehouse COMMAND --help` says the same. Results are printed to standard output, progress and errors to standard error.
With `--json` the result is JSON.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | nothing found, or the answer was no |
| 2 | a setting, name, option or statement is missing or wrong |
| 3 | a contract, its cases or a model cannot be used |
| 4 | a source cannot be read, or was refused in part |
| 5 | a server cannot be started or reached |
| 6 | a check refused what would have been published |
| 7 | what is stored contradicts what must hold: a person has to look |
| 8 | trying again can help: a server was away, or another writer was first |
| 9 | everything was taken but batches that a rule holds back: `lakehouse held` says why, and what to do |
| 10 | `lakehouse plan`: a table needs a rebuild |
| 130 | stopped with Ctrl-C |

This page is made from the commands by `python -m lakehouse.cli.reference`; a test compares the two.
"""

_VALUES = {int: "N", float: "NUMBER", Path: "PATH"}


def commands(app: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name, in the order of the program's own help."""
    yield from _walk("lakehouse", typer.main.get_command(app))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    # Typer brings its own copy of click, so classes say nothing here.
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, inner in command.commands.items():
        yield from _walk(f"{name} {part}", inner)


def render(app: typer.Typer) -> str:
    """The page's text."""
    return _HEAD + "".join(_section(name, command) for name, command in commands(app))


def _section(name: str, command: Any) -> str:
    arguments = "".join(f" {_usage(p)}" for p in command.params if _is_argument(p))
    text = " ".join((command.help or "").split())
    rows = [_row(parameter) for parameter in command.params if _help(parameter)]
    table = "\n| | |\n|---|---|\n" + "".join(rows) if rows else ""
    return f"\n## {name}\n\n`{name}{arguments}`\n\n{text}\n{table}"


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _usage(argument: Any) -> str:
    name = (argument.name or "").upper() + ("…" if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _row(parameter: Any) -> str:
    if _is_argument(parameter):
        name = _usage(parameter).strip("[]")
    else:
        name = ", ".join(parameter.opts) + _value(parameter)
    needed = " Required." if parameter.required and not _is_argument(parameter) else ""
    cells = (f"`{name}`", f"{_help(parameter)}{_default(parameter)}{needed}")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _value(option: Any) -> str:
    if getattr(option, "is_flag", False):
        return ""
    return f" {option.metavar or _VALUES.get(option.type_descriptor.annotation, 'TEXT')}"


def _help(parameter: Any) -> str:
    return str(getattr(parameter, "help", None) or "")


def _default(parameter: Any) -> str:
    given = parameter.default
    if given is None or callable(given) or given in (False, (), []) or "Default" in _help(parameter):
        return ""
    return f" Default: {given}."


if __name__ == "__main__":
    from lakehouse.cli.main import app

    sys.stdout.write(render(app))
