"""Every runbook, on a lake that has just been hurt in the way that its page is about."""

from __future__ import annotations

import re
from pathlib import Path

from tests.recovery.conftest import Home
from tests.recovery.runbook import Runbook
from tests.recovery.world import heads, require_readable

from lakehouse.ledger.watermark import open_catalog

DIMENSION = "silver.dim_customer"


def wrong_prices(home: Home) -> tuple[Path, str]:
    """The last day is sent again with prices a hundred times too high, and published; returns what it should be."""
    file = max(Path(home.settings.sources_root).glob("retail/sales/*.csv"))
    good = file.read_text("utf-8")
    file.write_text(re.sub(r",(\d+)\.(\d\d),", r",\1\2.00,", good), "utf-8")
    home.say("lakehouse land --json")
    home.say("lakehouse run --json")
    return file, good


def test_bad_data_published(home: Home) -> None:
    then = home.look()
    file, good = wrong_prices(home)
    bad = home.look(snapshots=False)
    wrong = {name for name, said in heads(then, ("silver", "gold")).items() if bad[name].content != said}
    assert {"silver.fact_sales_line", "gold.sales_star", "gold.daily_sales"} <= wrong

    def send_again() -> None:
        assert heads(home.look(snapshots=False), ("silver", "gold")) == heads(then, ("silver", "gold"))
        file.write_text(good, "utf-8")

    Runbook.read("bad-data-published").do(
        home.shell,
        {"lakehouse land": send_again},
        TABLE="silver.fact_sales_line",
        RIGHT=str(then["silver.fact_sales_line"].head),
    )
    now = home.look()
    require_readable(now, then)
    assert heads(now, ("silver", "gold")) == heads(then, ("silver", "gold"))


def test_table_dropped(home: Home) -> None:
    then = home.look()
    open_catalog(home.settings).drop_table(DIMENSION)
    home.grow()
    Runbook.read("table-dropped").do(home.shell, {}, TABLE=DIMENSION)
    now = home.look()
    require_readable(now, then)
    assert now[DIMENSION].head != then[DIMENSION].head  # the day that came meanwhile
