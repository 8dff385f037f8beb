"""How answers look: grids of rows, and values as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.markup import escape
from rich.table import Table as Grid


def rows_grid(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Grid:
    """A grid of values; null is told apart from the text."""
    grid = Grid()
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*["[dim]null[/dim]" if value is None else escape(plain(value)) for value in row])
    return grid


def plain(value: Any) -> str:
    """A value as text."""
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)
