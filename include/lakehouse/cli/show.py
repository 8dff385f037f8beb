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


def ranges(numbers: Sequence[int]) -> str:
    """Numbers of batches in few words: #3, #5-9."""
    parts: list[tuple[int, int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    return ", ".join(f"#{low}" if low == high else f"#{low}-{high}" for low, high in parts)
