"""The README's worked example, done as it is written: its files, its commands, its output."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from lakehouse.core.names import TableName
from lakehouse.core.settings import CATALOG, PROJECT_ROOT, Settings, settings
from lakehouse.engine.publish import Lake
from lakehouse.ledger.points import publications
from lakehouse.ledger.watermark import load_table, open_catalog

SECTION = re.compile(r"<!-- worked example: begin -->(.*)<!-- worked example: end -->", re.DOTALL)
RUN = re.compile(r"<!-- worked example: run -->\n```text\n(.*?)```", re.DOTALL)
PAGE = re.compile(r"^## Two kinds of time$(.*?)^## ", re.DOTALL | re.MULTILINE)
ANSWERED = re.compile(r"^```sql\n(.*?)^```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
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
    return steps_of(section.group(1))


def steps_of(text: str) -> list[Step]:
    found: list[Step] = []
    for language, title, body in BLOCK.findall(text):
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
    def session(current: Settings, name: str, *, read_only: bool = False, **_: Any) -> Iterator[SparkSession]:
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
    from lakehouse.core.spark_conf import catalog_conf

    fresh = spark.newSession()
    for key, value in catalog_conf(current, read_only=read_only).items():
        fresh.conf.set(key, value)
    fresh.conf.set("spark.sql.defaultCatalog", CATALOG)
    return fresh


def do(step: Step, project: Path) -> str:
    """Do what a step says; returns what a command said."""
    if step.file:
        path = project / step.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text, "utf-8")
        return ""
    program, *arguments = shlex.split(step.command)
    assert program == "lakehouse"
    said = call(arguments)
    if step.text:
        assert plain(said) == plain(step.text), step.command
    return said


def call(arguments: list[str]) -> str:
    from lakehouse.cli.main import app

    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def test_the_worked_example_does_what_the_readme_says(project: Path) -> None:
    found = steps((PROJECT_ROOT / "README.md").read_text("utf-8"))
    assert [step.file for step in found if step.file.endswith(".yaml")] == ["include/contracts/warehouse/counts.yaml"]
    assert sum(bool(step.command) for step in found) >= 5
    assert sum(bool(step.command and step.text) for step in found) >= 3
    said = [(step.command, do(step, project)) for step in found]
    refused = RUN.search((PROJECT_ROOT / "docs" / "quality.md").read_text("utf-8"))
    assert refused
    first = next(text for command, text in said if command.startswith("lakehouse run"))
    assert "\n" + refused.group(1) in first
    querying = PAGE.search((PROJECT_ROOT / "docs" / "querying.md").read_text("utf-8"))
    assert querying
    check_page(querying.group(1))


def check_page(text: str) -> None:
    """The page on both times, on the tables that the worked example left: times and snapshots are those of this run."""
    name = TableName("silver", "dim_shelf")
    published = load_table(open_catalog(settings()), name)
    assert published
    before = publications(published)[1]
    text = text.replace("2026-03-04 18:00:00", f"{before.at:%Y-%m-%d %H:%M:%S.%f}")
    text = text.replace("2026-03-04T18:00", f"{before.at:%Y-%m-%dT%H:%M:%S.%f}")
    text = text.replace("2882271298153054012", str(before.snapshot.snapshot_id))
    answered = ANSWERED.findall(text)
    assert len(answered) == 3
    for statements, expected in answered:
        assert plain(call(["sql", "-e", statements])) == plain(expected), statements
    commands = [step for step in steps_of(text) if step.command]
    assert len(commands) == 3 and all(step.text for step in commands)
    for step in commands:
        assert cells(call(shlex.split(step.command)[1:])) == cells(step.text), step.command


def cells(text: str) -> list[str]:
    """Lines without what another run says otherwise: times of publication, snapshots, and the width of columns."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", "TIME", text)
    text = re.sub(r"\b\d{15,19}\b", "SNAPSHOT", text)
    return [re.sub(r"[ ─━]+", " ", line).strip() for line in text.strip().splitlines()]
