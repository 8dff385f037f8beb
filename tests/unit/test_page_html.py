"""The Lakehouse page as HTML: what stands under which head, that nothing gets in unescaped, and who may see it."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from tests.drills import SET, a_drill
from tests.page_lake import NOW, Clock, FakeLake, consumed, decide, land, read, refresher, snapshot

from lakehouse.backup.base_status import Databases, Writing
from lakehouse.backup.bases import Base
from lakehouse.backup.drill_report import render_report
from lakehouse.backup.records import Verification
from lakehouse.backup.status import Exposure, LastSet, Limits, Seen, Status
from lakehouse.backup.wal import Archived
from lakehouse.core.errors import IntegrityError, LakehouseError, TransientError
from lakehouse.core.names import TableName
from lakehouse.ledger.watermark import Stamp
from lakehouse.page import chart, show
from lakehouse.page.app import make_app
from lakehouse.page.detail import detail, read_table
from lakehouse.page.html import COLUMNS, POLICY, overview_page, static, table_page
from lakehouse.page.known import Known, Problem
from lakehouse.page.links import DagLink, no_dags
from lakehouse.page.overview import Choice, overview
from lakehouse.page.records import UnitQuality
from lakehouse.page.view import LakeView

SALES, FACT = "retail.sales", "silver.fact_sales_line"
DAYS = [date(2024, 4, 1) + timedelta(days=number) for number in range(9)]
QUALITY = tuple(UnitQuality(day, 990 + number, 10 - number, "taken") for number, day in enumerate(DAYS))
EVIL = """"><script>alert('x')</script><img src=x onerror=alert(1)>"""
VOID = {"meta", "link", "input", "br", "img"}


@dataclass
class Element:
    """A node of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def find(self, tag: str, **attributes: str) -> list[Element]:
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [e for e in self.walk() if e.tag == tag and wanted.items() <= e.attributes.items()]

    @property
    def text(self) -> str:
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join(" ".join(parts).split())


class Reader(HTMLParser):
    """Reads a page, and fails where a tag is left open or closed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.stack[-1].children.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.stack[-1].children.append(data)


def parse(html: str) -> Element:
    reader = Reader()
    reader.feed(html)
    reader.close()
    [root] = reader.stack
    return root


@pytest.fixture
def lake() -> FakeLake:
    """A fact with everything: batches of which one is held, quality, tags, commits."""
    made = FakeLake()
    for day in DAYS:
        land(made.memory, SALES, day, NOW - timedelta(hours=30))
    decide(made.memory, SALES, "hold", 4, reason="too few lines")
    held = replace(consumed(SALES, 9), held={2: "too many rows were refused"})
    made.publish("bronze.retail_sales", snapshot(consumed(SALES, 9), rows=123_456))
    made.publish(FACT, snapshot(Stamp("a0")), snapshot(held, rows=98_765), tags={"audited": 1})
    return made


def known_of(lake: FakeLake, contracts: Path) -> Known:
    return replace(read(refresher(lake, contracts)), quality={FACT: QUALITY})


def view_of(lake: FakeLake, contracts: Path) -> LakeView:
    clock = Clock()
    view = LakeView(refresher(lake, contracts, clock), clock, wait_seconds=30)
    view.overview(Choice())
    view.known = replace(view.known, quality={FACT: QUALITY})
    return view


def pages(lake: FakeLake, contracts: Path) -> dict[str, str]:
    """Every kind of page, by name."""
    reader = refresher(lake, contracts)
    known, name = known_of(lake, contracts), TableName.parse(FACT)
    full = detail(known, name, read_table(reader, known, name, None), None, NOW)
    broken = known.went_wrong(Problem("catalog", "the catalog cannot be reached", "run `lakehouse up`", NOW))
    dags = [DagLink("silver retail/sales", "writes it", is_paused=True)]
    return {
        "overview": overview_page(overview(known, Choice(), NOW)),
        "chosen": overview_page(
            overview(known, Choice(layer="silver", text="fact", sort="rows", is_descending=True), NOW)
        ),
        "nothing chosen": overview_page(overview(known, Choice(text="no such"), NOW)),
        "broken": overview_page(overview(broken, Choice(), NOW)),
        "empty": overview_page(overview(Known(), Choice(), NOW)),
        "table": table_page(full, dags),
        "promised": table_page(detail(known, TableName("silver", "dim_customer"), None, None, NOW), []),
        "mart": table_page(detail(known, TableName("gold", "sales_star"), None, None, NOW), []),
    }


def test_every_cell_of_the_overview_stands_under_its_own_head(lake: FakeLake, contracts: Path) -> None:
    table = parse(pages(lake, contracts)["overview"]).find("table")[0]
    heads = [head.attributes["data-column"] for head in table.find("thead")[0].find("th")]
    assert heads == [column.key for column in COLUMNS]
    lines = table.find("tbody")[0].find("tr")
    assert len(lines) > 10
    for line in lines:
        cells = [child for child in line.children if isinstance(child, Element)]
        assert [cell.attributes["data-column"] for cell in cells] == heads
    fact = next(line for line in lines if line.find("th")[0].text.startswith("fact_sales_line"))
    shown = {cell.attributes["data-column"]: cell for cell in fact.children if isinstance(cell, Element)}
    assert {
        key: shown[key].text for key in ("layer", "rows", "size", "files", "batch", "held", "snapshots", "tags")
    } == {
        "layer": "silver",
        "rows": "98,765",
        "size": "4.1 kB",
        "files": "2",
        "batch": "#9 of 2024-04-09",
        "held": "2",
        "snapshots": "2",
        "tags": "audited",
    }
    assert "due" in shown["freshness"].text and "30 h" in shown["freshness"].text
    assert "99.80 %" in shown["quality"].text and shown["quality"].find("svg")
    assert [key for key, cell in shown.items() if cell.find("svg") or "%" in cell.text] == ["quality"]


def test_a_tables_page_has_every_section(lake: FakeLake, contracts: Path) -> None:
    page = parse(pages(lake, contracts)["table"])
    heads = [head.text for head in page.find("h2")]
    assert heads == [
        "Held and discarded batches",
        "Around it",
        "Quality by unit",
        "Rules",
        "Columns",
        "Batches of retail.sales",
        "Commits",
        "Tags and branches",
        "Contracts over time",
        "Layout and contract",
    ]
    assert "Too few lines" in page.text and "lakehouse release" in page.text
    [dag] = page.find("a", target="_top")
    assert (dag.attributes["href"], dag.text) == ("../../dags/silver%20retail%2Fsales", "silver retail/sales")
    assert {"silver.dim_customer", "bronze.retail_sales", "gold.sales_star"} <= {a.text for a in page.find("a")}


def test_what_is_not_known_is_a_dash_and_no_word_of_python(lake: FakeLake, contracts: Path) -> None:
    for name, html in pages(lake, contracts).items():
        for element in parse(html).walk():
            for child in element.children:
                assert not isinstance(child, str) or child.strip() not in ("None", "True", "False", "()", "[]"), name
    assert "–" in pages(lake, contracts)["promised"]


def test_commands_in_messages_are_shown_as_code_and_still_escaped() -> None:
    assert (
        show.coded("say `lakehouse up` & <b>wait</b>") == "say <code>lakehouse up</code> &amp; &lt;b&gt;wait&lt;/b&gt;"
    )
    assert show.coded("`<script>`") == "<code>&lt;script&gt;</code>"


def test_pages_are_well_formed_and_link_relatively_only(lake: FakeLake, contracts: Path) -> None:
    for name, html in pages(lake, contracts).items():
        links = 0
        for element in parse(html).walk():
            for attribute in ("href", "src", "action"):
                if attribute in element.attributes:
                    links += 1
                    target = element.attributes[attribute]
                    assert re.match(r"\.{1,2}/|\?|#|\?$", target), f"{name}: {target}"
        assert links >= 3, name


def test_nothing_runs_or_is_styled_from_within_a_page(lake: FakeLake, contracts: Path) -> None:
    """What the policy would not let through anyway."""
    for name, html in pages(lake, contracts).items():
        for element in parse(html).walk():
            assert not [key for key in element.attributes if key.startswith("on") or key == "style"], name
            assert element.tag != "style", name
            assert element.tag != "script" or (element.attributes["src"] and not element.text), name
    assert "unsafe" not in POLICY and "http" not in POLICY and "default-src 'none'" in POLICY


def test_whatever_a_lake_says_is_escaped(tmp_path: Path, contracts: Path) -> None:
    path = contracts / "retail" / "sales.yaml"
    text = path.read_text()
    owner = re.search(r"^owner: (.*)$", text, re.MULTILINE)
    assert owner is not None
    path.write_text(text.replace(owner.group(), "owner: " + repr(EVIL.replace("'", "’"))))
    lake = FakeLake()
    land(lake.memory, SALES, DAYS[0])
    decide(lake.memory, SALES, "hold", 1, reason=EVIL)
    lake.publish(
        FACT, snapshot(consumed(SALES, 1, attempt=EVIL), rows=1), tags={EVIL: 0}, columns={EVIL: "string"}, comment=EVIL
    )
    lake.publish("ops.scratch", snapshot(rows=1), comment=EVIL)
    reader = refresher(lake, contracts)
    known = read(reader)
    known = replace(known.went_wrong(Problem("catalog", EVIL, EVIL, NOW)), damaged={TableName.parse(FACT): EVIL})
    name = TableName.parse(FACT)
    found = detail(known, name, read_table(reader, known, name, None), None, NOW)
    made = [
        overview_page(overview(known, Choice.of({"q": EVIL}), NOW)),
        overview_page(overview(known, Choice(), NOW)),
        table_page(found, [DagLink(EVIL, EVIL)]),
        str(chart.chart(QUALITY, EVIL)),
    ]
    for html in made:
        assert "alert(" in html and "<script>alert" not in html and "<img" not in html
        for element in parse(html).walk():
            assert "onerror" not in element.attributes
            assert element.tag not in ("img",)


def test_pages_can_be_used_without_seeing_or_pointing(lake: FakeLake, contracts: Path) -> None:
    for name, html in pages(lake, contracts).items():
        page = parse(html)
        assert page.find("html")[0].attributes["lang"] == "en"
        assert page.find("main") and page.find("h1"), name
        for table in page.find("table"):
            assert table.find("thead") and all(head.attributes.get("scope") for head in table.find("th")), name
        for picture in page.find("svg"):
            assert picture.attributes["role"] == "img" and picture.attributes["aria-label"], name
        labelled = {id(e) for label in page.find("label") for e in label.walk()}
        for control in [*page.find("input"), *page.find("select")]:
            assert control.attributes.get("type") == "hidden" or id(control) in labelled, name
        for region in page.find("div", role="region"):
            assert region.attributes["tabindex"] == "0" and region.attributes["aria-label"], name
        assert len({e.attributes["id"] for e in page.walk() if "id" in e.attributes}) == sum(
            "id" in e.attributes for e in page.walk()
        ), name


def test_problems_and_emptiness_are_told(lake: FakeLake, contracts: Path) -> None:
    made = pages(lake, contracts)
    [alert] = parse(made["broken"]).find("div", role="alert")
    assert [code.text for code in alert.find("code")] == ["lakehouse up"]
    assert (
        "The catalog cannot be reached" in alert.text
        and "lakehouse up" in alert.text
        and "since 2024-04-10" in alert.text
    )
    assert "98,765" in made["broken"]
    assert "There is no table yet" in made["empty"]
    assert "No table is like that" in made["nothing chosen"]
    assert "Nothing has been published to this table yet" in made["promised"]


# -- the chart


def test_a_chart_has_a_bar_for_each_unit_and_tells_itself_in_words() -> None:
    units = (*QUALITY, UnitQuality(date(2024, 4, 10), 0, 0, "taken"), UnitQuality(date(2024, 4, 11), 1, 1, "held"))
    drawn = parse(str(chart.chart(units, "Good rows")))
    bars = drawn.find("g")
    assert len(bars) == len(units) - 1  # a unit without rows has no share
    assert [[e.attributes["class"] for e in bar.find("rect")] for bar in bars[-2:]] == [
        ["bar good", "bar refused"],
        ["bar held", "bar refused"],
    ]
    assert (
        drawn.find("svg")[0].attributes["aria-label"]
        == "Good rows, 2024-04-01 to 2024-04-11: lowest 50.00 %, last 50.00 %"
    )
    assert bars[0].find("title")[0].text == "2024-04-01: 99.00 % good, 10 of 1,000 rows refused, taken"
    assert str(chart.sparkline((), "x")) == ""


@pytest.mark.parametrize("worst", [0, 0.3, 0.91, 0.999, 1])
def test_bars_stay_inside_the_chart(worst: float) -> None:
    units = [UnitQuality(day, round(1000 * worst), 1000 - round(1000 * worst), "taken") for day in DAYS]
    drawn = parse(str(chart.chart(units, "x")))
    for bar in drawn.find("g"):
        parts = [(float(e.attributes["y"]), float(e.attributes["height"])) for e in bar.find("rect")]
        assert sum(height for _, height in parts) == pytest.approx(128)
        assert all(top >= 0 and height >= 0 for top, height in parts)
        assert len(parts) == (1 if worst == 1 else 2)
        assert worst == 1 or parts[1][1] >= 2  # one bad row of a million is seen, too


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "100 %"), (0.99999, "99.99 %"), (0.5, "50.00 %"), (0.0, "0.00 %"), (None, "–")]
)
def test_only_a_whole_share_is_said_to_be_whole(value: float | None, text: str) -> None:
    assert show.share(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "5 s"),
        (600, "10 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (47 * 3600, "47 h"),
        (50 * 3600, "2 d"),
        (-3, "0 s"),
    ],
)
def test_ages_are_told_in_one_unit(seconds: int, text: str) -> None:
    assert show.age(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000_000_000_000, "2500.0 TB")]
)
def test_sizes_are_told_in_one_unit(count: int, text: str) -> None:
    assert show.size(count) == text


# -- the style


def colours(theme: str) -> dict[str, str]:
    """The colours of the light or the dark theme."""
    css = static("page.css").decode()
    pairs = re.findall(r"(--[a-z-]+): (?:light-dark\(([^;]+?), ([^;]+)\)|([^;]+));", css)
    return {name: both or (light if theme == "light" else dark) for name, light, dark, both in pairs}


def luminance(colour: str) -> float:
    """Of a colour as CSS writes it, as WCAG reckons it."""
    if colour == "#fff":
        return 1.0
    found = re.match(r"oklch\(([0-9.]+) ([0-9.]+) ([0-9.]+)\)", colour)
    assert found is not None, colour
    light, chroma, hue = map(float, found.groups())
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long, middle, short = (
        (light + 0.3963377774 * a + 0.2158037573 * b) ** 3,
        (light - 0.1055613458 * a - 0.0638541728 * b) ** 3,
        (light - 0.0894841775 * a - 1.2914855480 * b) ** 3,
    )
    red = 4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short
    red, green, blue = (min(max(each, 0.0), 1.0) for each in (red, green, blue))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


TEXTS = [
    ("fg", "bg"), ("fg", "subtle"), ("fg", "hover"), ("dim", "bg"), ("dim", "subtle"), ("dim", "hover"), ("link", "bg"),
    ("link", "hover"), ("good-fg", "good-bg"), ("warn-fg", "warn-bg"), ("bad-fg", "bad-bg"), ("info-fg", "info-bg"),
    ("warn-fg", "subtle"), ("bad-fg", "subtle"),
]  # fmt: skip
SHAPES = [("good", "bg"), ("warn", "bg"), ("bad", "bg"), ("focus", "bg")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_apart_in_both_themes(theme: str) -> None:
    found = colours(theme)
    weak = {pair: round(far, 2) for pair in TEXTS if (far := contrast(*(found[f"--{e}"] for e in pair))) < 4.5}
    weak |= {pair: round(far, 2) for pair in SHAPES if (far := contrast(*(found[f"--{e}"] for e in pair))) < 3}
    assert weak == {}
    assert contrast("#fff", found["--button"]) >= 4.5


def test_the_themes_differ() -> None:
    light, dark = colours("light"), colours("dark")
    assert luminance(light["--bg"]) > 0.9 > 0.1 > luminance(dark["--bg"])
    assert {name for name in light if light[name] == dark[name]} == {"--button"}


def test_every_class_that_a_page_uses_is_styled(lake: FakeLake, contracts: Path) -> None:
    css = static("page.css").decode()
    made = pages(lake, contracts).values()
    used = {name for html in made for e in parse(html).walk() for name in e.attributes.get("class", "").split()}
    plain = {
        "none",
        "never",
        "unknown",
        "public",
        "internal",
        "tables",
        "bronze",
        "silver",
        "quarantine",
        "gold",
        "ops",
    }
    assert {name for name in used - plain if f".{name}" not in css} == set()


# -- who may see it


def application(view: LakeView, guard: Callable[..., None]) -> FastAPI:
    def find_dags(request: Request) -> Callable[[TableName, str], list[DagLink]]:
        return lambda table, dataset: [DagLink(f"{table}.{dataset}", "writes it")]

    return make_app(lambda: view, [Depends(guard)], find_dags)


def let_in() -> None:
    """Everybody."""


def refuse(status: int) -> Callable[[], None]:
    def guard() -> None:
        raise HTTPException(status, "not you")

    return guard


PATHS = ["/", f"/tables/{FACT}", "/tables/nowhere", "/static/page.css", "/static/page.js"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("status", [401, 403])
def test_nothing_is_served_to_who_may_not_see_it(lake: FakeLake, contracts: Path, path: str, status: int) -> None:
    view = LakeView(refresher(lake, contracts), wait_seconds=30)
    client = TestClient(application(view, refuse(status)))
    answer = client.get(path)
    assert answer.status_code == status
    assert "Log in" in answer.text if status == 401 else "assets" in answer.text
    assert answer.headers["content-security-policy"] == POLICY
    assert not lake.requests


def test_every_route_has_the_guard_and_no_other_is_there(lake: FakeLake, contracts: Path) -> None:
    app = application(LakeView(refresher(lake, contracts)), refuse(403))
    client = TestClient(app)
    for path in ("/openapi.json", "/docs", "/redoc"):
        assert client.get(path).status_code == 404
    routes = [(route.path, route.methods) for route in app.routes if hasattr(route, "methods")]
    assert sorted(path for path, _ in routes) == ["/", "/drills/{drill_id}", "/static/{name}", "/tables/{name}"]
    assert all(methods == {"GET"} for _, methods in routes)


@pytest.mark.parametrize("prefix", ["", "/team/airflow"])
def test_the_page_works_below_any_path(lake: FakeLake, contracts: Path, prefix: str) -> None:
    """Every link that a page has is followed, up to Airflow's own."""
    outer = FastAPI()
    outer.mount(f"{prefix}/lakehouse", application(view_of(lake, contracts), let_in))
    client = TestClient(outer, base_url="http://airflow")
    start = f"http://airflow{prefix}/lakehouse/"
    waiting, seen = [start], set()
    while waiting:
        url = waiting.pop()
        if url in seen or "?" in url.removeprefix(start) and "static" not in url:
            continue
        seen.add(url)
        if url.startswith(f"http://airflow{prefix}/dags/"):
            continue
        assert url.startswith(start), url
        answer = client.get(url)
        assert answer.status_code == 200, url
        if answer.headers["content-type"].startswith("text/html"):
            links = [e.attributes.get("href") or e.attributes.get("src") for e in parse(answer.text).walk()]
            waiting += [str(answer.url.join(link)) for link in links if link and not link.startswith("#")]
    assert f"{start}tables/{FACT}" in seen
    assert f"http://airflow{prefix}/dags/{FACT}.{SALES}" in seen
    assert any("page.css" in url for url in seen)


def test_errors_are_pages_without_a_stack(lake: FakeLake, contracts: Path) -> None:
    view = view_of(lake, contracts)
    client = TestClient(application(view, let_in), raise_server_exceptions=False)
    for path, said in {
        "/tables/nowhere": "not the name of a table",
        "/tables/silver.dim_nowhere": "no table silver.dim_nowhere",
        "/tables/secret.x": "not the name of a table",
        "/static/../app.py": "Not here",
        "/static/app.py": "Not here",
        "/elsewhere": "Not here",
    }.items():
        answer = client.get(path)
        assert (answer.status_code, said in answer.text) == (404, True), path
        assert answer.headers["content-type"].startswith("text/html")
    assert client.post("/").status_code == 405
    view.clock = Any  # type: ignore[assignment]
    answer = client.get("/")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text and "AttributeError" not in answer.text and "log says more" in answer.text


def test_pages_are_private_and_may_be_framed_by_airflow_only(lake: FakeLake, contracts: Path) -> None:
    client = TestClient(application(view_of(lake, contracts), let_in))
    for path in PATHS[:2]:
        headers = client.get(path).headers
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert "immutable" in client.get("/static/page.css").headers["cache-control"]


# -- backups


def backed_up(**given: Any) -> Status:
    """Backups that stand well."""
    known: dict[str, Any] = {
        "at": NOW,
        "last": LastSet(SET, NOW - timedelta(minutes=7), NOW - timedelta(minutes=6), 12, 345, 5_000_000, 1000),
        "exposure": Exposure(timedelta(minutes=7), timedelta(minutes=12), 30, NOW - timedelta(hours=48)),
        "verification": Verification(SET, NOW.isoformat(), "3/7", 345, 50, 1000, ()),
        "drill": a_drill(),
        "good_drill": a_drill(),
        "limits": Limits(timedelta(minutes=15), timedelta(hours=4), timedelta(days=8)),
        "overdue": (),
    }
    return Status(**{**known, **given})


def section(known: Known) -> Element:
    [found] = parse(overview_page(overview(known, Choice(), NOW))).find("section", aria_labelledby="backups")
    return found


def test_how_backups_stand_is_shown() -> None:
    shown = section(Known(has_backups=True, backups=backed_up()))
    for words in (
        "2024-04-10 11:53 12 tables, 5.0 MB", "RPO now 7 min at worst 12 min", "goal 15 min", "whole",
        "2026-03-04 12:00 passed", "RTO 1 min 1 s goal 4 h", "as of 2024-04-10 12:00 UTC",
    ):  # fmt: skip
        assert words in shown.text, words
    [link] = shown.find("a")
    assert link.attributes["href"] == f"./drills/{a_drill().id}"
    assert not shown.find("div", role="alert") and not shown.find("span", **{"class": "badge late"})


def test_what_is_overdue_is_said_in_red_words() -> None:
    bad = replace(a_drill(), damages=(EVIL,), actor=EVIL)
    late = backed_up(
        overdue=("the last complete set is 3 h old, the goal is 15 min", EVIL), drill=bad,
        exposure=Exposure(timedelta(hours=3), timedelta(hours=3), 1, NOW),
    )  # fmt: skip
    shown = section(Known(has_backups=True, backups=late))
    [alert] = shown.find("div", role="alert")
    assert "The last complete set is 3 h old" in alert.text and "alert(" in alert.text
    assert [badge.text for badge in shown.find("span", **{"class": "badge late"})] == ["3 h", "failed"]
    assert not shown.find("script") and not shown.find("img")


def test_backups_that_are_not_there_or_not_known_are_told() -> None:
    assert "LAKEHOUSE_BACKUP_BUCKET is not set" in section(Known(has_backups=False)).text
    assert "was not read yet" in section(Known()).text
    assert "could not be read yet" in section(Known(has_backups=True)).text
    empty = backed_up(
        last=None, exposure=None, verification=None, drill=None, good_drill=None, overdue=("there is no set",)
    )
    assert "There is no set" in section(Known(has_backups=True, backups=empty)).text
    extrapolated = backed_up(good_drill=a_drill(tables_of_set=9))
    assert "extrapolated" in section(Known(has_backups=True, backups=extrapolated)).text


def databases(**given: Any) -> Databases:
    """Databases whose log is archived up to now."""
    base = Base("b", "7", "18.4", 1, NOW.isoformat(), (NOW - timedelta(hours=5)).isoformat(), "0/3000028", "0/3000120",
                1 << 24, 9, ())  # fmt: skip
    newest = Archived("k", "000000010000000000000004", 9, NOW - timedelta(minutes=20))
    writing = Writing("7", 1, 5, 1 << 24, NOW - timedelta(days=9), True, timedelta(minutes=5))
    return Databases(**{"base": base, "archived": newest, "writing": writing, **given})


def test_how_the_databases_can_be_brought_back_is_shown() -> None:
    def shown(found: Databases) -> Element:
        words = tuple(found.overdue(NOW, timedelta(days=2), None))
        return section(Known(has_backups=True, backups=backed_up(databases=found, overdue=words)))

    well = databases()
    assert "Databases' base backup 5 h" in shown(well).text
    assert "Databases' log archived the newest segment came 20 min ago, none waits" in shown(well).text
    assert not shown(well).find("span", **{"class": "badge late"})
    assert well.writing and well.archived
    slow = replace(well, writing=replace(well.writing, segment=7, failed_at=NOW))
    late = shown(slow)
    assert [badge.text for badge in late.find("span", **{"class": "badge late"})] == ["20 min behind"]
    assert "The log of the databases is archived up to 20 min ago only" in late.find("div", role="alert")[0].text
    soon = shown(replace(slow, archived=replace(well.archived, at=NOW - timedelta(minutes=4))))
    assert "4 min behind" in soon.text and not soon.find("span", **{"class": "badge late"})
    old = shown(replace(well, base=None))
    assert "Databases' base backup none" in old.text
    away = shown(replace(well, writing=None, problem=f"it is away {EVIL}"))
    assert "PostgreSQL did not say what waits: it is away" in away.text and not away.find("script")
    assert "Databases'" not in section(Known(has_backups=True, backups=backed_up())).text, "where they are not ours"


@dataclass
class Place:
    """Where backups are, as far as the page asks."""

    stands: Status | LakehouseError
    asked: list[str] = field(default_factory=list)

    def status(self, now: datetime, seen: Seen) -> Status:
        if isinstance(self.stands, LakehouseError):
            raise self.stands
        return self.stands

    def report(self, drill_id: str) -> str:
        self.asked.append(drill_id)
        if drill_id != a_drill().id:
            raise IntegrityError("the record of a drill was not signed with our key", todo="see who wrote it")
        return render_report(a_drill())


def test_a_server_of_backups_that_is_away_leaves_the_page_up(lake: FakeLake, contracts: Path) -> None:
    place = Place(backed_up())
    lake.backups = place  # type: ignore[assignment]
    reader = refresher(lake, contracts)
    known = read(reader)
    assert known.backups == place.stands
    place.stands = TransientError("the S3 server of backups does not answer", todo="start it")
    html = overview_page(overview(read(reader, known), Choice(), NOW))
    assert "The S3 server of backups does not answer" in html and "98,765" in html
    assert "12 tables" in html, "what was known of them stays"


def test_reports_are_served_to_whom_the_page_is_and_only_ours(lake: FakeLake, contracts: Path) -> None:
    lake.backups = place = Place(backed_up())  # type: ignore[assignment]

    def guard(request: Request) -> None:
        if "authorization" not in request.headers:
            raise HTTPException(401, "log in")

    app = FastAPI()
    app.mount("/lakehouse", make_app(lambda: view_of(lake, contracts), [Depends(guard)], lambda: no_dags))
    client = TestClient(app, headers={"authorization": "x"})
    path = f"/lakehouse/drills/{a_drill().id}"
    assert TestClient(app).get(path).status_code == 401 and place.asked == []
    answer = client.get(path)
    assert answer.status_code == 200 and "Recovery drill" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style and base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode() in policy
    other = client.get("/lakehouse/drills/20260304T120000Z-ffffffff")
    assert other.status_code == 404 and "was not signed with our key" in other.text
    asked = len(place.asked)
    for name in ("..%2f..%2fx", "x", f"{a_drill().id}%0a", "%3Cscript%3E"):
        assert client.get(f"/lakehouse/drills/{name}").status_code == 404, name
    assert len(place.asked) == asked
