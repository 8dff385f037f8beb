"""Playing histories on a real lake: land, decide, run, and hold every table to the reference after every run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.histories.cases import History, Scene
from tests.histories.tables import KEY, Shape, contract
from tests.histories.timelines import Run
from tests.histories.vocabulary import FIELDS, NAMES, NAN
from tests.integration.pipeline import land_files
from tests.reference import Version

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.encoding import durable_key, version_key
from lakehouse.core.types import DataType
from lakehouse.engine.publish import Lake
from lakehouse.engine.report import TableReport
from lakehouse.engine.run import run_dataset
from lakehouse.ledger.decisions import Decision, append_decision
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore

_KINDS = (DataType("int"), DataType("string"))
_PARTS = 97


@dataclass(frozen=True)
class Difference:
    """A key of which a table says something else than the reference, after a run counted from 1."""

    number: int
    shape: Shape
    run: int
    expected: list[Version]
    found: list[Version]


@dataclass(frozen=True)
class Played:
    """What a play came to: how many histories were compared, what differed first, and what each run reported."""

    compared: int
    differences: list[Difference]
    reports: list[TableReport]


def play(lake: Lake, scene: Scene, histories: Sequence[History], folder: Path) -> Played:
    """Play histories until a table differs, or to the end. The anchor's history is played too, after all others."""
    game = Game(lake, scene, [*histories, scene.anchor()], folder)
    reports: list[TableReport] = []
    differences: list[Difference] = []
    for run in range(1, len(scene.timeline.runs) + 1):
        reports += game.run(run)
        differences = [found for shape in scene.shapes for found in game.differences(shape, run)]
        if differences:
            break
    return Played(len(histories), differences, reports)


@dataclass(frozen=True)
class Game:
    """Some histories on a lake. Keys are numbers: the place of each history."""

    lake: Lake
    scene: Scene
    histories: Sequence[History]
    folder: Path

    @cached_property
    def contract(self) -> Contract:
        """The contract of the scene's source."""
        return contract(self.scene.kind, self.scene.shapes)

    def run(self, run: int) -> list[TableReport]:
        """Land and decide what comes before a run, and run."""
        self.land(run)
        step = self.scene.timeline.runs[run - 1]
        self._decide(step)
        return run_dataset(self.lake, self.contract, step.max_batches, lambda _: None)

    def land(self, run: int) -> None:
        """Land the batches that come before a run, each by itself."""
        timeline = self.scene.timeline
        for number in range(timeline.landed(run - 1) + 1, timeline.landed(run) + 1):
            root = self.folder / f"batch-{number}"
            path = root / "test" / timeline.kind / f"{timeline.unit(number)}.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text(self._content(number), encoding="utf-8")
            land_files(self.lake, [self.contract], root)
            assert len(read_log(self._store, self.contract.name)) == number

    @property
    def _store(self) -> ObjectStore:
        return ObjectStore.open(self.lake.settings)

    def _content(self, number: int) -> str:
        """A batch's file. Blank lines at its end make it differ from every other, whatever its records say."""
        broken = ["this line is broken"] if self.scene.timeline.batches[number - 1].is_broken else []
        return "\n".join([*self._lines[number], *broken, *[""] * (number + 1)])

    @cached_property
    def _lines(self) -> Mapping[int, list[str]]:
        found: dict[int, list[str]] = defaultdict(list)
        for key, history in enumerate(self.histories):
            for record in history:
                fields = [f'"part": {_part(key, len(found[record.batch]))}, "code": "{_code(key)}"']
                fields.append(f'"at": "{self.scene.instants[record.at].text}"')
                for name, pick in zip(NAMES, record.picks, strict=True):
                    if (text := FIELDS[name][pick].json) is not None:
                        fields.append(f'"{name}": {text}')
                found[record.batch].append("{" + ", ".join(fields) + "}")
        return found

    def _decide(self, step: Run) -> None:
        for action, number in step.decides:
            draft = Decision(self.contract.name, 0, action, (number,), "for a test", "tests", datetime.now(UTC))
            append_decision(self._store, draft)

    def differences(self, shape: Shape, run: int) -> Iterator[Difference]:
        """The keys of which a table says something else than the reference."""
        found = self._versions(shape)
        live = self.scene.timeline.live(run)
        for number, history in enumerate(self.histories):
            expected = self.scene.expected(history, shape, live)
            if found.pop(number, []) != expected:
                yield Difference(number, shape, run, expected, self._versions(shape).get(number, []))
        assert not found, f"{shape.name} has keys that never were: {sorted(found)[:5]}"

    def _versions(self, shape: Shape) -> dict[int, list[Version]]:
        rows = self.lake.table(self.contract.silver_table(shape.name)).toArrow().to_pylist()
        found: dict[int, list[Version]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row[names.EFFECTIVE_FROM]):
            number = _number(row)
            key = row.pop(names.KEY)
            assert key == durable_key(_KINDS, [row.pop(name) for name in KEY])
            assert row.pop(names.VERSION_KEY) == version_key(key, row[names.EFFECTIVE_FROM])
            found[number].append({name: _comparable(value) for name, value in row.items()})
        return found


def _part(key: int, line: int) -> str:
    """The first part of a key, spelled in two ways that the contract reads alike."""
    return f'"0{key % _PARTS}"' if line % 3 == 0 else str(key % _PARTS)


def _code(key: int) -> str:
    return f"k{key}"


def _number(row: Mapping[str, Any]) -> int:
    number = int(row["code"][1:])
    assert row["part"] == number % _PARTS
    return number


def _comparable(value: Any) -> Any:
    """A stored value as the reference has it: NaN equals itself."""
    return NAN if isinstance(value, float) and value != value else value
