"""The figures of a table's page: dots, spectra, accuracy over epochs, sweeps, training curves, detections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from bench.files import Json
from reports.figures import curves, detection, dots, spectra
from reports.job_view import JobView, details_of
from results.table import Row
from results.view import TableView

JobViews = Mapping[str, JobView]
# terms that tell a collapse; the first that is logged is drawn beside the loss
COLLAPSE = (
    "embedding_std",
    "effective_rank",
)
PICTURED = 6  # rows whose detections are shown; the job pages have all
SCENES = 3  # of each


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """An inlined figure and the words under it."""

    svg: Markup
    caption: str


def published_and_measured(view: TableView) -> list[PageFigure]:
    """The dots of every printed column that has an order."""
    found = []
    for place, column in enumerate(view.columns):
        if column.printed and column.higher_is_better is not None:
            better = "higher" if column.higher_is_better else "lower"
            caption = f"{view.heading(column)}: {better} is better. Bars are one sample standard deviation over seeds."
            found.append(PageFigure(svg=Markup(dots.dot_plot(view, column, name=f"dots-{place}")), caption=caption))
    return _drawn(found)


def singular_values(view: TableView, job_views: JobViews) -> list[PageFigure]:
    """What evaluations left of singular values, each row's first finished seed.

    A spectrum that several rows have (the embedding's, say) is one figure with a line for each row; those that only one
    row has share a figure.
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = {}  # (protocol, label) -> row -> values
    dynamics: dict[str, tuple[str, Mapping[str, Json]]] = {}
    for row, protocol, job_view in _first_seeds(view, job_views):
        details = details_of(job_view)
        for label, values in spectra.spectra_of(details):
            found.setdefault((protocol, label), {})[row.name] = values
        if "dynamics" in details:
            dynamics.setdefault(job_view.id, (row.name, details))
    groups: dict[tuple[str, str], list[tuple[str, list[float]]]] = {}  # (protocol, what the figure is of) -> its lines
    for (protocol, label), rows in found.items():
        if len(rows) > 1:
            groups[protocol, label] = list(rows.items())
        else:
            subject, values = next(iter(rows.items()))
            groups.setdefault((protocol, subject), []).append((label, values))
    plots = []
    for place, ((protocol, subject), lines) in enumerate(groups.items()):
        entries: list[Json] = [{"label": label, "values": list(values)} for label, values in lines]
        drawn = spectra.spectrum_figure(
            {"spectra": entries}, name=f"spectra-{place}", title=f"Singular values: {subject}"
        )
        plots.append(PageFigure(svg=Markup(drawn), caption=f"{subject}: {protocol}. Largest first; one seed."))
    for place, (subject, details) in enumerate(dynamics.values()):
        drawn = spectra.dynamics_figure(
            details, name=f"dynamics-{place}", title=f"Singular values over training: {subject}"
        )
        plots.append(
            PageFigure(
                svg=Markup(drawn), caption=f"{subject}: singular values over training, the largest darkest; one seed."
            )
        )
    return _drawn(plots)


def probe_curves(view: TableView, job_views: JobViews) -> list[PageFigure]:
    """Accuracy over the epochs of each protocol that measured it, a line a row."""
    found: dict[str, dict[str, tuple[str, list[tuple[float, float]]]]] = {}  # protocol -> job -> (row, points)
    for row, protocol, job_view in _first_seeds(view, job_views):
        points = curves.probe_of(details_of(job_view))
        if len(points) > 1:
            found.setdefault(protocol, {}).setdefault(job_view.id, (row.name, points))
    return _drawn(
        PageFigure(
            svg=Markup(
                curves.probe_figure(
                    list(rows.values()),
                    name=f"probe-{place}",
                    title=f"Accuracy over the epochs of the evaluation: {protocol}",
                )
            ),
            caption=f"{protocol}. Each row's first seed; the test split chooses nothing.",
        )
        for place, (protocol, rows) in enumerate(found.items())
    )


def sweeps(view: TableView, job_views: JobViews) -> list[PageFigure]:
    """The learning-rate sweep of each protocol that has one, a line a row."""
    found: dict[str, dict[str, tuple[str, Mapping[str, Json]]]] = {}
    for row, protocol, job_view in _first_seeds(view, job_views):
        if "sweep" in details_of(job_view):
            found.setdefault(protocol, {}).setdefault(job_view.id, (row.name, details_of(job_view)))
    return _drawn(
        PageFigure(
            svg=Markup(
                curves.best_of_sweeps(
                    list(rows.values()), name=f"sweep-{place}", title=f"Learning-rate sweeps: {protocol}"
                )
            ),
            caption=f"{protocol}. The best weight decay of each learning rate; each row's first seed. A best value "
            "at an edge asks for a wider grid.",
        )
        for place, (protocol, rows) in enumerate(found.items())
    )


def training(view: TableView, job_views: JobViews) -> list[PageFigure]:
    """The loss of every pretraining, a panel for each method, then the term that tells a collapse.

    Job pages have all terms.
    """
    by_method: dict[str, dict[str, tuple[str, curves.Curves]]] = {}
    for row in (*view.rows, *view.anchors):
        for job in (job for column in view.columns for job in view.cell(row, column).jobs):
            trained = job_views.get(job_views[job].parent or job) if job in job_views else None
            if trained is not None and trained.curves and trained.id.startswith("pretrain-"):
                by_method.setdefault(row.method or "", {}).setdefault(trained.id, (row.name, trained.curves))
    groups = {method: list(runs.values()) for method, runs in by_method.items()}
    logged = {term for runs in groups.values() for _, lines in runs for line in lines[:1] for term in line}
    count = sum(map(len, groups.values()))
    found = []
    for term in ("loss", *[term for term in COLLAPSE if term in logged][:1]):
        drawn = curves.small_multiples(groups, term=term, name=f"curves-{term}", title=f"Training curves: {term}")
        caption = (
            f"{term}, {count} {'pretraining' if count == 1 else 'pretrainings'}, a panel for each method; seeds of "
            "one row share a colour. "
            "Every logged term is on the job's page."
        )
        found.append(PageFigure(svg=Markup(drawn), caption=caption))
    return _drawn(found)


def detections(view: TableView, job_views: JobViews) -> list[PageFigure]:
    """A few test scenes of the first rows that have them."""
    pictured: dict[str, tuple[str, JobView]] = {}
    for row, _, job_view in _first_seeds(view, job_views):
        if job_view.scenes:
            pictured.setdefault(job_view.id, (row.name, job_view))
    return _drawn(
        PageFigure(
            svg=Markup(
                detection.scene_figure(job_view.scenes[:SCENES], name=f"scenes-{place}", title=f"Test scenes: {row}")
            ),
            caption=f"{row}: ground truth above, predictions below; one seed.",
        )
        for place, (row, job_view) in enumerate(list(pictured.values())[:PICTURED])
    )


def _first_seeds(view: TableView, job_views: JobViews) -> Iterator[tuple[Row, str, JobView]]:
    """(row, protocol, job) of the first finished seed of every cell, in the table's order."""
    for row in (*view.rows, *view.anchors):
        for column in view.columns:
            done = (
                job_views[job]
                for job in view.cell(row, column).jobs
                if job in job_views and job_views[job].result is not None
            )
            first = next(done, None)
            if first is not None:
                yield row, view.protocols[column.name], first


def _drawn(figures: Iterator[PageFigure] | list[PageFigure]) -> list[PageFigure]:
    return [figure for figure in figures if figure.svg]
