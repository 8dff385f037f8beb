"""Whatever is killed, wherever: run again, every table is what it would have been, and nothing is left behind.

Each wave kills one process that works on many tables, every one of them parked at a place of its own. The next process
completes what was broken, takes the next batches, and is killed in turn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.faults.cases import CASES, WAVES, Case, contracts, write_project, write_waves
from tests.faults.looking import Looking
from tests.faults.wave import Deck, Wave, is_update

from lakehouse.core.settings import Settings
from lakehouse.engine.leftovers import STAGED_HOURS, Leftovers
from lakehouse.landing.land import Request, land

NewSettings = Callable[[], Settings]
SHARED = ("slices", "snapshots")


def land_waves(settings: Settings, folder: Path, sources: list[str]) -> None:
    for wave in range(WAVES):
        for source in sources:
            root = str(folder / "files" / str(wave))
            land(settings, [contracts()[source]], Request(root=root)).raise_if_refused()


def check_wave(looking: Looking, driver: Wave, wave: int) -> None:
    """Every case, once it was run again: the content of the case that was never killed, and all references there."""
    controls, found = {}, {}
    for case, problem in driver.answers("recovered"):
        assert problem == "", f"{case.name}: {problem}"
        found[case] = looking.content(case)
        if case.is_control:
            controls[case.kind] = found[case]
        assert [*looking.problems(case, wave)] == [], case.name
    assert {case.name for case in found if found[case] != controls[case.kind]} == set()
    references = {file for case in found for name in looking.tables(case) for file in looking.references(name)}
    assert looking.missing(references) == []


def kill_wave(looking: Looking, driver: Wave, wave: int, deck: Deck) -> int:
    """Park every case, and kill the driver; how many were killed."""
    dealt = deck.deal(driver.cases, wave)
    assert driver.arm(dealt) == {}
    leave_alone(looking)
    with driver.updating(looking, [case for case, place in dealt.items() if is_update(place)], dealt):
        driver.kill()
    return len(dealt)


def leave_alone(looking: Looking) -> None:
    """Cleaning while the owners live, each in the middle of something, takes nothing from them."""
    held = {name for name in looking.all_tables() if looking.is_locked(name)}
    before = {name: looking.branches(name) for name in held}
    assert sum(map(len, before.values())) > 0
    clean(looking)
    assert {name: looking.branches(name) for name in held} == before
    assert {name for name in looking.all_tables() if looking.is_locked(name)} == held


def clean(looking: Looking, staged_hours: float = STAGED_HOURS) -> None:
    """What `lakehouse doctor --fix` does."""
    leftovers = Leftovers(looking.settings, datetime.now(UTC), staged_hours)
    assert {each.left for each in leftovers.remove(leftovers.find())} <= {""}


def check_nothing_is_left(looking: Looking, cases: list[Case]) -> None:
    """No branch, no staged object, no lock; and what was cleaned was not content."""
    before = {case: looking.content(case) for case in cases}
    clean(looking, staged_hours=0)
    assert Leftovers(looking.settings, datetime.now(UTC), 0).find() == []
    assert {name: looking.branches(name) for name in looking.all_tables() if looking.branches(name)} == {}
    assert looking.locks() == 0
    assert {case: looking.content(case) for case in cases} == before
    references = {file for case in cases for name in looking.tables(case) for file in looking.references(name)}
    assert looking.missing(references) == []


def check_clean_run(looking: Looking, settings: Settings, folder: Path, cases: list[Case]) -> None:
    """A lake that takes all batches in one go, and is never killed, has the same content."""
    clean_cases = [case for case in cases if case.is_control and case.kind not in ("gold", "decision")]
    land_waves(settings, folder, sorted({case.source for case in clean_cases}))
    driver = Wave(settings, folder / "clean", WAVES, clean_cases)
    try:
        driver.begin()
        assert [problem for _, problem in driver.answers("recovered") if problem] == []
        driver.end()
    finally:
        driver.stop()
    expected = Looking(settings)
    assert {case: looking.content(case) for case in clean_cases} == {
        case: expected.content(case) for case in clean_cases
    }


def run_waves(settings: Settings, folder: Path, chance: random.Random, cases: list[Case]) -> int:
    """All waves of one round; how many cases were killed."""
    write_waves(folder / "files", chance)
    for case in cases:
        if case.kind == "gold":
            write_project(folder / "marts", case)
    land_waves(settings, folder, [source for source in SHARED if any(case.source == source for case in cases)])
    looking, deck, killed = Looking(settings), Deck(chance), 0
    for wave in range(WAVES + 1):
        driver = Wave(settings, folder / f"wave-{wave}", wave, cases)
        try:
            driver.begin()
            if wave:
                check_wave(looking, driver, wave - 1)
            if wave < WAVES:
                killed += kill_wave(looking, driver, wave, deck)
            else:
                driver.end()
        finally:
            driver.stop()
    check_nothing_is_left(looking, cases)
    return killed


@pytest.mark.timeout(1800)
def test_whatever_is_killed_is_completed(new_settings: NewSettings, tmp_path: Path, chance: random.Random) -> None:
    settings = new_settings()
    killed = run_waves(settings, tmp_path, chance, CASES)
    check_clean_run(Looking(settings), new_settings(), tmp_path, CASES)
    print(f"{killed} cases were killed")
    assert killed >= 200
