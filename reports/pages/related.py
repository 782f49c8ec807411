"""What belongs to a job: the evaluations of its encoder, and the cells of tables that it fills.

Looked up, not searched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.job_view import JobView
from results.view import TableView


@dataclass(frozen=True, kw_only=True)
class Related:
    """All jobs of a report and what hangs together."""

    job_views: Mapping[str, JobView]
    children: Mapping[str, tuple[JobView, ...]]  # pretraining -> evaluations of its encoder
    cells: Mapping[str, tuple[tuple[TableView, str], ...]]  # job -> (view, "row: column"), in the tables' order

    def uses(self, job: str) -> list[tuple[TableView, tuple[str, ...]]]:
        """The cells of each table that a job fills; a pretraining fills those of the evaluations of its encoder."""
        found: dict[tuple[str, str], tuple[TableView, dict[str, None]]] = {}
        for one in (job, *(child.id for child in self.children.get(job, ()))):
            for view, cell in self.cells.get(one, ()):
                found.setdefault((view.table.id, view.scale), (view, {}))[1][cell] = None
        return [(view, tuple(cells)) for view, cells in found.values()]

    def of_view(self, view: TableView) -> list[JobView]:
        """The jobs behind a table, each pretraining included, each once."""
        jobs = dict.fromkeys(job for cell in view.cells.values() for job in cell.jobs if job in self.job_views)
        parents = dict.fromkeys(
            self.job_views[job].parent for job in jobs if self.job_views[job].parent in self.job_views
        )
        return [self.job_views[job] for job in jobs | parents]


def link(views: Sequence[TableView], job_views: Mapping[str, JobView]) -> Related:
    """Go through all cells and records once."""
    children: dict[str, list[JobView]] = {}
    for job_view in job_views.values():
        if job_view.parent:
            children.setdefault(job_view.parent, []).append(job_view)
    cells: dict[str, list[tuple[TableView, str]]] = {}
    for view in views:
        for (row, column), cell in view.cells.items():
            for job in cell.jobs:
                cells.setdefault(job, []).append((view, f"{row}: {column}"))
    return Related(
        job_views=job_views,
        children={job: tuple(found) for job, found in children.items()},
        cells={job: tuple(found) for job, found in cells.items()},
    )
