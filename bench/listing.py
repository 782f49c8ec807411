"""`bench list`: names and first lines, read without importing what they name."""

from __future__ import annotations

from bench import plugins
from bench.errors import unknown_name

KINDS = {"methods": "method", "evals": "evaluation", "tables": "table"}


def show(what: str) -> None:
    """Print one line a name. Raises BenchError for an unknown kind of thing."""
    for name, text in _lines(what):
        print(f"{name:<18} {text}")


def _lines(what: str) -> list[tuple[str, str]]:
    if what in KINDS:
        return [(name, plugins.summary(KINDS[what], name)) for name in plugins.names(KINDS[what])]
    if what == "scales":
        from bench.scales import SCALES

        return [(scale.name, scale.summary) for scale in SCALES.values()]
    if what == "datasets":
        from bench.data.catalogue import CATALOGUE

        return [(name, entry.summary) for name, entry in CATALOGUE.items()]
    raise unknown_name("list", what, [*KINDS, "scales", "datasets"])
