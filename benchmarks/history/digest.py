"""One digest for every contestant's table, by a program that belongs to none of them: DuckDB over exported Parquet.

python digest.py FOLDER            runs in the peers' environment; prints rows, open rows and the digest as JSON
"""

from __future__ import annotations

import json
import sys

import duckdb
from columns import COLUMNS, TYPES

_HISTORY = {"effective_from": "TIMESTAMPTZ", "effective_to": "TIMESTAMPTZ", "is_current": "BOOLEAN"}


def _canonical(name: str, kind: str) -> str:
    """The text of a value; null and empty differ, and a moment is a number, whatever zone it was written in."""
    return f"epoch_us({name})" if kind == "TIMESTAMPTZ" else f"CAST(CAST({name} AS {kind}) AS VARCHAR)"


def digest(folder: str) -> dict[str, str | int]:
    """Rows, open rows, and the sum of the rows' hashes: the same whatever the order of rows."""
    types = {name: TYPES.get(name, "VARCHAR") for name in COLUMNS} | _HISTORY
    fields = ", ".join(f"{name} := {_canonical(name, kind)}" for name, kind in types.items())
    lanes = [f"sum(CAST('0x' || substr(h, {1 + 15 * i}, 15) AS HUGEINT))" for i in range(2)]
    connection = duckdb.connect()
    (found,) = connection.sql(
        f"SELECT count(*), count_if(is_current), {', '.join(lanes)} FROM "
        f"(SELECT is_current, md5(CAST(to_json(struct_pack({fields})) AS VARCHAR)) AS h "
        f"FROM read_parquet('{folder}/*.parquet'))"
    ).fetchall()
    return {"rows": found[0], "open": found[1], "digest": f"{found[2]:x}-{found[3]:x}"}


if __name__ == "__main__":
    print(json.dumps(digest(sys.argv[1])))
