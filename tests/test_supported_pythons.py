"""The supported versions of Python are the same wherever they are named."""

from __future__ import annotations

import re
import sys
import tomllib
from typing import Any

import pytest

from tests.conftest import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CLASSIFIER = "Programming Language :: Python :: "
SUPPORTED = [name.removeprefix(CLASSIFIER) for name in PROJECT["project"]["classifiers"] if CLASSIFIER in name]
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")


def test_this_python_is_a_supported_one() -> None:
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in SUPPORTED


def test_supported_versions_follow_each_other_from_the_oldest_that_installs() -> None:
    oldest, newest = (int(version.split(".")[1]) for version in (SUPPORTED[0], SUPPORTED[-1]))
    assert [f"3.{minor}" for minor in range(oldest, newest + 1)] == SUPPORTED
    assert PROJECT["project"]["requires-python"] == f">={SUPPORTED[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + SUPPORTED[0].replace(".", "")


def test_the_workflow_runs_each_of_them_and_everything_on_the_oldest() -> None:
    (matrix,) = re.findall(r"python: \[(.*)\]", WORKFLOW)
    assert re.findall(r'"([\d.]+)"', matrix) == SUPPORTED
    chosen = re.findall(r"matrix\.python (==|!=) '([\d.]+)'", WORKFLOW)
    assert {version for _, version in chosen} == {SUPPORTED[0]}
    assert "python-version: ${{ matrix.python }}" in WORKFLOW


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "Makefile", "constraints.txt"])
def test_pages_name_the_same_versions(page: str) -> None:
    named = re.findall(r"Python (3\.\d+(?: to 3\.\d+| or newer)?)", (ROOT / page).read_text(encoding="utf-8"))
    assert set(named) == {f"{SUPPORTED[0]} to {SUPPORTED[-1]}"}
