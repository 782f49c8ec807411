"""One headless Chromium for the tests of pages, and keys as a person presses them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
MISSING = CHROMIUM is None or DRIVER is None
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
CODES = {"Tab": 9, "Enter": 13, " ": 32}


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser that records every request it makes."""
    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def press(browser: webdriver.Chrome, *keys: str) -> None:
    """Press keys on whatever has the focus: names of CODES, or one letter each."""
    for key in keys:
        code = CODES.get(key, ord(key[0].upper()))
        text = {"text": "\r"} if key == "Enter" else {} if key == "Tab" else {"text": key}
        browser.execute_cdp_cmd(
            "Input.dispatchKeyEvent", {"type": "keyDown", "key": key, "windowsVirtualKeyCode": code, **text}
        )
        browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", "key": key, "windowsVirtualKeyCode": code})


def tab_to(browser: webdriver.Chrome, selector: str, most: int = 80) -> None:
    """Press Tab until the focus is on an element that fits."""
    for _ in range(most):
        press(browser, "Tab")
        if browser.execute_script("return document.activeElement.matches(arguments[0])", selector):
            return
    raise AssertionError(f"{most} presses of Tab never reach {selector}")
