"""The first page: papers and tables with their state, every row of every table, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.planning.scales import scale_of
from reports import words
from reports.pages import render, totals
from reports.pages.overview import overviews
from reports.pages.related import Related
from results.table import Column
from results.view import CellView, TableView, number


@dataclass(frozen=True, kw_only=True)
class IndexLine:
    """One table at one scale."""

    view: TableView
    counts: dict[str, int]
    order: str  # Kendall's tau of the column whose order is compared, "" where it is not defined
    order_rows: int
    running: int  # cells


@dataclass(frozen=True, kw_only=True)
class RowLine:
    """One row of one table, by the column whose order is compared."""

    label: str
    href: str
    table: str
    scale: str
    method: str
    column: str
    published: str
    measured: str
    status: str
    order_paper: str
    order_here: str


def index_page(views: Sequence[TableView], related: Related) -> str:
    """The HTML of the index."""
    lines = [_line(view) for view in views]
    shown = [
        group for group in words.GROUPS if group in words.ALWAYS_COUNTED or any(line.counts[group] for line in lines)
    ]
    return render.render(
        "index.html.j2",
        "",
        {
            "views": views,
            "papers": [
                (paper, list(members))
                for paper, members in groupby(lines, key=lambda line: (line.view.table.paper, line.view.table.arxiv))
            ],
            "shown": shown,
            "rows": [row for view in views for row in _rows(view)],
            "provenance": totals.provenance(list(related.job_views.values())),
            "saving": totals.saving([related.of_view(view) for view in views]),
            "caveats": [_caveat(scale) for scale in dict.fromkeys(view.scale for view in views if view.caveat)],
            "cites": any(view.table.arxiv for view in views),
        },
    )


def matrix_page(views: Sequence[TableView]) -> str:
    """The HTML of methods against protocols."""
    return render.render("matrix.html.j2", "", {"overviews": overviews(views)})


def _caveat(scale: str) -> str:
    """One for all tables of a scale; each table's page names what stands in for its own data."""
    known = scale_of(scale)
    return (
        f"At the scale {scale!r} ({known.summary}) smaller data sets and networks stand in for the papers', so the "
        f"printed numbers are no target: {known.reading} Each table's page names its data."
    )


def _line(view: TableView) -> IndexLine:
    agreement = next(
        (one for one in view.agreement if one.column == view.table.order_by), next(iter(view.agreement), None)
    )
    known = agreement is not None and agreement.tau is not None
    return IndexLine(
        view=view,
        counts=words.counts(view),
        order=f"{agreement.tau:.2f}".replace("-", "\N{MINUS SIGN}") if known and agreement is not None else "",
        order_rows=agreement.rows if agreement is not None else 0,
        running=sum(cell.status == "running" for cell in view.cells.values()),
    )


def _rows(view: TableView) -> list[RowLine]:
    column = _main_column(view)
    found = []
    for place, row in enumerate((*view.rows, *view.anchors), start=1):
        cell = view.cell(row, column)
        found.append(
            RowLine(
                label=row.name,
                href=f"{view.scale}/{view.table.id}.html#row-{place}",
                table=words.title(view.table),
                scale=view.scale,
                method=row.method or row.missing,
                column=view.heading(column),
                published=cell.published,
                measured="" if cell.mean is None else f"{cell.mean:.{cell.digits}f}",
                status="not implemented" if row.method is None else "" if cell.status == "none" else cell.status,
                order_paper=cell.published if _is_number(cell) else "",
                order_here="" if cell.mean is None else repr(round(cell.mean, 9)),
            )
        )
    return found


def _main_column(view: TableView) -> Column:
    """The column whose order is compared; without it the first that is measured."""
    measured = [column for column in view.columns if column.protocol] or list(view.columns)
    return next((column for column in view.columns if column.name == view.table.order_by), measured[0])


def _is_number(cell: CellView) -> bool:
    return number(cell.published) is not None
