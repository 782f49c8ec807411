"""The figures of a report: published against measured, training curves, the sweep of a linear evaluation, spectra and their dynamics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeGuard

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.identity import Json
from reports import svg
from results.table import Column, Row
from results.view import TableView, number

Curves = Sequence[Mapping[str, float]]

LABEL_LENGTH = 42  # longer row names are cut in the figure; the table has them whole
NOT_A_TERM = ("step", "steps", "epoch", "img_s")
FEW_VALUES = 32
DECADES = 12  # below the largest singular value; what is under them is rounding and would press the rest together
DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


def dot_plot(view: TableView, column: Column, *, name: str) -> str:
    """Published and measured values of one column as dots, the references under them. "" when there is nothing to draw.

    Where the scale is the paper's both share one axis. Elsewhere they get a panel each: side by side on one axis they
    would invite the comparison of values that mean different things.
    """
    rows = [row for row in view.rows if view.cell(row, column).published or view.cell(row, column).mean is not None]
    references = [row for row in view.references if view.cell(row, column).mean is not None]
    if not rows and not references:
        return ""
    with svg.drawing_style():
        shared = not view.caveat
        places = [*range(len(rows)), *(len(rows) + 0.5 + place for place in range(len(references)))]
        top, bottom, width = (0.38 if shared or not references else 0.56), 0.5, 8.2
        height = top + bottom + 0.27 * (len(rows) + len(references) + 1)
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(1, 1 if shared else 2, sharey=True, squeeze=False)[0]
        labels = [_short(row.name) for row in (*rows, *references)]
        left = min(3.1, 0.35 + 0.073 * max(map(len, labels)))
        figure.subplots_adjust(left=left / width, right=1 - 0.15 / width, top=1 - top / height, bottom=bottom / height, wspace=0.08)
        paper, here = grid[0], grid[-1]
        for axes in grid:
            axes.set_xlabel(f"{column.name} ({column.unit})" if column.unit else column.name)
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
            axes.margins(x=0.08)
        _draw_rows(view, column, list(zip(rows, places, strict=False)), paper, here)
        _draw_references(view, column, list(zip(references, places[len(rows) :], strict=True)), here, _window(view, column, rows))
        for axes in grid if references and rows else ():
            axes.axhline(len(rows) - 0.25, color=svg.MUTED, linewidth=0.6)
        paper.set_yticks(places, labels)
        paper.set_ylim(max(places) + 0.6, -0.6)
        if shared:
            handles = [
                _handle("o", svg.PAPER, "printed in the paper", hollow=True),
                _handle("o", svg.HERE, "measured here, mean ± sd"),
            ]
            handles += [_handle("D", svg.REFERENCE, "reference of ours")] if references else []
            _legend(figure, handles, left / width, columns=3)
        else:
            paper.set_title("printed in the paper", color=svg.PAPER)
            here.set_title(f"measured here, scale {view.scale}", color=svg.HERE)
            if references:
                _legend(figure, [_handle("D", svg.REFERENCE, "reference of ours, not in the paper")], left / width, columns=1)
        caption = f"{view.heading(column)}: published and measured values of {view.table.paper}, table {view.table.number}, scale {view.scale}"
        return svg.to_svg(figure, name=name, title=caption)


def training_curves(runs: Sequence[tuple[str, Curves]], *, name: str, title: str) -> str:
    """Every logged term over the steps, a panel each, the loss first. Runs of one label share a colour. "" without a point."""
    terms = _terms(curves for _, curves in runs)
    if not terms:
        return ""
    with svg.drawing_style():
        labels = list(dict.fromkeys(svg.clean(label) for label, _ in runs))
        columns = min(len(terms), 3)
        lines = math.ceil(len(terms) / columns)
        legend = 0.0 if len(labels) == 1 else 0.22 * math.ceil(len(labels) / 2)  # one run is named by the page
        width, height = {1: 4.6, 2: 6.6}.get(columns, 8.2), 2.05 * lines + legend
        figure = Figure(figsize=(width, height))
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        figure.subplots_adjust(
            left=0.55 / width, right=1 - 0.1 / width, top=1 - (legend + 0.3) / height, bottom=0.45 / height, wspace=0.36, hspace=0.62
        )
        for axes, term in zip(panels, terms, strict=False):
            axes.set_title(term)
            axes.set_xlabel("step")
            axes.tick_params(length=0, labelcolor=svg.MUTED)
            axes.locator_params(axis="both", nbins=5)
            for label, curves in runs:
                style = labels.index(svg.clean(label))
                points = [(line["step"], line[term]) for line in curves if _is_number(line.get("step")) and _is_number(line.get(term))]
                if points:
                    dash = DASHES[style // len(svg.SERIES) % len(DASHES)]
                    # A single point makes no line: a run that has just begun would be invisible without a marker.
                    marker = "." if len(points) == 1 else ""
                    axes.plot(*zip(*points, strict=True), color=_series(style), linestyle=dash, marker=marker, linewidth=1.3)
        for axes in panels[len(terms) :]:
            axes.remove()
        handles = [
            Line2D([], [], color=_series(place), linestyle=DASHES[place // len(svg.SERIES) % len(DASHES)], label=_short(label))
            for place, label in enumerate(labels)
        ]
        if legend:
            _legend(figure, handles, 0.45 / width, columns=2)
        return svg.to_svg(figure, name=name, title=title)


def sweep_figure(details: Mapping[str, Json], *, name: str, title: str) -> str:
    """Validation accuracy over the learning rate, a line for each weight decay, the chosen head ringed. "" without a sweep."""
    heads = _heads(details.get("sweep"))
    if not heads:
        return ""
    rates, decays = sorted({head[0] for head in heads}), sorted({head[1] for head in heads})
    with svg.drawing_style():
        width, height = 6.2, 3.1
        figure = Figure(figsize=(width, height))
        axes = figure.subplots()
        figure.subplots_adjust(left=0.6 / width, right=1 - 1.75 / width, top=1 - 0.2 / height, bottom=0.5 / height)
        for place, decay in enumerate(decays):
            points = sorted((rates.index(rate), value) for rate, other, value in heads if other == decay)
            shade = svg.RAMP[round(place * (len(svg.RAMP) - 1) / max(1, len(decays) - 1))]
            axes.plot(*zip(*points, strict=True), color=shade, marker="o", markersize=3.5, linewidth=1.4, label=f"{decay:g}")
        chosen = _heads([details.get("chosen")])
        if chosen and chosen[0][0] in rates:
            axes.plot(
                [rates.index(chosen[0][0])], [chosen[0][2]], "o",
                markersize=10, markerfacecolor="none", markeredgecolor=svg.SERIES[1], markeredgewidth=1.6, label="chosen",
            )  # fmt: skip
        # Rates stand at equal distances: grids are near-geometric, and a rate of 0 has no logarithm.
        axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axes.set_xlabel("learning rate")
        axes.set_ylabel("top-1 on the held-out split (%)")
        axes.tick_params(length=0, labelcolor=svg.MUTED)
        axes.legend(title="weight decay", loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, alignment="left")
        return svg.to_svg(figure, name=name, title=title)


def spectrum_figure(details: Mapping[str, Json], *, name: str, title: str) -> str:
    """Log10 of singular values over their index, largest first, a line for each label. "" without a spectrum.

    Values of 0 have no logarithm and are left out; the axis ends 12 decades under the largest value.
    """
    spectra = [(label, [(place, math.log10(value)) for place, value in enumerate(values) if value > 0]) for label, values in spectra_of(details)]
    spectra = [(label, points) for label, points in spectra if points]
    if not spectra:
        return ""
    with svg.drawing_style():
        legend = 0.0 if len(spectra) == 1 else 0.22 * math.ceil(len(spectra) / 2)
        width, height = 6.2, 2.9 + legend
        figure = Figure(figsize=(width, height))
        axes = figure.subplots()
        figure.subplots_adjust(left=0.6 / width, right=1 - 0.15 / width, top=1 - (legend + 0.15) / height, bottom=0.5 / height)
        handles = []
        for place, (label, points) in enumerate(spectra):
            dash = DASHES[place // len(svg.SERIES) % len(DASHES)]
            marker = "." if len(points) <= FEW_VALUES else ""  # a spectrum of few values is read value by value
            axes.plot(*zip(*points, strict=True), color=_series(place), linestyle=dash, marker=marker, linewidth=1.4)
            handles.append(Line2D([], [], color=_series(place), linestyle=dash, label=_short(label)))
        lowest, highest = min(value for _, points in spectra for _, value in points), max(value for _, points in spectra for _, value in points)
        if lowest < highest - DECADES:
            axes.set_ylim(highest - DECADES, highest + 0.03 * DECADES)
        axes.set_xlabel("index")
        axes.set_ylabel("log10 singular value")
        axes.tick_params(length=0, labelcolor=svg.MUTED)
        if legend:
            _legend(figure, handles, 0.55 / width, columns=2)
        return svg.to_svg(figure, name=name, title=title)


def dynamics_figure(details: Mapping[str, Json], *, name: str, title: str) -> str:
    """Singular values over training, a panel for each matrix, then the alignment and its last matrix. "" without dynamics.

    Steps stand on a logarithmic axis, which has no place for step 0; the largest singular value is the darkest line.
    """
    dynamics = details.get("dynamics")
    if not isinstance(dynamics, dict):
        return ""
    steps, matrices = _row(dynamics.get("steps")), dynamics.get("singular_values")
    found = [(label, _matrix(rows)) for label, rows in matrices.items()] if isinstance(matrices, dict) else []
    panels = [(label, rows) for label, rows in found if steps and len(rows) == len(steps)]
    if not panels:
        return ""
    alignment, last = _row(dynamics.get("alignment")), _matrix(dynamics.get("alignment_matrix"))
    count = len(panels) + (len(alignment) == len(steps)) + bool(last)
    with svg.drawing_style():
        columns = min(count, 3)
        lines = math.ceil(count / columns)
        width, height = 0.55 + 2.55 * columns, 2.3 * lines
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        figure.subplots_adjust(left=0.55 / width, right=1 - 0.1 / width, top=1 - 0.3 / height, bottom=0.45 / height, wspace=0.36, hspace=0.55)
        for axes, (label, rows) in zip(grid, panels, strict=False):
            axes.set_title(f"{svg.clean(label)}, log10 singular values")
            for place in range(len(rows[0])):
                shade = svg.RAMP[round((len(svg.RAMP) - 1) * (1 - place / max(1, len(rows[0]) - 1)))]
                points = [(step, math.log10(row[place])) for step, row in zip(steps, rows, strict=True) if step > 0 and row[place] > 0]
                _over_steps(axes, points, shade)
        rest = list(grid[len(panels) :])
        if len(alignment) == len(steps):
            axes = rest.pop(0)
            axes.set_title("alignment, mean of the diagonal")
            axes.set_ylim(0, 1.02)
            _over_steps(axes, [(step, value) for step, value in zip(steps, alignment, strict=True) if step > 0], svg.SERIES[0])
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
    found = [(entry.get("label"), _row(entry.get("values"))) for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [(label, values) for label, values in found if isinstance(label, str) and values]


def _draw_rows(view: TableView, column: Column, rows: Sequence[tuple[Row, float]], paper: Axes, here: Axes) -> None:
    for row, place in rows:
        cell = view.cell(row, column)
        published = number(cell.published)
        if published is not None and cell.mean is not None and paper is here:
            here.plot([published, cell.mean], [place, place], color=svg.MUTED, linewidth=0.8, zorder=1)
        if published is not None:
            paper.plot([published], [place], "o", markerfacecolor="none", markeredgecolor=svg.PAPER, markeredgewidth=1.5, markersize=6.5)
        if cell.mean is not None:
            here.errorbar([cell.mean], [place], xerr=cell.sd or 0.0, fmt="o", color=svg.HERE, markersize=5.5, elinewidth=1.6)
        elif paper is not here:
            _note(here, place, cell.text)


def _draw_references(view: TableView, column: Column, references: Sequence[tuple[Row, float]], here: Axes, window: tuple[float, float]) -> None:
    for row, place in references:
        cell = view.cell(row, column)
        assert cell.mean is not None  # chosen so by the caller
        if not window[0] <= cell.mean <= window[1]:
            side = "\N{LEFTWARDS ARROW}" if cell.mean < window[0] else "\N{RIGHTWARDS ARROW}"
            _note(here, place, f"{side} {cell.text}")
            continue
        here.axvline(cell.mean, color=svg.REFERENCE, linewidth=0.7, linestyle=":", zorder=0)
        here.errorbar([cell.mean], [place], xerr=cell.sd or 0.0, fmt="D", color=svg.REFERENCE, markersize=5, elinewidth=1.6)


def _window(view: TableView, column: Column, rows: Sequence[Row]) -> tuple[float, float]:
    """Where a reference is drawn. Far outside the rows (a random encoder on ImageNet) it would press them into one blot."""
    cells = [view.cell(row, column) for row in rows]
    values = [cell.mean for cell in cells if cell.mean is not None] + [value for cell in cells if (value := number(cell.published)) is not None]
    if view.caveat or not values or min(values) == max(values):
        return -math.inf, math.inf
    reach = max(values) - min(values)
    return min(values) - reach, max(values) + reach


def _note(axes: Axes, place: float, text: str) -> None:
    """Words at the left edge of a row that has no dot."""
    behind = {"facecolor": svg.PAGE, "edgecolor": "none", "pad": 1.0}
    axes.text(0.015, place, text, transform=axes.get_yaxis_transform(), va="center", color=svg.MUTED, fontsize=8, bbox=behind)


def _legend(figure: Figure, handles: Sequence[Line2D], left: float, *, columns: int) -> None:
    figure.legend(handles=handles, ncols=columns, loc="upper left", bbox_to_anchor=(left, 0.995), borderaxespad=0.0, borderpad=0.0, handletextpad=0.5)


def _handle(marker: str, color: str, label: str, *, hollow: bool = False) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=color, markerfacecolor="none" if hollow else color, label=label, markersize=5.5)


def _series(place: int) -> str:
    return svg.SERIES[place % len(svg.SERIES)]


def _terms(runs: Iterable[Curves]) -> list[str]:
    found = {key for curves in runs for line in curves for key, value in line.items() if _is_number(value) and _is_number(line.get("step"))}
    return sorted(found.difference(NOT_A_TERM), key=lambda term: (term != "loss", term == "lr", term))


def _heads(sweep: object) -> list[tuple[float, float, float]]:
    """(learning rate, weight decay, accuracy) of every entry that has all three."""
    entries = [entry for entry in sweep if isinstance(entry, dict)] if isinstance(sweep, list) else []
    found = [tuple(entry.get(key) for key in ("learning_rate", "weight_decay", "val_top1")) for entry in entries]
    return [(a, b, c) for a, b, c in found if _is_number(a) and _is_number(b) and _is_number(c)]


def _over_steps(axes: Axes, points: Sequence[tuple[float, float]], color: str) -> None:
    """A line over the logarithm of the step; ticks at powers of ten in plain numbers, which matplotlib's own log axis has not."""
    places = [math.log10(step) for step, _ in points]
    axes.plot(places, [value for _, value in points], color=color, linewidth=1.2)
    powers = range(math.floor(max(places, default=0)) + 1)
    axes.set_xticks(powers, [f"{10**power:,}" for power in powers])
    axes.set_xlabel("step")
    axes.tick_params(length=0, labelcolor=svg.MUTED)


def _row(values: object) -> list[float]:
    """The numbers of a list; nothing when there is anything else in it."""
    return [float(value) for value in values if _is_number(value)] if isinstance(values, list) and all(map(_is_number, values)) else []


def _matrix(rows: object) -> list[list[float]]:
    """Rows of equal length; nothing when they are not."""
    found = [_row(row) for row in rows] if isinstance(rows, list) else []
    return found if found and found[0] and len({len(row) for row in found}) == 1 else []


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(text: str) -> str:
    text = svg.clean(text)
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"
