"""A changed row rule that concerns one of the real days: what a replay costs, beside a rebuild of the same table.

    .venv/bin/python benchmarks/replay_day.py --data ../shared/data/online-retail/by-day

Each is one command with a session of its own, on a fresh local stack that has all days. The replay changes the rule for
one day; the rebuild then changes it for another.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml
from real_days import LAKEHOUSE, measure

CONTRACTS = Path(__file__).parents[1] / "include" / "contracts"
COUNTRY = {"fact_sales_line": "sales_date", "dim_customer": "CAST(invoice_at AS date)"}
DAYS = {"replay": "2011-03-15", "rebuild": "2011-06-15"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the daily files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakehouse-benchmark-", ignore_cleanup_errors=True) as scratch:
        os.chmod(scratch, 0o711)  # noqa: S103 - PostgreSQL runs as another account when started by root
        contracts = Path(scratch, "contracts")
        shutil.copytree(CONTRACTS, contracts)
        environment = {**os.environ, "LAKEHOUSE_HOME": scratch, "LAKEHOUSE_CONTRACTS": str(contracts)}
        subprocess.run([LAKEHOUSE, "up"], env=environment, check=True)
        try:
            _take(Path(options.data).resolve(), environment)
            _compare(contracts / "retail" / "sales.yaml", environment)
        finally:
            subprocess.run([LAKEHOUSE, "down"], env=environment, check=True)


def _take(data: Path, environment: dict[str, str]) -> None:
    for arguments in (["land", "retail.sales", "--root", str(data)], ["run", "retail.sales", "--no-gold"]):
        subprocess.run([LAKEHOUSE, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)


def _compare(contract: Path, environment: dict[str, str]) -> None:
    print(f"{'command':36}{'wall s':>9}{'cpu s':>9}{'peak MB':>9}  rows that come in, go out or change")
    for table in COUNTRY:
        for command, day in DAYS.items():
            _forbid(contract, table, day)
            measured = measure([LAKEHOUSE, command, f"silver.{table}", "--yes", "--json"], environment)
            print(
                f"{command + ' ' + table:36}{measured.wall_seconds:9.1f}{measured.cpu_seconds:9.1f}"
                f"{measured.peak_bytes / 1e6:9.0f}  {_concerned(json.loads(measured.output))}",
                flush=True,
            )


def _forbid(contract: Path, table: str, day: str) -> None:
    """The table's contract with a rule that refuses the British lines of one day."""
    raw = yaml.safe_load(contract.read_text("utf-8"))
    check = f"{COUNTRY[table]} <> DATE '{day}' OR country <> 'United Kingdom'"
    rules = [rule for rule in raw["tables"][table].get("rules", ()) if rule["name"] != "not_that_day"]
    raw["tables"][table]["rules"] = [*rules, {"name": "not_that_day", "check": check, "description": "A made-up rule."}]
    contract.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")


def _concerned(told: dict[str, dict[str, int]]) -> int:
    if "verdicts" in told:
        return told["verdicts"]["coming"] + told["verdicts"]["going"]
    return sum(told["difference"][each] for each in ("added", "removed", "changed"))


if __name__ == "__main__":
    main()
