"""Reading contracts: every problem of every file at once, each with file, line and field."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lakehouse.contracts.checks import check_contract, check_together
from lakehouse.contracts.model import Contract
from lakehouse.contracts.yaml_lines import Document, Problem, read
from lakehouse.contracts.yaml_lines import Path as FieldPath
from lakehouse.core.errors import ContractError

CASES_SUFFIX = ".cases.yaml"
_LARGEST_BYTES = 1_000_000


Value = TypeVar("Value")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Loaded(Generic[Value]):
    """A file that was read: its value, if it has one, and what is wrong with it."""

    path: Path
    value: Value | None
    document: Document | None
    problems: tuple[Problem, ...]


def contract_files(directory: Path) -> list[Path]:
    """The contracts below a directory, ``<domain>/<dataset>.yaml``, sorted."""
    return sorted(path for path in directory.glob("*/*.yaml") if not path.name.endswith(CASES_SUFFIX))


def load_contract(path: Path) -> Contract:
    """Read one contract. Raises ContractError with all its problems; references to others are not followed."""
    loaded = _load_one(path)
    raise_problems(list(loaded.problems))
    assert loaded.value is not None  # noqa: S101 - a file without a value has problems
    return loaded.value


def load_contracts(directory: Path) -> dict[str, Contract]:
    """All contracts by name, sorted. Raises ContractError with all problems of all files."""
    contracts, problems = _load_all(directory)
    raise_problems(problems)
    return contracts


def check_contracts(directory: Path) -> list[Problem]:
    """All problems of all contracts, in the order of files and lines."""
    return _load_all(directory)[1]


def _load_all(directory: Path) -> tuple[dict[str, Contract], list[Problem]]:
    files = contract_files(directory)
    loaded = [_load_one(path) for path in files]
    problems = [problem for one in loaded for problem in one.problems] + _misplaced(directory)
    if not files:
        problems.append(Problem(shown(directory), 1, "", "there is no contract here: <domain>/<dataset>.yaml"))
    readable = {one.value.name: one for one in loaded if one.value is not None}
    contracts = {name: one.value for name, one in sorted(readable.items()) if one.value is not None}
    for name, finding in check_together(contracts):
        problems.append(problem_at(readable[name], finding.path, finding.message))
    return contracts, sorted(problems, key=lambda problem: (problem.file, problem.line, problem.field))


def _misplaced(directory: Path) -> list[Problem]:
    """Files that look like contracts and would be passed over in silence."""
    wrong = {
        *directory.glob("*/*.yml"),
        *directory.glob("*.yaml"),
        *directory.glob("*.yml"),
        *directory.glob("*/*/**/*.yaml"),
    }
    return [Problem(shown(path), 1, "", "is not read; a contract is <domain>/<dataset>.yaml") for path in sorted(wrong)]


def _load_one(path: Path) -> Loaded[Contract]:
    loaded = load_model(path, Contract)
    if loaded.value is None:
        return loaded
    found = [problem_at(loaded, finding.path, finding.message) for finding in check_contract(loaded.value)]
    for field, expected in (("domain", path.parent.name), ("dataset", path.stem)):
        if getattr(loaded.value, field) != expected:
            found.append(problem_at(loaded, (field,), f"must be {expected!r}, as the file says"))
    return replace(loaded, problems=(*loaded.problems, *found))


def load_model(path: Path, model: type[M]) -> Loaded[M]:
    """Read a YAML file into a model, with a problem for everything that does not fit."""
    try:
        document = read(_text(path))
    except (yaml.YAMLError, ValueError, OSError) as error:
        return Loaded(path, None, None, (_unreadable(path, error),))
    loaded: Loaded[M] = Loaded(path, None, document, ())
    problems = [problem_at(loaded, twice, "stands twice") for twice in document.duplicates]
    try:
        value = model.model_validate(document.value)
    except ValidationError as error:
        problems += [problem_at(loaded, _path(item["loc"]), _message(item)) for item in error.errors(include_url=False)]
        return replace(loaded, problems=tuple(problems))
    return replace(loaded, value=value, problems=tuple(problems))


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError(f"is larger than {_LARGEST_BYTES} bytes")
    return path.read_text("utf-8")


def _unreadable(path: Path, error: Exception) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    if isinstance(error, UnicodeDecodeError):
        what = "is not UTF-8"
    return Problem(shown(path), mark.line + 1 if mark else 1, "", f"cannot be read: {what}")


def _path(location: tuple[int | str, ...]) -> FieldPath:
    """pydantic marks a wrong key with a last ``[key]``; the key before it is the place."""
    return tuple(part for part in location if part != "[key]")


def _message(error: Any) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "is not a field of contracts"
    if error["loc"] and error["loc"][-1] == "[key]":
        return f"is no valid name: {error['msg']}"
    given = error.get("input")
    told = f", not {given!r}" if isinstance(given, str | int | float | bool) and len(str(given)) <= 60 else ""
    return f"{error['msg'].removeprefix('Value error, ')}{told if error['type'] != 'value_error' else ''}"


def problem_at(loaded: Loaded[Any], path: FieldPath, message: str) -> Problem:
    """A problem at a path of a file that was read."""
    line = loaded.document.line(path) if loaded.document else 1
    return Problem(shown(loaded.path), line, ".".join(map(str, path)), message)


def shown(path: Path) -> str:
    """A path as a person would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def raise_problems(problems: list[Problem]) -> None:
    """Raise ContractError where there are any."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ContractError(
            f"contracts cannot be used, {count}:\n" + "\n".join(f"  {problem}" for problem in problems),
            todo="correct the lines above; docs/contracts.md explains the fields",
        )
