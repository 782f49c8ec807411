"""The rules of the house. Imports go one way, nothing goes round, and only bench/commands looks up."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
architecture = importlib.import_module("make_architecture")
HOUSES = ("bench", "methods evals", "results", "reports")  # a house stands on those before its own word
LEVEL = {name: level for level, names in enumerate(HOUSES) for name in names.split()}
ROOF = ("bench.cli", "bench.commands")  # may look up to every house, and is looked at by none


def files() -> list[Path]:
    return [path for house in LEVEL for path in sorted((ROOT / house).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, at_top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body if at_top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: from . import"
            assert not node.level, f"{path}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    module = module_of(path)
    if is_in(module, ROOF):
        return
    house = module.partition(".")[0]
    for name in imports(path):
        other = name.partition(".")[0]
        assert other not in LEVEL or other == house or LEVEL[other] < LEVEL[house], f"{module} looks up to {name}"
        assert not is_in(name, ROOF), f"{module} imports the roof: {name}"


READERS = ("read_text", "write_text")


def in_the_locales_encoding(call: ast.Call) -> bool:
    """Whether a call opens a text file and does not say how its characters are written."""
    said = {word.arg for word in call.keywords}
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in READERS:
        return "encoding" not in said and len(call.args) < 1 + (name == "write_text")
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    text = any(set(mode) <= set("rwax+t") for mode in modes) or (isinstance(call.func, ast.Attribute) and not call.args)
    return name == "open" and "encoding" not in said and text


def test_every_text_file_is_read_and_written_as_utf_8_whatever_the_locale() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and in_the_locales_encoding(node)
    ]
    assert found == []


def test_files_that_macos_leaves_beside_others_are_in_no_listing() -> None:
    """A Mac writes `._x.json` beside x.json on disks of others; `*` in a pattern of pathlib takes it."""
    pattern = re.compile(r"""glob\(f?["']\*\.""")
    found = [str(path.relative_to(ROOT)) for path in files() if pattern.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_nothing_goes_round() -> None:
    architecture.bands(architecture.read(ROOT))  # CircleError names the imports that do


def test_what_plans_and_shows_starts_without_torch() -> None:
    # Every command but those that open an encoder: they answer before torch could have been imported.
    quick = [
        module_of(path)
        for path in sorted((ROOT / "bench/commands").glob("*.py"))
        if path.stem not in ("__init__", "evaluate")
    ]
    heavy = "{'torch', 'torchvision', 'pandas', 'matplotlib'}"
    code = f"import sys, bench.cli, {', '.join(quick)}; sys.exit(', '.join({heavy} & {{*sys.modules}}) or 0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    "path", [path for path in files() if path.name == "__init__.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_package_says_what_it_is_for_and_does_nothing_else(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert ast.get_docstring(ast.Module(body, []))
    # bench says its version and where it lies; what plug-ins import first lets old names answer.
    rest = [ast.unparse(node) for node in body[1:] if not isinstance(node, ast.Assign | ast.ImportFrom)]
    assert len(body) == 1 or (path.parent.parent == ROOT and rest == ["old_names.install()"])


def test_no_file_grows_into_a_heap() -> None:
    long = {
        str(path.relative_to(ROOT)): lines for path in files() if (lines := len(path.read_text().splitlines())) > 330
    }
    assert not long
