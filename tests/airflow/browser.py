"""Airflow's UI in a headless Chromium, used as a person uses it.

What to click is found by what a person reads (labels, names of buttons and links) and, where there is nothing to read,
by the test ids of Airflow's own UI. Every step waits for what it expects to see, and for nothing else.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import ConsoleMessage, FrameLocator, Locator, Page, Request, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
MISSING = "there is no browser: install Chromium (on Debian and Ubuntu: apt-get install chromium)"
# No service of the browser's maker is looked for; --no-sandbox, which root needs, is Playwright's default.
FLAGS = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update", "--disable-sync")
SIZE: Any = {"width": 1280, "height": 880}
PATIENCE_MS = 60_000
"""How long a step waits for what it expects; three processes of tests may share two cores."""
Theme = Literal["light", "dark"]


@dataclass
class Screen:
    """A window with Airflow's UI in it, and what it asked for and complained of."""

    page: Page
    pictures: Path
    taken: list[Path] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def shoot(self, name: str) -> None:
        """Write what is seen now as a picture."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.taken.append(self.pictures / f"{name}.webp")
        session = self.page.context.new_cdp_session(self.page)  # WebP is half as large, and no format of Playwright's
        picture = session.send("Page.captureScreenshot", {"format": "webp", "quality": 80})["data"]
        session.detach()
        self.taken[-1].write_bytes(base64.b64decode(picture))

    def keep_what_went_wrong(self, name: str) -> None:
        """The picture and the source of what is seen now."""
        self.shoot(f"failed-{name}")
        self.taken[-1].with_suffix(".html").write_text(self.page.content())

    def log_in(self, user: str, password: str) -> None:
        self.page.goto("/")
        self.page.get_by_label("Username").fill(user)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_test_id("nav-sidebar")).to_be_visible()

    def wear(self, theme: Theme) -> None:
        """Choose the theme in the menu of the user."""
        self.page.get_by_test_id("nav-sidebar").get_by_text("User").click()
        self.page.get_by_role("menuitem", name="Appearance").click()
        self.page.get_by_role("menuitemradio", name=f"{theme.capitalize()} Mode").click()
        expect(self.page.locator("html")).to_have_class(re.compile(rf"\b{theme}\b"))
        self.page.keyboard.press("Escape")

    def open_dag(self, dag: str) -> None:
        """By the list of DAGs."""
        self.page.get_by_test_id("nav-dags-link").click()
        self.page.get_by_test_id("search-dags").fill(dag)
        self.page.get_by_test_id("dag-id").get_by_text(dag, exact=True).click()
        expect(self.page.get_by_test_id("header-card").get_by_role("heading", name=dag)).to_be_visible()

    def ask_for_a_run(self) -> Locator:
        """The dialog that runs the DAG which is open."""
        self.page.get_by_test_id("trigger-dag-button").first.click()
        dialog = self.page.get_by_role("dialog")
        again = self.page.get_by_role("menuitem", name="Trigger", exact=True)
        expect(dialog.or_(again)).to_be_visible()
        if again.is_visible():  # after a run with a form, Airflow asks whether to fill in the same
            again.click()
        expect(dialog).to_be_visible()
        return dialog

    def send(self, button: Locator, to: str) -> Any:
        """Press the button that sends a form to the API; what the API answers."""
        with self.page.expect_response(
            lambda answer: answer.request.method == "POST" and answer.url.endswith(to)
        ) as sent:
            button.click()
        assert sent.value.ok, sent.value.text()
        return sent.value.json()

    def see_run(self, dag: str, run: str, state: str, seconds: float = 600) -> None:
        """Open a run and wait until its badge says so; the UI brings itself up to date."""
        self.page.goto(f"/dags/{dag}/runs/{run}")
        badge = self.page.get_by_test_id("header-card").get_by_test_id("state-badge")
        expect(badge).to_have_text(state, timeout=seconds * 1000)

    def open_lakehouse(self) -> FrameLocator:
        """The page of ours, by Airflow's navigation; the frame that it is shown in."""
        self.page.get_by_test_id("nav-sidebar").get_by_role("link", name="Lakehouse").click()
        expect(self.frame.get_by_role("heading", name="Lakehouse")).to_be_visible()
        return self.frame

    @property
    def frame(self) -> FrameLocator:
        return self.page.frame_locator("iframe")


def pick_day(field_of: Locator, page: Page, day: date) -> None:
    """Fill in one of Airflow's own fields for a date: it opens a small window with a field to type in."""
    field_of.click()
    typed = page.get_by_placeholder("YYYY/MM/DD")
    typed.fill(f"{day:%Y/%m/%d}")
    typed.press("Escape")
    expect(typed).to_be_hidden()
    expect(field_of).to_contain_text(f"{day:%b %d, %Y}")


@contextmanager
def opened(base: str, pictures: Path) -> Iterator[Screen]:
    """A browser with an empty profile. It is told of no proxy, and keeps what it asked of others than ``base``."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(base_url=base, viewport=SIZE, locale="en-GB", timezone_id="UTC")
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        screen = Screen(context.new_page(), pictures)

        def asked(request: Request) -> None:
            if not request.url.startswith((base, "data:", "blob:")):
                screen.foreign.append(request.url)

        def complained(message: ConsoleMessage) -> None:
            if message.type == "error" and "/lakehouse/" in message.location["url"]:
                screen.complaints.append(message.text)

        context.on("request", asked)
        context.on("console", complained)
        try:
            yield screen
        finally:
            browser.close()
