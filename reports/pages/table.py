"""The page of one table at one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.runs.folder import State
from reports import words
from reports.figures import of_table
from reports.figures.of_table import PageFigure
from reports.job_view import JobView
from reports.pages import data_read, released_code, render, totals
from reports.pages.difference import Difference, differences
from reports.pages.related import Related
from reports.text.tables import has_architecture
from results.table import Column, Row
from results.view import CellView, TableView, number


@dataclass(frozen=True, kw_only=True)
class SeedLink:
    """One seed of a cell; `href` is "" while the job has no folder, `value` "" while it has no result."""

    seed: int
    href: str
    value: str


@dataclass(frozen=True, kw_only=True)
class PageCell:
    """What stands in one cell group of the page."""

    column: Column
    view: CellView
    value: str  # mean over the finished seeds, "" without one
    spread: str  # "± 0.2", "" below two seeds
    seeds: tuple[SeedLink, ...]
    difference: Difference | None
    footnote: int  # 0: none
    progress: str  # of the job that runs for it
    order_paper: str  # what sorts the column of printed values, "" for a word or nothing
    order_here: str


@dataclass(frozen=True, kw_only=True)
class PageRow:
    """One row; `foreign` when nothing here can run it."""

    row: Row
    cells: tuple[PageCell, ...]
    foreign: bool
    anchor: str  # its id on the page


@dataclass(frozen=True, kw_only=True)
class Footnote:
    """Why cells failed, once for all cells that failed the same way."""

    number: int
    status: str
    message: str
    cells: tuple[tuple[str, tuple[str, ...]], ...]  # (row, its columns)


@dataclass(frozen=True)
class _Page:
    """What all rows of a page need."""

    job_views: Mapping[str, JobView]
    footnotes: tuple[Footnote, ...]
    differences: Mapping[tuple[str, str], Difference]
    anchors: Mapping[str, str]


def table_page(view: TableView, related: Related, siblings: Sequence[TableView]) -> str:
    """The HTML of a table. `siblings` are the views of the same table at the other scales."""
    job_views, jobs = related.job_views, related.of_view(view)
    page = _Page(job_views, _footnotes(view), differences(view), _anchors(view))
    suffixes = [
        ("csv", "CSV"),
        ("md", "Markdown"),
        ("tex", "LaTeX"),
        *([("bib", "BibTeX")] if view.table.arxiv else []),
    ]
    return render.render(
        "table.html.j2",
        "../",
        {
            "view": view,
            "table": view.table,
            "siblings": siblings,
            "counts": words.counts(view),
            "architecture": has_architecture(view),
            "sections": [
                (section, [_row(view, row, page) for row in rows]) for section, rows in words.sections(view.rows)
            ],
            "references": [_row(view, row, page) for row in view.anchors],
            "references_title": words.REFERENCES,
            "columns_wide": 1 + has_architecture(view) + sum(2 if column.printed else 1 for column in view.columns),
            "foreign": _missing(view),
            "doubts": any(cell.doubt for cell in view.cells.values()),
            "compared": bool(page.differences),
            "footnotes": page.footnotes,
            "agreement": [words.agreement_sentence(agreement) for agreement in view.agreement],
            "protocols": _protocols(view),
            "released_code": released_code.of_table(view),
            "groups": [(title, name, drawn) for title, name, drawn in _figures(view, job_views) if drawn],
            "data_warnings": data_read.warnings(jobs),
            "provenance": totals.provenance(jobs),
            "downloads": [(f"{view.table.id}.{suffix}", name) for suffix, name in suffixes],
        },
    )


def _figures(view: TableView, job_views: Mapping[str, JobView]) -> list[tuple[str, str, list[PageFigure]]]:
    """(heading, id, figures) of each group, in the order of the page."""
    return [
        ("Published and measured", "plots", of_table.published_and_measured(view)),
        ("Detections", "detections", of_table.detections(view, job_views)),
        ("Singular values", "spectra", of_table.singular_values(view, job_views)),
        ("Accuracy while the evaluation trains", "probes", of_table.probe_curves(view, job_views)),
        ("Learning-rate sweeps", "sweeps", of_table.sweeps(view, job_views)),
        ("Training curves", "curves", of_table.training(view, job_views)),
    ]


def job_href(job: str, job_views: Mapping[str, JobView], root: str) -> str:
    """The page of a job, "" while it has no folder."""
    return f"{root}jobs/{job}.html" if job in job_views else ""


def _anchors(view: TableView) -> Mapping[str, str]:
    """Ids of the rows, which the index links to."""
    return {row.name: f"row-{place}" for place, row in enumerate((*view.rows, *view.anchors), start=1)}


def _row(view: TableView, row: Row, page: _Page) -> PageRow:
    cells = tuple(_cell(view, row, column, page) for column in view.columns)
    return PageRow(row=row, cells=cells, foreign=row.method is None, anchor=page.anchors[row.name])


def _cell(view: TableView, row: Row, column: Column, page: _Page) -> PageCell:
    cell = view.cell(row, column)
    running = [
        job_view.progress
        for job in cell.jobs
        if (job_view := _working(job, page.job_views)) is not None and job_view.progress
    ]
    printed = number(cell.published)
    return PageCell(
        column=column,
        view=cell,
        value="" if cell.mean is None else f"{cell.mean:.{cell.digits}f}",
        spread="" if cell.sd is None else f"± {cell.sd:.{cell.digits}f}",
        seeds=tuple(
            SeedLink(
                seed=seed, href=job_href(job, page.job_views, "../"), value=_metric(page.job_views.get(job), column)
            )
            for seed, job in enumerate(cell.jobs)
        ),
        difference=page.differences.get((row.name, column.name)),
        footnote=next(
            (
                note.number
                for note in page.footnotes
                if cell.message and (note.status, note.message) == (cell.status, cell.message)
            ),
            0,
        ),
        progress=running[0] if running else "",
        order_paper="" if printed is None else f"{printed:g}",
        order_here="" if cell.mean is None else repr(round(cell.mean, 9)),
    )


def _working(job: str, job_views: Mapping[str, JobView]) -> JobView | None:
    """The job itself while it runs, else the pretraining that it waits for."""
    own = job_views.get(job)
    if own is None or own.state is State.RUNNING or own.result is not None:
        return own
    return job_views.get(own.parent, own)


def _metric(job_view: JobView | None, column: Column) -> str:
    if job_view is None or job_view.result is None or column.metric not in job_view.result.metrics:
        return ""
    return f"{job_view.result.metrics[column.metric]:.{column.digits}f} {column.unit}".strip()


def _footnotes(view: TableView) -> tuple[Footnote, ...]:
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for (row, column), cell in view.cells.items():
        if cell.message:
            found.setdefault((cell.status, cell.message), {}).setdefault(row, []).append(column)
    return tuple(
        Footnote(
            number=number,
            status=status,
            message=message,
            cells=tuple((row, tuple(columns)) for row, columns in cells.items()),
        )
        for number, ((status, message), cells) in enumerate(found.items(), start=1)
    )


def _missing(view: TableView) -> list[tuple[str, str]]:
    """(row, what it would take) of the rows that nothing here can run."""
    return [(row.name, row.missing) for row in (*view.rows, *view.anchors) if row.method is None]


def _protocols(view: TableView) -> list[tuple[str, list[Column]]]:
    """Each protocol once, with its columns."""
    found: dict[str, list[Column]] = {}
    for column in view.columns:
        found.setdefault(view.protocols[column.name], []).append(column)
    return list(found.items())
