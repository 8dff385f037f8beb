"""``lakehouse demo``: the whole way, from sources to marts, on local servers. Running it again changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Grid

from lakehouse.core.errors import IntegrityError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.core.settings import PROJECT_ROOT, Settings, load_settings

if TYPE_CHECKING:
    from lakehouse.contracts.model import Contract
    from lakehouse.engine.publish import Lake

FIRST_DAY = date(2024, 3, 25)
_LATE_DAYS = 3
_ROWS = 5
_MARTS = {
    "daily_sales": ("net_amount", "sales_date country stock_code product_description quantity_sold net_amount"),
    "customer_rfm": ("monetary", "customer_id country recency_days frequency monetary segment"),
    "product_performance": ("net_amount", "stock_code description customers quantity_sold net_amount revenue_rank"),
    "sales_star": ("amount", "invoice_no sales_date stock_code amount customer_status customer_country product_status"),
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


def demo(
    data: Annotated[
        Path | None,
        typer.Option("--data", exists=True, file_okay=False, help="Folder of real daily sales files, in a lake apart."),
    ] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, help="Days to take; default: 14, or all files.")] = None,
    size: Annotated[float, typer.Option("--size", help="Size of the samples; 1.0 is 1,500 lines a day.")] = 1.0,
) -> None:
    """Sources → landing → bronze → silver → gold in two rounds; then where every row went, and what can be asked.

    The second round brings new days, and days that their source corrected. Ends with 7 if a row is unaccounted for.
    """
    started = time.perf_counter()
    console = Console(width=max(Console().width, 120))
    current = _servers(console, data)
    with _Demo(current, console).running() as show:
        if data:
            show.real_days(data, days)
        else:
            show.sample_days(days or 14, size)
    show.accounting()
    show.history()
    show.time_travel()
    show.marts()
    console.print(f"\nDone in {time.perf_counter() - started:.0f} s. The servers stay up.")
    prefix = "" if current.home == load_settings().home else f"LAKEHOUSE_HOME={_shown(current.home)} "
    for command in ("sql -e 'SELECT * FROM gold.daily_sales LIMIT 5'", "tables", "down"):
        console.print(f"  {prefix}.venv/bin/lakehouse {command}", highlight=False, soft_wrap=True)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _servers(console: Console, data: Path | None) -> Settings:
    """Start the local stack. Real data get a lake of their own, so that they never mix with the samples."""
    from lakehouse.stack import up

    home = PROJECT_ROOT / ".lakehouse" / "real-data" if data and "LAKEHOUSE_HOME" not in os.environ else None
    with console.status("starting servers"):
        status = up(load_settings(home), console)
    for notice in status.notices:
        console.print(f"[bold yellow]Notice:[/] {notice}")
    console.print("servers: " + ", ".join(f"{s.name} ({s.kind}) at {s.address}" for s in status.servers))
    return load_settings(home)


@dataclass
class _Demo:
    """One demo: its lake, and a Spark session that starts with the first thing to do."""

    settings: Settings
    console: Console
    _stack: ExitStack = field(default_factory=ExitStack)
    _lake: Lake | None = None

    def __post_init__(self) -> None:
        from lakehouse.contracts.load import load_contracts
        from lakehouse.ledger.store import ObjectStore
        from lakehouse.ledger.watermark import open_catalog

        self.contracts: dict[str, Contract] = load_contracts(self.settings.contracts)
        self.catalog = open_catalog(self.settings)
        self.store = ObjectStore.open(self.settings)

    @contextmanager
    def running(self) -> Iterator[_Demo]:
        """Ends the Spark session, if one was started."""
        with self._stack:
            yield self

    def sample_days(self, days: int, size: float) -> None:
        """First most of the days; then the last ones, and days that their source sends again."""
        from lakehouse.ledger.log import read_log

        last = FIRST_DAY + timedelta(days=days - 1)
        first_round = max(1, days - _LATE_DAYS)
        is_second_run = any(batch.unit > FIRST_DAY + timedelta(days=first_round - 1) for batch in self._log(read_log))
        if not is_second_run:
            self._sample(first_round, size, revision=1)
            self._round("first days", list(self.contracts), None, FIRST_DAY + timedelta(days=first_round - 1))
        self._sample(days, size, revision=2)
        self._round("new and corrected days", list(self.contracts), None, last)

    def _log(self, read_log: Any) -> list[Any]:
        return list(read_log(self.store, "retail.sales"))

    def _sample(self, days: int, size: float, revision: int) -> None:
        from lakehouse.samples.make import make_samples
        from lakehouse.samples.plan import Options
        from lakehouse.samples.plan import days as days_from

        owner = self.settings.connections.get("crm_owner")
        with self.console.status("sample sources"):
            made = make_samples(
                Options(size=size, revision=revision),
                days_from(FIRST_DAY, days),
                Path(self.settings.sources_root),
                crm_dsn=owner.get_secret_value() if owner else "",
            )
        for notice in made.notices:
            self.console.print(f"[bold yellow]Notice:[/] {notice}")

    def real_days(self, data: Path, days: int | None) -> None:
        """The first half of the files, then the rest."""
        units = sorted(_unit(path) for path in data.glob("*.csv*"))[:days]
        if not units:
            raise SettingsError(f"{data} has no daily files", todo="name a folder with files such as 2010-12-01.csv")
        half = units[(len(units) - 1) // 2]
        for title, end in (("first half of the days", half), ("the other half", units[-1])):
            self._round(title, ["retail.sales"], str(data), end)

    def _round(self, title: str, sources: list[str], root: str | None, end: date) -> None:
        from lakehouse.cli.run import show_reports
        from lakehouse.landing.land import Request, land
        from lakehouse.ledger.outstanding import outstanding

        wanted = [self.contracts[name] for name in sources]
        everything = list(self.contracts.values())
        with self.console.status(f"{title}: landing"):
            landed = land(self.settings, wanted, Request(end=end, root=root), store=self.store)
        landed.raise_if_refused()
        counts = f"{len(landed.of('landed'))} units landed, {len(landed.of('unchanged'))} unchanged"
        self.console.rule(f"{title}: {counts}", align="left")
        waiting = list(outstanding(self.catalog, self.store, wanted, everything, self.settings.dbt))
        if not waiting:
            self.console.print("Nothing is pending; no JVM was started.")
            return
        waiting = waiting if "gold" in waiting else [*waiting, "gold"]
        show_reports(self.console, self._run(wanted, waiting))

    def _run(self, wanted: list[Contract], waiting: list[str]) -> list[Any]:
        from lakehouse.engine.publish import Lake
        from lakehouse.engine.run import run_waiting
        from lakehouse.engine.session import session

        with self.console.status("starting Spark") as status:
            if self._lake is None:
                self._lake = Lake(self._stack.enter_context(session(self.settings, "lakehouse demo")), self.settings)
            result = run_waiting(self._lake, wanted, waiting, None, status.update)
        if result.errors:
            raise result.errors[0]
        return result.reports

    def accounting(self) -> None:
        """Where every row of every source went."""
        from lakehouse.ledger.accounting import accounts

        self.console.rule("Where every row went", align="left")
        columns = ("received", "applied", "redundant", "without_key", "quarantined", "rejected", "superseded", "held")
        grid = _grid("table", *columns, "published", "balanced")
        problems = []
        for contract in self.contracts.values():
            for account in accounts(self.catalog, self.store, contract):
                counts = [f"{getattr(account, column):,}" for column in (*columns, "published")]
                grid.add_row(str(account.table), *counts, "no" if account.problems else "yes")
                problems += [f"{account.table}: {problem}" for problem in account.problems]
        self.console.print(grid)
        if problems:
            raise IntegrityError(
                "rows are not accounted for: " + "; ".join(problems), todo="look at these tables first"
            )

    def history(self) -> None:
        """The customer with the most versions."""
        from lakehouse.ledger.reading import key_history

        name = "dim_crm_customer" if self._rows("silver.dim_crm_customer") else "dim_customer"
        table = next(c.tables[name] for c in self.contracts.values() if name in c.tables)
        keys = self._column(f"silver.{name}", table.key[0])
        most = max(sorted(set(keys)), key=keys.count)
        self.console.rule(f"History of customer {most} in silver.{name}", align="left")
        versions = key_history(self.catalog, table, TableName("silver", name), [most])
        names = ("city", "segment", "previous_segment") if "city" in table.columns else ("country",)
        grid = _grid(*names, "effective_from", "effective_to", "is_current")
        for version in versions:
            grid.add_row(*[_text(version[n]) for n in (*names, "effective_from", "effective_to", "is_current")])
        self.console.print(grid)

    def time_travel(self) -> None:
        """One query, now and as of the first round."""
        from lakehouse.ledger.watermark import ancestors, load_table

        table = load_table(self.catalog, TableName("silver", "fact_sales_line"))
        moments = [s for s in ancestors(table) if s.summary and int(s.summary["total-records"] or 0)] if table else []
        if table is None or not moments:
            return
        self.console.rule("The same query, now and as of an earlier moment", align="left")
        query = "SELECT count(*) AS lines, sum(amount) AS net FROM silver.fact_sales_line"
        grid = _grid("as of (UTC)", "lines", "net")
        for snapshot in (moments[-1], moments[0]):
            amounts = table.scan(snapshot_id=snapshot.snapshot_id, selected_fields=("amount",)).to_arrow()["amount"]
            grid.add_row(_moment(snapshot.timestamp_ms), f"{len(amounts):,}", f"{sum(amounts.to_pylist()):,}")
        self.console.print(grid)
        self.console.print(
            f'  lakehouse sql --as-of "{_moment(moments[-1].timestamp_ms)}" -e "{query}"', soft_wrap=True
        )

    def marts(self) -> None:
        """The top of each mart."""
        for name, (order, columns) in _MARTS.items():
            rows = self._scan(f"gold.{name}", tuple(columns.split())).sort_by([(order, "descending")])
            self.console.rule(f"gold.{name}: {rows.num_rows:,} rows, by {order}", align="left")
            grid = _grid(*columns.split())
            for row in rows.slice(0, _ROWS).select(columns.split()).to_pylist():
                grid.add_row(*[_text(value) for value in row.values()])
            self.console.print(grid)

    def _scan(self, table: str, columns: tuple[str, ...]) -> Any:
        return self.catalog.load_table(table).scan(selected_fields=columns).to_arrow()

    def _column(self, table: str, column: str) -> list[Any]:
        return list(self._scan(table, (column,))[column].to_pylist())

    def _rows(self, table: str) -> int:
        return len(self._column(table, "_key"))


def _unit(path: Path) -> date:
    try:
        return date.fromisoformat(path.name.split(".")[0])
    except ValueError:
        raise SettingsError(f"{path.name} is not named by its day", todo="name it as 2010-12-01.csv") from None


def _moment(milliseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


_TITLES = {"without_key": "no key", "quarantined": "quarant.", "superseded": "supers.", "published": "rows now"}


def _grid(*columns: str) -> Grid:
    grid = Grid()
    for place, column in enumerate(columns):
        grid.add_column(_TITLES.get(column, column.replace("_", " ")), overflow="fold", no_wrap=place == 0)
    return grid


def _text(value: Any) -> str:
    from rich.markup import escape

    return "·" if value is None else escape(f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "hour") else str(value))
