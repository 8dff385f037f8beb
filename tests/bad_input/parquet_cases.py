"""Bad input in Parquet files."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa
from tests.bad_input.making import (
    TYPED,
    flipped,
    good_csv,
    good_parquet,
    gz,
    parquet_of,
    table_of,
)
from tests.bad_input.model import Case, Rejected

_case = partial(Case, "rows")


def _columns(title: str, good: int = 2, rules: dict[int, tuple[str, ...]] | None = None, **changes: Any) -> Case:
    """A file with other columns: what becomes of extra and missing ones follows from their names."""
    extra = frozenset(changes.keys() - TYPED.keys())
    missing = frozenset(name for name, column in changes.items() if column is None)
    return _case(title, lambda: parquet_of(table_of(**changes)), good, rules or {}, extra=extra, missing=missing)


def _refused(title: str, data: bytes, reason: str, **more: Any) -> Case:
    return _case(title, lambda: data, rejected=(Rejected(1, None, f"the file cannot be read on, {reason}"),), **more)


def _data_damaged() -> bytes:
    """A byte of a text is turned round; the page has a checksum."""
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    whole = parquet_of(table_of(note=["x" * 100, "y" * 100]), write_page_checksum=True, **options)
    return flipped(whole, whole.index(b"x" * 100))


def _twice() -> bytes:
    table = table_of()
    return parquet_of(pa.Table.from_arrays([*table.columns, table["id"]], names=[*table.column_names, "id"]))


_FAR = pa.array([2**62, 0], pa.int64()).view(pa.timestamp("us"))
_WHOLE = good_parquet()
_MANY = {f"c{at}": [at, at] for at in range(9_993)}

PARQUET = [
    _case("sound", good_parquet, 2),
    _case("empty file", lambda: b""),
    _case("no rows", lambda: parquet_of(table_of().slice(0, 0))),
    _refused("cut in the middle", _WHOLE[: len(_WHOLE) // 2], "it is damaged or no Parquet"),
    _refused("cut at its last byte", _WHOLE[:-1], "it is damaged or no Parquet"),
    _refused("damaged footer", flipped(_WHOLE, len(_WHOLE) - 7), "it is damaged or no Parquet"),
    _refused("damaged page with a checksum", _data_damaged(), "it is damaged or no Parquet"),
    _refused("CSV named .parquet", good_csv(), "it is damaged or no Parquet"),
    _refused("gzip named .parquet", gz(_WHOLE), "it is damaged or no Parquet"),
    _case("in gzip", lambda: gz(_WHOLE), 2, packed=".gz"),
    _refused("in gzip, cut in the middle", gz(_WHOLE)[:-500], "the gzip data end too early", packed=".gz"),
    _refused("none of the columns", parquet_of(pa.table({"x": [1]})), "it has none of the contract's columns"),
    _refused("column twice", _twice(), "it has the column id more than once"),
    _columns("column added", new=["x", "y"]),
    _columns("column dropped", note=None),
    _columns("column renamed", note=None, remark=["x", "y"]),
    _columns("column in other case", note=None, Note=["x", "y"]),
    _case("columns reordered", lambda: parquet_of(table_of().select(list(reversed(TYPED)))), 2),
    _case("10,000 columns", lambda: parquet_of(table_of(**_MANY)), 2, extra=9_993),
    _columns("type widened: values fit", quantity=pa.array([1, 2], pa.int64())),
    _columns("type widened: a value does not fit", 1, {2: ("quantity_type",)}, quantity=pa.array([1, 3 * 10**9])),
    _columns("type narrowed", quantity=pa.array([1, 2], pa.int8()), ratio=pa.array([0.5, 0.5], pa.float32())),
    _columns("type changed to text", 1, {2: ("quantity_type",)}, quantity=["1", "many"]),
    _columns("decimal overflow", 1, {2: ("amount_type",)}, amount=[Decimal("1.50"), Decimal("123456789.00")]),
    _columns("NaN and infinity in a double", ratio=[float("nan"), float("-inf")]),
    _columns("NaN in a decimal", 1, {2: ("amount_type",)}, amount=[1.5, float("nan")]),
    _columns("years 0001 and 9999", day=[date(1, 1, 1), date(9999, 12, 31)],
             happened_at=[datetime(1, 1, 1), datetime(9999, 12, 31)]),
    _columns("a timestamp in the year 148107", 1, {1: ("happened_at_type",)}, happened_at=_FAR),
    _columns("a timestamp in the year 148107, nested", note=pa.ListArray.from_arrays([0, 1, 2], _FAR)),
    _columns("nested values", note=[{"a": [1, None]}, None]),
    _case(
        "bytes that are not UTF-8",
        lambda: parquet_of(table_of(note=[b"caf\xe9", b"fine"])),
        1,
        rejected=(Rejected(1, None, "record 1: the value of note is not UTF-8"),),
    ),
    _case(
        "field of 100 MB, not compressible",
        lambda: parquet_of(table_of(note=["x" * 100_000_000, "fine"]), compression="none", use_dictionary=False),
        1,
        rejected=(Rejected(1, None, "record 1: it is longer than 1048576 bytes; only the first"),),
    ),
    _case(
        "a bomb: a page of 400 MB in 20 kB",
        lambda: parquet_of(table_of(note=["x" * 400_000_000, "y"]), compression="zstd", use_dictionary=False),
        rejected=(Rejected(1, None, "it is a decompression bomb"),),
    ),
    _case("every row poisoned", lambda: parquet_of(table_of(quantity=[-1, -2])), 0,
          {1: ("quantity_not_negative",), 2: ("quantity_not_negative",)}),
]  # fmt: skip
