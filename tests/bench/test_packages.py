from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import packages
from bench.errors import BenchError
from tests.conftest import ROOT


def foreign(folder: Path, name: str) -> Path:
    """Another distribution's package of this name."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    return folder


def start(first: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(first), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-P", "-m", "ssl_tables", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", packages.PACKAGES)
def test_a_package_of_another_distribution_is_named_at_the_start(workplace: Path, name: str) -> None:
    site = foreign(workplace / "site", name)
    found = start(site, "plan", "--table", "fnc_table1", "--scale", "smoke")
    expected = f"the package {name} is imported from {site / name}, which is not this project's ({ROOT / name})"
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {expected}")
    assert found.stderr.count("\n") == 1


def test_doctor_says_it_beside_all_else(workplace: Path) -> None:
    site = foreign(workplace / "site", "evals")
    found = start(site, "doctor")
    assert found.returncode == 1
    assert f"broken  packages     the package evals is imported from {site / 'evals'}" in found.stdout
    assert "processor" in found.stdout


def test_a_folder_in_the_working_folder_that_is_no_package_is_no_other_s(workplace: Path) -> None:
    for name in packages.PACKAGES:
        (workplace / name).mkdir()
    found = start(workplace, "list", "evals")
    assert (found.returncode, found.stderr) == (0, "")


def test_outputs_in_the_working_folder_are_no_other_package_where_python_looks_there_first(workplace: Path) -> None:
    for name in ("results", "reports"):
        (workplace / name / "out").mkdir(parents=True)
    code = "import sys; sys.path.insert(0, ''); from bench import packages; packages.check()"  # as python -m pytest
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=workplace)
    assert (found.returncode, found.stderr) == (0, "")


def test_what_asks_for_plug_ins_without_the_command_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    with pytest.raises(BenchError, match=r"the package methods is imported from .*, which is not this project's"):
        packages.check("methods")
