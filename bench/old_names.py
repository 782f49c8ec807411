"""Modules that moved in version 0.2: plug-ins that import them by old names go on for one release, with a warning.

One finder at the end of Python's search: nothing is looked up here unless an import would fail otherwise.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED: Mapping[str, str | tuple[str, ...]] = {  # a module whose names stand in several now is made of all of them
    "bench.cost": "bench.costs.estimates",
    "bench.data.augment": ("bench.data.views.augment", "bench.data.views.draws", "bench.data.views.colour"),
    "bench.data.lists": ("bench.data.share", "bench.data.sets.lists"),
    "bench.distributed": "bench.training.ranks",
    "bench.encoders": "bench.networks.encoders",
    "bench.network": "bench.networks.network",
    "bench.optim": "bench.training.optim",
    "bench.resume": "bench.training.checkpoint",
    "bench.scales": ("bench.planning.translate", "bench.planning.scales"),
    "bench.site": ("bench.settings.site", "bench.bench_toml"),
    "bench.train": ("bench.training.loop", "bench.training.methods"),
    "evals._accuracy": "evals.parts.accuracy",
    "evals._augmented_heads": "evals.parts.augmented_heads",
    "evals._average_precision": "evals.parts.average_precision",
    "evals._detection_weights": "evals.detection.weights",
    "evals._features": "evals.parts.features",
    "evals._finetune": "evals.parts.finetune",
    "evals._heads": "evals.parts.heads",
    "evals._last_blocks": "evals.parts.last_blocks",
    "evals._linear_networks": "evals.parts.linear_networks",
    "evals._spectrum": "evals.parts.spectrum",
    "methods._branches": "methods.parts.branches",
    "methods._byol_body": "methods.parts.byol_body",
    "methods._heads": "methods.parts.heads",
    "methods._momentum": "methods.parts.momentum",
    "methods._progress": "methods.parts.clock",
    "methods._views": "methods.parts.views",
}


class _Alias:  # a loader; importlib.abc, whose class it could have, takes a tenth of the time of --help
    """Puts the module of the new name in the place of the old one."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        names = _new(module.__name__)
        found = [importlib.import_module(name) for name in names]
        if len(found) == 1:
            sys.modules[module.__name__] = found[0]
        for part in found:
            vars(module).update({key: value for key, value in vars(part).items() if not key.startswith("__")})


class _Finder:
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in MOVED:
            return None
        text = (
            f"{name} is called {' and '.join(_new(name))} since version 0.2; the old name goes with the next release."
        )
        warnings.warn(text, FutureWarning, stacklevel=2)
        return ModuleSpec(name, _Alias())  # type: ignore[arg-type]


def _new(name: str) -> tuple[str, ...]:
    moved = MOVED[name]
    return (moved,) if isinstance(moved, str) else moved


def install() -> None:
    """Let old names answer in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
