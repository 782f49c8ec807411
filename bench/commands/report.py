"""`bench report`: the HTML of everything that was run here, or of the committed results."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.errors import BenchError
from bench.runs.folder import Runs
from bench.settings.site import Site


def report(site: Site, out: Path | None, serve: int | None, *, recorded: bool = False) -> None:
    """Build the report of every table that was run here; optionally serve it until interrupted, rebuilt as jobs change.

    `recorded`: of the project's committed results instead.
    """
    from reports import folder
    from reports import serve as serving
    from reports.memory import Memory

    if recorded:
        if serve is not None:
            raise BenchError("--records are results that do not change: build the report without --serve and open it.")
        _report_records(site, out)
        return
    runs, memory = Runs(site.runs), Memory()
    index = serving.build_site(site, runs, out, memory)
    print(f"report: {index}")
    if serve is not None:
        rebuild = partial(serving.build_site, site, runs, out, memory)
        serving.serve(index.parent, serve, rebuild, partial(folder.fingerprint, runs))


def _report_records(site: Site, out: Path | None) -> None:
    from reports.serve import build_site
    from results.regression import kept

    with TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        count = kept.unpack(runs)
        print(f"report of {count} committed results: {build_site(site, runs, out)}")
