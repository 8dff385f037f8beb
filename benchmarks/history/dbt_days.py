"""The real days as a dbt snapshot sees them: one run a day, with the last line of each key in that day's file.

    python dbt_days.py warm FOLDER DATA ORDER.json    all days in one process; prints seconds as JSON
    python dbt_days.py project FOLDER                 the dbt project alone, for runs in processes of their own
    python dbt_days.py wrong KEY TRUTH FOUND          keys whose versions differ between two Parquet files
    python dbt_days.py truth FOLDER DATA              the versions that days in order make, without dbt

Runs in the peers' environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
from dbt_duckdb import close_database, point, run_snapshot, variables, write_project

KEYS = {"dim_customer": "customer_id", "dim_product": "stock_code"}
VALUES = {"dim_customer": "country", "dim_product": "description"}
_READ = "read_csv({files}, header = true, delim = ',', quote = '\"', escape = '\"', all_varchar = true{more})"
_AT = "strptime(InvoiceDate, '%Y-%m-%d %H:%M:%S')"
_LINES = {
    "dim_customer": """
SELECT regexp_replace(trim(CustomerID), '[.]0$', '') AS customer_id, trim(Country) AS country, {at} AS changed_at,
       trim(InvoiceNo) AS invoice, {day} AS day
FROM {read} WHERE CustomerID IS NOT NULL AND Country IS NOT NULL""",
    "dim_product": """
SELECT trim(StockCode) AS stock_code, trim(Description) AS description, {at} AS changed_at, trim(InvoiceNo) AS invoice,
       {day} AS day
FROM {read} WHERE Description IS NOT NULL AND NOT (CustomerID IS NULL AND CAST(UnitPrice AS DECIMAL(18,4)) = 0)""",
}
# Equal times are decided by the invoice, as the contract says, and what is left of a tie by the text.
_LAST = """
SELECT {key}, {value}, changed_at, day FROM ({lines})
QUALIFY row_number() OVER (PARTITION BY {key}, day ORDER BY changed_at DESC, invoice DESC, {value} DESC) = 1"""
_SNAPSHOT = """\
{{% snapshot {name} %}}
{{{{ config(unique_key='{key}', strategy='check', check_cols=['{value}'], updated_at='changed_at') }}}}
{select}
{{% endsnapshot %}}
"""


def last_of_day(table: str, files: str, day: str, more: str = "") -> str:
    """SQL for the last line of each key in each day."""
    lines = _LINES[table].format(at=_AT, day=day, read=_READ.format(files=files, more=more))
    return _LAST.format(key=KEYS[table], value=VALUES[table], lines=lines)


def make_project(folder: Path) -> None:
    """The two snapshots over the file of a day."""
    for table, key in KEYS.items():
        select = last_of_day(table, "'{{ env_var(\"HISTORY_FILE\") }}'", day="0")
        text = _SNAPSHOT.format(name=table, key=key, value=VALUES[table], select=select)
        write_project(folder, {f"snapshots/{table}.sql": text})


def warm(folder: Path, data: Path, order: list[str]) -> dict[str, Any]:
    """All days, one run of dbt each, in this process; then both tables as Parquet."""
    make_project(folder)
    database, arrived = folder / "history.duckdb", folder / "arrived.csv"
    database.unlink(missing_ok=True)
    os.environ |= variables(database, arrived)
    started, days = time.perf_counter(), []
    for name in order:
        before = time.perf_counter()
        point(arrived, data / name)
        run_snapshot(folder)
        days.append(time.perf_counter() - before)
    close_database()
    seconds = time.perf_counter() - started
    export(database, folder)
    return {"wall_seconds": seconds, "days": days}


def export(database: Path, folder: Path) -> None:
    """Both histories as Parquet: key, value, from, to."""
    with duckdb.connect(database, read_only=True) as connection:
        for table, key in KEYS.items():
            columns = f"{key}, {VALUES[table]}, dbt_valid_from AS effective_from, dbt_valid_to AS effective_to"
            connection.sql(f"COPY (SELECT {columns} FROM {table}) TO '{folder}/{table}.parquet'")


def truth(folder: Path, data: Path) -> None:
    """What the days make in order: neighbours with equal values are one version."""
    for table, key in KEYS.items():
        value = VALUES[table]
        select = last_of_day(table, f"'{data}/*.csv'", day="filename", more=", filename = true")
        versions = f"""
SELECT {key}, {value}, changed_at AS effective_from, lead(changed_at) OVER w AS effective_to FROM
(SELECT *, lag({value}) OVER (PARTITION BY {key} ORDER BY changed_at) AS before FROM ({select}))
WHERE before IS DISTINCT FROM {value} WINDOW w AS (PARTITION BY {key} ORDER BY changed_at)"""
        duckdb.connect().sql(f"COPY ({versions}) TO '{folder}/{table}.parquet'")


def wrong(key: str, expected: str, found: str) -> dict[str, int]:
    """How many keys have other versions than expected, of how many; and how many of them stand wrong today."""
    value = next(VALUES[table] for table in KEYS if KEYS[table] == key)
    sides = [
        f"(SELECT {key}, list(r ORDER BY r.effective_from, CAST(r AS VARCHAR)) AS versions, "
        f"list(r.{value} ORDER BY r.{value}) FILTER (r.effective_to IS NULL) AS today "
        f"FROM (SELECT {key}, r FROM read_parquet('{path}') r) GROUP BY {key}) {alias}"
        for alias, path in (("expected", expected), ("found", found))
    ]
    counted = (
        "SELECT count(*), count_if(expected.versions IS DISTINCT FROM found.versions), "
        "count_if(expected.today IS DISTINCT FROM found.today) "
        f"FROM {' FULL JOIN '.join(sides)} USING ({key})"
    )
    ((keys, differing, today),) = duckdb.connect().sql(counted).fetchall()
    return {"keys": keys, "wrong": differing, "wrong_today": today}


def main() -> None:
    command, *arguments = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # dbt prints to standard output
    found: Any = {}
    if command == "warm":
        folder, data, order = map(Path, arguments)
        found = warm(folder, data, json.loads(order.read_text()))
    elif command == "project":
        make_project(Path(arguments[0]))
    elif command == "truth":
        truth(*map(Path, arguments))
    else:
        found = wrong(*arguments)
    print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
