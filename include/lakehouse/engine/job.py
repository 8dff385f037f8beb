"""What the programs under ``spark_jobs/`` share: arguments in, one session, one line of JSON out.

The same reports as ``lakehouse run --json`` prints, and the same exit codes: that of the gravest error, else the one
that says that a rule holds batches back, else 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.errors import BatchesHeld, LakehouseError, SettingsError
from lakehouse.core.settings import Settings, load_settings
from lakehouse.engine.publish import Lake
from lakehouse.engine.report import TableReport
from lakehouse.engine.run import RunResult, is_little
from lakehouse.engine.session import session
from lakehouse.ledger.holds import Hold, held_by_rules
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import open_catalog

Verb = Callable[[Lake, Sequence[Contract], int | None], RunResult]


@dataclass(frozen=True)
class Program:
    """One verb as a program. ``is_bounded``: it knows ``--max-batches``. ``is_judging``: it may hold batches back."""

    name: str
    description: str
    verb: Verb
    is_bounded: bool = False
    is_judging: bool = False

    def run(self, arguments: Sequence[str] | None = None, lake: Lake | None = None) -> int:
        """Do it in a session of its own, or in a lake that is open already; returns the exit code."""
        given = self._parse(arguments)
        held: list[Hold] = []
        try:
            result = self._do(given.sources, given.max_batches, lake)
            held = self._held(given.sources, lake)
        except LakehouseError as refused:
            result = RunResult([], [refused])
        for error in result.errors:
            print(error, file=sys.stderr)
        errors = [{"error": type(error).__name__, "message": str(error)} for error in result.errors]
        tables, holds = [report.to_json() for report in result.reports], [hold.to_json() for hold in held]
        print(json.dumps({"tables": tables, "errors": errors, "held": holds}, default=str))
        return max((error.exit_code for error in result.errors), default=BatchesHeld.exit_code if held else 0)

    def _parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        parser = argparse.ArgumentParser(f"{self.name}.py", description=self.description)
        parser.add_argument("sources", nargs="*", help="contracts, as in retail.sales; default: all")
        parser.set_defaults(max_batches=None)
        if self.is_bounded:
            parser.add_argument("--max-batches", type=_positive, help="most batches of a source in one pass")
        return parser.parse_args(arguments)

    def _held(self, sources: Sequence[str], lake: Lake | None) -> list[Hold]:
        if not self.is_judging:
            return []
        settings = lake.settings if lake else load_settings()
        return held_by_rules(open_catalog(settings), ObjectStore.open(settings), _pick(settings, sources))

    def _do(self, sources: Sequence[str], limit: int | None, lake: Lake | None) -> RunResult:
        settings = lake.settings if lake else load_settings()
        contracts = _pick(settings, sources)
        if lake:
            return self.verb(lake, contracts, limit)
        with session(settings, f"lakehouse {self.name}", is_short=is_little(settings, contracts)) as spark:
            return self.verb(Lake(spark, settings), contracts, limit)


def each(contracts: Iterable[Contract], work: Callable[[Contract], Iterable[TableReport | None]]) -> RunResult:
    """Do some work for each contract. An error of one is kept, and does not stop the others."""
    result = RunResult([], [])
    for contract in contracts:
        try:
            for report in work(contract):
                result.reports += [report] if report else []
        except LakehouseError as error:
            result.errors.append(error)
    return result


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _pick(settings: Settings, sources: Sequence[str]) -> list[Contract]:
    contracts = load_contracts(settings.contracts)
    unknown = sorted(set(sources) - set(contracts))
    if unknown:
        raise SettingsError(f"no contract is called {', '.join(unknown)}", todo=f"use one of {', '.join(contracts)}")
    return [contract for name, contract in contracts.items() if not sources or name in sources]
