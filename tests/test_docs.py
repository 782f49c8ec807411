"""The documentation does what it says: its files are cut out and run, its links lead somewhere, its status is true."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from bench import plugins
from bench.planning.scales import SCALES
from results.cells import load_table
from results.regression import reference
from tests.conftest import BENCH, ROOT

PAGES = ("adding_a_method", "adding_a_protocol", "adding_a_table")
ALL = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
# Not in the repository: what commands write, and examples.
WRITTEN = {
    "results/out",
    "results/out/",
    "results/out/smoke/",
    "results/out/performance/",
    "reports/out",
    "methods/mine.py",
}
BLOCK = re.compile(r"^```python\n# ((?:methods|evals|tables|tests)/\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def files_in(page: str) -> dict[str, str]:
    """The files that a page shows whole, by their paths."""
    return dict(BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")))


@pytest.fixture
def example(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plug-in folder that the pages describe."""
    for page in PAGES:
        for name, text in files_in(page).items():
            path = workplace / "plugins" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    monkeypatch.setenv("BENCH_PLUGINS", str(workplace / "plugins"))
    return workplace


def call(*command: str) -> str:
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_the_pages_show_a_method_with_its_test_a_protocol_and_a_table() -> None:
    assert [list(files_in(page)) for page in PAGES] == [
        ["methods/alignment_uniformity.py", "tests/test_alignment_uniformity.py"],
        ["evals/class_means.py"],
        ["tables/worked_example.py"],
    ]


@pytest.mark.slow
def test_the_worked_example_is_planned_and_run(example: Path) -> None:
    assert "Alignment and uniformity on the hypersphere" in call(*BENCH, "list", "methods")
    assert "The nearest class mean" in call(*BENCH, "list", "evals")
    plan = call(*BENCH, "plan", "--table", "worked_example", "--scale", "smoke")
    assert "5 after each is taken once" in plan
    assert "not implemented: Without uniformity, ResNet-50" in plan
    call(*BENCH, "run", "--table", "worked_example", "--scale", "smoke")
    lines = list(csv.DictReader((example / "results/out/smoke/worked_example.csv").read_text().splitlines()))
    assert [(line["row"], line["column"], line["status"]) for line in lines] == [
        ("Alignment and uniformity, ResNet-50", "Top-1", "done"),
        ("Alignment and uniformity, ResNet-50", "kNN", "done"),
        ("Without uniformity, ResNet-50", "Top-1", "not implemented"),
        ("Without uniformity, ResNet-50", "kNN", "not implemented"),
        ("Random encoder, ResNet-50", "Top-1", "done"),
        ("Random encoder, ResNet-50", "kNN", "done"),
    ]
    # Ten classes; an epoch is not much, but class means of any convolution know digits better than chance.
    assert all(float(line["measured_mean"]) > 30 for line in lines if line["status"] == "done")
    job = next(line["job_ids"] for line in lines if line["column"] == "Top-1")
    page = (example / f"reports/out/jobs/{job}.html").read_text()
    assert "nearest mean of the normalised training features" in page


@pytest.mark.slow
def test_the_test_of_the_worked_example_passes_and_fails_when_the_loss_is_wrong(example: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(example),
        str(example / "plugins/tests"),
    ]
    assert "2 passed" in call(*command)
    method = example / "plugins/methods/alignment_uniformity.py"
    method.write_text(method.read_text().replace(".exp().mean().log()", ".exp().sum().log()"))
    wrong = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert wrong.returncode == 1
    assert "1 failed, 1 passed" in wrong.stdout


@pytest.mark.parametrize("page", ALL)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page)) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", [page for page in ALL if page != "CHANGELOG.md"])
def test_paths_that_pages_name_exist(page: str) -> None:
    paths = re.findall(r"`((?:bench|methods|evals|results|reports|tests|docs)/[\w./]*)`", prose(page))
    assert [path for path in paths if path not in WRITTEN and not (ROOT / path).exists()] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        seen.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", page.read_text(encoding="utf-8"))
        todo += [path for link in links if (path := (page.parent / link).resolve()) not in seen]
    assert seen >= {ROOT / page for page in ALL}


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_tables_among_the_pages_show_the_committed_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    making = program("make_tables")
    monkeypatch.setattr(sys, "argv", ["make_tables.py", "--check"])
    assert making.main() == 0, capsys.readouterr().out
    for page in making.PAGES.values():
        shutil.copy(ROOT / "docs" / page, tmp_path)
    (tmp_path / "all_methods.md").write_text("something else")
    monkeypatch.setattr(sys, "argv", ["make_tables.py", "--check", "--out", str(tmp_path)])
    assert making.main() == 1
    said = "all_methods.md does not show what the committed results say: python docs/make_tables.py\n"
    assert capsys.readouterr().out == said
    monkeypatch.setattr(sys, "argv", ["make_tables.py", "--out", str(tmp_path)])
    assert making.main() == 0
    whole = (ROOT / "docs/all_methods.md").read_text(encoding="utf-8")
    assert (tmp_path / "all_methods.md").read_text(encoding="utf-8") == whole


def test_the_page_of_differences_shows_what_the_files_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    making = program("make_differences")
    monkeypatch.setattr(sys, "argv", ["make_differences.py", "--check"])
    assert making.main() == 0, capsys.readouterr().out
    page = tmp_path / "differences.md"
    page.write_text("something else")
    monkeypatch.setattr(sys, "argv", ["make_differences.py", "--check", "--out", str(page)])
    assert making.main() == 1
    said = "differences.md does not show what the files list: python docs/make_differences.py\n"
    assert capsys.readouterr().out == said
    assert page.read_text() == "something else"
    monkeypatch.setattr(sys, "argv", ["make_differences.py", "--out", str(page)])
    assert making.main() == 0
    assert page.read_text(encoding="utf-8") == (ROOT / "docs/differences.md").read_text(encoding="utf-8")


STATUS = ("README.md", "docs/status.md")


@pytest.fixture(scope="module")
def making() -> ModuleType:
    """docs/make_status.py, whose tables are looked at once."""
    module = program("make_status")
    module.PAGES = {page: partial(str, text()) for page, text in module.PAGES.items()}  # type: ignore[attr-defined]
    return module


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Copies of the pages that show the status."""
    for page in STATUS:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    return tmp_path


def test_the_status_is_up_to_date_in_both_places(making: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(making.PAGES) == STATUS
    monkeypatch.setattr(sys, "argv", ["make_status.py", "--check"])
    assert making.main() == 0, "python docs/make_status.py brings them up to date"


@pytest.mark.parametrize(
    ("page", "shown"), [("README.md", "| **together** "), ("docs/status.md", "| Barlow Twins, table 1 ")]
)
def test_a_status_that_is_out_of_date_is_found(
    page: str,
    shown: str,
    making: ModuleType,
    pages: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = (pages / page).read_text(encoding="utf-8")
    assert shown in whole
    (pages / page).write_text(whole.replace(shown, "| something else "), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["make_status.py", "--root", str(pages), "--check"])
    assert making.main() == 1
    assert capsys.readouterr().out == f"{page} does not show what the table files say: python docs/make_status.py\n"
    monkeypatch.setattr(sys, "argv", ["make_status.py", "--root", str(pages)])
    assert making.main() == 0
    assert (pages / page).read_text(encoding="utf-8") == whole


def test_the_status_names_every_table_and_reads_committed_references(
    making: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, scale = load_table("barlow_table1"), SCALES["embedded"]
    monkeypatch.setattr(reference, "path_of", lambda *_: tmp_path / "t.csv")
    means = {"Supervised": 99.0, "SimCLR": 98.0, "BYOL": 97.0}  # printed: 76.5, 69.3, 74.3
    cells = [
        reference.Measured(row=row, column="Top-1", mean=mean, sd=0.1, n=3, higher_is_better=True, protocol="p")
        for row, mean in means.items()
    ]
    reference.write(tmp_path / "t.csv", cells)
    assert making._state(table, scale) == "3 cells, 3 seeds, order τ 0.33 (n = 3)"
    assert all(f"(`{name}`)" in making.PAGES["docs/status.md"]() for name in plugins.names("table"))


def test_the_summary_counts_every_table_once(making: ModuleType) -> None:
    lines = [line.split(" | ") for line in making.PAGES["README.md"]().splitlines() if " of " in line and "|" in line]
    *papers, together = [(int(line[1]), *map(int, line[2].split(" of "))) for line in lines]
    assert tuple(map(sum, zip(*papers, strict=True))) == together
    assert together[0] == len(plugins.names("table"))
