"""Running dbt in the job's own Spark session."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pyspark.sql import SparkSession

from lakehouse.contracts.model import Contract
from lakehouse.core.errors import GateFailed, LakehouseError, TransientError
from lakehouse.core.settings import Settings
from lakehouse.engine.spark_errors import is_passing
from lakehouse.engine.tables import silver_columns

_ANSI = "spark.sql.ansi.enabled"


class MartsBroken(LakehouseError):
    """The dbt project itself cannot be run: a model or a test has an error."""

    exit_code = 3


def build(spark: SparkSession, settings: Settings, contracts: Sequence[Contract], said: Mapping[str, str]) -> None:
    """Build and test all models, in dbt's own order; the first error or failed test ends it.

    dbt's sources are generated from the contracts, into a folder of this lake's home: lakes with other contracts may
    use the same project at the same time. ``said`` is what macros may ask of the engine, by name. Raises
    :class:`GateFailed` where tests failed, and :class:`MartsBroken` where a model or a test could not be run.
    """
    sources = _write_sources(settings.home / "dbt" / "sources", contracts)
    where = os.path.relpath(sources, settings.dbt)  # dbt takes folders of models relative to its project
    with _conf(spark, said), _session_of_dbt(spark):
        _invoke(settings, ["build", "--fail-fast", "--vars", json.dumps({"generated": where})])


def _write_sources(folder: Path, contracts: Sequence[Contract]) -> Path:
    """Generate dbt's sources from the contracts, with what macros need of them."""
    tables = [
        {
            "name": name,
            "description": table.description,
            "config": {"meta": {"before_first": {ref.table: ref.before_first for ref in table.references}}},
            "columns": [{"name": c, "description": spec.description} for c, spec in silver_columns(table).items()],
        }
        for contract in contracts
        for name, table in contract.tables.items()
    ]
    path = folder / "sources.yml"
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({"version": 2, "sources": [{"name": "silver", "tables": tables}]}, sort_keys=False)
    if not path.exists() or path.read_text("utf-8") != text:  # an equal file keeps dbt's parse cache warm
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(text, "utf-8")
        beside.replace(path)  # another run of the same lake never reads half a file
    return folder


@contextmanager
def _conf(spark: SparkSession, values: Mapping[str, str]) -> Iterator[None]:
    for name, value in values.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name in values:
            spark.conf.unset(name)


class _TheSession:
    """What dbt takes for ``SparkSession``: whatever it builds is the session of this job, wherever that runs.

    Its own way asks for the process's first session, which may know another catalog, and with Hive, which a Spark
    Connect client refuses.
    """

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._said: set[tuple[str, str]] = set()

    @property
    def builder(self) -> _TheSession:
        return self

    def enableHiveSupport(self) -> _TheSession:  # noqa: N802 - as Spark has it
        return self

    def config(self, name: str, value: str) -> _TheSession:
        if (name, value) not in self._said:
            self._spark.conf.set(name, value)
            self._said.add((name, value))
        return self

    def getOrCreate(self) -> SparkSession:  # noqa: N802 - as Spark has it
        return self._spark


@contextmanager
def _session_of_dbt(spark: SparkSession) -> Iterator[None]:
    """Make this session the one that dbt finds.

    dbt's adapter turns Spark's ANSI mode off for good in the session that it gets; here only for as long as it runs.
    """
    from dbt.adapters.spark import session as adapter

    usual, ansi = adapter.SparkSession, str(spark.conf.get(_ANSI))
    adapter.SparkSession = _TheSession(spark)
    try:
        yield
    finally:
        adapter.SparkSession = usual
        spark.conf.set(_ANSI, ansi)


def _invoke(settings: Settings, arguments: Sequence[str]) -> None:
    from dbt.cli.main import dbtRunner

    target = settings.home / "dbt"
    paths = ["--project-dir", settings.dbt, "--profiles-dir", settings.dbt]
    paths += ["--target-path", target, "--log-path", target / "logs"]
    quiet = ["--quiet", "--no-use-colors", "--no-version-check", "--no-write-json", "--log-level", "none"]
    result = dbtRunner().invoke([*arguments, *map(str, paths), *quiet])
    if result.success:
        return
    if result.exception is not None and not isinstance(result.exception, Exception):
        raise result.exception  # dbt catches what should end the process, too: an interrupt is no error of the marts
    if result.exception is not None:
        raise MartsBroken(
            f"dbt cannot run the marts: {result.exception or type(result.exception).__name__}",
            where=str(settings.dbt),
            untouched="all marts",
            todo="correct the model or test that the message names, then run again",
        )
    raise _failed(list(result.result.results))


def _failed(results: Sequence[Any]) -> LakehouseError:
    failed = [r for r in results if r.status not in ("success", "pass", "warn", "skipped")]
    lines = "; ".join(f"{r.node.name}: {_said(r)}" for r in failed) or "dbt did not say why"
    kind: type[LakehouseError] = MartsBroken
    if failed and all(r.status == "fail" for r in failed):
        kind = GateFailed
    elif failed and all(is_passing(r.message or "") for r in failed):
        kind = TransientError  # a server was away, or the reply to a commit on the branch was lost
    return kind(
        f"the marts were not published: {lines}",
        where="gold, " + ", ".join(sorted({r.node.original_file_path for r in failed})),
        untouched="main of every mart; what was built stays on the attempt's branch until the next run",
        todo="correct the data or the model, then run again; silver is published already",
    )


def _said(result: Any) -> str:
    """What dbt says of a node, without the JVM's stack: the line that names the error, not only its kind."""
    lines = [line.strip() for line in (result.message or str(result.status)).strip().splitlines()]
    return " ".join(lines[:2])
