"""``python -m lakehouse.stack.settings_page``: docs/settings.md, made from the settings so that it cannot drift."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from lakehouse.core.settings import PROJECT_ROOT, Settings

_HEAD = """# Settings

Every setting is an environment variable. `lakehouse up` writes those of the servers that it starts into
`stack.env` (mode 0600) in the state folder; whatever is set in the environment wins over that file. Secrets are read
from the environment or that file, never from the command line.

Servers of your own: set `LAKEHOUSE_S3_SERVER=external` with `LAKEHOUSE_S3_ENDPOINT` (leave it out for AWS),
`LAKEHOUSE_S3_ACCESS_KEY_ID` and `LAKEHOUSE_S3_SECRET_ACCESS_KEY`; and `LAKEHOUSE_POSTGRES_SERVER=external` with
`LAKEHOUSE_POSTGRES_HOST`, `LAKEHOUSE_POSTGRES_PORT` and the users and passwords of the catalog and its reader.
`lakehouse up` then starts nothing in their place and checks that they can be used; `lakehouse doctor` tells what is
wrong.

For backups `lakehouse up` starts a second MinIO beside its own; `LAKEHOUSE_BACKUP_DATA` says on which disk. With
`LAKEHOUSE_BACKUP_S3_ENDPOINT`, or `LAKEHOUSE_BACKUP_SERVER=external` for AWS, they go somewhere else:
[backup.md](backup.md).

This page is made from the settings by `python -m lakehouse.stack.settings_page`; a test compares the two.

| variable | default | meaning |
|---|---|---|
"""


def render() -> str:
    """The page's text."""
    return _HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    meaning = (field.description or name.replace("_", " ").capitalize() + ".") + _choices(field.annotation)
    return f"| `LAKEHOUSE_{name.upper()}` | {_default(field)} | {meaning} |\n"


def _choices(annotation: Any) -> str:
    if get_origin(annotation) is not Literal:
        return ""
    return " One of " + ", ".join(f"`{choice}`" for choice in get_args(annotation)) + "."


def _default(field: FieldInfo) -> str:
    """The default as it is on any machine: folders relative to the project or the person's home."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr) or value in ("", None, {}):
        return "none"
    if isinstance(value, Path):
        inside = value.is_relative_to(PROJECT_ROOT)
        return f"`{value.relative_to(PROJECT_ROOT)}`" if inside else f"`~/{value.relative_to(Path.home())}`"
    return f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(render())
