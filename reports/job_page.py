"""The page of one job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.identity import Json
from reports import detection_figures, figures, pages, words
from reports.job import JobRecord
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


def job_page(record: JobRecord, records: Mapping[str, JobRecord], views: Sequence[TableView]) -> str:
    """The HTML of a job."""
    details = dict(record.result.details) if record.result is not None and isinstance(record.result.details, Mapping) else {}
    children = [other for other in records.values() if other.parent == record.id]
    sweep = figures.sweep_figure(details, name="sweep", title=f"Learning-rate and weight-decay sweep of {record.label}")
    spectra = figures.spectrum_figure(details, name="spectra", title=f"Singular values measured by {record.label}")
    dynamics = figures.dynamics_figure(details, name="dynamics", title=f"Singular values over the training of {record.label}")
    scenes = detection_figures.scene_figure(record.scenes, name="scenes", title=f"Test scenes of {record.label}: ground truth and predictions")
    class_columns, class_rows = detection_figures.class_rows(details)
    drawn = {key for key, figure in (("sweep", sweep), ("spectra", spectra), ("dynamics", dynamics)) if figure}
    curves = figures.training_curves([(record.label, record.curves)], name="curves", title=f"Training curves of {record.label}")
    return pages.render(
        "job.html.j2",
        "../",
        {
            "job": record,
            "parent": records.get(record.parent),
            "children": children,
            "uses": _uses(record.id, [child.id for child in children], views),
            "sweep": Markup(sweep),
            "spectra": Markup(spectra),
            "dynamics": Markup(dynamics),
            "curves": Markup(curves),
            "scenes": Markup(scenes),
            "class_columns": [column.replace("_", " ") for column in class_columns],
            "class_rows": class_rows,
            "details": [
                (key.replace("_", " "), _plain(value))
                for key, value in details.items()
                if key not in drawn and not (key == "ap_per_class" and class_rows)
            ],
        },
    )


def _uses(job: str, children: Sequence[str], views: Sequence[TableView]) -> list[Use]:
    wanted = {job, *children}
    found = []
    for view in views:
        cells = tuple(f"{row}: {column}" for (row, column), cell in view.cells.items() if wanted.intersection(cell.jobs))
        if cells:
            found.append(Use(view=view, cells=cells))
    return found


def _plain(value: Json) -> str:
    """A detail in words: "learning rate 0.1, weight decay 0.001" for a flat object, JSON for anything deeper."""
    if isinstance(value, dict) and not any(isinstance(item, dict | list) for item in value.values()):
        return ", ".join(f"{key.replace('_', ' ')} {words.compact(item)}" for key, item in value.items())
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else words.compact(value)
