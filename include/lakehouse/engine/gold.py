"""Gold: dbt builds and tests all marts on one branch, in the job's own session; then all are fast-forwarded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pyspark.sql import SparkSession

from lakehouse.contracts.marts import mart_models, project_fingerprint
from lakehouse.contracts.model import Contract
from lakehouse.core.errors import GateFailed, LakehouseError
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.engine.publish import Lake, Target, create_missing, publish
from lakehouse.engine.report import TableReport
from lakehouse.engine.spark_errors import readable
from lakehouse.engine.tables import ColumnSpec, TableSpec, silver_columns, silver_spec
from lakehouse.ledger.outstanding import gold_is_current, silver_attempts
from lakehouse.ledger.watermark import Head, Stamp

_WAP = "spark.wap.branch"


class MartsBroken(LakehouseError):
    """The dbt project itself cannot be run: a model or a test has an error."""

    exit_code = 3


def mart_specs(project: Path) -> list[TableSpec]:
    """The marts as their YAML declares them: columns with types and descriptions, partitioning and sort."""
    return [_mart_spec(model) for model in mart_models(project)]


def _mart_spec(model: Mapping[str, Any]) -> TableSpec:
    meta = model.get("config", {}).get("meta", {})
    columns = {c["name"]: ColumnSpec(c["data_type"], c["description"]) for c in model["columns"]}
    name = TableName("gold", model["name"])
    return TableSpec(name, model["description"], columns, meta.get("partition", ()), meta.get("sort", ()))


def write_sources(project: Path, contracts: Sequence[Contract]) -> Path:
    """Generate dbt's sources from the contracts."""
    tables = [
        {
            "name": name,
            "description": table.description,
            "columns": [{"name": c, "description": spec.description} for c, spec in silver_columns(table).items()],
        }
        for contract in contracts
        for name, table in contract.tables.items()
    ]
    path = project / "models" / "generated" / "sources.yml"
    path.parent.mkdir(exist_ok=True)
    text = yaml.safe_dump({"version": 2, "sources": [{"name": "silver", "tables": tables}]}, sort_keys=False)
    if not path.exists() or path.read_text("utf-8") != text:  # an equal file keeps dbt's parse cache warm
        path.write_text(text, "utf-8")
    return path


@dataclass(frozen=True)
class Marts:
    """The gold layer of a lake."""

    lake: Lake
    contracts: Sequence[Contract]

    @property
    def project(self) -> Path:
        return self.lake.settings.dbt

    @cached_property
    def specs(self) -> list[TableSpec]:
        return mart_specs(self.project)

    @cached_property
    def fingerprint(self) -> str:
        return project_fingerprint(self.project)


@readable()
def run_gold(marts: Marts) -> list[TableReport]:
    """Build, test and publish all marts together, where silver or the models changed."""
    started = time.perf_counter()
    if gold_is_current(marts.lake.catalog, marts.contracts, marts.project):
        return []
    # A mart may read a source that has not landed yet.
    create_missing(
        marts.lake, [silver_spec(contract, name) for contract in marts.contracts for name in contract.tables]
    )
    write_sources(marts.project, marts.contracts)
    published = publish(marts.lake, _GoldJob(marts))
    seconds = (time.perf_counter() - started) / max(1, len(published))
    return [
        TableReport(
            p.table, rows_added=p.records_added, rows_removed=p.records_deleted, files=p.files_added,
            bytes=p.bytes_added, seconds=seconds,
        )
        for p in published
    ]  # fmt: skip


@dataclass(frozen=True)
class _GoldJob:
    marts: Marts

    def specs(self) -> Sequence[TableSpec]:
        return self.marts.specs

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _GoldWork | None:
        catalog, contracts = self.marts.lake.catalog, self.marts.contracts
        if gold_is_current(catalog, contracts, self.marts.project):
            return None
        return _GoldWork(self.marts, attempt, silver_attempts(catalog, contracts))


@dataclass(frozen=True)
class _GoldWork:
    marts: Marts
    attempt: str
    upstream: Mapping[str, str]

    def stamps(self) -> Mapping[TableName, Stamp]:
        stamp = Stamp(self.attempt, self.marts.fingerprint, upstream=self.upstream)
        return {spec.name: stamp for spec in self.marts.specs}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        """Build and test in dbt's own order: a failed test stops what depends on its model, and the whole attempt."""
        target = next(iter(targets.values()))
        with _on_branch(target), target.stamped_session(), _session_of_dbt(target.lake.spark):
            _dbt(self.marts.lake.settings, ["build", "--fail-fast"])

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """dbt's tests ran on the branch, as part of its build."""


@contextmanager
def _on_branch(target: Target) -> Iterator[None]:
    conf = target.lake.spark.conf
    conf.set(_WAP, target.branch)
    try:
        yield
    finally:
        conf.unset(_WAP)


@contextmanager
def _session_of_dbt(spark: SparkSession) -> Iterator[None]:
    """Make this session the one that dbt finds: it asks for the process's first, which may know another catalog."""
    first = SparkSession._instantiatedSession
    SparkSession._instantiatedSession = spark
    try:
        yield
    finally:
        SparkSession._instantiatedSession = first


def _dbt(settings: Settings, arguments: Sequence[str]) -> None:
    from dbt.cli.main import dbtRunner

    target = settings.home / "dbt"
    paths = ["--project-dir", settings.dbt, "--profiles-dir", settings.dbt]
    paths += ["--target-path", target, "--log-path", target / "logs"]
    quiet = ["--quiet", "--no-use-colors", "--no-version-check", "--no-write-json", "--log-level", "none"]
    result = dbtRunner().invoke([*arguments, *map(str, paths), *quiet])
    if result.success:
        return
    if result.exception is not None:
        raise MartsBroken(
            f"dbt cannot run the marts: {result.exception}",
            where=str(settings.dbt),
            untouched="all marts",
            todo="correct the model or test that the message names, then run again",
        )
    failed = [r for r in result.result.results if r.status in ("fail", "error", "runtime error")]
    lines = "; ".join(f"{r.node.name}: {(r.message or r.status).strip().splitlines()[0]}" for r in failed)
    kind = GateFailed if all(r.status == "fail" for r in failed) else MartsBroken
    raise kind(
        f"the marts were not published: {lines}",
        where="gold, " + ", ".join(sorted({r.node.original_file_path for r in failed})),
        untouched="main of every mart; what was built stays on the attempt's branch until the next run",
        todo="correct the data or the model, then run again; silver is published already",
    )
