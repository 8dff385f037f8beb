"""A table with the row rules of an earlier contract: what a replay judges rows by, beside the rules of today."""

from __future__ import annotations

from typing import Any

from lakehouse.contracts.model import Contract, Table

_OF_COLUMN = ("nullable", "valid")
_OF_TABLE = ("rules", "future_allowance")


def judged_as(contract: Contract, name: str, before: Table) -> Table:
    """One of the contract's tables, with all that decides about good rows as an earlier contract said it.

    Columns that the earlier one did not have are not judged. The columns that both have must be of the same types.
    """
    raw = contract.dump()["tables"][name]
    former = before.model_dump(mode="json", exclude_defaults=True)
    known = former["columns"] | former.get("order", {})
    for part in ("columns", "order"):
        for column, spec in raw.get(part, {}).items():
            _take_over(spec, known.get(column, {}), _OF_COLUMN)
    _take_over(raw, former, _OF_TABLE)
    return Table.model_validate(raw)


def _take_over(spec: dict[str, Any], former: dict[str, Any], fields: tuple[str, ...]) -> None:
    for field in fields:
        spec.pop(field, None)
        if field in former:
            spec[field] = former[field]
