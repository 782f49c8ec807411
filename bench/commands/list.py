"""`bench list`: names and first lines, read without an import, or the rows of tables that nothing here can run."""

from __future__ import annotations

from typing import Any

from bench import plugins
from bench.errors import BenchError, unknown_name

KINDS = {"methods": "method", "evals": "evaluation", "tables": "table"}
UNTRAINED = ("random", "pixels")  # what rows name beside the files of methods/


def show(what: str, *, missing: bool = False) -> None:
    """Print one line a name.

    Raises BenchError for an unknown kind of thing, or for `missing` with another than methods.
    """
    if missing and what != "methods":
        raise BenchError(f"--missing goes with methods, found {what!r}: `bench list methods --missing`.")
    for line in _missing() if missing else [f"{name:<18} {text}" for name, text in _lines(what)]:
        print(line)


def _lines(what: str) -> list[tuple[str, str]]:
    if what in KINDS:
        return [(name, plugins.summary(KINDS[what], name)) for name in plugins.names(KINDS[what])]
    if what == "scales":
        from bench.planning.scales import SCALES

        return [(scale.name, scale.summary) for scale in SCALES.values()]
    if what == "datasets":
        from bench.data.catalogue import CATALOGUE

        return [(name, entry.summary) for name, entry in CATALOGUE.items()]
    raise unknown_name("list", what, [*KINDS, "scales", "datasets"])


def _missing() -> list[str]:
    """What a table prints and no method here can run: name as printed, what it would take, tables; then the count.

    A name that would take two things (a method in one table, a protocol in another) has a line for each.
    """
    known = {*plugins.names("method"), *UNTRAINED}
    found: dict[tuple[str, str], list[str]] = {}
    for name in plugins.names("table"):
        table: Any = plugins.table(name)
        for row in (*table.rows, *table.anchors):
            if row.method not in known:
                found.setdefault((row.label, row.missing or row.method or "not said"), []).append(name)
    keys = sorted(found, key=lambda key: (key[0].casefold(), key[1]))
    printed, takes = (
        max([len(heading), *(len(key[part]) for key in keys)])
        for part, heading in enumerate(("as printed", "would take"))
    )
    lines = [
        f"{label:<{printed}}  {need:<{takes}}  {', '.join(dict.fromkeys(found[label, need]))}" for label, need in keys
    ]
    rows, tables = sum(map(len, found.values())), {name for names in found.values() for name in names}
    count = (
        f"{len({label for label, _ in keys})} names that nothing here can run yet, in {rows} rows of "
        f"{len(tables)} tables"
    )
    return (
        [f"{'as printed':<{printed}}  {'would take':<{takes}}  tables", *lines, count]
        if keys
        else ["every row of every table has its method"]
    )
