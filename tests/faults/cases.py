"""What the kill tests work on: many small tables of every kind, what each takes in a wave, and where it can be killed.

All tables of a kind take the same batches, one a wave, so that the first of each kind, which is never killed, says what
the others must hold.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

import yaml

from lakehouse.contracts.model import Contract
from lakehouse.core.names import TableName
from lakehouse.core.settings import PROJECT_ROOT

Kind = Literal["fact", "feed", "snapshot", "bronze", "whole", "landing", "decision", "gold"]
WAVES = 4
UNITS = [date(2024, 3, 29) + timedelta(days=day) for day in range(WAVES)]
BATCHES = (0, 1, 0, 2)
"""The unit that each wave brings: the third wave restates the first day."""
REFUSED = (0, 2, 3)
"""The waves whose batches have rows that go to quarantine."""
SIZES: Mapping[Kind, int] = {
    **{"fact": 7, "feed": 5, "snapshot": 6, "bronze": 15},
    **{"whole": 5, "landing": 13, "decision": 7, "gold": 3},
}
"""How many of each kind there are, the one that is never killed included: enough for every step of a kind to be met."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One table, source or pair of marts that is killed and run again. The first of a kind is its control."""

    kind: Kind
    number: int

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.number:02d}"

    @property
    def is_control(self) -> bool:
        return self.number == 0

    @property
    def source(self) -> str:
        """The dataset whose batches it takes."""
        shared = {"fact": "slices", "feed": "slices", "gold": "slices", "snapshot": "snapshots"}
        return shared.get(self.kind, self.name)

    @property
    def table(self) -> str:
        """The silver table that shows what it took."""
        return "fact_00" if self.kind == "gold" else self.name

    @property
    def marts(self) -> list[TableName]:
        return [TableName("gold", f"mart_{self.number:02d}_{part}") for part in "ab"]


CASES = [Case(kind, number) for kind, size in SIZES.items() for number in range(size)]


def _column(kind: str = "string", **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": "made for a test", **more}


def _fact(*, refuses: bool) -> dict[str, Any]:
    rule = {"name": "city_known", "check": "city <> 'nowhere'", "description": "made for a test"}
    columns = {"id": _column(nullable=False), "at": _column("timestamp"), "city": _column()}
    key = {"kind": "fact", "description": "made for a test", "key": ["id", "at"]}
    return {**key, "columns": columns, "rules": [rule] if refuses else []}


def _dimension(kind: str) -> dict[str, Any]:
    columns = {"id": _column(nullable=False), "city": _column(history=2), "name": _column(history=1)}
    table = {"kind": "dimension", "description": "made for a test", "key": ["id"], "columns": columns}
    if kind == "snapshot":
        rule = {"name": "city_known", "check": "city <> 'nowhere'", "description": "made for a test"}
        return {**table, "effective_time": "_unit", "max_close_share": 1, "rules": [rule]}
    ties = {"order": {"at": _column("timestamp", nullable=False)}, "tie_breakers": [{"column": "at"}]}
    return {**table, "effective_time": "at", **ties}


def contract(source: str) -> Contract:
    """The contract of a dataset, with the tables of all cases that take it."""
    kind = "snapshot" if source == "snapshots" else "slice"
    made = {"fact": _fact(refuses=True), "feed": _dimension("feed"), "snapshot": _dimension("snapshot")}
    cases = [case for case in CASES if case.source == source and case.kind != "gold"]
    tables = {case.name: made.get(case.kind, _fact(refuses=case.kind == "whole")) for case in cases}
    fields = dict.fromkeys(("id", "at", "city", "name"), {"description": "made for a test"})
    reads = {"connector": "files", "kind": kind, "format": "jsonl", "pattern": f"{source}/{{date}}.jsonl"}
    whole = {"format": 1, "domain": "kills", "dataset": source, "owner": "tests", "description": "made for a test"}
    return Contract.model_validate({**whole, "source": {**reads, "columns": fields}, "tables": tables})


def contracts() -> dict[str, Contract]:
    """The contracts of all cases by dataset."""
    return {source: contract(source) for source in dict.fromkeys(case.source for case in CASES)}


def make_rows(chance: random.Random, wave: int) -> list[Row]:
    """The rows of a wave's batch. Some versions come late, and some rows are refused in waves that say so."""
    unit = UNITS[BATCHES[wave]]
    rows = []
    for number in chance.sample(range(12), 8):
        at = datetime.combine(unit, time(8), UTC) - timedelta(hours=chance.choice([0, 0, 12]))
        city = chance.choice(["x", "y", "z"])
        rows.append({"id": f"k{number}", "at": at.isoformat(), "city": city, "name": chance.choice("ab")})
    if wave in REFUSED:
        rows[0]["city"] = "nowhere"
    return rows


def write_waves(root: Path, chance: random.Random) -> None:
    """The files of every wave, below ``root/<wave>``: each dataset's the same."""
    for wave in range(WAVES):
        text = "".join(json.dumps(row) + "\n" for row in make_rows(chance, wave))
        for source in dict.fromkeys(case.source for case in CASES):
            path = root / str(wave) / source / f"{UNITS[BATCHES[wave]]}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def write_project(root: Path, case: Case) -> Path:
    """A dbt project of two marts of a case's own."""
    project = root / case.name
    (project / "models" / "marts").mkdir(parents=True)
    ours = PROJECT_ROOT / "include" / "dbt"
    for file in ("dbt_project.yml", "profiles.yml", "macros/mart.sql"):
        (project / file).parent.mkdir(exist_ok=True)
        (project / file).write_text((ours / file).read_text("utf-8"), "utf-8")
    columns = [
        {"name": name, "data_type": kind, "description": "made for a test"}
        for name, kind in (("city", "string"), ("lines", "bigint"))
    ]
    columns[0]["data_tests"] = ["not_null"]  # type: ignore[assignment]
    models = [{"name": mart.name, "description": "made for a test", "columns": columns} for mart in case.marts]
    for mart in case.marts:
        sql = f"select city, count(*) as lines from {{{{ source('silver', '{case.table}') }}}} group by city"
        (project / "models" / "marts" / f"{mart.name}.sql").write_text(sql + "\n")
    text = yaml.safe_dump({"version": 2, "models": models}, sort_keys=False)
    (project / "models" / "marts" / "marts.yml").write_text(text)
    return project


STEPS = ("locked", "branched", "written", "gated")
ENDS = ("before_fast_forward", "update", "after_fast_forward", "read_back", "done")
"""``update`` is no failpoint: the catalog's UPDATE of a fast-forward is under way, and will come through later."""


def published(case: Case, wave: int) -> list[TableName]:
    """The tables that a case publishes together in a wave, in the order of publication."""
    if case.kind == "gold":
        return case.marts
    refused = [TableName("quarantine", case.table)] if _quarantines(case, wave) else []
    return [*refused, TableName("silver", case.table)]


def _quarantines(case: Case, wave: int) -> bool:
    return case.kind in ("fact", "snapshot", "whole") and (wave in REFUSED or BATCHES[wave] in BATCHES[:wave])


def places(case: Case, wave: int) -> list[str]:
    """Where a case can be killed in a wave: failpoints with the table or source that they are about."""
    source = f"kills.{case.source}"
    if case.kind == "landing":
        points = ("before_upload", "after_upload", "before_log", "after_log")
        return [f"land.{point}@{source}" for point in points]
    if case.kind == "decision":
        return [f"decide.{point}@{source}" for point in ("before_log", "after_log")]
    bronze = [TableName("bronze", f"kills_{case.source}")]
    if case.kind == "bronze":
        return _places(case, wave, bronze)
    if case.kind == "whole":
        return [*_places(case, wave, bronze), *_places(case, wave, published(case, wave))]
    return _places(case, wave, published(case, wave))


def _places(case: Case, wave: int, tables: list[TableName]) -> list[str]:
    found = [f"publish.{step}@{tables[-1]}" for step in STEPS]
    found += [f"publish.{end}@{table}" for table in tables for end in ENDS]
    if wave == 0:
        found += [f"publish.created@{table}" for table in tables]
    for table in tables:
        is_restated = BATCHES[wave] in BATCHES[:wave] and case.kind in ("fact", "whole")
        if table.namespace == "quarantine" or (table.namespace == "silver" and is_restated):
            found.append(f"publish.deleted@{table}")
        is_appended = wave == 0 or case.kind in ("fact", "whole")  # dimensions are merged from the second wave on
        if table.namespace in ("bronze", "quarantine") or (table.namespace == "silver" and is_appended):
            found.append(f"publish.appended@{table}")
    return found


def make_case(name: str) -> Case:
    """The case of a name."""
    return next(case for case in CASES if case.name == name)
