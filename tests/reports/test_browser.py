"""The report as a reader sees it: in a real Chromium, from a file, without a network."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from reports import serve as reporting
from reports.build import build
from tests.reports.browsing import MISSING, chromium, press, tab_to
from tests.reports.conftest import HOSTILE, Demo

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING, reason="chromium or chromedriver is not installed")]


@pytest.fixture(scope="module")
def report(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built report in a folder whose name needs quoting in a URL."""
    return build([demo.embedded, demo.paper], demo.runs, tmp_path_factory.mktemp("out") / "a report #1").parent


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def test_index_leads_to_the_table_and_the_table_to_a_job(browser: webdriver.Chrome, report: Path) -> None:
    browser.get((report / "index.html").as_uri())
    browser.find_element(By.CSS_SELECTOR, 'a[href="embedded/demo_table1.html"]').click()
    assert browser.find_element(By.TAG_NAME, "h1").text == "SimCLR, table 1"
    assert "This is not ImageNet" in browser.find_element(By.CSS_SELECTOR, ".caveat").text
    plot = browser.find_element(By.CSS_SELECTOR, "figure svg")
    assert plot.is_displayed()
    assert plot.size["height"] > 100
    browser.find_element(By.CSS_SELECTOR, "td.here .seeds a").click()
    assert "/jobs/" in browser.current_url
    assert "SimCLR, ResNet-50" in browser.find_element(By.TAG_NAME, "h1").text
    browser.find_element(By.PARTIAL_LINK_TEXT, "SimCLR, table 1").click()
    assert browser.find_element(By.CSS_SELECTOR, "table.result").is_displayed()


def logged(browser: webdriver.Chrome, kind: str) -> list[dict[str, str]]:
    """What the browser logged since the last call."""
    entries: list[dict[str, str]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def test_no_request_leaves_the_folder(browser: webdriver.Chrome, report: Path) -> None:
    logged(browser, "performance")  # empties it
    pages = [
        report / "index.html",
        report / "paper" / "demo_table1.html",
        next((report / "jobs").glob("evaluate-*.html")),
    ]
    for page in pages:
        browser.get(page.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in logged(browser, "performance")]
    asked = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if url.endswith("style.css")}  # requests were recorded
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
    assert [entry for entry in logged(browser, "browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_window(browser: webdriver.Chrome, report: Path, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    try:
        for page in (
            report / "index.html",
            report / "matrix.html",
            report / "embedded" / "demo_table1.html",
            *sorted((report / "jobs").glob("*.html"))[::7],
        ):
            browser.get(page.as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page.name
        browser.get((report / "embedded" / "demo_table1.html").as_uri())
        box = browser.find_element(By.CSS_SELECTOR, ".scroll:has(table.result)")
        overflows = browser.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", box)
        assert overflows == (width == 390)  # on a phone the table scrolls in its own box
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_label_with_markup_is_text(browser: webdriver.Chrome, report: Path) -> None:
    browser.get((report / "embedded" / "demo_table1.html").as_uri())
    heads = [head.text for head in browser.find_elements(By.CSS_SELECTOR, "table.result th[scope=row]")]
    assert any(HOSTILE in head for head in heads)
    scripts = browser.find_elements(By.TAG_NAME, "script")
    assert [(script.get_attribute("src") or "").rpartition("/")[2] for script in scripts] == ["script.js"]


def test_dark_mode_changes_page_and_figures(browser: webdriver.Chrome, report: Path) -> None:
    def colours(scheme: str) -> list[str]:
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        browser.get((report / "embedded" / "demo_table1.html").as_uri())
        label = browser.find_element(By.CSS_SELECTOR, "figure svg text")
        return [
            browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"),
            label.value_of_css_property("fill"),
        ]

    light, dark = colours("light"), colours("dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light[0] != dark[0]
    assert light[1] != dark[1]


def test_the_keyboard_reaches_the_content_first(browser: webdriver.Chrome, report: Path) -> None:
    browser.get((report / "index.html").as_uri())
    press(browser, "Tab")
    focused = browser.switch_to.active_element
    assert (focused.get_attribute("href") or "").endswith("#content")
    assert focused.rect["x"] >= 0  # shown once it has the focus


def rows(browser: webdriver.Chrome, table: str) -> list[str]:
    """The first line of every row that is shown, from top to bottom."""
    found = browser.find_elements(By.CSS_SELECTOR, f"#{table} tr[data-row]")
    return [
        row.find_element(By.TAG_NAME, "th").text.splitlines()[0] + " " + row.find_elements(By.TAG_NAME, "td")[0].text
        for row in found
        if row.is_displayed()
    ]


def test_a_column_sorts_by_keyboard_and_a_button_restores_the_papers_order(
    browser: webdriver.Chrome, report: Path
) -> None:
    browser.get((report / "embedded" / "demo_table1.html").as_uri())
    papers = rows(browser, "result")
    tab_to(browser, "#result th.paper:nth-of-type(3) button")  # Top-1, paper
    head = "#result th.paper:nth-of-type(3)"
    press(browser, "Enter")
    assert browser.find_element(By.CSS_SELECTOR, head).get_attribute("aria-sort") == "descending"
    by_value = rows(browser, "result")
    printed = [
        cell.text
        for cell in browser.find_elements(
            By.CSS_SELECTOR, "#result tbody:not(.references) tr[data-row] td.paper:nth-of-type(4)"
        )
    ]
    assert printed == ["76.5", "74.2", "69.3", "60.6", "55.4"]
    assert by_value[-2:] == papers[-2:]  # the references stay under the table
    press(browser, "Enter")
    assert browser.find_element(By.CSS_SELECTOR, head).get_attribute("aria-sort") == "ascending"
    assert rows(browser, "result")[:5] == by_value[4::-1]
    assert not any(
        one.is_displayed() for one in browser.find_elements(By.CSS_SELECTOR, "#result tbody:not(.references) .section")
    )
    browser.find_element(By.CSS_SELECTOR, ".tools input").send_keys("")
    tab_to(browser, ".tools .back")
    press(browser, " ")
    assert rows(browser, "result") == papers
    assert all(one.is_displayed() for one in browser.find_elements(By.CSS_SELECTOR, "#result .section"))
    assert browser.find_elements(By.CSS_SELECTOR, "th[aria-sort]") == []
    assert not browser.find_element(By.CSS_SELECTOR, ".tools .back").is_displayed()


def test_what_is_not_there_stands_last_in_either_direction(browser: webdriver.Chrome, report: Path) -> None:
    browser.get((report / "embedded" / "demo_table1.html").as_uri())
    # Top-1, here: two of five rows have it
    button = browser.find_element(By.CSS_SELECTOR, "#result th.here:nth-of-type(4) button")
    for _ in range(2):
        button.click()
        measured = [
            cell.get_attribute("data-value")
            for cell in browser.find_elements(By.CSS_SELECTOR, "#result tbody:first-of-type td.here:nth-of-type(5)")
        ]
        assert [bool(value) for value in measured] == [True, True, False, False, False]


def test_search_by_keyboard_finds_tables_by_their_rows(browser: webdriver.Chrome, report: Path) -> None:
    browser.get((report / "index.html").as_uri())
    tab_to(browser, ".tools input")
    press(browser, *"rotation")
    found = browser.find_element(By.CSS_SELECTOR, ".tools .found")
    assert found.text == "4 of 16 rows"  # two tables, and the row of each
    assert found.get_attribute("role") == "status"
    assert [text.split(",")[0] for text in rows(browser, "all-rows")] == ["Rotation", "Rotation"]  # unfolded
    press(browser, *" paper")
    assert [row.find_elements(By.TAG_NAME, "td")[1].text for row in shown(browser, "all-rows")] == ["paper"]
    field = browser.find_element(By.CSS_SELECTOR, ".tools input")
    field.clear()
    field.send_keys("no such row")
    assert found.text == "0 of 16 rows"
    assert shown(browser, "tables") == []
    assert not any(one.is_displayed() for one in browser.find_elements(By.CSS_SELECTOR, "#tables .section"))
    field.clear()
    field.send_keys(" ")
    assert len(shown(browser, "tables")) == 2


def shown(browser: webdriver.Chrome, table: str) -> list[webdriver.remote.webelement.WebElement]:
    return [row for row in browser.find_elements(By.CSS_SELECTOR, f"#{table} tr[data-row]") if row.is_displayed()]


def test_without_script_the_page_is_whole_and_has_no_dead_buttons(browser: webdriver.Chrome, report: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((report / "embedded" / "demo_table1.html").as_uri())
        assert browser.find_elements(By.TAG_NAME, "button") == []
        assert browser.find_elements(By.TAG_NAME, "input") == []
        assert len(shown(browser, "result")) == 7
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def has_tools(browser: webdriver.Chrome) -> bool:
    """Whether the page's script has run; if not, load it once more."""
    found = bool(browser.find_elements(By.CSS_SELECTOR, ".tools input"))
    if not found:
        browser.refresh()
    return found


def test_a_served_page_follows_its_table_and_keeps_what_was_typed(
    browser: webdriver.Chrome, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "REBUILD_SECONDS", 0.2)
    waiting = replace(
        demo.embedded,
        cells={key: replace(cell, measured=(), status="pending") for key, cell in demo.embedded.cells.items()},
    )
    views, stop, said = [waiting], threading.Event(), []
    out = build(views, demo.runs, tmp_path / "report").parent
    monkeypatch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
    server = threading.Thread(
        target=reporting.serve,
        args=(out, 0, lambda: build(views, demo.runs, out), lambda: [view.cells for view in views], stop),
    )
    server.start()
    try:
        WebDriverWait(browser, 10).until(lambda _: said)
        address = said[0].split()[2]
        assert address.startswith("http://127.0.0.1:")
        browser.get(f"{address}embedded/demo_table1.html")
        # Loaded anew until its script runs: the test before has switched scripts off, and the browser may take a moment
        # to forget it.
        WebDriverWait(browser, 20).until(has_tools)
        browser.find_element(By.CSS_SELECTOR, ".tools input").send_keys("simclr")
        assert "95.2" not in browser.find_element(By.ID, "result").text
        views[0] = demo.embedded
        # The table may be replaced between the look for it and the look at its text.
        patient = WebDriverWait(browser, 20, ignored_exceptions=[StaleElementReferenceException])
        patient.until(lambda _: "95.2" in browser.find_element(By.ID, "result").text)
        assert browser.find_element(By.CSS_SELECTOR, ".tools input").get_attribute("value") == "simclr"
        assert len(shown(browser, "result")) == 3
        with urllib.request.urlopen(f"{address}index.html", timeout=10) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
    finally:
        stop.set()
        server.join(20)
    assert not server.is_alive()
