"""Making the samples of both domains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

from lakehouse.core.errors import SettingsError
from lakehouse.samples import catalogue, retail
from lakehouse.samples.plan import Options
from lakehouse.samples.write import Written, write_lines

Domain = Literal["retail", "crm"]
SALES, CATALOGUE, CUSTOMERS = "retail/sales", "crm/catalogue", "crm.customer_changes"


@dataclass(frozen=True)
class Made:
    """What was written, by part; ``notices`` tells what was left out and how to have it."""

    parts: dict[str, Written] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def total(self) -> Written:
        """Everything together."""
        return sum(self.parts.values(), Written())


def sales_path(root: Path, day: date) -> Path:
    """Where a day's sales are, by the contract's pattern."""
    return root / SALES / f"{day}.csv"


def catalogue_path(root: Path, day: date) -> Path:
    """Where a day's snapshot of the catalogue is, by the contract's pattern."""
    return root / CATALOGUE / f"{day}.jsonl{catalogue.suffix(day)}"


def folder(out: str) -> Path:
    """The folder to write to; raises :class:`SettingsError` for a bucket."""
    if out.startswith("s3://"):
        raise SettingsError("samples are written to a folder, not to a bucket", where=out, todo="give --out DIR")
    return Path(out)


def make_samples(
    options: Options,
    days: Sequence[date],
    root: Path,
    *,
    crm_dsn: str = "",
    domains: Sequence[Domain] = ("retail", "crm"),
    on_day: Callable[[date], None] = lambda _: None,
) -> Made:
    """Make the days' sources below ``root`` and in the CRM's database, in constant memory.

    Without ``crm_dsn`` the change feed is left out, with a notice. Raises :class:`SettingsError` when a file cannot be
    written and :class:`SourceError` when the database cannot be used.
    """
    parts: dict[str, Written] = {}
    if "retail" in domains:
        parts[SALES] = Written()
    if "crm" in domains:
        parts[CATALOGUE] = Written()
    for day in days:
        if "retail" in domains and retail.has_file(day):
            parts[SALES] += write_lines(sales_path(root, day), retail.file_rows(options, day), header_lines=1)
        if "crm" in domains:
            parts[CATALOGUE] += write_lines(catalogue_path(root, day), catalogue.file_rows(options, day))
        on_day(day)
    if "crm" not in domains:
        return Made(parts)
    if not crm_dsn:
        return Made(parts, (_NO_DATABASE,))
    return Made({**parts, CUSTOMERS: _add_changes(options, days, crm_dsn)})


_NO_DATABASE = (
    "The CRM's customer feed was left out: no database for it is configured. Run `lakehouse up`, or set "
    "LAKEHOUSE_CONNECTIONS__CRM_OWNER to a PostgreSQL database that may be written; then run this command again."
)


def _add_changes(options: Options, days: Sequence[date], dsn: str) -> Written:
    from lakehouse.samples.change_table import open_table

    with open_table(dsn, options) as table:
        added = table.add_initial() + sum(map(table.add_day, sorted(days)))
        return table.written(added)
