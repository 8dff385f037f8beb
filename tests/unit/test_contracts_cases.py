"""Cases: their format, the problems they can have, and the comparison with a table's rows."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lakehouse.contracts.cases import (
    CaseBatch,
    QuarantinedRow,
    cases_path,
    check_cases,
    compare,
    compare_quarantine,
    load_cases,
    row_types,
)
from lakehouse.contracts.load import contract_files, load_contract
from lakehouse.contracts.model import Contract
from lakehouse.core.errors import ContractError
from lakehouse.core.settings import PROJECT_ROOT

CONTRACTS = PROJECT_ROOT / "include" / "contracts"

CASES = """\
format: 1
cases:
  - name: one line
    batches:
      - unit: "2024-06-01"
        rows:
          - {InvoiceNo: 1, Quantity: "2", Country: null}
    expect:
      rejected: 0
      tables:
        fact_sales_line:
          - {invoice_no: "1", quantity: 2, unit_price: "2.50", invoice_at: "2024-06-01T08:00:00Z"}
      quarantine:
        fact_sales_line:
          - {record: 1, rules: [quantity_type]}
"""


@pytest.fixture(scope="module")
def sales() -> Contract:
    return load_contract(CONTRACTS / "retail" / "sales.yaml")


def test_every_contract_has_cases_that_read() -> None:
    files = contract_files(CONTRACTS)
    assert len(files) >= 3
    for path in files:
        contract = load_contract(path)
        cases = load_cases(cases_path(path), contract)
        assert len(cases) >= 4
        assert all(case.expect.tables for case in cases)
        named = {table for case in cases for table in case.expect.tables}
        assert named == set(contract.tables)


WRONG = [
    ("format: 1", "format: 2", "1: format"),
    ("unit:", "units:", "5: cases.0.batches.0.units: is not a field"),
    ('"2024-06-01"\n', "yesterday\n", "5: cases.0.batches.0.unit"),
    (
        "fact_sales_line:\n          - {inv",
        "fact_sale:\n          - {inv",
        "11: cases.0.expect.tables.fact_sale: is no table",
    ),
    ("quantity: 2", "quantities: 2", "12: cases.0.expect.tables.fact_sales_line.0.quantities: is no column"),
    ("quantity: 2", "quantity: two", "'two' is no int"),
    ('"2.50"', "2.50", "write 2.5 in quotes"),
    ('"2024-06-01T08:00:00Z"', "2024-06-01", "write 2024-06-01 in quotes"),
    (
        "[quantity_type]",
        "[quantity_typ]",
        "15: cases.0.expect.quarantine.fact_sales_line.0.rules: 'quantity_typ' is no",
    ),
    ("[quantity_type]", "[description_stated]", "is no error rule"),
    ("{record: 1,", "{record: 1, batch: 2,", "batch: there are 1 batches"),
    ("        rows:\n", '        lines: "x"\n        rows:\n', "has lines or rows, not both"),
]


@pytest.mark.parametrize(("good", "bad", "told"), WRONG)
def test_problem_is_told_with_its_line(tmp_path: Path, sales: Contract, good: str, bad: str, told: str) -> None:
    path = tmp_path / "sales.cases.yaml"
    path.write_text(CASES)
    assert check_cases(path, sales) == []
    assert good in CASES
    path.write_text(CASES.replace(good, bad, 1))
    found = [f"{problem.line}: {problem.field}: {problem.message}" for problem in check_cases(path, sales)]
    assert any(told in problem for problem in found), found
    with pytest.raises(ContractError, match=r"sales\.cases\.yaml"):
        load_cases(path, sales)


def test_two_cases_of_one_name(tmp_path: Path, sales: Contract) -> None:
    path = tmp_path / "sales.cases.yaml"
    path.write_text(CASES + CASES.split("cases:\n")[1])
    assert ["stands twice" in problem.message for problem in check_cases(path, sales)] == [True]


def test_the_file_that_a_batch_lands(sales: Contract) -> None:
    rows = [{"Country": "Ü,k", "InvoiceNo": "1"}, {"InvoiceNo": "2", "New": "x"}]
    batch = CaseBatch.model_validate({"unit": "2024-06-01", "rows": rows})
    assert batch.content(sales).decode() == 'InvoiceNo,Country,New\n1,"Ü,k",\n2,,x\n'
    assert batch.landed == datetime(2024, 6, 2, tzinfo=UTC)
    raw = CaseBatch.model_validate({"unit": "2024-06-01", "lines": "broken", "landed_at": "2024-06-05T01:00:00+01:00"})
    assert (raw.content(sales), raw.landed) == (b"broken", datetime(2024, 6, 5, tzinfo=UTC))


def test_json_rows_keep_missing_and_null_apart() -> None:
    feed = load_contract(CONTRACTS / "crm" / "customers.yaml")
    batch = CaseBatch.model_validate({"unit": "2024-06-01", "rows": [{"customer_id": 7, "city": None}, {"phone": "ü"}]})
    assert batch.content(feed).decode() == '{"customer_id": "7", "city": null}\n{"phone": "ü"}\n'


def _row(**values: Any) -> dict[str, Any]:
    return {"invoice_no": "1", "amount": Decimal("2.5000"), "invoice_at": datetime(2024, 6, 1, 8), **values}


def test_comparison_is_by_value_and_whatever_the_order(sales: Contract) -> None:
    table = sales.tables["fact_sales_line"]
    expected = [{"invoice_no": "1", "amount": "2.5"}, {"invoice_no": "2", "invoice_at": "2024-06-01T10:00:00+02:00"}]
    assert compare(table, expected, [_row(invoice_no="2"), _row()]) == []
    assert compare(table, [], []) == []


def test_comparison_tells_missing_and_unexpected_rows(sales: Contract) -> None:
    table = sales.tables["fact_sales_line"]
    found = compare(table, [{"invoice_no": "1", "amount": "2.51"}], [_row(), _row()])
    assert [difference.kind for difference in found] == ["missing", "unexpected", "unexpected"]
    assert "'amount': '2.5000'" in found[1].row
    assert compare(table, [], [_row()])[0].kind == "unexpected"
    assert compare(table, [{"invoice_no": "1"}, {"invoice_no": "1"}], [_row()])[0].kind == "missing"
    null = compare(table, [{"invoice_no": None}], [_row()])
    assert [difference.kind for difference in null] == ["missing", "unexpected"]


def test_a_row_that_names_more_columns_is_matched_first(sales: Contract) -> None:
    table = sales.tables["fact_sales_line"]
    expected = [{"invoice_no": "1"}, {"invoice_no": "1", "amount": "2.5"}]
    assert compare(table, expected, [_row(), _row(amount=Decimal(9))]) == []


def test_quarantine_is_compared_by_record_and_rules() -> None:
    expected = [QuarantinedRow(record=1, rules=("b", "a")), QuarantinedRow(batch=2, record=1, rules=("a",))]
    assert compare_quarantine(expected, [(2, 1, ["a"]), (1, 1, ["a", "b"])]) == []
    found = compare_quarantine(expected, [(1, 1, ["a"]), (2, 1, ["a"])])
    assert [(one.kind, one.row) for one in found] == [
        ("missing", "batch 1, record 1: a, b"),
        ("unexpected", "batch 1, record 1: a"),
    ]


def test_columns_that_a_case_may_name(sales: Contract) -> None:
    assert str(row_types(sales.tables["fact_sales_line"])["occurrence"]) == "int"
    catalogue = load_contract(CONTRACTS / "crm" / "catalogue.yaml")
    types = row_types(catalogue.tables["dim_catalogue_product"])
    assert {"effective_from", "previous_supplier", "is_current"} <= set(types)
    assert "_unit" not in types


def test_the_documented_example_is_right(tmp_path: Path) -> None:
    text = (PROJECT_ROOT / "docs" / "contracts.md").read_text("utf-8")
    contract_text, cases_text = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "warehouse" / "counts.yaml"
    path.parent.mkdir()
    path.write_text(contract_text, "utf-8")
    cases_path(path).write_text(cases_text, "utf-8")
    contract = load_contract(path)
    cases = load_cases(cases_path(path), contract)
    assert [batch.unit for batch in cases[0].batches] == [date(2024, 6, 1), date(2024, 6, 2)]
    assert (
        cases[0].batches[0].content(contract).decode().splitlines()[0]
        == "Warehouse;Manager;Article Code;Counted;Counted At"
    )
