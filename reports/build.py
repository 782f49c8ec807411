"""One folder of HTML that opens offline, from views and run folders alone. Nothing is executed or downloaded."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.errors import BenchError
from bench.files import as_full_disk, own_suffix
from bench.runs.folder import Runs
from bench.wording import printable
from reports.folder import MARKER, check_target
from reports.job_view import JobView
from reports.memory import Memory
from reports.pages import render
from reports.pages.index import index_page, matrix_page
from reports.pages.job import job_page
from reports.pages.related import link
from reports.pages.table import table_page
from reports.text import bibtex
from reports.text.tables import write_outputs
from results.view import TableView


def build(views: Sequence[TableView], runs: Runs, out: Path, *, memory: Memory | None = None) -> Path:
    """Write the report to `out` and return its index page.

    The report is made in a folder beside `out` and takes its place when it is complete: a crash leaves the old one.
    With the `memory` of the build before, only pages whose jobs have changed are made anew.
    Raises BenchError when `out` exists and is no report, when a table comes twice, or when the disk is full.
    """
    target = out.resolve()  # so that a link to a report stays a link
    check_target(target)
    seen = [(view.scale, view.table.id) for view in views]
    for scale, table in seen:
        if seen.count((scale, table)) > 1:
            raise BenchError(f"table {table} at scale {scale} was given twice to one report.")
    fresh = target.with_name(f".{target.name}.{own_suffix()}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _write(views, runs, fresh, memory or Memory())
        _swap(fresh, target)
    except OSError as error:
        raise as_full_disk(error, target) or error from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out / "index.html"


def _write(views: Sequence[TableView], runs: Runs, folder: Path, memory: Memory) -> None:
    related = link(views, read_records(views, runs, memory))
    (folder / MARKER).write_text("made by bench report; replaced as a whole by the next one\n", encoding="utf-8")
    (folder / "style.css").write_text(render.style_sheet(), encoding="utf-8")
    (folder / "script.js").write_text(render.script(), encoding="utf-8")
    _write_page(folder / "index.html", index_page(views, related))
    _write_page(folder / "matrix.html", matrix_page(views))
    if cited := bibtex.entries([view.table for view in views]):
        (folder / "papers.bib").write_text(cited, encoding="utf-8")
    for view in views:
        siblings = [other for other in views if other.table.id == view.table.id and other.scale != view.scale]
        write_outputs(view, folder, durable=False)
        page = folder / view.scale / f"{view.table.id}.html"
        made_from = (view, *related.of_view(view), tuple(other.scale for other in siblings))
        _write_page(
            page, memory.page(str(page.relative_to(folder)), made_from, partial(table_page, view, related, siblings))
        )
    (folder / "jobs").mkdir()
    for job, job_view in related.job_views.items():
        uses = tuple(
            (view.table.id, view.table.number, view.table.paper, view.scale, view.caveat, cells)
            for view, cells in related.uses(job)
        )
        made_from = (job_view, related.job_views.get(job_view.parent), *related.children.get(job, ()), uses)
        _write_page(folder / "jobs" / f"{job}.html", memory.page(job, made_from, partial(job_page, job_view, related)))


def _write_page(path: Path, text: str) -> None:
    """Run folders of any age and machine name files as they were met: what is no text there must not stop a report."""
    path.write_text(printable(text), encoding="utf-8")


def read_records(views: Sequence[TableView], runs: Runs, memory: Memory | None = None) -> Mapping[str, JobView]:
    """The jobs of all cells, each followed by the pretraining behind it; jobs without a run folder are left out."""
    memory = memory or Memory()
    job_views: dict[str, JobView] = {}
    waiting = deque(job for view in views for cell in view.cells.values() for job in cell.jobs)
    while waiting:
        job = waiting.popleft()
        job_view = None if job in job_views else memory.job_view(runs[job])
        if job_view is not None:
            job_views[job] = job_view
            waiting.extend([job_view.parent] if job_view.parent else [])
    return job_views


def _swap(fresh: Path, target: Path) -> None:
    """Two renames with nothing between them; the old folder is put back when the second fails.

    A lock on the folder above keeps builds that end together apart, and leaves no file behind.
    """
    above = os.open(target.parent, os.O_RDONLY)
    try:
        fcntl.flock(above, fcntl.LOCK_EX)
        _replace(fresh, target)
    finally:
        os.close(above)


def _replace(fresh: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{own_suffix()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if not target.exists():
        fresh.rename(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
