"""The five packages of this project, and others of the same names that Python would import in their place."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bench import ROOT
from bench.errors import BenchError

PACKAGES = ("bench", "methods", "evals", "results", "reports")
# A working folder has results/out and reports/out in it: folders without __init__.py, which hide no module of ours. By
# one module of each that is seen.
OUTPUTS = {"results": "store", "reports": "words"}


def foreign() -> list[str]:
    """One sentence for each package that would come from somewhere else than this file does."""
    return [sentence for sentence in map(_foreign, PACKAGES) if sentence]


def check(*names: str) -> None:
    """Raises BenchError with the first of them."""
    for name in names or PACKAGES:
        if sentence := _foreign(name):
            raise BenchError(sentence)


def _foreign(name: str) -> str:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module in sys.modules that does not know where it comes from
        spec = None
    found = None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent
    ours = (ROOT / name).resolve()
    if found == ours:
        return ""
    folders = None if spec is None else spec.submodule_search_locations
    if folders and found is None and name in OUTPUTS and _is_ours(f"{name}.{OUTPUTS[name]}", ours):
        return ""
    where = found or next(iter(folders or ["nowhere"]))
    return (
        f"the package {name} is imported from {where}, which is not this project's ({ours}): another distribution or "
        "folder has taken its name. Take that folder out of PYTHONPATH, uninstall the distribution, or give this "
        "project an environment of its own."
    )


def _is_ours(module: str, folder: Path) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().is_relative_to(folder)
