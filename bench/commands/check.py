"""`bench check`: results against their references, or the results as the new references."""

from __future__ import annotations

from pathlib import Path

from bench.commands.request import TableRequest
from bench.errors import BenchError
from bench.runs.commit import installed


def check_tables(
    request: TableRequest, junit: Path | None, references: Path | None, *, update: bool, everything: bool
) -> int:
    """`bench check`: print what became of each cell, or make the results the reference; 1 when a cell fails.

    Tables without results or without a reference are named; with `everything` (--all) they are left out, else they fail
    too.
    """
    from results.regression import check as checking
    from results.regression import junit as xml
    from results.regression import reference

    root = references or reference.ROOT
    if update:
        if references is None and installed():
            advice = "give --references FOLDER, or run it in a checkout"
            raise BenchError(f"--update would write into {root}, which the next installation replaces: {advice}.")
        lines = checking.update_all(request.tables, request.scale, request.site, root=root)
        print("\n".join(lines))
        return int(not everything and any(line.startswith(checking.NOT_WRITTEN) for line in lines))
    found = checking.check_all(request.tables, request.scale, request.site, root=root)
    if junit is not None:
        xml.write_junit(junit, request.scale, found.reports, found.left_out)
    print(found.text)
    if junit is not None:
        print(f"wrote {junit}")
    return int(bool(found.failures) or (bool(found.left_out) and not everything))
