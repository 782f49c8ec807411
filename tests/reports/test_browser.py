"""The report as a reader sees it: in a real Chromium, from a file, without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from reports.build import build
from tests.reports.conftest import HOSTILE, Demo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"),
]


@pytest.fixture(scope="module")
def report(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built report in a folder whose name needs quoting in a URL."""
    return build([demo.embedded, demo.paper], demo.runs, tmp_path_factory.mktemp("out") / "a report #1").parent


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One headless Chromium, which records every request it makes."""
    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


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
    pages = [report / "index.html", report / "paper" / "demo_table1.html", next((report / "jobs").glob("evaluate-*.html"))]
    for page in pages:
        browser.get(page.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in logged(browser, "performance")]
    asked = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if url.endswith("style.css")}  # requests were recorded
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
    assert [entry for entry in logged(browser, "browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_window(browser: webdriver.Chrome, report: Path, width: int) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600})
    try:
        for page in (report / "index.html", report / "embedded" / "demo_table1.html", *sorted((report / "jobs").glob("*.html"))[::7]):
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
    assert browser.find_elements(By.TAG_NAME, "script") == []


def test_dark_mode_changes_page_and_figures(browser: webdriver.Chrome, report: Path) -> None:
    def colours(scheme: str) -> list[str]:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        browser.get((report / "embedded" / "demo_table1.html").as_uri())
        label = browser.find_element(By.CSS_SELECTOR, "figure svg text")
        return [browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"), label.value_of_css_property("fill")]

    light, dark = colours("light"), colours("dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light[0] != dark[0]
    assert light[1] != dark[1]


def test_the_keyboard_reaches_the_content_first(browser: webdriver.Chrome, report: Path) -> None:
    browser.get((report / "index.html").as_uri())
    browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9})
    focused = browser.switch_to.active_element
    assert (focused.get_attribute("href") or "").endswith("#content")
    assert focused.rect["x"] >= 0  # shown once it has the focus
