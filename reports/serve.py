"""The report of a site: every table that was run there, built once, or served and kept up to date while jobs run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

from bench import plugins
from bench.errors import BenchError, one_line
from bench.runs import plans
from bench.runs.folder import Runs
from bench.settings.site import Site
from reports.build import build
from reports.memory import Memory
from results.cells import PlannedTable, plan_again
from results.store import Store
from results.view import TableView, view

REBUILD_SECONDS = 3.0
LIVE = "X-Bench-Live"  # tells the pages' script to look for changes; see templates/script.js.j2


def views_of(runs: Runs, planned: Mapping[str, PlannedTable] = MappingProxyType({})) -> list[TableView]:
    """Every table that was run under `runs`; one that cannot be shown is named and left out.

    Raises BenchError when there is none.

    `planned`: tables that are planned already, by `table@scale`.
    """
    known = plans.read_all(runs)
    if not known:
        raise BenchError(f"nothing was run under {runs.root}: `bench run --table simclr_table6` first.")
    views = []
    for m in known:
        try:
            views.append(view(planned.get(m.name) or plan_again(m), Store(runs)))
        except BenchError as error:  # a table of a plug-in folder that is not there today, say
            print(f"left out of the report: {m.name}: {_reason(m.table, error)}", flush=True)
    if not views:
        raise BenchError(f"no table under {runs.root} can be shown.")
    return views


def _reason(table: str, error: BenchError) -> str:
    if table in plugins.names("table"):
        return one_line(error)
    return "no file of tables/ has this name, here or in a folder of BENCH_PLUGINS"


def build_site(
    site: Site,
    runs: Runs,
    out: Path | None,
    memory: Memory | None = None,
    planned: Mapping[str, PlannedTable] = MappingProxyType({}),
) -> Path:
    """Build the report of `views_of` and return its index page."""
    return build(views_of(runs, planned), runs, out or site.report, memory=memory)


def serve(
    folder: Path,
    port: int,
    rebuild: Callable[[], object],
    changed: Callable[[], object],
    stop: threading.Event | None = None,
) -> None:
    """Serve a folder on loopback until `stop` is set or Ctrl-C, rebuilt whenever what `changed` returns differs.

    A build that fails is named, and the report before it stays. Raises BenchError when the port is taken.
    """
    stop = stop or threading.Event()
    before = changed()  # before the server answers: what changes from now on is seen
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise BenchError(f"cannot serve on port {port}: {error.strerror}.") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"serving on http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
    try:
        while not stop.wait(REBUILD_SECONDS):
            now = changed()
            if now != before:
                _try(rebuild)
                before = now
    finally:
        server.shutdown()
        server.server_close()


def _try(rebuild: Callable[[], object]) -> None:
    try:
        rebuild()
    except (BenchError, OSError) as error:
        print(f"the report could not be rebuilt and stays as it was: {one_line(error)}", flush=True)


class _Handler(SimpleHTTPRequestHandler):
    """Says that its pages live, and that nothing may be kept; logs nothing."""

    def end_headers(self) -> None:
        self.send_header(LIVE, "1")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass
