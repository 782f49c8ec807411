"""`bench list`: names and first lines, read without an import; what nothing here can run; what differs from code."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from bench import plugins
from bench.errors import BenchError, unknown_name

KINDS = {"methods": "method", "evals": "evaluation", "tables": "table"}
UNTRAINED = ("random", "pixels")  # what rows name beside the files of methods/


def show(what: str, *, missing: bool = False, differences: bool = False) -> None:
    """Print one line a name.

    Raises BenchError for an unknown kind of thing, for `missing` with another than methods, for `differences` with
    another than methods and evals, or for both at once.
    """
    if missing and what != "methods":
        raise BenchError(f"--missing goes with methods, found {what!r}: `bench list methods --missing`.")
    if differences and (missing or what not in ("methods", "evals")):
        asked = "--missing" if missing else repr(what)
        raise BenchError(
            f"--differences goes with methods or evals alone, found {asked}: `bench list methods --differences`."
        )
    lines = _missing() if missing else _differences(what) if differences else None
    for line in lines or _in_columns(_lines(what)):
        print(line)


def _in_columns(lines: list[tuple[str, str]]) -> Iterator[str]:
    """A name and its text; on a terminal the text goes on below itself, in a pipe each stays one line."""
    for name, text in lines:
        line = f"{name:<18} {text}"
        width = max(40, shutil.get_terminal_size().columns) if sys.stdout.isatty() else len(line)
        yield from textwrap.wrap(line, width, subsequent_indent=" " * 19, break_long_words=False) or [line]


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


def _differences(what: str) -> Iterator[str]:
    """Each name, and under it where its file differs from the authors' released code."""
    read = plugins.method if what == "methods" else plugins.evaluation
    for name in plugins.names(KINDS[what]):
        found = read(name).differences
        yield f"{name}: {len(found)} difference{'' if len(found) == 1 else 's'} from released code"
        for difference in found:
            for place, (key, text) in enumerate(asdict(difference).items()):
                start = "  " if place == 0 else f"      {key:<8}"
                yield from textwrap.wrap(text, 100, initial_indent=start, subsequent_indent=" " * 14)


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
