"""Whatever the order, the grouping and the number of arrivals, and wherever a run breaks: the same tables."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.pipeline import all_tables, branches, fingerprints, land_files, quarantine, run, unpublished
from tests.turns import in_turn

from lakehouse.contracts.model import Contract
from lakehouse.core.failpoints import FailpointHit
from lakehouse.engine import publish as protocol

if TYPE_CHECKING:
    from tests.servers import NewLake

    from lakehouse.engine.publish import Lake

UNITS = [date(2024, 3, 29) + timedelta(days=day) for day in range(6)]
Row = dict[str, Any]
Content = Mapping[date, list[Row]]
"""What a source says of each unit in the end."""


def column(kind: str = "string", **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": "made for a test", **more}


def contract(kind: str) -> Contract:
    """A source of JSON lines with a dimension of all SCD types; slices also make facts."""
    attributes = {
        "born": column(history=0, null="not_observed"),
        "name": column(history=1),
        "city": column(history=2),
        "size": column("int", history=2),
        "segment": column(history=3),
    }
    order = {"at": column("timestamp", nullable=False), "sequence": column("long"), "operation": column()}
    rules = [{"name": "city_known", "check": "city <> 'nowhere'", "description": "made for a test"}]
    common = {"kind": "dimension", "description": "made for a test", "key": ["id"], "rules": rules, "per_life": True}
    dimension = {**common, "columns": {"id": column(nullable=False), **attributes}}
    if kind == "snapshot":
        # A hold depends on what came before, so none may come in between here.
        tables = {"dim_listed": {**dimension, "effective_time": "_unit", "max_close_share": 1}}
    else:
        ties = [{"column": "sequence"}]
        deletion = {"column": "operation", "values": ["D"]}
        fed = {**dimension, "effective_time": "at", "order": order, "tie_breakers": ties, "deletion": deletion}
        fact_columns = {"id": column(nullable=False), "at": column("timestamp"), "city": column()}
        fact = {"kind": "fact", "description": "made for a test", "key": ["id", "at", "city"], "occurrence": True}
        tables = {"dim_fed": fed, "fact_fed": {**fact, "rules": rules, "columns": fact_columns}}
    fields = ["id", *attributes, *order]
    source = {
        "connector": "files",
        "kind": kind,
        "format": "jsonl",
        "pattern": f"test/{kind}/{{date}}.jsonl",
        "columns": {name: {"description": "made for a test"} for name in fields},
    }
    whole = {"format": 1, "domain": "test", "dataset": kind, "owner": "tests", "description": "made for a test"}
    return Contract.model_validate({**whole, "source": source, "tables": tables})


KINDS = {kind: contract(kind) for kind in ("slice", "snapshot")}


def make_row(chance: random.Random, kind: str, key: int, unit: date) -> Row:
    """A record: some fields missing, some null, some refused, some late."""
    row: Row = {"id": f"k{key}"}
    values = {
        "born": "bcd",
        "name": "bcd",
        "city": ["x", "y", "", "nowhere"],
        "size": ["1", "2", "many"],
        "segment": "st",
    }
    for name, choices in values.items():
        draw = chance.random()
        if draw < 0.85:
            row[name] = None if draw < 0.15 else chance.choice(choices)
    if kind == "slice":
        late = timedelta(days=chance.choice([0, 0, 0, 1, 2]), hours=chance.choice([0, 0, 6]))
        row["at"] = (datetime.combine(unit, time(8), UTC) - late).isoformat()
        row |= {"sequence": str(chance.randint(1, 3)), "operation": chance.choice("UUUUD")}
    return row


def make_content(chance: random.Random, kind: str) -> dict[date, list[Row]]:
    keys = range(14)
    if kind == "snapshot":
        listed = {unit: [key for key in keys if chance.random() < 0.7] or [0] for unit in UNITS}
        return {unit: [make_row(chance, kind, key, unit) for key in listed[unit]] for unit in UNITS}
    return {unit: [make_row(chance, kind, chance.choice(keys), unit) for _ in range(20)] for unit in UNITS}


def write(root: Path, kind: str, unit: date, rows: Iterable[Row]) -> None:
    path = root / "test" / kind / f"{unit}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def arrivals(chance: random.Random, kind: str, content: Content) -> list[list[tuple[date, list[Row]]]]:
    """The same content as a bad source would send it: units in any order, some wrong at first, some sent again."""
    sent: list[tuple[date, list[Row]]] = []
    for unit in chance.sample(UNITS, len(UNITS)):
        if chance.random() < 0.5:
            sent.append((unit, make_content(chance, kind)[unit]))
        sent.append((unit, content[unit]))
        if chance.random() < 0.3:
            other = chance.choice([unit for unit, _ in sent])
            sent += [(other, make_content(chance, kind)[other]), (other, content[other])]
    parts = chance.randint(2, 3)
    cuts = [0, *sorted(chance.sample(range(1, len(sent)), parts - 1)), len(sent)]
    return [sent[low:high] for low, high in zip(cuts, cuts[1:], strict=False)]


def result(lake: Lake, kind: str) -> tuple[dict[str, str], dict[str, str]]:
    return fingerprints(lake, [KINDS[kind]]), quarantine(lake, [KINDS[kind]])


@pytest.mark.parametrize("kind", in_turn(*KINDS))
def test_any_order_gives_the_tables_of_data_in_order(
    kind: str, new_lake: NewLake, tmp_path: Path, chance: random.Random
) -> None:
    content = make_content(chance, kind)
    in_order, late = new_lake(), new_lake()
    for unit in UNITS:
        write(tmp_path / "right", kind, unit, content[unit])
    land_files(in_order, [KINDS[kind]], tmp_path / "right")
    run(in_order, [KINDS[kind]])
    expected = result(in_order, kind)
    for sent in arrivals(chance, kind, content):
        for unit, rows in sent:
            write(tmp_path / "wild", kind, unit, rows)
            land_files(late, [KINDS[kind]], tmp_path / "wild")
        run(late, [KINDS[kind]], max_batches=chance.choice([None, 5]))
    assert result(late, kind) == expected
    assert in_order.table(KINDS[kind].silver_table(next(iter(KINDS[kind].tables)))).count() > len(UNITS)


class Breaker:
    """Breaks a run at each step where none broke before."""

    def __init__(self) -> None:
        self.broken: set[tuple[str, int]] = set()
        self.seen: dict[str, int] = {}
        self.stage = ""

    def __call__(self, name: str, *about: object) -> None:
        step = f"{self.stage} {name}"
        self.seen[step] = self.seen.get(step, 0) + 1
        if (step, self.seen[step]) not in self.broken:
            self.broken.add((step, self.seen[step]))
            raise FailpointHit(step)

    def enter(self, stage: str) -> None:
        self.stage = stage


def run_until_whole(breaker: Breaker, attempt: Callable[[], object]) -> int:
    """Run again and again; how many runs broke."""
    for broken in range(100):
        breaker.seen.clear()
        try:
            attempt()
        except FailpointHit:
            continue
        return broken
    raise AssertionError("it breaks for ever")


def test_a_run_that_breaks_at_every_step_gives_the_same_tables(
    new_lake: NewLake, tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bronze, quarantine and silver, each broken at every failpoint of the protocol, one after another."""
    from lakehouse.engine.run import run_dataset

    kind, source = "snapshot", KINDS["snapshot"]
    content = make_content(chance, kind)
    content[UNITS[0]][0] = {"id": "k0", "city": "nowhere"}  # so that there is a quarantine
    clean, broken = new_lake(), new_lake()
    for unit in UNITS[:3]:
        write(tmp_path, kind, unit, content[unit])
    for lake in (clean, broken):
        land_files(lake, [source], tmp_path)
    run(clean, [source])
    breaker = Breaker()
    monkeypatch.setattr(protocol, "failpoint", breaker)
    times = run_until_whole(breaker, lambda: run_dataset(broken, source, None, breaker.enter))
    # Four steps until an attempt is gated. Of the first tables, their creation and first snapshot; of writing, a delete
    # and an append. Then four steps to publish a table; after the fast-forward of bronze or silver nothing is left.
    assert times == (4 + 2 + 2) + (4 + 2 + 2 + 4 + 2)
    assert result(broken, kind) == result(clean, kind)
    assert broken.table(source.bronze_table).count() == clean.table(source.bronze_table).count()
    assert unpublished(broken, all_tables([source])) == []
    for unit in UNITS[3:]:
        write(tmp_path, kind, unit, [{"id": "k0", "city": "nowhere"}])
    monkeypatch.undo()
    land_files(broken, [source], tmp_path)
    run(broken, [source])
    assert branches(broken, all_tables([source])) == []
