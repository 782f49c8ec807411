"""Where the methods and protocols of a page differ from their authors' released code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench import plugins
from bench.contracts import Difference
from bench.errors import BenchError
from bench.spec import Evaluate, Pretrain, Spec
from results.view import TableView


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The differences of one file, under the heading of the page."""

    heading: str
    differences: tuple[Difference, ...]


def of_table(view: TableView) -> list[Listed]:
    """Those of the table's methods, then those of its protocols, in the table's order."""
    return _listed(
        methods=(row.method for row in (*view.rows, *view.anchors)),
        protocols=(
            column.elsewhere if view.caveat and column.elsewhere else column.protocol for column in view.columns
        ),
    )


def of_spec(spec: Spec | None) -> list[Listed]:
    """Those of a job's own file; of an evaluation also those of the method whose encoder it measures."""
    protocol, encoder = (spec.protocol, spec.encoder) if isinstance(spec, Evaluate) else (None, spec)
    return _listed(
        methods=[plugins.name_of(encoder.method)] if isinstance(encoder, Pretrain) else [],
        protocols=[plugins.name_of(protocol)] if protocol is not None else [],
    )


def _listed(*, methods: Iterable[str | None], protocols: Iterable[str | None]) -> list[Listed]:
    """Names of no file ("random"), files that cannot be read any more and empty lists are left out."""
    found = []
    for kind, word, names in (("method", "Method", methods), ("evaluation", "Protocol", protocols)):
        known = set(plugins.names(kind))
        for name in dict.fromkeys(name for name in names if name in known):
            try:
                file = plugins.method(name) if kind == "method" else plugins.evaluation(name)
            except BenchError:
                continue
            if file.differences:
                found.append(Listed(heading=f"{word} {name}", differences=file.differences))
    return found
