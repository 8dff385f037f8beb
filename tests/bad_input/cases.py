"""All cases of bad input, in the order in which the page shows them."""

from __future__ import annotations

from tests.bad_input import csv_cases, jsonl_cases, parquet_cases
from tests.bad_input.model import Case

GROUPS: dict[str, list[Case]] = {
    "CSV: the shape of the file": csv_cases.SHAPES,
    "CSV: the columns": csv_cases.DRIFT,
    "CSV: values": csv_cases.VALUES,
    "CSV: volume": csv_cases.VOLUMES,
    "Wrongly named": csv_cases.NAMED_WRONGLY,
    "Compression": csv_cases.PACKED,
    "Decompression bombs": csv_cases.BOMBS,
    "Odd names": csv_cases.NAMES,
    "JSON lines": jsonl_cases.JSONL,
    "Parquet": parquet_cases.PARQUET,
}
CASES: list[Case] = [case for group in GROUPS.values() for case in group]
