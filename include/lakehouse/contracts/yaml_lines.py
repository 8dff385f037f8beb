"""YAML with the line of every value, so that an error can name file, line and field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a contract."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return (
            f"{self.file}:{self.line}: {self.field}: {self.message}"
            if self.field
            else f"{self.file}:{self.line}: {self.message}"
        )


@dataclass(frozen=True)
class Document:
    """A parsed file: its value, the line of each path in it, and keys that stand twice."""

    value: Any
    lines: dict[Path, int]
    duplicates: tuple[Path, ...]

    def line(self, path: Path) -> int:
        """The line of a path, or of its nearest parent that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(text: str) -> Document:
    """Parse YAML; raises yaml.YAMLError where it is none. Aliases and tags other than YAML's own are refused."""
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise yaml.MarkedYAMLError(problem="aliases (*) are not allowed", problem_mark=token.start_mark)
    loader = yaml.SafeLoader(text)
    lines: dict[Path, int] = {}
    duplicates: list[Path] = []
    try:
        node = loader.get_single_node()
        value = _build(loader, node, (), lines, duplicates) if node is not None else None
    finally:
        loader.dispose()
    return Document(value, lines, tuple(duplicates))


def _build(loader: yaml.SafeLoader, node: yaml.Node, path: Path, lines: dict[Path, int], twice: list[Path]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if isinstance(key, list | dict | set):
                raise yaml.MarkedYAMLError(problem="a key must be a plain text", problem_mark=key_node.start_mark)
            if key in result:
                twice.append((*path, key))
            lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = _build(loader, value_node, (*path, key), lines, twice)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), lines, twice) for i, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)
