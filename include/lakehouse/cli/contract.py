"""``lakehouse contract``: check, test, compile, schema, dictionary, history."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lakehouse.core.errors import ContractError, SettingsError

if TYPE_CHECKING:
    from lakehouse.contracts.yaml_lines import Problem

Directory = Annotated[Path | None, typer.Option("--contracts", help="Folder of the contracts.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
_NAMES = {"compile_index": "compile", "run_tests": "test"}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="Check contracts and make what is derived from them.", no_args_is_help=True)
    for command in (check, run_tests, compile_index, schema, dictionary, history):
        group.command(_NAMES.get(command.__name__, command.__name__))(command)
    app.add_typer(group, name="contract")


def check(directory: Directory = None, as_json: Json = False) -> None:
    """Check every contract and its cases; list all problems with file, line and field. Ends with 3 if there are any."""
    from lakehouse.contracts.load import contract_files

    folder = _folder(directory)
    problems = _problems(folder)
    count = len(contract_files(folder))
    if as_json:
        typer.echo(json.dumps({"contracts": count, "problems": [asdict(problem) for problem in problems]}))
    else:
        for problem in problems:
            typer.echo(str(problem))
        contracts = f"{count} contract{'' if count == 1 else 's'}"
        typer.echo(f"{contracts}, {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    if problems:
        raise typer.Exit(ContractError.exit_code)


def run_tests(
    sources: Annotated[list[str] | None, typer.Argument(help="Contracts, as in retail.sales; default: all.")] = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Run the cases beside the contracts: small inputs, and the rows that they must give. Needs Java, no servers."""
    from lakehouse.core.settings import settings
    from lakehouse.engine.cases import run_cases
    from lakehouse.engine.session import bare_session

    with bare_session(settings(), "lakehouse contract test") as spark:
        results = run_cases(spark, _folder(directory), sources)
    if as_json:
        typer.echo(json.dumps([asdict(result) | {"passed": result.passed} for result in results]))
    else:
        for result in results:
            typer.echo(result.render())
        failed = sum(not result.passed for result in results)
        typer.echo(f"{len(results)} cases, {failed or 'none'} failed")
    if not results or any(not result.passed for result in results):
        raise typer.Exit(ContractError.exit_code)


def compile_index(directory: Directory = None, as_json: Json = False) -> None:
    """Compile all contracts, and what the marts are made of, into the index that DAG parsing reads."""
    from lakehouse.contracts import index
    from lakehouse.core.settings import settings

    folder = _folder(directory)
    compiled = index.compile_for(settings().model_copy(update={"contracts": folder}))
    path = folder / index.INDEX_NAME
    if as_json:
        prints = {name: table.fingerprint for name, table in compiled.tables.items()}
        typer.echo(json.dumps({"index": str(path), "datasets": [*compiled.datasets], "fingerprints": prints}))
        return
    for table in compiled.tables.values():
        typer.echo(f"{table.fingerprint}  silver.{table.name}  ({table.dataset})")
    typer.echo(f"{len(compiled.datasets)} contracts compiled into {path}")


def schema(
    output: Annotated[Path | None, typer.Option(help="File to write; default: beside the contracts.")] = None,
    directory: Directory = None,
) -> None:
    """Write the JSON Schema of contracts, for editors."""
    from lakehouse.contracts.schema import SCHEMA_NAME, schema_text

    path = output or _folder(directory) / SCHEMA_NAME
    _write(path, schema_text())


def dictionary(
    output: Annotated[Path | None, typer.Option(help="File to write; default: docs/dictionary.md.")] = None,
    directory: Directory = None,
) -> None:
    """Write the dictionary of all tables and columns."""
    from lakehouse.contracts import dictionary as made
    from lakehouse.contracts.load import load_contracts
    from lakehouse.core.settings import PROJECT_ROOT, settings

    text = made.dictionary(load_contracts(_folder(directory)), made.read_marts(settings().dbt))
    _write(output or PROJECT_ROOT / "docs" / "dictionary.md", text)


def history(
    table: Annotated[str, typer.Argument(help="A silver table, as in silver.dim_customer.")], as_json: Json = False
) -> None:
    """Show how the contract of a table changed: when, between which snapshots, and what. No JVM."""
    from lakehouse.core.names import TableName
    from lakehouse.core.settings import settings
    from lakehouse.ledger.recorded import contract_history
    from lakehouse.ledger.watermark import load_table, open_catalog

    name = TableName.parse(table)
    loaded = load_table(open_catalog(settings()), name)
    if loaded is None:
        raise SettingsError(f"there is no table {name}", todo="`lakehouse tables` lists what is there")
    steps = contract_history(loaded)
    if as_json:
        typer.echo(json.dumps([step.to_json() for step in steps]))
        return
    for step in steps:
        between = f"{step.before or '(none)'} → {step.snapshot or '(expired)'}"
        typer.echo(f"{step.at:%Y-%m-%d %H:%M:%S} UTC  snapshot {between}")
        for change in step.changes:
            typer.echo(f"  {replace(change, reason='').render()}")
    if not steps:
        typer.echo(f"{name} was not published yet by any contract")


def _problems(folder: Path) -> list[Problem]:
    """Problems of the contracts; of their cases too, once the contracts themselves are good."""
    from lakehouse.contracts.cases import cases_path, check_cases
    from lakehouse.contracts.load import check_contracts, contract_files, load_contract

    problems = check_contracts(folder)
    if problems:
        return problems
    with_cases = [path for path in contract_files(folder) if cases_path(path).exists()]
    return [problem for path in with_cases for problem in check_cases(cases_path(path), load_contract(path))]


def _folder(directory: Path | None) -> Path:
    from lakehouse.core.settings import settings

    folder = directory or settings().contracts
    if not folder.is_dir():
        raise ContractError("there is no such folder of contracts", where=str(folder), todo="set LAKEHOUSE_CONTRACTS")
    return folder


def _write(path: Path, text: str) -> None:
    if not path.parent.is_dir():
        raise ContractError("the file's folder does not exist", where=str(path), todo="create it, or name another")
    path.write_text(text, "utf-8")
    typer.echo(f"wrote {path}")
