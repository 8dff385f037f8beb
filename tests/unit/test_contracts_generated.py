"""What is generated from the contracts is what is committed; and the command line around them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from lakehouse.cli import contract as commands
from lakehouse.contracts.dictionary import dictionary, read_marts
from lakehouse.contracts.load import contract_files, load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.contracts.schema import SCHEMA_NAME, schema_text
from lakehouse.core.errors import ContractError
from lakehouse.core.settings import PROJECT_ROOT

CONTRACTS = PROJECT_ROOT / "include" / "contracts"


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    commands.register(application)
    return application


def test_the_schema_is_current() -> None:
    assert (CONTRACTS / SCHEMA_NAME).read_text("utf-8") == schema_text(), "run `lakehouse contract schema`"


def test_the_schema_names_every_field_that_the_contracts_use() -> None:
    schema = json.loads(schema_text())
    assert set(schema["properties"]) == set(Contract.model_fields)
    for path in contract_files(CONTRACTS):
        assert set(yaml.safe_load(path.read_text("utf-8"))) <= set(schema["properties"])
    assert schema["$defs"]["Column"]["additionalProperties"] is False


def test_the_dictionary_is_current() -> None:
    made = dictionary(load_contracts(CONTRACTS), read_marts(PROJECT_ROOT / "include" / "dbt"))
    assert (PROJECT_ROOT / "docs" / "dictionary.md").read_text("utf-8") == made, "run `lakehouse contract dictionary`"


def test_the_dictionary_tells_every_table_and_column() -> None:
    contracts = load_contracts(CONTRACTS)
    text = dictionary(contracts)
    for contract in contracts.values():
        assert f"### {contract.bronze_table}\n" in text
        for name, table in contract.tables.items():
            section = text.split(f"### silver.{name}\n")[1].split("\n#")[0]
            assert f"`quarantine.{name}`" in text
            for column, definition in table.columns.items():
                assert f"| {column} | {definition.type} |" in section
            for rule in table.rules:
                assert f"| {rule.name} |" in section
            # What only orders observations is not published.
            assert not any(f"| {column} |" in section for column in table.order)


def test_the_dictionary_tells_marts(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "marts"
    folder.mkdir(parents=True)
    columns = [{"name": "day", "description": "Day | of sale."}]
    models = [{"name": "mart_sales", "description": "Sales.\n By day.", "columns": columns}]
    (folder / "marts.yml").write_text(yaml.safe_dump({"models": models}))
    (tmp_path / "models" / "staging.yml").write_text(yaml.safe_dump({"models": [{"name": "stg"}]}))
    text = dictionary(load_contracts(CONTRACTS), read_marts(tmp_path))
    assert "### gold.mart_sales\n\nSales. By day.\n" in text
    assert "| day | Day \\| of sale. |" in text
    assert "gold.stg" not in text


def test_check_passes_and_counts(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["contract", "check", "--json", "--contracts", str(CONTRACTS)])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert (told["contracts"], told["problems"]) == (len(contract_files(CONTRACTS)), [])


def test_check_lists_problems_and_ends_with_three(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a.yaml").write_text("format: 2")
    result = CliRunner().invoke(app, ["contract", "check", "--contracts", str(tmp_path)])
    assert result.exit_code == 3
    assert "a.yaml:1: format: Input should be 1" in result.stdout
    as_json = CliRunner().invoke(app, ["contract", "check", "--json", "--contracts", str(tmp_path)])
    assert as_json.exit_code == 3
    problems = json.loads(as_json.stdout)["problems"]
    assert {"file", "line", "field", "message"} == set(problems[0])


def test_check_reads_the_cases_too(app: typer.Typer, tmp_path: Path) -> None:
    folder = tmp_path / "crm"
    folder.mkdir()
    (folder / "catalogue.yaml").write_text((CONTRACTS / "crm" / "catalogue.yaml").read_text("utf-8"))
    (folder / "catalogue.cases.yaml").write_text("format: 1\ncases: []\n")
    result = CliRunner().invoke(app, ["contract", "check", "--contracts", str(tmp_path)])
    assert result.exit_code == 3
    assert "catalogue.cases.yaml:2: cases" in result.stdout


def test_compile_writes_the_index(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "crm").mkdir()
    (tmp_path / "crm" / "catalogue.yaml").write_text((CONTRACTS / "crm" / "catalogue.yaml").read_text("utf-8"))
    result = CliRunner().invoke(app, ["contract", "compile", "--json", "--contracts", str(tmp_path)])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["datasets"] == ["crm.catalogue"]
    assert (tmp_path / "index.json").is_file()


def test_schema_and_dictionary_are_written(app: typer.Typer, tmp_path: Path) -> None:
    for command, head in (("schema", "{"), ("dictionary", "# Dictionary")):
        path = tmp_path / command
        result = CliRunner().invoke(app, ["contract", command, "--output", str(path), "--contracts", str(CONTRACTS)])
        assert result.exit_code == 0, result.output
        assert path.read_text("utf-8").startswith(head)


def test_a_folder_that_is_not_there(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["contract", "check", "--contracts", str(tmp_path / "none")])
    assert isinstance(result.exception, ContractError)
