"""The programs under ``spark_jobs/``: one verb after another gives what one run gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from spark_jobs import bronze, gold, run, silver
from tests.integration.pipeline import land_files

from lakehouse.contracts.load import load_contracts
from lakehouse.core.settings import PROJECT_ROOT
from lakehouse.engine.job import Program
from lakehouse.engine.publish import Lake
from lakehouse.samples.make import make_samples
from lakehouse.samples.plan import EPOCH, Options, days

SALES = load_contracts(PROJECT_ROOT / "include" / "contracts")["retail.sales"]


def said(program: Program, lake: Lake, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """The exit code, and what the program printed: one line of JSON, the last one."""
    code = program.run(arguments, lake)
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_one_verb_after_another(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_samples(Options(size=0.02), days(EPOCH, 3), tmp_path, crm_dsn="", domains=("retail",))
    land_files(lake, [SALES], tmp_path)

    code, first = said(bronze.PROGRAM, lake, capsys, "retail.sales", "--max-batches", "1")
    assert (code, first["errors"]) == (0, [])
    assert [(t["table"], t["batches"]) for t in first["tables"]] == [("bronze.retail_sales", 1)]
    code, rest = said(bronze.PROGRAM, lake, capsys)
    assert [t["batches"] for t in rest["tables"]] == [2]

    code, made = said(silver.PROGRAM, lake, capsys, "retail.sales")
    assert code == 0
    received = {t["table"]: t["received"] for t in made["tables"]}
    rows = first["tables"][0]["received"] + rest["tables"][0]["received"]
    assert rows > 0
    assert received == {str(SALES.silver_table(name)): rows for name in SALES.tables}

    code, marts = said(gold.PROGRAM, lake, capsys)
    assert (code, marts["errors"]) == (0, [])
    assert {t["table"] for t in marts["tables"]} >= {"gold.sales_star", "gold.daily_sales"}

    assert said(run.PROGRAM, lake, capsys) == (0, {"tables": [], "errors": [], "held": []})


def test_an_unknown_source_is_refused(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = said(silver.PROGRAM, lake, capsys, "retail.sails")
    assert code == 2
    assert "retail.sails" in result["errors"][0]["message"]
    assert "retail.sales" in result["errors"][0]["message"]
