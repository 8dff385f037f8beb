"""What the dbt project declares of the marts, read without dbt."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from lakehouse.core.names import TableName


def mart_models(project: Path) -> list[dict[str, Any]]:
    """The models that the marts' YAML files declare, in the order of the files."""
    return [
        model
        for path in sorted((project / "models" / "marts").glob("*.yml"))
        for model in yaml.safe_load(path.read_text("utf-8")).get("models", [])
    ]


def mart_names(project: Path) -> list[TableName]:
    """The tables of the gold layer."""
    return [TableName("gold", model["name"]) for model in mart_models(project)]


def project_fingerprint(project: Path) -> str:
    """A hash of everything in the dbt project that decides the marts' content."""
    digest = hashlib.sha256()
    files = [*project.glob("macros/**/*"), *project.glob("models/**/*"), project / "dbt_project.yml"]
    for path in sorted(file for file in files if file.is_file() and "generated" not in file.parts):
        digest.update(f"{path.relative_to(project)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]
