"""The newcomer's walk of docs/walk.md, in a browser: land, watch, break, fix, backfill, look.

The tests build on each other, in this order. What the document says to type is read from it and run. `make walk` walks
with the sample data, as the document's reader does, and puts the pictures beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.airflow.browser import CHROMIUM, MISSING, Screen, opened, pick_day
from tests.airflow.client import wait_for
from tests.airflow.conftest import World, started

from lakehouse.core.settings import PROJECT_ROOT

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=MISSING)

DOCUMENT = PROJECT_ROOT / "docs" / "walk.md"
PICTURES = PROJECT_ROOT / ".cache" / "screenshots"
IS_FOR_THE_DOCUMENT = "WALK_WITH_SAMPLES" in os.environ


@dataclass(frozen=True)
class Walk:
    """Where the walk goes: a source with a file for each day, and one of its tables."""

    world: World
    source: str
    table: str
    first: date

    @property
    def land(self) -> str:
        return f"land_{self.source.replace('.', '_')}"

    @property
    def transform(self) -> str:
        return f"transform_{self.source.replace('.', '_')}"

    def day(self, number: int) -> date:
        return self.first + timedelta(days=number)

    def type_what_is_said(self, name: str, folder: Path) -> None:
        """Run the commands that the document shows under a name, for the second day of the walk."""
        script = commands(name).replace("2024-03-26", str(self.day(1)))
        there = {**os.environ, "file": str(self.world.files / f"{self.day(1)}.csv")}
        subprocess.run(["sh", "-euc", script], cwd=folder, env=there, check=True)

    def transforms(self) -> set[str]:
        return {run["dag_run_id"] for run in self.world.airflow.runs(self.transform)}

    def next_transform(self, before: set[str]) -> str:
        """The run of the transform that began since, as soon as there is one."""
        return wait_for(lambda: self.transforms() - before, 180, "the transform to start").pop()


def commands(name: str) -> str:
    """A block of the document."""
    [found] = re.findall(rf"<!-- walk: {name} -->\n```sh\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def walk(request: pytest.FixtureRequest) -> Iterator[Walk]:
    """On the folder's Airflow; or on one with this repository's own contracts, and sample data."""
    if not IS_FOR_THE_DOCUMENT:
        world: World = request.getfixturevalue("world")
        walk = Walk(world, "shop.orders", "fact_order", date(2024, 3, 11))
        for number in range(5):
            write_orders(world.files, walk.day(number))
        yield walk
        return
    from lakehouse.samples.make import make_samples
    from lakehouse.samples.plan import EPOCH, Options, days

    place: Path = request.getfixturevalue("place")
    with started(place, PROJECT_ROOT, request.getfixturevalue("webhook"), "retail/sales") as world:
        make_samples(Options(), days(EPOCH, 7), place / "sources", domains=("retail",))
        yield Walk(world, "retail.sales", "fact_sales_line", EPOCH)


def write_orders(folder: Path, day: date) -> None:
    lines = [
        f"{day}-{order},s{order % 10},city {order % 4},{order}.50,{day} {order % 24:02}:00:00" for order in range(30)
    ]
    (folder / f"{day}.csv").write_text("\n".join(["order_id,shopper,city,amount,ordered_at", *lines]) + "\n")


@pytest.fixture(scope="module")
def window(walk: Walk, request: pytest.FixtureRequest) -> Iterator[Screen]:
    """One window for the walk; at its end it says where its pictures are."""
    shutil.rmtree(PICTURES, ignore_errors=True)
    with opened(walk.world.airflow.url, PICTURES) as screen:
        yield screen
    print(f"\n{len(screen.taken)} pictures in {PICTURES}")
    if IS_FOR_THE_DOCUMENT and not request.session.testsfailed:
        DOCUMENT.with_suffix("").mkdir(exist_ok=True)
        for name in re.findall(r"\]\((walk/[a-z-]+\.webp)\)", DOCUMENT.read_text("utf-8")):
            shutil.copy(PICTURES / Path(name).name, DOCUMENT.parent / name)


@pytest.fixture
def screen(window: Screen, request: pytest.FixtureRequest) -> Iterator[Screen]:
    """The window; what it shows when a test fails is kept."""
    failed = request.session.testsfailed
    yield window
    if request.session.testsfailed > failed:
        window.keep_what_went_wrong(request.node.name)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which commands are typed."""
    return tmp_path_factory.mktemp("desk")


def test_land_a_day(walk: Walk, screen: Screen) -> None:
    """With the form, and watched until its rows are in the tables."""
    before = walk.transforms()
    screen.log_in(walk.world.airflow.user, walk.world.airflow.password)
    screen.open_dag(walk.land)
    run = trigger(walk, screen, walk.first, picture="form")
    screen.see_run(walk.land, run, "Success")
    screen.see_run(walk.transform, walk.next_transform(before), "Success")
    screen.shoot("watch")


def trigger(walk: Walk, screen: Screen, day: date, picture: str = "") -> str:
    """Land a day with the form of the DAG that is open; the run."""
    dialog = screen.ask_for_a_run()
    dialog.locator("#element_first_day").fill(str(day))
    if picture:
        screen.shoot(picture)
    return str(screen.send(dialog.get_by_test_id("trigger-dag-submit"), f"/dags/{walk.land}/dagRuns")["dag_run_id"])


@pytest.fixture(scope="module")
def broken_run() -> list[str]:
    """The run that landed the broken file, told by one test to the next."""
    return []


def test_break_a_file(walk: Walk, screen: Screen, desk: Path, broken_run: list[str]) -> None:
    """A day whose dates are none is held back; the task and the page say so, and the table is as it was."""
    before = walk.transforms()
    walk.type_what_is_said("break", desk)
    screen.open_dag(walk.land)
    broken_run.append(trigger(walk, screen, walk.day(1)))
    screen.see_run(walk.land, broken_run[0], "Success")
    run = walk.next_transform(before)
    screen.see_run(walk.transform, run, "Failed")
    screen.page.get_by_test_id("table-list").get_by_role("link", name="nothing_held").click()
    what = screen.page.get_by_test_id("summary-AirflowFailException")
    expect(what).to_contain_text("rules hold back")
    what.click()  # the lines of code below it are not for who puts a file right
    screen.page.keyboard.press("w")  # long lines are wrapped
    screen.shoot("held-log")
    lake = screen.open_lakehouse()
    lake.get_by_role("link", name="held batch").click()
    lake.get_by_role("link", name=walk.table, exact=True).click()
    expect(lake.get_by_role("heading", name="Held and discarded batches")).to_be_visible()
    screen.shoot("held")


def test_fix_it(walk: Walk, screen: Screen, desk: Path, broken_run: list[str]) -> None:
    """The file is put right, and the run of its day cleared; the transform takes it while the walk goes on."""
    walk.type_what_is_said("fix", desk)
    [run] = broken_run
    screen.see_run(walk.land, run, "Success")
    screen.page.keyboard.press("Shift+C")
    dialog = screen.page.get_by_role("dialog")
    expect(dialog).to_contain_text("land")
    screen.shoot("clear")
    dialog.get_by_role("button", name="Confirm").click()
    wait_for(lambda: walk.world.airflow.tasks(walk.land, run)["land"]["try_number"] == 2, 180, "the second try")
    screen.see_run(walk.land, run, "Success")


def test_backfill(walk: Walk, screen: Screen) -> None:
    """Three more days, side by side."""
    screen.open_dag(walk.land)
    dialog = screen.ask_for_a_run()
    dialog.get_by_text("Backfill", exact=True).click()
    for number, day in enumerate((walk.day(2), walk.day(4))):
        pick_day(dialog.get_by_test_id("datetime-input").nth(number), screen.page, day)
    expect(dialog.get_by_text("3 runs will be triggered.")).to_be_visible()
    dialog.get_by_role("spinbutton").fill("3")
    screen.shoot("backfill")
    screen.send(dialog.get_by_role("button", name="Run Backfill"), "/backfills")
    screen.page.goto(f"/dags/{walk.land}/runs?run_type=backfill")
    runs = [run for run in walk.world.airflow.runs(walk.land) if run["run_type"] == "backfill"]
    expect(screen.page.get_by_test_id("table-cell-state")).to_have_text(["Success"] * len(runs), timeout=300_000)
    screen.shoot("backfilled")
    walk.world.airflow.wait_until_idle(walk.land, walk.transform, seconds=600)
    screen.see_run(walk.transform, walk.world.airflow.runs(walk.transform)[-1]["dag_run_id"], "Success")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_look_at_the_lake(walk: Walk, screen: Screen, theme: str) -> None:
    """The graph of assets, the page with every table, and a table's page, in Airflow's theme."""
    screen.page.goto("/")
    screen.wear("dark" if theme == "dark" else "light")
    screen.page.get_by_test_id("nav-assets-link").click()
    screen.page.get_by_placeholder("Search Assets").fill(f"silver.{walk.table}")
    screen.page.get_by_role("link", name=f"silver.{walk.table}", exact=True).click()
    node = screen.page.locator(".react-flow__node").get_by_text(f"landing.{walk.source.replace('.', '_')}")
    expect(node.first).to_be_visible()
    screen.shoot(f"assets-{theme}")

    lake = screen.open_lakehouse()
    row = lake.get_by_role("row").filter(has=lake.get_by_role("link", name=walk.table, exact=True))
    expect(row.filter(has_text="silver")).to_contain_text("fresh")
    looks_like_airflow(screen, theme)
    screen.shoot(f"lakehouse-{theme}")

    row.filter(has_text="silver").get_by_role("link").first.click()
    expect(lake.get_by_role("heading", name=f"silver.{walk.table}")).to_be_visible()
    looks_like_airflow(screen, theme)
    screen.shoot(f"table-{theme}")

    lake.get_by_role("link", name=walk.transform, exact=True).click()
    expect(screen.page).to_have_url(re.compile(rf"/dags/{walk.transform}"))


def looks_like_airflow(screen: Screen, theme: str) -> None:
    """Our page in its frame: Airflow's theme, ground and font, and nothing that is cut off."""
    expect(screen.frame.locator("html")).to_have_attribute("data-theme", theme)
    ours, around = screen.frame.locator("body"), screen.page.locator("html")
    ground = "element => getComputedStyle(element).backgroundColor"
    assert ours.evaluate(ground) == around.evaluate(ground)
    font = "element => getComputedStyle(element).fontFamily"
    assert screen.page.locator("body").evaluate(font).startswith(ours.evaluate(font))
    assert screen.frame.locator("html").evaluate("page => page.scrollWidth <= page.clientWidth")


def test_nothing_was_asked_of_others(screen: Screen) -> None:
    assert (screen.foreign, screen.complaints) == ([], [])
    assert {path.stem for path in screen.taken} >= {"form", "watch", "held", "backfill", "lakehouse-dark"}
