"""The page as HTML. Everything is escaped unless it was made as markup here; every link is relative."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lakehouse.backup.drills import duration
from lakehouse.page import chart, show
from lakehouse.page.detail import Detail
from lakehouse.page.freshness import STATES
from lakehouse.page.links import DagLink
from lakehouse.page.overview import LAYERS, Choice, Overview

_HERE = Path(__file__).parent
STATIC: Mapping[str, str] = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "icon-dark.svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'self'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATE_WORDS = {
    "fresh": "fresh",
    "due": "due",
    "late": "late",
    "never": "nothing yet",
    "unknown": "unknown",
    "dash": show.NONE,
}


@dataclass(frozen=True)
class Column:
    """A column of the overview: head and cells are both made from this list, so that they cannot part."""

    key: str
    title: str
    is_number: bool = False
    hint: str = ""


COLUMNS = (
    Column("table", "Table"),
    Column("layer", "Layer"),
    Column("rows", "Rows", is_number=True),
    Column("size", "Size", is_number=True, hint="Of the data files of the current snapshot"),
    Column("files", "Files", is_number=True),
    Column("freshness", "Freshness", hint="Time since the newest batch in the table has landed, against the contract"),
    Column("batch", "Last batch"),
    Column("held", "Held", is_number=True, hint="Batches that a rule or a person holds back"),
    Column("quality", "Quality", hint="Share of rows that passed all rules, by unit"),
    Column("snapshots", "Snapshots", is_number=True),
    Column("tags", "Tags"),
)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "signed", "size", "share", "age", "moment", "timestamp", "sentence", "coded"):
        environment.filters[name] = getattr(show, name)
    environment.filters["duration"] = duration
    environment.globals |= {
        "asset": asset,
        "sparkline": chart.sparkline,
        "chart": chart.chart,
        "query": query,
        "state_words": STATE_WORDS,
        "dash": show.NONE,
    }
    return environment


@cache
def static(name: str) -> bytes:
    """A file of the page's own. Raises KeyError for any other name."""
    if name not in STATIC:
        raise KeyError(name)
    return (_HERE / "static" / name).read_bytes()


def asset(name: str) -> str:
    """A file's name with a mark of its content, so that a browser never shows an old one."""
    return f"static/{name}?v={hashlib.sha256(static(name)).hexdigest()[:12]}"


def query(choice: Choice, **changes: Any) -> str:
    """The choice as the query of a URL, with something changed."""
    wanted = replace(choice, **changes)
    said = {
        "layer": wanted.layer,
        "state": wanted.state,
        "q": wanted.text,
        "sort": ("-" if wanted.is_descending else "") + wanted.sort
        if wanted.sort != "table" or wanted.is_descending
        else "",
        "page": str(wanted.page) if wanted.page > 1 else "",
    }
    return "?" + urlencode({name: value for name, value in said.items() if value})


def overview_page(found: Overview) -> str:
    """The list of all tables."""
    return _render(
        "overview.html", ".", found=found, choice=found.choice, columns=COLUMNS, layers=LAYERS, states=STATES
    )


def table_page(found: Detail, dags: Sequence[DagLink]) -> str:
    """One table."""
    return _render("table.html", "..", found=found, row=found.row, dags=dags)


def message_page(title: str, text: str, todo: str = "", *, root: str = ".") -> str:
    """A page that only says something."""
    return _render("message.html", root, title=title, text=text, todo=todo)


def _render(template: str, root: str, **values: Any) -> str:
    """``root`` leads from the page to the page's own root, and ``airflow`` to Airflow's, which is one above."""
    airflow = ".." if root == "." else f"{root}/.."
    return _environment().get_template(template).render(root=root, airflow=airflow, **values)
