"""The README's worked example, done as it is written: its files, its commands, its output."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from lakehouse.core.settings import CATALOG, PROJECT_ROOT, Settings, settings
from lakehouse.engine.publish import Lake

SECTION = re.compile(r"<!-- worked example: begin -->(.*)<!-- worked example: end -->", re.DOTALL)
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """A file to write, or a command with the output that it must have, '' where the README shows none."""

    file: str = ""
    command: str = ""
    text: str = ""


def steps(readme: str) -> list[Step]:
    section = SECTION.search(readme)
    assert section, "the README has no worked example"
    found: list[Step] = []
    for language, title, body in BLOCK.findall(section.group(1)):
        if language == "console":
            parts = re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]
            found += [Step(command=head, text=tail) for head, _, tail in (part.partition("\n") for part in parts)]
        else:
            found.append(Step(file=title.strip(), text=body))
    return found


@pytest.fixture
def project(lake: Lake, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project folder whose commands work on the lake of this test, in the JVM that is there."""
    shutil.copytree(PROJECT_ROOT / "include" / "contracts", tmp_path / "include" / "contracts")
    mine = lake.settings.model_copy(update={"contracts": tmp_path / "include" / "contracts"})
    for name, value in environment(mine).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)

    @contextmanager
    def session(current: Settings, name: str, *, read_only: bool = False) -> Iterator[SparkSession]:
        yield session_of(spark, current, read_only=read_only)

    monkeypatch.setattr("lakehouse.engine.session.session", session)
    monkeypatch.setattr("lakehouse.engine.run.session", session)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def environment(given: Settings) -> dict[str, str]:
    """The settings as variables, as a person would set them."""
    found = {}
    for name in ("home", "contracts", "landing_bucket", "warehouse_bucket", "catalog_database", "postgres_port"):
        found[f"LAKEHOUSE_{name.upper()}"] = str(getattr(given, name))
    for name in ("catalog_user", "catalog_password", "reader_user", "reader_password"):
        value = getattr(given, name)
        found[f"LAKEHOUSE_{name.upper()}"] = value.get_secret_value() if isinstance(value, SecretStr) else value
    return found


def session_of(spark: SparkSession, current: Settings, *, read_only: bool) -> SparkSession:
    from lakehouse.engine.session import catalog_conf

    fresh = spark.newSession()
    for key, value in catalog_conf(current, read_only=read_only).items():
        fresh.conf.set(key, value)
    fresh.conf.set("spark.sql.defaultCatalog", CATALOG)
    return fresh


def do(step: Step, project: Path) -> None:
    if step.file:
        path = project / step.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text, "utf-8")
        return
    from lakehouse.cli.main import app

    program, *arguments = shlex.split(step.command)
    assert program == "lakehouse"
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    if step.text:
        assert plain(result.stdout) == plain(step.text), step.command


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def test_the_worked_example_does_what_the_readme_says(project: Path) -> None:
    found = steps((PROJECT_ROOT / "README.md").read_text("utf-8"))
    assert [step.file for step in found if step.file.endswith(".yaml")] == ["include/contracts/warehouse/counts.yaml"]
    assert sum(bool(step.command) for step in found) >= 5
    assert sum(bool(step.command and step.text) for step in found) >= 3
    for step in found:
        do(step, project)
