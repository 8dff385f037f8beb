"""Cases: small inputs and the rows that they must give, in ``<dataset>.cases.yaml`` beside the contract.

A case lands its batches one after another in an empty lake, and then states what each table holds. Tables that it does
not name are not compared; of those it names, it lists every row, and only the columns that it names are compared.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from lakehouse.contracts import derive
from lakehouse.contracts.load import CASES_SUFFIX, Loaded, load_model, problem_at, raise_problems
from lakehouse.contracts.model import Contract, Identifier, Model, Table
from lakehouse.contracts.yaml_lines import Path as FieldPath
from lakehouse.contracts.yaml_lines import Problem
from lakehouse.core import names
from lakehouse.core.types import DataType


def _cell(value: object) -> object:
    """YAML reads 2.50 and 2024-03-31 as numbers and dates, which are no text of a file; they have to be quoted."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | date):
        raise ValueError(f"write {value} in quotes, as it stands in the file or table")
    return value


Cell = Annotated[str | None, BeforeValidator(_cell)]
Row = dict[str, Cell]


class CaseBatch(Model):
    """What is landed for one unit: the raw text of its file, or rows from which the file is written."""

    unit: date
    landed_at: datetime | None = Field(None, description="Default: midnight UTC after the unit.")
    lines: str = Field("", description="The file's text, header included; it may be broken on purpose.")
    rows: tuple[Row, ...] = Field((), description="Rows of columns; a column that is left out is missing.")

    @cached_property
    def landed(self) -> datetime:
        """The moment of landing, UTC."""
        if self.landed_at is None:
            return datetime.combine(self.unit + timedelta(days=1), datetime.min.time(), UTC)
        return self.landed_at.replace(tzinfo=UTC) if self.landed_at.tzinfo is None else self.landed_at

    def content(self, contract: Contract) -> bytes:
        """The bytes of the file that this batch lands."""
        if not self.rows:
            return self.lines.encode()
        if contract.source.format == "jsonl":
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows).encode()
        return _csv(contract, self.rows)


class QuarantinedRow(Model):
    """A row that must be in quarantine: which record of which batch (both from 1), and the rules that it failed."""

    batch: int = Field(1, ge=1)
    record: int = Field(ge=1)
    rules: tuple[str, ...] = Field(min_length=1)


class Expectation(Model):
    """What the tables hold after all batches."""

    tables: dict[Identifier, tuple[Row, ...]] = Field(default_factory=dict)
    quarantine: dict[Identifier, tuple[QuarantinedRow, ...]] = Field(default_factory=dict)
    rejected: int | None = Field(None, ge=0, description="Records that could not be read, of all landed batches.")


class Case(Model):
    """One case."""

    name: str = Field(min_length=3)
    batches: tuple[CaseBatch, ...] = Field(min_length=1)
    expect: Expectation


class _CaseFile(Model):
    format: int = Field(ge=1, le=1)
    cases: tuple[Case, ...] = Field(min_length=1)


def cases_path(contract_path: Path) -> Path:
    """Where the cases of a contract are."""
    return contract_path.with_name(contract_path.stem + CASES_SUFFIX)


def load_cases(path: Path, contract: Contract) -> tuple[Case, ...]:
    """Read the cases of a contract. Raises ContractError with all problems, each with its line."""
    loaded = _load(path, contract)
    raise_problems(list(loaded.problems))
    return loaded.value.cases if loaded.value else ()


def check_cases(path: Path, contract: Contract) -> list[Problem]:
    """All problems of a file of cases."""
    return list(_load(path, contract).problems)


def _load(path: Path, contract: Contract) -> Loaded[_CaseFile]:
    loaded = load_model(path, _CaseFile)
    if loaded.value is None:
        return loaded
    found = tuple(problem_at(loaded, where, message) for where, message in _check(loaded.value, contract))
    return replace(loaded, problems=(*loaded.problems, *found))


def _check(file: _CaseFile, contract: Contract) -> Iterator[tuple[FieldPath, str]]:
    seen: set[str] = set()
    for place, case in enumerate(file.cases):
        path: FieldPath = ("cases", place)
        if case.name in seen:
            yield (*path, "name"), f"{case.name!r} stands twice"
        seen.add(case.name)
        yield from _check_batches(case, contract, (*path, "batches"))
        yield from _check_expected(case.expect, contract, (*path, "expect", "tables"))
        yield from _check_quarantine(case, contract, (*path, "expect", "quarantine"))


def _check_batches(case: Case, contract: Contract, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    for place, batch in enumerate(case.batches):
        if batch.lines and batch.rows:
            yield (*path, place), "has lines or rows, not both"
        if contract.source.format == "parquet" and batch.lines:
            yield (*path, place), "a parquet file is written from rows"


def _check_expected(expect: Expectation, contract: Contract, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    for name, rows in expect.tables.items():
        if name not in contract.tables:
            yield (*path, name), "is no table of this contract"
            continue
        known = row_types(contract.tables[name])
        for place, row in enumerate(rows):
            for column, value in row.items():
                if column not in known:
                    yield (*path, name, place, column), "is no column of the table"
                elif value is not None and parse(known[column], value) is None:
                    yield (*path, name, place, column), f"{value!r} is no {known[column]}"


def _check_quarantine(case: Case, contract: Contract, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    for name, rows in case.expect.quarantine.items():
        table = contract.tables.get(name)
        if table is None:
            yield (*path, name), "is no table of this contract"
            continue
        known = {*derive.rule_names(table), *(rule.name for rule in table.all_rules if rule.level == "error")}
        for place, row in enumerate(rows):
            if row.batch > len(case.batches):
                yield (*path, name, place, "batch"), f"there are {len(case.batches)} batches"
            for rule in row.rules:
                if rule not in known:
                    yield (*path, name, place, "rules"), f"{rule!r} is no error rule of the table"


def row_types(table: Table) -> dict[str, DataType]:
    """The columns that a case may name, with their types."""
    kinds = {names.OCCURRENCE: "int", names.IS_CURRENT: "boolean"}
    kinds |= {names.EFFECTIVE_FROM: "timestamp", names.EFFECTIVE_TO: "timestamp"}
    made = {name: DataType(kinds.get(name, "string")) for name in derive.generated_columns(table)}
    previous = {f"previous_{name}": table.columns[name].type for name in table.columns_of_type(3)}
    units = {names.UNIT: DataType("date")} if table.kind == "fact" else {}
    return {**{name: column.type for name, column in table.columns.items()}, **made, **previous, **units}


def parse(kind: DataType, text: str) -> Any:
    """The value that a text of a case stands for; None where it stands for none. Times are UTC."""
    try:
        return _parsers()[kind.name](text)
    except (ValueError, InvalidOperation, KeyError):
        return None


def _parsers() -> dict[str, Any]:
    return {
        "string": str,
        "boolean": {"true": True, "false": False}.__getitem__,
        "int": int,
        "long": int,
        "double": float,
        "decimal": Decimal,
        "date": date.fromisoformat,
        "timestamp": lambda text: in_utc(datetime.fromisoformat(text)),
    }


def in_utc(moment: datetime) -> datetime:
    """A moment in UTC; one without a zone is taken to be in UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@dataclass(frozen=True)
class Difference:
    """A row that is missing from a table, or one too many, as the case would write it."""

    kind: str
    row: str


def compare(table: Table, expected: Sequence[Row], actual: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """How a table's rows differ from those expected, whatever their order. Actual values are Python's own types.

    Each expected row takes one actual row that has its columns' values, rows that name the most columns first.
    """
    types, left, differences = row_types(table), [*actual], []
    for row in sorted(expected, key=len, reverse=True):
        wanted = {name: None if text is None else parse(types[name], text) for name, text in row.items()}
        match = next((found for found in left if _equals(found, wanted)), None)
        if match is None:
            differences.append(Difference("missing", str(row)))
        else:
            left.remove(match)
    named = list(dict.fromkeys(name for row in expected for name in row)) or list(types)
    return differences + [Difference("unexpected", str({n: _text(row.get(n)) for n in named})) for row in left]


def _equals(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(_plain(found[name]) == value for name, value in wanted.items())


def _plain(value: Any) -> Any:
    return in_utc(value) if isinstance(value, datetime) else value


def _text(value: Any) -> str | None:
    if isinstance(value, datetime):
        return in_utc(value).isoformat().replace("+00:00", "Z")
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def compare_quarantine(
    expected: Sequence[QuarantinedRow], actual: Sequence[tuple[int, int, Sequence[str]]]
) -> list[Difference]:
    """How quarantine differs; actual rows are (place of the batch from 1, record, rules)."""
    wanted = Counter((row.batch, row.record, tuple(sorted(row.rules))) for row in expected)
    found = Counter((batch, record, tuple(sorted(rules))) for batch, record, rules in actual)
    kinds = (("missing", wanted - found), ("unexpected", found - wanted))
    return [
        Difference(kind, f"batch {batch}, record {record}: {', '.join(rules)}")
        for kind, rows in kinds
        for batch, record, rules in sorted(rows.elements())
    ]


def _csv(contract: Contract, rows: Sequence[Row]) -> bytes:
    """A CSV file: the contract's columns first, then others; a column that no row has is missing from the file."""
    present = list(dict.fromkeys(name for row in rows for name in row))
    header = [name for name in contract.source.columns if name in present]
    header += [name for name in present if name not in header]
    options, text = contract.source.csv, io.StringIO()
    writer = csv.writer(text, delimiter=options.delimiter, quotechar=options.quote, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if row.get(name) is None else row[name] for name in header] for row in rows])
    return text.getvalue().encode(options.encoding)
