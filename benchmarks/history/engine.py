"""This engine: a run of one silver table, publishing included, from typed files or from landed ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import psutil
from place import KINDS, Place
from pointer import Pointer
from process import tree_cpu_seconds
from typed_files import TypedSilver, contract, land_stub, table_of

from lakehouse.core.settings import load_settings
from lakehouse.engine import publish as publishing
from lakehouse.engine.publish import Lake
from lakehouse.engine.session import session
from lakehouse.engine.silver import run_silver

# CPU seconds at the protocol's own failpoints tell what publishing costs beside the work that it protects.
_LOCKED, _BRANCHED, _WRITTEN = "publish.locked", "publish.branched", "publish.written"


class Engine:
    """Two tables: one is fed with what changed, the other with full snapshots."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._settings = load_settings(place.home)
        self._stack = ExitStack()

    @cached_property
    def _lake(self) -> Lake:
        return Lake(self._stack.enter_context(session(self._settings, "history benchmark")), self._settings)

    def load(self) -> None:
        for kind in KINDS:
            found = contract(kind)
            land_stub(self._settings, found, through=2)
            self._lake.spark.sql(f"DROP TABLE IF EXISTS lakehouse.silver.{table_of(found)}")
            run_silver(self._silver(kind, through=1))
            self._pointer(kind).remember()

    def reset(self, kind: str) -> None:
        self._pointer(kind).restore()

    def apply(self, kind: str) -> dict[str, Any]:
        silver = self._silver(kind, through=2)
        with _marks() as marks:
            report = run_silver(silver)
        if report is None:
            raise RuntimeError("nothing was pending: the base was not put back")
        return {
            "without_publishing_cpu_seconds": _without_publishing(marks),
            "opened": report.opened,
            "closed": report.closed,
            "bytes_written": report.bytes,
            "rows_added": report.rows_added,
            "rows_removed": report.rows_removed,
        }

    def export(self, kind: str) -> None:
        found = contract(kind)
        rows = self._lake.table(found.silver_table(table_of(found)))
        rows.drop("_key", "_version_key").write.mode("overwrite").parquet(str(self._place.export("engine", kind)))

    def close(self) -> None:
        self._stack.close()

    def _silver(self, kind: str, through: int) -> TypedSilver:
        found = contract(kind)
        files = {1: self._place.data("base"), 2: self._place.data(kind)}
        return TypedSilver(self._lake, found, table_of(found), through, files=files)

    def _pointer(self, kind: str) -> Pointer:
        memory = self._place.store("engine") / f"{kind}.txt"
        return Pointer(self._settings, "silver", table_of(contract(kind)), memory)


@contextmanager
def _marks() -> Iterator[dict[str, float]]:
    """CPU seconds of this tree at the start, at each of publishing's failpoints (the last time), and at the end."""
    marks, root, original = {"start": 0.0}, psutil.Process(), publishing.failpoint

    def mark(name: str) -> None:
        marks[name] = tree_cpu_seconds(root)
        original(name)

    publishing.failpoint = mark  # type: ignore[attr-defined]
    try:
        mark("start")
        yield marks
        mark("end")
    finally:
        publishing.failpoint = original  # type: ignore[attr-defined]


def _without_publishing(marks: dict[str, float]) -> float:
    """Finding and counting what is pending, and the write: without head and branch, gate, fast-forward, read-back."""
    return marks[_LOCKED] - marks["start"] + marks[_WRITTEN] - marks[_BRANCHED]


def open_contestant(place: Place) -> Engine:
    """This engine."""
    return Engine(place)
