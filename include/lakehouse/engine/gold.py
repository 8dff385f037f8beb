"""Gold: dbt builds and tests all marts on one branch, in the job's own session; then all are fast-forwarded.

A mart with a key is made by merging the rows that differ. Where its YAML says which rows a change of silver concerns,
only those are computed. A mart is replaced whole when it is new, when the models changed, or when silver was rolled
back behind what the mart was made of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, reduce
from pathlib import Path

from pyspark.sql import DataFrame

from lakehouse.contracts.marts import DeclaredMart, declared_marts, project_fingerprint
from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.names import TableName, quote
from lakehouse.engine.changes import Since, changed_members, changed_units, changes_since
from lakehouse.engine.dbt_build import build
from lakehouse.engine.publish import Lake, Target, create_missing, publish
from lakehouse.engine.report import TableReport
from lakehouse.engine.spark_errors import readable
from lakehouse.engine.tables import ColumnSpec, TableSpec, silver_spec
from lakehouse.ledger.outstanding import gold_is_current, silver_attempts
from lakehouse.ledger.watermark import Head, Stamp

_WAP = "spark.wap.branch"
_SAID = "lakehouse.mart"


def mart_spec(mart: DeclaredMart) -> TableSpec:
    """A mart's table, as its YAML declares it: columns with types and descriptions, partitioning and sort."""
    columns = {name: ColumnSpec(c["data_type"], c["description"]) for name, c in mart.columns.items()}
    return TableSpec(mart.table, mart.description, columns, mart.partition, mart.sort)


@dataclass(frozen=True)
class Marts:
    """The gold layer of a lake. ``whole``: replace every mart, whatever changed."""

    lake: Lake
    contracts: Sequence[Contract]
    whole: bool = False

    @property
    def project(self) -> Path:
        return self.lake.settings.dbt

    @cached_property
    def declared(self) -> list[DeclaredMart]:
        return declared_marts(self.project)

    @cached_property
    def fingerprint(self) -> str:
        return project_fingerprint(self.project, self.contracts)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The silver tables, each a fact or a dimension."""
        return {name: table.kind for contract in self.contracts for name, table in contract.tables.items()}

    @property
    def is_current(self) -> bool:
        return not self.whole and gold_is_current(self.lake.catalog, self.contracts, self.project)


@readable()
def run_gold(marts: Marts) -> list[TableReport]:
    """Build, test and publish all marts together, where silver or the models changed."""
    started = time.perf_counter()
    if marts.is_current:
        return []
    # A mart may read a source that has not landed yet.
    create_missing(
        marts.lake, [silver_spec(contract, name) for contract in marts.contracts for name in contract.tables]
    )
    published = publish(marts.lake, _GoldJob(marts))
    seconds = (time.perf_counter() - started) / max(1, len(published))
    return [
        TableReport(
            p.table, rows_added=p.records_added, rows_removed=p.records_deleted, files=p.files_added,
            bytes=p.bytes_added, seconds=seconds, snapshot_id=p.snapshot_id,
        )
        for p in published
    ]  # fmt: skip


@dataclass(frozen=True)
class _GoldJob:
    marts: Marts

    def specs(self) -> Sequence[TableSpec]:
        return [mart_spec(mart) for mart in self.marts.declared]

    def plan(self, attempt: str, heads: Mapping[TableName, Head]) -> _GoldWork | None:
        if self.marts.is_current:
            return None
        upstream = silver_attempts(self.marts.lake.catalog, self.marts.contracts)
        return _GoldWork(self.marts, attempt, upstream, heads)


@dataclass(frozen=True)
class _GoldWork:
    marts: Marts
    attempt: str
    upstream: Mapping[str, str]
    heads: Mapping[TableName, Head]

    def stamps(self) -> Mapping[TableName, Stamp]:
        stamp = Stamp(self.attempt, self.marts.fingerprint, upstream=self.upstream)
        return {mart.table: stamp for mart in self.marts.declared}

    def write(self, targets: Mapping[TableName, Target]) -> None:
        """Build and test in dbt's own order: a failed test stops what depends on its model, and the whole attempt.

        Silver is not locked. If it moves on meanwhile, the stamp names the older attempts, and the next run compares
        with those: it computes too much rather than too little.
        """
        lake = self.marts.lake
        ways = {mart.table.name: self._way(mart) for mart in self.marts.declared}
        said = {f"{_SAID}.{mart}.{name}": text for mart, way in ways.items() for name, text in way.said.items()}
        views = {name: rows for way in ways.values() for name, rows in way.views.items()}
        target = next(iter(targets.values()))
        with _on_branch(target), target.stamped_session(), _temporary_views(views):
            build(lake.spark, lake.settings, self.marts.contracts, said)

    def gate(self, targets: Mapping[TableName, Target]) -> None:
        """dbt's tests ran on the branch, as part of its build."""

    def _way(self, mart: DeclaredMart) -> _Way:
        stamp = self.heads[mart.table].stamp
        if self.marts.whole or not mart.key or stamp is None or stamp.fingerprint != self.marts.fingerprint:
            return _Way("overwrite")
        since = changes_since(self.marts.lake, stamp.upstream, self.upstream)
        if since is None:
            return _Way("overwrite")
        return self._concerned(mart, since) if mart.changed_by else _Way("merge")

    def _concerned(self, mart: DeclaredMart, since: Sequence[Since]) -> _Way:
        """The rows that the changes of silver concern: units of facts, and members of dimensions."""
        lake, conditions = self.marts.lake, []
        members: dict[str, list[DataFrame]] = {}
        for each in since:
            column = mart.changed_by.get(each.table.name) if mart.changed_by else None
            if column and self.marts.kinds[each.table.name] == "fact":
                conditions.append(_in_units(column, changed_units(lake, each)))
            elif column:
                members.setdefault(column, []).append(changed_members(lake, each))
        views = {}
        for column, keys in members.items():
            changed = reduce(DataFrame.union, keys).distinct().localCheckpoint()  # MERGE cannot plan Iceberg reads here
            if not changed.isEmpty():
                name = f"changed_{mart.table.name}_{column}_{self.attempt}"
                views[name] = changed
                conditions.append(f"{quote(column)} IN (SELECT {names.KEY} FROM {name})")  # noqa: S608
        return _Way("merge", " OR ".join(conditions) or "1 = 0", views)


@dataclass(frozen=True)
class _Way:
    """How dbt brings a mart up to date: ``overwrite`` or ``merge``, and SQL for the rows that may have changed."""

    how: str
    changed: str = "1 = 1"
    views: Mapping[str, DataFrame] = field(default_factory=dict)

    @property
    def said(self) -> dict[str, str]:
        return {"how": self.how, "changed": self.changed}


def _in_units(column: str, units: Sequence[date]) -> str:
    days = ", ".join(f"DATE '{unit.isoformat()}'" for unit in units)
    return f"{quote(column)} IN ({days})" if units else "1 = 0"


@contextmanager
def _temporary_views(views: Mapping[str, DataFrame]) -> Iterator[None]:
    for name, rows in views.items():
        rows.createOrReplaceTempView(name)
    try:
        yield
    finally:
        for name, rows in views.items():
            rows.sparkSession.catalog.dropTempView(name)


@contextmanager
def _on_branch(target: Target) -> Iterator[None]:
    conf = target.lake.spark.conf
    conf.set(_WAP, target.branch)
    try:
        yield
    finally:
        conf.unset(_WAP)
