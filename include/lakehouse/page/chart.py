"""Quality over time as inline SVG: one bar for each unit. Colours come from the page's style, so both themes fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lakehouse.page.records import UnitQuality
from lakehouse.page.show import number, share

_FLOORS = (0.99, 0.9, 0.5)
_GAP = 1.0
_LEAST = 2.0
"""Of refused rows, so much is seen at least."""


@dataclass(frozen=True)
class _Frame:
    """Where bars go: the size of the picture, and the room left of and below them."""

    width: int
    height: int
    left: int = 0
    bottom: int = 0
    most: int = 60

    @property
    def room(self) -> int:
        return self.height - self.bottom


_SMALL = _Frame(96, 20, most=30)
_LARGE = _Frame(760, 150, left=56, bottom=22)


def sparkline(series: Sequence[UnitQuality], name: str) -> Markup:
    """A small chart of the newest units; empty where there is nothing to show."""
    units = _shown(series, _SMALL)
    if not units:
        return Markup("")
    return _svg("spark", _SMALL, _told(units, name), _bars(units, _SMALL))


def chart(series: Sequence[UnitQuality], name: str) -> Markup:
    """A chart with axes."""
    units = _shown(series, _LARGE)
    if not units:
        return Markup("")
    return _svg("chart", _LARGE, _told(units, name), [*_axes(units), *_bars(units, _LARGE)])


def _shown(series: Sequence[UnitQuality], frame: _Frame) -> list[UnitQuality]:
    return [unit for unit in series if unit.share is not None][-frame.most :]


def _svg(kind: str, frame: _Frame, told: str, parts: Iterable[Markup]) -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">')
    drawn = Markup("").join(parts)
    return head.format(kind, frame.width, frame.height, frame.width, frame.height, told) + drawn + Markup("</svg>")


def _told(units: Sequence[UnitQuality], name: str) -> str:
    """The chart in words, for who does not see it."""
    shares = [unit.share or 0.0 for unit in units]
    days = f"{units[0].unit} to {units[-1].unit}" if len(units) > 1 else f"{units[0].unit}"
    return f"{name}, {days}: lowest {share(min(shares))}, last {share(shares[-1])}"


def _floor(units: Sequence[UnitQuality]) -> float:
    """Where the axis begins, so that small shares of bad rows can be seen."""
    lowest = min(unit.share or 0.0 for unit in units)
    return next((floor for floor in _FLOORS if lowest >= floor + (1 - floor) / 10), 0.0)


def _bars(units: Sequence[UnitQuality], frame: _Frame) -> Iterator[Markup]:
    """For each unit what is good, from below, and what was refused, from the top."""
    floor = _floor(units)
    step = (frame.width - frame.left) / max(len(units), 12)
    for place, unit in enumerate(units):
        refused = min((1 - (unit.share or 0.0)) / (1 - floor), 1.0) * frame.room
        refused = max(refused, _LEAST) if unit.refused else 0.0
        left, width = frame.left + place * step, max(step - _GAP, 0.8)
        kind = "held" if unit.state in ("held", "blocked") else "good"
        good = _bar(kind, left, refused, width, frame.room - refused)
        yield _GROUP.format(_title(unit), good, _bar("refused", left, 0.0, width, refused) if refused else "")


_GROUP = Markup("<g><title>{}</title>{}{}</g>")


def _bar(kind: str, left: float, top: float, width: float, height: float) -> Markup:
    drawn = Markup('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    return drawn.format(kind, left, top, width, height)


def _title(unit: UnitQuality) -> str:
    rows = unit.good + unit.refused
    return f"{unit.unit}: {share(unit.share)} good, {number(unit.refused)} of {number(rows)} rows refused, {unit.state}"


def _axes(units: Sequence[UnitQuality]) -> Iterator[Markup]:
    line = Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    text = Markup('<text class="axis" x="{}" y="{}" text-anchor="{}">{}</text>')
    room, left, right = _LARGE.room, _LARGE.left, _LARGE.width
    yield line.format(left, 0.5, right, 0.5)
    yield line.format(left, room + 0.5, right, room + 0.5)
    yield text.format(left - 6, 11, "end", "100 %")
    yield text.format(left - 6, room, "end", f"{_floor(units) * 100:.0f} %")
    yield text.format(left, _LARGE.height - 5, "start", units[0].unit)
    if len(units) > 1:
        step = (right - left) / max(len(units), 12)
        yield text.format(max(left + len(units) * step, left + 180), _LARGE.height - 5, "end", units[-1].unit)
