"""Imports go one way: bench <- methods, evals <- results <- reports. The command line alone may import everything, lazily."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "bench": {"bench"},
    "methods": {"bench", "methods"},
    "evals": {"bench", "evals"},
    "results": {"bench", "methods", "evals", "results"},
    "reports": {"bench", "results", "reports"},
}
COMMAND_LINE = {"bench/cli.py", "bench/commands/run.py", "bench/commands/doctor.py"}  # what stands behind the commands; imported by nothing else
NO_TORCH = [
    "spec",
    "identity",
    "graph",
    "runs",
    "result",
    "files",
    "errors",
    "bench_toml",
    "settings/site",
    "scheduler",
    "manifest",
    "monitor",
    "progress",
]
NO_TORCH += ["listing", "plugins", "contracts", "scales", "cost", "cli", "session"]
NO_TORCH += ["settings/slurm", "settings/overrides", "authors", "commit", "simulate", "forecast", "executors/slurm", "executors/_slurm_job"]


def imports(path: Path, *, at_top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_top_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files() -> list[Path]:
    return [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    package = path.relative_to(ROOT).parts[0]
    if name in COMMAND_LINE:
        return
    ours = {module.partition(".")[0] for module in imports(path)} & set(ALLOWED)
    assert ours <= ALLOWED[package]
    assert not {"bench.cli", "bench.commands.run"} & imports(path)


@pytest.mark.parametrize("name", NO_TORCH)
def test_planning_modules_do_not_import_torch_at_the_top(name: str) -> None:
    heavy = {"torch", "torchvision", "pandas", "matplotlib", "numpy"}
    assert not {module.partition(".")[0] for module in imports(ROOT / "bench" / f"{name}.py", at_top_only=True)} & heavy


def test_no_file_grows_into_a_heap() -> None:
    long = {str(p.relative_to(ROOT)): n for p in files() if (n := len(p.read_text().splitlines())) > 330}
    assert not long
