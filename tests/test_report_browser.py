"""The report in a real browser. Skipped where Playwright or a Chromium is missing."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import works
from test_report import run, unlabelled  # noqa: F401

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Playwright's own Chromium, or one that is installed."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: {error}")
        yield started
        started.close()


class Opened:
    """A page with what it asked for and what it complained of."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.goto(path.as_uri())

    def style(self, selector: str, name: str) -> str:
        return str(self.page.evaluate(f"getComputedStyle(document.querySelector({selector!r})).{name}"))


@pytest.fixture(params=["run", "unlabelled", "both"])
def report(request: pytest.FixtureRequest) -> Path:
    if request.param == "both":
        pages = [Path(request.getfixturevalue(name)) for name in ("run", "unlabelled")]
        return Path(works("report", *pages).stdout.removeprefix("report: ").strip())
    return Path(request.getfixturevalue(request.param)) / "report" / "report.html"


def test_it_opens_without_a_complaint_and_fetches_nothing(browser: Any, report: Path):
    opened = Opened(browser, report)
    assert "run" in opened.page.locator("h1").inner_text()
    assert opened.asked == [report.as_uri()]
    assert opened.complaints == []


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_it_fits_the_screen(browser: Any, report: Path, width: int):
    opened = Opened(browser, report, width)
    for summary in opened.page.locator("summary").all():
        summary.click()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_click_on_a_head_sorts_the_table_and_says_so(browser: Any, run: Path):  # noqa: F811
    page = Opened(browser, run / "report" / "report.html").page
    table = page.locator("#trust table.sortable").first
    head = table.locator("th", has_text="F1")

    def values() -> list[float]:
        cells = table.locator("tbody td:nth-child(4)")
        return [float(value) for value in cells.evaluate_all("all => all.map(cell => cell.dataset.v)")]

    before = values()
    head.locator("button").click()
    assert values() == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").press("Enter")
    assert values() == sorted(before)
    assert head.get_attribute("aria-sort") == "ascending"
    names = table.locator("th", has_text="label").locator("button")
    names.click()
    labels = table.locator("tbody th").all_inner_texts()
    assert labels == page.evaluate("labels => [...labels].sort((a, b) => a.localeCompare(b))", labels)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_systems_colours_and_the_button_switches_them(browser: Any, run: Path, scheme: str):  # noqa: F811
    opened = Opened(browser, run / "report" / "report.html", scheme=scheme)
    paper = {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 23, 26)"}
    other = "dark" if scheme == "light" else "light"
    line = "svg.plot text"
    assert opened.style("body", "backgroundColor") == paper[scheme]
    ink = opened.style(line, "fill")
    opened.page.get_by_role("button", name=f"Switch to {other} colours").click()
    assert opened.style("body", "backgroundColor") == paper[other]
    assert opened.style(line, "fill") != ink
    opened.page.reload()
    assert opened.style("body", "backgroundColor") == paper[other]
    assert opened.complaints == []


def test_paper_is_white_whatever_the_theme(browser: Any, run: Path):  # noqa: F811
    opened = Opened(browser, run / "report" / "report.html", scheme="dark")
    opened.page.emulate_media(media="print")
    assert opened.style("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert not opened.page.locator("nav").is_visible()


def test_the_csv_downloads(browser: Any, run: Path, tmp_path: Path):  # noqa: F811
    page = Opened(browser, run / "report" / "report.html").page
    with page.expect_download() as download:
        page.get_by_text("Download as CSV to label").click()
    assert download.value.suggested_filename == "to-label.csv"
    download.value.save_as(tmp_path / "to-label.csv")
    content = (tmp_path / "to-label.csv").read_bytes()
    assert content == (run / "report" / "to-label.csv").read_bytes()
    assert len(list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))) > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong(browser: Any, report: Path, scheme: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    opened = Opened(browser, report, scheme=scheme)
    for summary in opened.page.locator("summary").all():
        summary.click()
    opened.page.context.set_default_timeout(60_000)
    found = axe.Axe().run(opened.page)
    said = [(v["id"], v["nodes"][0]["html"][:160]) for v in found.response["violations"]]
    assert said == []


def test_everything_can_be_reached_by_keyboard(browser: Any, run: Path):  # noqa: F811
    page = Opened(browser, run / "report" / "report.html").page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim().slice(0, 40)"))
    assert {"Download as CSV to label", "All settings"} <= reached
