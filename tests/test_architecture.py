"""docs/make_architecture.py reads the layers of the house from its imports, and refuses one that stands on itself."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = """# A page

<!-- rooms: made by docs/make_architecture.py, not typed -->
<!-- end of rooms -->

What comes after.
"""
TREE = {
    "engine/__init__.py": '"""The engine."""',
    "engine/words.py": '"""Words."""',
    "engine/data/__init__.py": '"""Data, a line.\n\nAnd more of it."""',
    "engine/data/loader.py": "from engine import words\nfrom engine.data.sets import digits",
    "engine/data/sets/__init__.py": '"""Sets."""',
    "engine/data/sets/digits.py": "",
    "engine/training/__init__.py": '"""Training."""',
    "engine/training/loop.py": "from ..data.loader import Loader\nimport engine.words",
    "engine/commands/__init__.py": '"""Commands."""',
    "engine/commands/run.py": "def run():\n    from tables import view",
    "tables/__init__.py": '"""Tables."""',
    "tables/view.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from engine.training.loop import Loop",
    **{f"papers/{name}.py": "import engine.training.loop" for name in "abcde"},
    "papers/__init__.py": '"""One paper, one file."""',
    "tests/__init__.py": "import engine.commands.run",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three houses, one with a roof, one of plug-ins."""
    for name, text in (TREE | {"docs/architecture.md": PAGE}).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def make(*options: object) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "docs/make_architecture.py"), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def rows(page: str) -> list[list[str]]:
    cells = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in cells if row[0].strip() != "layer"]


def test_layers_and_roof_come_from_the_imports(tree: Path) -> None:
    assert make("--root", tree) == (0, "")
    page = (tree / "docs/architecture.md").read_text()
    assert rows(page) == [
        ["0", "`engine/commands/`", "Commands.", "`tables.view`"],
        ["0", "`tables/view.py`", "", "`engine.training`"],
        ["0", "`papers/*.py`", "the plug-ins", "`engine.training`"],
        ["2", "`engine/training/`", "Training.", "`data`"],
        ["1", "`engine/data/`", "Data, a line.", "`words`"],
        ["", "`engine/data/sets/`", "Sets.", ""],
        ["0", "`engine/words.py`", "Words.", ""],
    ]
    assert page.startswith("# A page\n")
    assert page.endswith("What comes after.\n")
    assert "**The roof of engine/.**" in page


def test_the_picture_shows_each_room_once_and_higher_what_imports_more(tree: Path) -> None:
    make("--root", tree)
    texts = ET.parse(tree / "docs/architecture.svg").getroot().iter("{http://www.w3.org/2000/svg}text")
    heights = {text.text: float(text.get("y", "")) for text in texts if "room" in text.get("class", "")}
    assert sorted(map(str, heights)) == ["*.py", "commands", "data", "training", "view", "words"]
    assert heights["commands"] < heights["view"] < heights["training"] < heights["data"] < heights["words"]


def test_a_page_or_picture_that_is_out_of_date_is_found(tree: Path) -> None:
    code, said = make("--root", tree, "--check")
    assert (code, said.count("python docs/make_architecture.py")) == (1, 2)
    make("--root", tree)
    assert make("--root", tree, "--check") == (0, "")
    (tree / "engine/words.py").write_text('"""Other words."""')
    assert make("--root", tree, "--check")[0] == 1


def test_a_new_plug_in_changes_neither(tree: Path) -> None:
    make("--root", tree)
    (tree / "papers/f.py").write_text("import engine.training.loop")
    assert make("--root", tree, "--check") == (0, "")


CIRCLES = {
    "files": (
        {"engine/data/sets/digits.py": "def late():\n    import engine.data.loader"},
        """circle of files: engine.data.loader -> engine.data.sets.digits -> engine.data.loader
  engine/data/loader.py imports engine.data.sets.digits
  engine/data/sets/digits.py imports engine.data.loader
""",
    ),
    "rooms": (
        {"engine/data/sets/digits.py": "import engine.training"},
        """circle of rooms: engine.data -> engine.training -> engine.data
  engine/data/sets/digits.py imports engine.training
  engine/training/loop.py imports engine.data.loader
""",
    ),
    "houses": (
        {"engine/aside.py": "import papers.parts", "papers/parts/__init__.py": ""},
        """circle of houses: engine -> papers -> engine
  engine/aside.py imports papers.parts
  papers/a.py imports engine.training.loop
""",
    ),
}


@pytest.mark.parametrize("kind", CIRCLES)
def test_a_circle_is_refused_with_the_imports_that_make_it(tree: Path, kind: str) -> None:
    files, said = CIRCLES[kind]
    for name, text in files.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(text)
    assert make("--root", tree) == (1, said)
    assert not (tree / "docs/architecture.svg").exists()


def test_the_page_and_the_picture_show_the_code_as_it_is() -> None:
    assert make("--check") == (0, ""), "python docs/make_architecture.py brings them up to date"
