"""What axe-core, the accessibility checker, finds on the pages. It comes from npm, for the tests alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver

from reports.build import build
from tests.reports.browsing import MISSING, chromium
from tests.reports.conftest import Demo

AXE = "axe-core@4.10.3"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING, reason="chromium or chromedriver is not installed")]


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core: the file that AXE_CORE names, else what npm brings."""
    named = os.environ.get("AXE_CORE")
    if named:
        return Path(named).read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and AXE_CORE names no axe.min.js")
    folder = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix", str(folder), AXE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not bring axe-core within a minute")
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip(f"npm cannot bring axe-core: {done.stderr.strip()[-200:]}")
    return script.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.set_script_timeout(60)
        yield driver


@pytest.fixture(scope="module")
def pages(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = build([demo.embedded, demo.paper], demo.runs, tmp_path_factory.mktemp("out") / "report").parent
    done = demo.embedded.cells["SimCLR, ResNet-50", "Top-1"].jobs[0]
    failed = demo.embedded.cells["SimCLR, ResNet-50 (4x)", "Param (M)"].jobs[0]
    return {
        "index": out / "index.html",
        "matrix": out / "matrix.html",
        "table": out / "embedded" / "demo_table1.html",
        "published table": out / "paper" / "demo_table1.html",
        "job": out / "jobs" / f"{done}.html",
        "failed job": out / "jobs" / f"{failed}.html",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "matrix", "table", "published table", "job", "failed job"])
def test_no_serious_violation(
    axe: str, browser: webdriver.Chrome, pages: dict[str, Path], name: str, scheme: str
) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(pages[name].as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.execute_script(axe)
    found = browser.execute_async_script(
        "const done = arguments[0]; axe.run(document).then((found) => done(found), (error) => done({error: "
        "String(error)}));"
    )
    assert "error" not in found, found
    assert len(found["passes"]) > 10  # it did look
    serious = {
        v["id"]: [node["html"][:160] for node in v["nodes"]][:3]
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    }
    assert serious == {}


def test_axe_would_see_a_violation(axe: str, browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    browser.get(pages["table"].as_uri())
    browser.execute_script(
        "document.querySelector('.tools label').replaceWith(document.createElement('input')); "
        "document.documentElement.removeAttribute('lang');"
    )
    browser.execute_script(axe)
    found = browser.execute_async_script("const done = arguments[0]; axe.run(document).then((found) => done(found));")
    assert {"label", "html-has-lang"} <= {violation["id"] for violation in found["violations"]}
