"""The compiled index: the same as the contracts, quick to read, and compiled anew when they change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lakehouse.contracts import index
from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.marts import mart_names
from lakehouse.contracts.semantics import table_fingerprint
from lakehouse.core.errors import ContractError
from lakehouse.core.settings import PROJECT_ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "contracts"
    shutil.copytree(PROJECT_ROOT / "include" / "contracts", copy, ignore=shutil.ignore_patterns("index.json"))
    return copy


def test_holds_what_the_contracts_say(folder: Path) -> None:
    compiled = index.compile_index(folder)
    contracts = load_contracts(folder)
    assert index.read_index(folder) == compiled == index.load_index(folder)
    assert {name: entry.model() for name, entry in compiled.datasets.items()} == contracts
    for name, contract in contracts.items():
        assert compiled.datasets[name].classification == contract.classification
        for table in contract.tables:
            assert compiled.tables[table].fingerprint == table_fingerprint(contract, table)
            assert compiled.dataset_of(table).name == name
            # The order of columns is the contract's: it is the published one.
            read = index.read_index(folder).datasets[name].contract["tables"][table]["columns"]
            assert list(read) == list(contract.tables[table].columns)


def test_lineage(folder: Path) -> None:
    edges = {(edge.source, edge.target, edge.kind) for edge in index.compile_index(folder).lineage}
    assert ("source.retail.sales", "bronze.retail_sales", "landed") in edges
    assert ("bronze.retail_sales", "silver.dim_customer", "derived") in edges
    assert ("silver.dim_customer", "silver.fact_sales_line", "reference") in edges


def test_marts_are_made_of_what_their_models_refer_to(folder: Path) -> None:
    """Through staging and intermediate models, also those that a loop names."""
    project = PROJECT_ROOT / "include" / "dbt"
    compiled = index.compile_index(folder, project)
    assert index.read_index(folder) == compiled == index.load_index(folder, project)
    assert set(compiled.marts) == {str(name.name) for name in mart_names(project)}
    dimensions = ("dim_catalogue_product", "dim_crm_customer", "dim_customer", "dim_product")
    assert compiled.marts["sales_star"].inputs == (*[f"silver.{name}" for name in dimensions], "silver.fact_sales_line")
    assert compiled.marts["customer_rfm"].inputs == ("gold.sales_star",)
    edges = {(edge.source, edge.target, edge.kind) for edge in compiled.lineage}
    assert ("silver.dim_customer", "gold.sales_star", "mart") in edges
    made = {f"silver.{name}" for contract in load_contracts(folder).values() for name in contract.tables}
    assert {edge.source for edge in compiled.lineage if edge.source.startswith("silver.")} <= made


def test_a_changed_model_or_setting_compiles_anew(folder: Path, tmp_path: Path) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(PROJECT_ROOT / "include" / "dbt" / "models", project / "models")
    first = index.load_index(folder, project)
    (project / "models" / "marts" / "daily_sales.sql").write_text("select * from {{ source('silver', 'dim_product') }}")
    second = index.load_index(folder, project)
    assert (first.marts["daily_sales"].inputs, second.marts["daily_sales"].inputs) == (
        ("gold.sales_star",),
        ("silver.dim_product",),
    )
    third = index.load_index(folder, project, index.Operation(retries=5))
    assert index.read_index(folder).operation.retries == third.operation.retries == 5


def test_when_data_come(folder: Path) -> None:
    timing = index.compile_index(folder).datasets["retail.sales"].timing
    assert timing == index.Timing("Europe/London", expected_every_hours=24, expected_after_hours=1, warn_after_hours=96)


def test_a_changed_new_or_removed_contract_compiles_anew(folder: Path) -> None:
    first = index.load_index(folder)
    path = folder / "crm" / "catalogue.yaml"
    text = path.read_text("utf-8")
    path.write_text(text.replace("list_price >= 0", "list_price >= 1"), "utf-8")
    second = index.load_index(folder)
    assert second.tables["dim_catalogue_product"] != first.tables["dim_catalogue_product"]
    path.unlink()
    assert "crm.catalogue" not in index.load_index(folder).datasets
    path.write_text(text, "utf-8")
    assert index.load_index(folder) == first == index.read_index(folder)


def test_a_bad_contract_leaves_the_old_index(folder: Path) -> None:
    before = index.compile_index(folder)
    (folder / "crm" / "catalogue.yaml").write_text("format: 2")
    with pytest.raises(ContractError, match="catalogue.yaml:1"):
        index.load_index(folder)
    assert index.read_index(folder) == before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": 99}', "[]"])
def test_an_index_that_cannot_be_read_says_what_to_do(folder: Path, content: str | None) -> None:
    if content is not None:
        (folder / index.INDEX_NAME).write_text(content)
    with pytest.raises(ContractError, match="lakehouse contract compile"):
        index.read_index(folder)
    assert index.load_index(folder).datasets


def test_an_index_of_other_code_is_not_believed(folder: Path) -> None:
    compiled = index.compile_index(folder)
    path = folder / index.INDEX_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "compiler": "old", "lineage": []}))
    assert index.load_index(folder) == compiled


def test_reading_imports_nothing_heavy(folder: Path) -> None:
    index.compile_index(folder)
    program = (
        "import sys; from pathlib import Path; from lakehouse.contracts.index import read_index;"
        "read_index(Path(sys.argv[1]));"
        "print([m for m in ('pydantic', 'sqlglot', 'yaml', 'pyarrow', 'typer') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_two_hundred_contracts_are_read_quickly(folder: Path) -> None:
    index.compile_index(folder)
    raw = json.loads((folder / index.INDEX_NAME).read_text("utf-8"))
    many = {f"d.s{n}": {**raw["datasets"]["retail.sales"], "name": f"d.s{n}"} for n in range(200)}
    (folder / index.INDEX_NAME).write_text(json.dumps({**raw, "datasets": many}))
    took = []
    for _ in range(5):
        start = time.process_time()
        assert len(index.read_index(folder).datasets) == 200
        took.append(time.process_time() - start)
    assert min(took) < 0.05
