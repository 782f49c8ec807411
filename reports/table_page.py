"""The page of one table at one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.identity import Json
from reports import figures, pages, words
from reports.job import JobRecord
from reports.text import has_architecture
from results.table import Column, Row
from results.view import CellView, TableView


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
    gap: str
    footnote: int  # 0: none


@dataclass(frozen=True, kw_only=True)
class PageRow:
    """One row; `foreign` when nothing here can run it."""

    row: Row
    cells: tuple[PageCell, ...]
    foreign: bool


@dataclass(frozen=True, kw_only=True)
class Footnote:
    """Why cells failed, once for all cells that failed the same way."""

    number: int
    status: str
    message: str
    cells: tuple[tuple[str, tuple[str, ...]], ...]  # (row, its columns)


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """An inlined figure and the words under it."""

    svg: Markup
    caption: str


def table_page(view: TableView, records: Mapping[str, JobRecord], siblings: Sequence[TableView]) -> str:
    """The HTML of a table. `siblings` are the views of the same table at the other scales."""
    footnotes = _footnotes(view)
    return pages.render(
        "table.html.j2",
        "../",
        {
            "view": view,
            "table": view.table,
            "siblings": siblings,
            "counts": words.counts(view),
            "architecture": has_architecture(view),
            "sections": [(section, [_row(view, row, records, footnotes) for row in rows]) for section, rows in words.sections(view.rows)],
            "references": [_row(view, row, records, footnotes) for row in view.references],
            "references_title": words.REFERENCES,
            "columns_wide": 1 + has_architecture(view) + sum(2 if column.printed else 1 for column in view.columns),
            "foreign": _missing(view),
            "doubts": any(cell.doubt for cell in view.cells.values()),
            "footnotes": footnotes,
            "agreement": [words.agreement_sentence(agreement) for agreement in view.agreement],
            "protocols": _protocols(view),
            "plots": _plots(view),
            "spectra": _spectra(view, records),
            "curves": _curves(view, records),
            "downloads": [(f"{view.table.id}.{suffix}", name) for suffix, name in (("csv", "CSV"), ("md", "Markdown"), ("tex", "LaTeX"))],
        },
    )


def job_href(job: str, records: Mapping[str, JobRecord], root: str) -> str:
    """The page of a job, "" while it has no folder."""
    return f"{root}jobs/{job}.html" if job in records else ""


def _row(view: TableView, row: Row, records: Mapping[str, JobRecord], footnotes: Sequence[Footnote]) -> PageRow:
    cells = tuple(_cell(view, row, column, records, footnotes) for column in view.columns)
    return PageRow(row=row, cells=cells, foreign=row.method is None)


def _cell(view: TableView, row: Row, column: Column, records: Mapping[str, JobRecord], footnotes: Sequence[Footnote]) -> PageCell:
    cell = view.cell(row, column)
    return PageCell(
        column=column,
        view=cell,
        value="" if cell.mean is None else f"{cell.mean:.{cell.digits}f}",
        spread="" if cell.sd is None else f"± {cell.sd:.{cell.digits}f}",
        seeds=tuple(
            SeedLink(seed=seed, href=job_href(job, records, "../"), value=_metric(records.get(job), column)) for seed, job in enumerate(cell.jobs)
        ),
        gap=words.gap(cell) if cell.verdict else "",
        footnote=next((note.number for note in footnotes if cell.message and (note.status, note.message) == (cell.status, cell.message)), 0),
    )


def _metric(record: JobRecord | None, column: Column) -> str:
    if record is None or record.result is None or column.metric not in record.result.metrics:
        return ""
    return f"{record.result.metrics[column.metric]:.{column.digits}f} {column.unit}".strip()


def _footnotes(view: TableView) -> tuple[Footnote, ...]:
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for (row, column), cell in view.cells.items():
        if cell.message:
            found.setdefault((cell.status, cell.message), {}).setdefault(row, []).append(column)
    return tuple(
        Footnote(number=number, status=status, message=message, cells=tuple((row, tuple(columns)) for row, columns in cells.items()))
        for number, ((status, message), cells) in enumerate(found.items(), start=1)
    )


def _missing(view: TableView) -> list[tuple[str, str]]:
    """(row, what it would take) of the rows that nothing here can run."""
    return [(row.name, row.missing) for row in (*view.rows, *view.references) if row.method is None]


def _protocols(view: TableView) -> list[tuple[str, list[Column]]]:
    """Each protocol once, with its columns."""
    found: dict[str, list[Column]] = {}
    for column in view.columns:
        found.setdefault(view.protocols[column.name], []).append(column)
    return list(found.items())


def _plots(view: TableView) -> list[PageFigure]:
    found = []
    for place, column in enumerate(view.columns):
        if column.printed and column.higher_is_better is not None:
            drawn = figures.dot_plot(view, column, name=f"dots-{place}")
            better = "higher" if column.higher_is_better else "lower"
            caption = f"{view.heading(column)}: {better} is better. Bars are one sample standard deviation over seeds."
            found.append(PageFigure(svg=Markup(drawn), caption=caption))
    return [figure for figure in found if figure.svg]


def _spectra(view: TableView, records: Mapping[str, JobRecord]) -> list[PageFigure]:
    """What evaluations left of singular values, each row's first finished seed.

    A spectrum that several rows have (the embedding's, say) is one figure with a line for each row; those that only one
    row has share a figure.
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = {}  # (protocol, label) -> row -> values
    dynamics: dict[str, tuple[str, Mapping[str, Json]]] = {}
    for row in (*view.rows, *view.references):
        for column in view.columns:
            finished = [records[job] for job in view.cell(row, column).jobs if job in records and records[job].result is not None]
            details = finished[0].result.details if finished and finished[0].result is not None else {}
            if not isinstance(details, Mapping):
                continue
            for label, values in figures.spectra_of(details):
                found.setdefault((view.protocols[column.name], label), {})[row.name] = values
            if "dynamics" in details:
                dynamics.setdefault(finished[0].id, (row.name, details))
    groups: dict[tuple[str, str], list[tuple[str, list[float]]]] = {}  # (protocol, what the figure is of) -> its lines
    for (protocol, label), rows in found.items():
        if len(rows) > 1:
            groups[protocol, label] = list(rows.items())
        else:
            subject, values = next(iter(rows.items()))
            groups.setdefault((protocol, subject), []).append((label, values))
    plots = []
    for place, ((protocol, subject), lines) in enumerate(groups.items()):
        spectra: list[Json] = [{"label": label, "values": list(values)} for label, values in lines]
        drawn = figures.spectrum_figure({"spectra": spectra}, name=f"spectra-{place}", title=f"Singular values: {subject}")
        plots.append(PageFigure(svg=Markup(drawn), caption=f"{subject}: {protocol}. Largest first; one seed."))
    for place, (subject, details) in enumerate(dynamics.values()):
        drawn = figures.dynamics_figure(details, name=f"dynamics-{place}", title=f"Singular values over training: {subject}")
        plots.append(PageFigure(svg=Markup(drawn), caption=f"{subject}: singular values over training, the largest darkest; one seed."))
    return [plot for plot in plots if plot.svg]


def _curves(view: TableView, records: Mapping[str, JobRecord]) -> list[PageFigure]:
    """A figure for each method, since losses of two methods share no scale; a row keeps one colour over its seeds."""
    by_method: dict[str, dict[str, tuple[str, figures.Curves]]] = {}
    for row in (*view.rows, *view.references):
        jobs = [job for column in view.columns for job in view.cell(row, column).jobs]
        for job in jobs:
            trained = records.get(records[job].parent or job) if job in records else None
            if trained is not None and trained.curves:
                by_method.setdefault(row.method or "", {}).setdefault(trained.id, (row.name, trained.curves))
    found = []
    for place, (method, runs) in enumerate(by_method.items()):
        drawn = figures.training_curves(list(runs.values()), name=f"curves-{place}", title=f"Training curves of {method}")
        pretrainings = f"{len(runs)} pretraining" + ("s" if len(runs) > 1 else "")
        found.append(PageFigure(svg=Markup(drawn), caption=f"Method {method}, {pretrainings}; seeds of one row share a colour."))
    return [figure for figure in found if figure.svg]
