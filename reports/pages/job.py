"""The page of one job."""

from __future__ import annotations

import json
from dataclasses import dataclass

from markupsafe import Markup

from bench.files import Json
from reports import words
from reports.figures import curves, detection, spectra
from reports.job_view import JobView, details_of
from reports.pages import data_read, released_code, render, totals
from reports.pages.related import Related
from results.view import TableView


@dataclass(frozen=True, kw_only=True)
class Use:
    """The cells of one table that a job fills; a pretraining fills those of the evaluations of its encoder."""

    view: TableView
    cells: tuple[str, ...]  # "row: column"

    @property
    def href(self) -> str:
        """The table's page, from the job's."""
        return f"../{self.view.scale}/{self.view.table.id}.html"


def job_page(job_view: JobView, related: Related) -> str:
    """The HTML of a job."""
    details = details_of(job_view)
    sweep = curves.sweep_figure(
        details, name="sweep", title=f"Learning-rate and weight-decay sweep of {job_view.label}"
    )
    probe = curves.probe_figure(
        [(job_view.label, curves.probe_of(details))],
        name="probe",
        title=f"Accuracy over the epochs of {job_view.label}",
    )
    spectrum = spectra.spectrum_figure(details, name="spectra", title=f"Singular values measured by {job_view.label}")
    dynamics = spectra.dynamics_figure(
        details, name="dynamics", title=f"Singular values over the training of {job_view.label}"
    )
    scenes = detection.scene_figure(
        job_view.scenes, name="scenes", title=f"Test scenes of {job_view.label}: ground truth and predictions"
    )
    class_columns, class_rows = detection.class_rows(details)
    trained = curves.training_curves(
        [(job_view.label, job_view.curves)], name="curves", title=f"Training curves of {job_view.label}"
    )
    drawn = {
        key
        for key, figure in (("sweep", sweep), ("path", sweep), ("spectra", spectrum), ("dynamics", dynamics))
        if figure
    }
    drawn |= {"test_top1_by_epoch", "tests", "curve"} if probe else set()
    drawn |= {"ap_per_class"} if class_rows else set()
    return render.render(
        "job.html.j2",
        "../",
        {
            "job": job_view,
            "parent": related.job_views.get(job_view.parent),
            "children": related.children.get(job_view.id, ()),
            "uses": [Use(view=view, cells=cells) for view, cells in related.uses(job_view.id)],
            "sweep": Markup(sweep),
            "probe": Markup(probe),
            "spectra": Markup(spectrum),
            "dynamics": Markup(dynamics),
            "curves": Markup(trained),
            "scenes": Markup(scenes),
            "class_columns": [column.replace("_", " ") for column in class_columns],
            "class_rows": class_rows,
            "released_code": released_code.of_spec(job_view.spec),
            "data_read": data_read.of_job(job_view.result),
            "energy": totals.energy([job_view.result.provenance]) if job_view.result is not None else "",
            "details": [(key.replace("_", " "), _plain(value)) for key, value in details.items() if key not in drawn],
        },
    )


def _plain(value: Json) -> str:
    """A detail in words: "learning rate 0.1, weight decay 0.001" for a flat object, JSON for anything deeper."""
    if isinstance(value, dict) and not any(isinstance(item, dict | list) for item in value.values()):
        return ", ".join(f"{key.replace('_', ' ')} {words.compact(item)}" for key, item in value.items())
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else words.compact(value)
