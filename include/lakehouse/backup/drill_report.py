"""The report of a drill: one page without anything from elsewhere, to be kept, printed, or handed to an auditor."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from lakehouse.backup.drills import Drill, duration

_HERE = Path(__file__).parent
_WAYS = {"rows": "all rows", "files": "SHA-256 of every file", "view": "its definition"}


def render_report(drill: Drill) -> str:
    """The page. Everything is escaped: names of tables and people are text."""
    return _template().render(drill=drill, style=style(), ways=_WAYS, result=result_words(drill))


def policy() -> str:
    """The content security policy under which the page shows itself, and nothing else."""
    return f"default-src 'none'; style-src 'sha256-{_style_hash()}'; base-uri 'none'; form-action 'none'"


def result_words(drill: Drill) -> str:
    """The result in a sentence or two."""
    what = "every table" if drill.is_whole else f"{len(drill.tables)} of {drill.tables_of_set} tables"
    if not drill.is_good:
        return (
            f"The drill failed: {len(drill.problems)} problem{'' if len(drill.problems) == 1 else 's'} stand below. "
            "Until they are resolved, this set must not be relied upon."
        )
    time = f"could be read and were verified after {duration(drill.rto_seconds)}"
    kept = " All goals were met." if not drill.missed_goals else f" Missed: {'; '.join(drill.missed_goals)}."
    return f"The drill succeeded: {what} came back from the backup alone, and {time}.{kept}"


@cache
def style() -> str:
    """The page's own style sheet."""
    return (_HERE / "templates" / "drill.css").read_text("utf-8")


@cache
def _style_hash() -> str:
    return base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "moment": _moment, "number": _number, "size": _size}
    return environment.get_template("drill.html")


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _size(value: int) -> str:
    scaled = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if scaled < 1000:
            return f"{scaled:.0f} B" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1000
    return f"{scaled:.1f} TB"
