"""What shell scripts and Makefile ask Python for is there: nothing else would notice a module that moved."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = [ROOT / "Makefile", ROOT / ".ci/run", *sorted((ROOT / "requirements").glob("*.sh"))]
OURS = ("bench", "evals", "methods", "reports", "results", "tests")


def code_in(script: Path) -> list[str]:
    """Each text that a script hands to Python with -c."""
    return [code for _, code in re.findall(r"""python"? -c (['"])(.+?)\1""", script.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_name_that_a_script_imports_exists(script: Path) -> None:
    for code in code_in(script):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in OURS:
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_file_that_a_script_names_exists(script: Path) -> None:
    named = re.findall(
        r"(?<![\w./$])(?:docs|requirements|tests)/[\w./-]+\w\b(?!\*)", script.read_text(encoding="utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_installation_of_detectron2_ends_with_a_look_whether_it_works() -> None:
    assert any("compat.require()" in code for code in code_in(ROOT / "requirements/install_detectron2.sh"))
