"""Methods, evaluations and tables are found by the name of their file: no list to edit, no registration.

A folder of one's own joins in through the environment variable BENCH_PLUGINS (paths separated as in PATH): its
subfolders `methods/`, `evals/` and `tables/` are searched after the project's own.
"""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from bench.errors import BenchError, unknown_name

PACKAGES = {"method": "methods", "evaluation": "evals", "table": "results.tables"}
FOLDERS = {"method": "methods", "evaluation": "evals", "table": "tables"}


def names(kind: str) -> list[str]:
    """All names of one kind, sorted. Files whose name begins with an underscore are shared parts, not plug-ins."""
    return sorted({name for name, _ in _files(kind)})


def load(kind: str, name: str) -> ModuleType:
    """The module behind a name. Raises BenchError with the valid names."""
    package = _package(kind)
    known = sys.modules.get(f"{package.__name__}.{name}")  # listing the folders at each of thousands of calls would take seconds
    if known is not None and not name.startswith("_"):
        return known
    if name not in names(kind):
        raise unknown_name(kind, name, names(kind))
    return importlib.import_module(f"{PACKAGES[kind]}.{name}")


def summary(kind: str, name: str) -> str:
    """First line of the module's docstring, read without importing it (an import would cost torch)."""
    path = dict(_files(kind))[name]
    doc = ast.get_docstring(ast.parse(path.read_text()))
    return doc.splitlines()[0] if doc else ""


def resolve(name: str) -> object:
    """The object behind `module:Class`, only from the project's own packages: a spec never runs foreign code."""
    module, _, attribute = name.partition(":")
    if module.split(".")[0] not in {"bench", "methods", "evals"}:
        raise BenchError(f"a spec may name classes of bench, methods and evals only, found {name!r}.")
    for kind in ("method", "evaluation"):
        _package(kind)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BenchError(f"{name} does not exist here ({error}): the spec was written by another version.") from error


def _files(kind: str) -> Iterator[tuple[str, Path]]:
    for folder in _package(kind).__path__:
        for module in pkgutil.iter_modules([folder]):
            if not module.name.startswith("_"):
                yield module.name, Path(folder) / f"{module.name}.py"


@cache
def _package(kind: str) -> ModuleType:
    """The package of a kind, its search path extended by the plug-in folders."""
    package = importlib.import_module(PACKAGES[kind])
    for root in filter(None, os.environ.get("BENCH_PLUGINS", "").split(os.pathsep)):
        folder = Path(root) / FOLDERS[kind]
        if not Path(root).is_dir():
            raise BenchError(f"BENCH_PLUGINS names {root}, which is not a folder.")
        if folder.is_dir() and str(folder) not in package.__path__:
            package.__path__.append(str(folder))
    return package
