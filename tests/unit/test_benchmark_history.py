"""The parts of the benchmark that a wrong figure could hide in: customers, ratios, the accounting of processes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "history"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The benchmark's modules, which know each other by their plain names."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import customers
    import process
    import results

    yield SimpleNamespace(customers=customers, process=process, results=results)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(FOLDER)):
            del sys.modules[name]


def test_a_delta_holds_exactly_what_differs_between_two_snapshots(benchmark: SimpleNamespace) -> None:
    customers = benchmark.customers
    first = customers.base(5_000)
    delta, everybody = customers.following(first, 0.01, 0.002)
    before, after, changes = (_rows(customers, day) for day in (first, everybody, delta))
    assert len(after) == 5_010
    assert {key for key, row in after.items() if row != before.get(key)} == set(changes)
    assert len(changes) == 60
    assert all(after[key] == row for key, row in changes.items())


def test_every_change_goes_to_or_from_null_or_empty(benchmark: SimpleNamespace) -> None:
    customers = benchmark.customers
    day = customers.base(1_000)
    for _ in range(4):
        before = _rows(customers, day)
        delta, day = customers.following(day, 0.1, 0)
        for key, row in _rows(customers, delta).items():
            phones = [before[key][3], row[3]]
            assert phones[0] != phones[1]
            assert None in phones or "" in phones


def test_the_same_customers_whatever_the_chunk(benchmark: SimpleNamespace) -> None:
    customers = benchmark.customers
    day = customers.base(1_000)
    assert customers.rows(day, 0, 1_000).slice(700, 300) == customers.rows(day, 700, 1_000)


def test_ratios_are_of_runs_in_one_repetition(benchmark: SimpleNamespace) -> None:
    session = {
        "runs": [
            {"repetition": 0, "contestant": "a", "cpu_seconds": 1.0, "without_publishing_cpu_seconds": 0.5},
            {"repetition": 0, "contestant": "b", "cpu_seconds": 2.0},
            {"repetition": 1, "contestant": "a", "cpu_seconds": 9.0},
            {"repetition": 2, "contestant": "b", "cpu_seconds": 10.0},
            {"repetition": 2, "contestant": "a", "cpu_seconds": 2.0},
        ]
    }
    sides = benchmark.results.pairs([session, session])
    assert benchmark.results.ratio(sides, "a", "b") == pytest.approx((0.5 + 0.2) / 2)
    assert benchmark.results.ratio(sides, "a without publishing", "b") == 0.25
    assert benchmark.results.ratio(sides, "a", "c") is None


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark measures on Linux only")
def test_an_orphan_that_outlives_its_parent_is_counted(benchmark: SimpleNamespace, tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}])"
    used = benchmark.process.run_cold([sys.executable, "-c", orphan], tmp_path / "log")
    assert used.cpu_seconds >= 0.5


def test_a_command_that_fails_is_not_measured(benchmark: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(benchmark.process.CommandFailed):
        benchmark.process.run_cold([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark measures on Linux only")
def test_a_measurement_that_is_stopped_leaves_nothing_running(benchmark: SimpleNamespace, tmp_path: Path) -> None:
    started = tmp_path / "started"
    sleeper = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(600)"
    arguments = [str(tmp_path / "usage"), "0", sys.executable, "-c", sleeper]
    measuring = psutil.Popen([sys.executable, benchmark.process.__file__, *arguments])
    try:
        while not started.exists():
            assert measuring.poll() is None
        below = measuring.children(recursive=True)
        measuring.terminate()
        assert measuring.wait(timeout=60) == 143
        assert psutil.wait_procs(below, timeout=60)[1] == []
    finally:
        if measuring.poll() is None:
            measuring.kill()


def _rows(customers: object, day: object) -> dict[str, tuple[object, ...]]:
    """A day's rows by key, without the moment that the file speaks of."""
    table = customers.rows(day, 0, len(day.customers)).drop_columns(["changed_at"])  # type: ignore[attr-defined]
    columns = [column.to_pylist() for column in table.columns]
    return {row[0]: row for row in zip(*columns, strict=True)}
