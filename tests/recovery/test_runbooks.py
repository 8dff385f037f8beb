"""Every runbook, on a lake that has just been hurt in the way that its page is about.

The lake is one for all: like that of whoever is called at night, it has been through other pages before. At the end of
each it is whole, its old snapshots can be read, and its tables say what they would say had nothing happened.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.recovery.conftest import Home
from tests.recovery.runbook import PAGES, Runbook
from tests.recovery.world import Moment, heads, require_readable

from lakehouse.ledger.watermark import open_catalog

DIMENSION = "silver.dim_customer"
FACT = "silver.fact_sales_line"
SAYS = ("silver", "gold")
"""What tables of these namespaces say is a function of what landed."""


def require_whole(machine: Home, then: Moment) -> None:
    """Everything of then is there; tables say what they said, and nothing is pending."""
    now = machine.look()
    require_readable(now, then)
    assert heads(now, SAYS) == heads(then, SAYS)
    assert "Nothing is pending" in machine.say("lakehouse run")


def test_table_dropped(machine: Home) -> None:
    then = machine.look()
    open_catalog(machine.settings).drop_table(DIMENSION)
    machine.grow()
    Runbook.read("table-dropped").do(machine.shell, TABLE=DIMENSION)
    now = machine.look()
    require_readable(now, then)
    assert now[DIMENSION].head != then[DIMENSION].head  # the day that came meanwhile


def test_bad_data_published(machine: Home) -> None:
    then = machine.look()
    file = max(Path(machine.settings.sources_root).glob("retail/sales/*.csv"))
    good = file.read_text("utf-8")
    file.write_text(re.sub(r",(\d+)\.(\d\d),", r",\1\2.00,", good), "utf-8")  # prices a hundred times too high
    machine.say("lakehouse land --json")
    machine.say("lakehouse run --json")
    bad = machine.look(snapshots=False)
    wrong = {name for name, said in heads(then, SAYS).items() if bad[name].content != said}
    assert {FACT, "gold.sales_star", "gold.daily_sales"} <= wrong

    def send_again() -> None:
        assert heads(machine.look(snapshots=False), SAYS) == heads(then, SAYS)
        file.write_text(good, "utf-8")

    page = Runbook.read("bad-data-published")
    page.do(machine.shell, {"lakehouse land": send_again}, TABLE=FACT, RIGHT=str(then[FACT].head))
    require_whole(machine, then)


def test_every_page_is_done_here() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert {name.replace("-", "_") for name in pages} == {
        name.removeprefix("test_")
        for name in globals()
        if name.startswith("test_") and name != "test_every_page_is_done_here"
    }
    index = (PAGES / "README.md").read_text("utf-8")
    assert all(f"({name}.md)" in index for name in pages)
