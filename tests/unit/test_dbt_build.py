"""What dbt's answer becomes: an error of the marts, a failed gate, or an interrupt that goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dbt.cli.main import dbtRunner

from lakehouse.core.errors import GateFailed, LakehouseError
from lakehouse.core.settings import Settings
from lakehouse.engine.dbt_build import MartsBroken, _invoke, _session_of_dbt


def answer(*results: tuple[str, str, str], exception: BaseException | None = None) -> Any:
    nodes = [
        SimpleNamespace(status=s, message=m, node=SimpleNamespace(name=n, original_file_path=f"{n}.sql"))
        for n, s, m in results
    ]
    return SimpleNamespace(success=False, exception=exception, result=SimpleNamespace(results=nodes))


def raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: Any) -> BaseException:
    monkeypatch.setattr(dbtRunner, "invoke", lambda *_: given)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the caller looks at its type
        _invoke(Settings(home=tmp_path), ["build"])
    return caught.value


def test_a_failed_test_is_the_gate_and_an_error_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed, broken = (
        ("unique_star", "fail", "Got 3 results"),
        ("star", "error", "Runtime Error in star\n  no column x\n  at Y"),
    )
    gate = raised(monkeypatch, tmp_path, answer(("a", "pass", ""), failed, ("b", "skipped", "")))
    assert type(gate) is GateFailed and "unique_star: Got 3 results" in str(gate)
    error = raised(monkeypatch, tmp_path, answer(failed, broken))
    assert type(error) is MartsBroken and "star: Runtime Error in star no column x" in str(error)


def test_an_answer_without_a_reason_is_no_failed_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert type(raised(monkeypatch, tmp_path, answer())) is MartsBroken


def test_an_interrupt_goes_on_and_an_exception_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interrupt = KeyboardInterrupt()
    assert raised(monkeypatch, tmp_path, answer(exception=interrupt)) is interrupt
    told = raised(monkeypatch, tmp_path, answer(exception=RuntimeError("no such model")))
    assert isinstance(told, LakehouseError) and "no such model" in str(told)


def test_dbt_gets_the_session_of_the_job_for_as_long_as_it_runs() -> None:
    from dbt.adapters.spark import session as adapter

    set_: list[tuple[str, str]] = []
    conf = SimpleNamespace(get=lambda name: "true", set=lambda name, value: set_.append((name, value)))
    spark: Any = SimpleNamespace(conf=conf, sql=lambda text: ("ran", text))
    usual = adapter.SparkSession
    with _session_of_dbt(spark):
        for text in ("SELECT 1", "SELECT 2"):
            cursor = adapter.Cursor(server_side_parameters={"spark.sql.ansi.enabled": "false"})
            cursor.execute(text)
            assert cursor._df == ("ran", text)
    assert adapter.SparkSession is usual
    # Once for dbt, and back again.
    assert set_ == [("spark.sql.ansi.enabled", "false"), ("spark.sql.ansi.enabled", "true")]
