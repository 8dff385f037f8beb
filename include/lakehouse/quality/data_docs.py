"""Data Docs: Great Expectations' site of suites and results, made anew from what ``ops.quality_results`` recorded.

Results hold counts and the contract's words, never a value of a row: there is nothing to mask.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.quality.expectations import Tally, expectation, judge
from lakehouse.quality.history import Finding

if TYPE_CHECKING:
    from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext

SITE = "lakehouse"


def build_site(findings: Sequence[Finding], folder: Path, most_runs: int) -> Path:
    """Write the site of the newest attempts of each table, replacing what is in ``folder``; returns its first page."""
    import great_expectations as gx

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    context = gx.get_context(mode="ephemeral")
    for site in context.get_site_names():
        context.delete_data_docs_site(site)
    context.add_data_docs_site(SITE, _site(folder))
    for table in sorted({finding.table for finding in findings}):
        of_table = [finding for finding in findings if finding.table == table]
        attempts = list(dict.fromkeys(finding.attempt for finding in of_table))[:most_runs]
        context.suites.add(gx.ExpectationSuite(table, expectations=_suite(of_table, attempts[0])))
        for attempt in attempts:
            _add(context, table, [finding for finding in of_table if finding.attempt == attempt])
    context.build_data_docs()
    return folder / "index.html"


def _site(folder: Path) -> Any:
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": store,
        "site_index_builder": index,
    }


def _suite(findings: Iterable[Finding], attempt: str) -> list[Any]:
    return [expectation(each.expected) for each in findings if each.attempt == attempt]


def _add(context: EphemeralDataContext, table: str, findings: Sequence[Finding]) -> None:
    """Store an attempt's results as a validation of the table's suite."""
    from great_expectations.core import ExpectationSuiteValidationResult, RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    judged = judge(
        [each.expected for each in findings],
        {each.expected.rule: Tally(each.checked, each.failed) for each in findings},
    )
    one = findings[0]
    met = sum(each.success for each in judged)
    units = str(one.first_unit) if one.first_unit == one.last_unit else f"{one.first_unit} to {one.last_unit}"
    result = ExpectationSuiteValidationResult(
        success=all(each.success for each in judged),
        results=[each.result for each in judged],
        suite_name=table,
        statistics={
            "evaluated_expectations": len(judged),
            "successful_expectations": met,
            "unsuccessful_expectations": len(judged) - met,
            "success_percent": 100 * met / len(judged),
        },
        meta={
            "run_id": RunIdentifier(run_name=one.attempt, run_time=one.at),
            "batch_spec": {},
            "active_batch_definition": {"units": units, "batches": max(each.batches for each in findings)},
        },
    )
    key = ValidationResultIdentifier(
        expectation_suite_identifier=ExpectationSuiteIdentifier(table),
        run_id=RunIdentifier(run_name=one.attempt, run_time=one.at),
        batch_identifier=units.replace(" ", "-"),
    )
    context.validation_results_store.add(key, result)
