"""The programs under ``spark_jobs/``: a JVM starts only where metadata and logs say that something is to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from spark_jobs import bronze, dataset, gold, run, silver

from lakehouse.core.settings import Settings
from lakehouse.engine import job
from lakehouse.engine.job import Program
from lakehouse.engine.run import RunResult

MODULES = (bronze, silver, dataset, gold, run)
PROGRAMS = {module.PROGRAM.name: module.PROGRAM for module in MODULES}
PREDICATES = ("bronze_is_current", "dataset_is_current", "gold_is_current")


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of sessions that were started. They are no Spark sessions: what runs in them is replaced too."""
    started: list[str] = []

    @contextmanager
    def session(settings: Settings, name: str, *, is_short: bool) -> Iterator[None]:
        started.append(name)
        yield

    monkeypatch.setattr(job, "session", session)
    monkeypatch.setattr(job, "is_little", lambda *_: True)
    monkeypatch.setattr(job, "load_settings", Settings)
    monkeypatch.setattr(job, "held_by_rules", lambda *_: [])
    monkeypatch.setattr(job, "open_catalog", lambda _: None)
    monkeypatch.setattr(job.ObjectStore, "open", lambda _: None)
    return started


def say(monkeypatch: pytest.MonkeyPatch, **answers: bool) -> None:
    def answering(predicate: str) -> Callable[..., bool]:
        return lambda *_: answers.get(predicate, True)

    for predicate in PREDICATES:
        monkeypatch.setattr(job, predicate, answering(predicate))


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_starts_where_nothing_is_to_do(
    name: str, sessions: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch)
    assert PROGRAMS[name].run([]) == 0
    assert json.loads(capsys.readouterr().out) == {"tables": [], "errors": [], "held": []}
    assert sessions == []


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        ("bronze", "bronze_is_current"),
        ("silver", "dataset_is_current"),
        ("dataset", "dataset_is_current"),
        ("gold", "gold_is_current"),
        ("run", "dataset_is_current"),
        ("run", "gold_is_current"),
    ],
)
def test_a_session_starts_where_something_is_to_do(
    name: str, stale: str, sessions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, **{stale: False})
    done: list[Any] = []
    program = PROGRAMS[name]
    verb = Program(name, "", lambda *given: done.append(given) or RunResult([], []), program.concerns)  # type: ignore[func-returns-value]
    assert verb.run([]) == 0
    assert (sessions, len(done)) == ([f"lakehouse {name}"], 1)


def test_only_the_whole_run_makes_marts(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[list[str]] = []
    for module in (dataset, run):
        monkeypatch.setattr(module, "run_waiting", lambda lake, contracts, names, *_: waiting.append(list(names)))
        module.PROGRAM.verb(cast(Any, None), [cast(Any, SimpleNamespace(name="crm.catalogue"))], None)
    assert waiting == [["crm.catalogue"], ["crm.catalogue", "gold"]]
