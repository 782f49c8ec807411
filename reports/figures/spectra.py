"""Singular values: the spectrum that an evaluation left, and how it came about over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from bench.files import Json
from reports.figures import sketch, svg
from reports.figures.sketch import Key, Line, Panel
from reports.words import matrix, row

FEW_VALUES = 32
DECADES = 12  # below the largest singular value; what is under them is rounding and would press the rest together


def spectrum_figure(details: Mapping[str, Json], *, name: str, title: str) -> str:
    """Log10 of singular values over their index, largest first, a line for each label. "" without a spectrum.

    Values of 0 have no logarithm and are left out; the axis ends 12 decades under the largest value.
    """
    found = [
        (label, [(float(place), math.log10(value)) for place, value in enumerate(values) if value > 0])
        for label, values in spectra_of(details)
    ]
    spectra = [(label, points) for label, points in found if points]
    if not spectra:
        return ""
    # A spectrum of few values is read value by value.
    lines = [
        Line(points=points, **svg.style(place), marks=len(points) <= FEW_VALUES)
        for place, (_, points) in enumerate(spectra)
    ]
    keys = (
        [Key(label=svg.short(label), line=line) for (label, _), line in zip(spectra, lines, strict=True)]
        if len(spectra) > 1
        else []
    )
    highest = max(value for _, points in spectra for _, value in points)
    panel = Panel(lines=lines, x="index", y="log10 singular value", floor=highest - DECADES)
    return sketch.draw([panel], name=name, title=title, width=6.2, height=2.9, keys=keys)


def dynamics_figure(details: Mapping[str, Json], *, name: str, title: str) -> str:
    """Singular values over training, a panel for each matrix, then the alignment and its last matrix.

    "" without dynamics.

    Steps stand on a logarithmic axis, which has no place for step 0; the largest singular value is the darkest line.
    """
    dynamics = details.get("dynamics")
    if not isinstance(dynamics, dict):
        return ""
    steps, matrices = row(dynamics.get("steps")), dynamics.get("singular_values")
    found = [(label, matrix(rows)) for label, rows in matrices.items()] if isinstance(matrices, dict) else []
    panels = [(label, rows) for label, rows in found if steps and len(rows) == len(steps)]
    if not panels:
        return ""
    alignment, last = row(dynamics.get("alignment")), matrix(dynamics.get("alignment_matrix"))
    count = len(panels) + (len(alignment) == len(steps)) + bool(last)
    with svg.drawing_style():
        columns = min(count, 3)
        lines = math.ceil(count / columns)
        width, height = 0.55 + 2.55 * columns, 2.3 * lines
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        figure.subplots_adjust(
            left=0.55 / width,
            right=1 - 0.1 / width,
            top=1 - 0.3 / height,
            bottom=0.45 / height,
            wspace=0.36,
            hspace=0.55,
        )
        for axes, (label, rows) in zip(grid, panels, strict=False):
            axes.set_title(f"{svg.clean(label)}, log10 singular values")
            for place in range(len(rows[0])):
                shade = svg.RAMP[round((len(svg.RAMP) - 1) * (1 - place / max(1, len(rows[0]) - 1)))]
                points = [
                    (step, math.log10(values[place]))
                    for step, values in zip(steps, rows, strict=True)
                    if step > 0 and values[place] > 0
                ]
                _over_steps(axes, points, shade)
        rest = list(grid[len(panels) :])
        if len(alignment) == len(steps):
            axes = rest.pop(0)
            axes.set_title("alignment, mean of the diagonal")
            axes.set_ylim(0, 1.02)
            _over_steps(
                axes, [(step, value) for step, value in zip(steps, alignment, strict=True) if step > 0], svg.SERIES[0]
            )
        if last:
            axes = rest.pop(0)
            axes.set_title("last alignment matrix, 0 to 1")
            axes.pcolormesh(last, cmap=ListedColormap(list(svg.RAMP)), vmin=0, vmax=1)
            axes.set(aspect="equal", xticks=[], yticks=[])
            axes.invert_yaxis()
            axes.grid(visible=False)
        for axes in rest:
            axes.remove()
        return svg.to_svg(figure, name=name, title=title)


def spectra_of(details: Mapping[str, Json]) -> list[tuple[str, list[float]]]:
    """(label, singular values) of every entry of `spectra` that has both."""
    entries = details.get("spectra")
    found = (
        [(entry.get("label"), row(entry.get("values"))) for entry in entries if isinstance(entry, dict)]
        if isinstance(entries, list)
        else []
    )
    return [(label, values) for label, values in found if isinstance(label, str) and values]


def _over_steps(axes: Axes, points: Sequence[tuple[float, float]], color: str) -> None:
    """A line over the logarithm of the step.

    Ticks at powers of ten in plain numbers, which matplotlib's own log axis has not.
    """
    places = [math.log10(step) for step, _ in points]
    axes.plot(places, [value for _, value in points], color=color, linewidth=1.2)
    powers = range(math.floor(max(places, default=0)) + 1)
    axes.set_xticks(powers, [f"{10**power:,}" for power in powers])
    axes.set_xlabel("step")
    axes.tick_params(length=0, labelcolor=svg.MUTED)
