"""The source of a plug-in as a result remembers it, so that a change without a new VERSION is found.

What counts is the syntax tree without docstrings, comments and formatting, and without what stands in the job id or
says nothing of numbers: RECIPES, VARIANTS, DIFFERENCES, METRICS, and imports for these alone. The text is kept beside
it, as a tree takes milliseconds and equal texts need none.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from bench.plugins import load, name_of
from bench.spec import Evaluate, Spec

PACKAGES = ("methods", "evals")
BESIDE = {"RECIPES", "VARIANTS", "DIFFERENCES", "METRICS"}  # assignments that change no number of a job with its id
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """Digests of a file."""

    text: str
    tree: str


def sources_of(spec: Spec) -> dict[str, Source]:
    """The file of a job's method or protocol and what it imports of its package, as `methods/simclr.py`."""
    kind, config = ("evaluation", spec.protocol) if isinstance(spec, Evaluate) else ("method", spec.method)
    found: dict[str, Source] = {}
    waiting = [load(kind, name_of(config)).__name__]
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        if file is None or (label := f"{name.replace('.', '/')}.py") in found:
            continue
        found[label], imports = _read(file)
        waiting += imports
    return found


def file_of(label: str) -> Path | None:
    """The file that has this name here, None where there is none."""
    return _file_of(label.removesuffix(".py").replace("/", "."))


def text_of(file: Path) -> str:
    """Digest of a file as it stands."""
    return sha256(file.read_bytes()).hexdigest()[:12]


def tree_of(file: Path) -> str:
    """Digest of what a file does; that of its text where it is no Python."""
    return _read.__wrapped__(file)[0].tree


@cache
def _read(file: Path) -> tuple[Source, tuple[str, ...]]:
    """Both digests, and the modules of the plug-ins' packages that the file uses; once a process."""
    text = text_of(file)
    try:
        tree = _stripped(file.read_bytes())
    except (SyntaxError, ValueError):
        return Source(text, text), ()
    dumped = ast.dump(tree).encode("utf-8", "surrogatepass")
    return Source(text, sha256(dumped).hexdigest()[:12]), tuple(_imports(tree))


def _stripped(content: bytes) -> ast.Module:
    tree = ast.parse(content)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    tree.body = [node for node in tree.body if not BESIDE.intersection(_targets(node))]
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [one for one in node.names if (one.asname or one.name).partition(".")[0] in used]
    tree.body = [node for node in tree.body if not (isinstance(node, ast.Import | ast.ImportFrom) and not node.names)]
    return tree


def _targets(node: ast.stmt) -> Iterator[str]:
    for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
        if isinstance(target, ast.Name):
            yield target.id


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.partition(".")[0] in PACKAGES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)


def _file_of(module: str) -> Path | None:
    """The file of a module of the plug-ins' packages, without importing it."""
    package, _, rest = module.partition(".")
    if package not in PACKAGES or not rest:
        return None
    for folder in importlib.import_module(package).__path__:
        file = Path(folder, *rest.split(".")).with_suffix(".py")
        if file.is_file():
            return file
    return None
