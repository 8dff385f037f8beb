"""Great Expectations judges what was counted.

Its own engines look at the data once or more for every expectation: 11 to 26 Spark jobs for ten rules. Our engine
counts all rules of a table in the one pass that splits its rows; here the expectations get these counts as their
metrics, and say what they say. No value of a row comes near them, and so none into a result, a page or a message.

Great Expectations takes seconds to import, and is imported when it is first needed.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from lakehouse.contracts.model import Contract
from lakehouse.quality.suite import STATUS, Expected, suite

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # it would report its use over the network
logging.getLogger("great_expectations").setLevel(logging.WARNING)

_IMPORTING = Lock()
_FORMAT = {"result_format": {"result_format": "BASIC", "partial_unexpected_count": 0}}
_NOT_NULL = "expect_column_values_to_not_be_null"
_NULLS = "column_values.nonnull.unexpected_count"


@dataclass(frozen=True)
class Tally:
    """What was counted for a rule: rows that it looked at, and those of them that fail it."""

    checked: int
    failed: int


@dataclass(frozen=True)
class Judged:
    """What Great Expectations says of a rule."""

    expected: Expected
    tally: Tally
    result: ExpectationValidationResult

    @property
    def success(self) -> bool:
        """Whether the expectation is met."""
        return bool(self.result.success)


def prepare() -> None:
    """Import Great Expectations, whole: to a thread that comes while another one imports it, its parts look done."""
    with _IMPORTING:
        importlib.import_module("great_expectations.expectations.core")


def judge(asked: Sequence[Expected], tallies: Mapping[str, Tally]) -> list[Judged]:
    """What each expectation says of the rows that were counted for its rule; a rule without a tally saw no rows."""
    return [_judge(expected, tallies.get(expected.rule, Tally(0, 0))) for expected in asked]


def expectation(expected: Expected) -> Expectation:
    """The expectation itself, as Great Expectations has it."""
    prepare()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.metadata_types import FailureSeverity
    from great_expectations.expectations.row_conditions import Column

    meta = {"rule": expected.rule, "dimension": expected.dimension, "scope": expected.scope, "level": expected.level}
    made = ExpectationConfiguration(
        type=expected.type,
        kwargs={**expected.arguments, **({"row_condition": Column(STATUS) == "good"} if expected.only_good else {})},
        meta={**meta, "notes": expected.words},
        description=expected.words,
        severity=FailureSeverity.CRITICAL if expected.level == "error" else FailureSeverity.WARNING,
    )
    return made.to_domain_obj()


def suite_json(contract: Contract, name: str) -> dict[str, Any]:
    """The suite of one of the contract's tables, as Great Expectations writes it; the gate's own counts left out."""
    from great_expectations.core import ExpectationSuite

    asked = [expectation(each) for each in suite(contract, name) if each.scope != "table"]
    return dict(ExpectationSuite(str(contract.silver_table(name)), expectations=asked).to_json_dict())


def _judge(expected: Expected, tally: Tally) -> Judged:
    about = expectation(expected)
    wanted = about.get_validation_dependencies(execution_engine=None, runtime_configuration=dict(_FORMAT))
    metrics = {metric.id: _metric(expected.type, name, tally) for name, metric in wanted.metric_configurations.items()}
    return Judged(expected, tally, about.metrics_validate(metrics, runtime_configuration=dict(_FORMAT)))


def _metric(kind: str, name: str, tally: Tally) -> Any:
    """A metric by its name. Rows that a rule passes because a value is null count as rows that pass."""
    if name == _NULLS and kind != _NOT_NULL:
        return 0
    if name.endswith("row_count") and not name.startswith("unexpected_rows_query"):
        return tally.checked
    if name.endswith(("unexpected_count", "unexpected_rows_query.row_count")):
        return tally.failed
    return []
