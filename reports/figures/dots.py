"""The dots of a table: published and measured values of one column."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import words
from reports.figures import svg
from results.table import Column, Row
from results.view import TableView, number


def dot_plot(view: TableView, column: Column, *, name: str) -> str:
    """Published and measured values of one column as dots, the anchors under them. "" when there is nothing to draw.

    Where the scale is the paper's both share one axis. Elsewhere they get a panel each: side by side on one axis they
    would invite the comparison of values that mean different things.
    """
    rows = [row for row in view.rows if view.cell(row, column).published or view.cell(row, column).mean is not None]
    anchors = [row for row in view.anchors if view.cell(row, column).mean is not None]
    if not rows and not anchors:
        return ""
    with svg.drawing_style():
        shared = not view.caveat
        places = [*range(len(rows)), *(len(rows) + 0.5 + place for place in range(len(anchors)))]
        top, bottom, width = (0.38 if shared or not anchors else 0.56), 0.5, 8.2
        height = top + bottom + 0.27 * (len(rows) + len(anchors) + 1)
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(1, 1 if shared else 2, sharey=True, squeeze=False)[0]
        labels = [svg.short(row.name) for row in (*rows, *anchors)]
        left = min(3.1, 0.35 + 0.073 * max(map(len, labels)))
        figure.subplots_adjust(
            left=left / width, right=1 - 0.15 / width, top=1 - top / height, bottom=bottom / height, wspace=0.08
        )
        paper, here = grid[0], grid[-1]
        for axes in grid:
            axes.set_xlabel(f"{column.name} ({column.unit})" if column.unit else column.name)
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
            axes.margins(x=0.08)
        _draw_rows(view, column, list(zip(rows, places, strict=False)), paper, here)
        _draw_anchors(
            view, column, list(zip(anchors, places[len(rows) :], strict=True)), here, _window(view, column, rows)
        )
        for axes in grid if anchors and rows else ():
            axes.axhline(len(rows) - 0.25, color=svg.MUTED, linewidth=0.6)
        _label_rows(grid, labels, places)
        paper.set_ylim(max(places) + 0.6, -0.6)
        if shared:
            handles = [
                _handle("o", svg.PAPER, "printed in the paper", hollow=True),
                _handle("o", svg.HERE, "measured here, mean ± sd"),
            ]
            handles += [_handle("D", svg.REFERENCE, "reference of ours")] if anchors else []
            _legend(figure, handles, left / width, columns=3)
        else:
            paper.set_title("printed in the paper", color=svg.PAPER)
            here.set_title(f"measured here, scale {view.scale}", color=svg.HERE)
            if anchors:
                _legend(
                    figure,
                    [_handle("D", svg.REFERENCE, "reference of ours, not in the paper")],
                    left / width,
                    columns=1,
                )
        caption = (
            f"{view.heading(column)}: published and measured values of {words.title(view.table)}, scale {view.scale}"
        )
        return svg.to_svg(figure, name=name, title=caption)


def _draw_rows(view: TableView, column: Column, rows: Sequence[tuple[Row, float]], paper: Axes, here: Axes) -> None:
    cells = [(view.cell(row, column), place) for row, place in rows]
    printed = [(value, place) for cell, place in cells if (value := number(cell.published)) is not None]
    measured = [(cell.mean, place, cell.sd or 0.0) for cell, place in cells if cell.mean is not None]
    both = [
        (value, cell.mean, place)
        for cell, place in cells
        if (value := number(cell.published)) is not None and cell.mean is not None
    ]
    if both and paper is here:
        here.hlines(
            [place for *_, place in both],
            [a for a, *_ in both],
            [b for _, b, _ in both],
            color=svg.MUTED,
            linewidth=0.8,
            zorder=1,
        )
    if printed:
        paper.plot(
            *zip(*printed, strict=True),
            "o",
            markerfacecolor="none",
            markeredgecolor=svg.PAPER,
            markeredgewidth=1.5,
            markersize=6.5,
        )
    _with_bars(here, measured, "o", svg.HERE, 5.5)
    for cell, place in cells:
        if cell.mean is None and paper is not here:
            _note(here, place, cell.text)


def _draw_anchors(
    view: TableView, column: Column, anchors: Sequence[tuple[Row, float]], here: Axes, window: tuple[float, float]
) -> None:
    drawn = []
    for row, place in anchors:
        cell = view.cell(row, column)
        assert cell.mean is not None  # chosen so by the caller
        if window[0] <= cell.mean <= window[1]:
            drawn.append((cell.mean, place, cell.sd or 0.0))
            here.axvline(cell.mean, color=svg.REFERENCE, linewidth=0.7, linestyle=":", zorder=0)
        else:
            side = "\N{LEFTWARDS ARROW}" if cell.mean < window[0] else "\N{RIGHTWARDS ARROW}"
            _note(here, place, f"{side} {cell.text}")
    _with_bars(here, drawn, "D", svg.REFERENCE, 5)


def _with_bars(axes: Axes, points: Sequence[tuple[float, float, float]], mark: str, color: str, size: float) -> None:
    """Markers at (value, place), each with a bar of its deviation to both sides, where it has one."""
    if points:
        axes.plot(
            [value for value, *_ in points], [place for _, place, _ in points], mark, color=color, markersize=size
        )
        bars = [point for point in points if point[2]]
        if bars:
            axes.hlines(
                [place for _, place, _ in bars],
                [v - sd for v, _, sd in bars],
                [v + sd for v, _, sd in bars],
                color=color,
                linewidth=1.6,
            )


def _label_rows(axes: Sequence[Axes], labels: Sequence[str], places: Sequence[float]) -> None:
    """Names and rules of the rows, as texts and lines: ticks of matplotlib would take half the time of the figure."""
    for one in axes:
        one.yaxis.set_visible(False)
        one.hlines(places, 0, 1, transform=one.get_yaxis_transform(), color=svg.RULE, linewidth=0.6, zorder=0.5)
    for label, place in zip(labels, places, strict=True):
        axes[0].text(
            -0.012, place, label, transform=axes[0].get_yaxis_transform(), ha="right", va="center", color=svg.INK
        )


def _window(view: TableView, column: Column, rows: Sequence[Row]) -> tuple[float, float]:
    """Where a reference is drawn.

    Far outside the rows (a random encoder on ImageNet) it would press them into one blot.
    """
    cells = [view.cell(row, column) for row in rows]
    values = [cell.mean for cell in cells if cell.mean is not None] + [
        value for cell in cells if (value := number(cell.published)) is not None
    ]
    if view.caveat or not values or min(values) == max(values):
        return -math.inf, math.inf
    reach = max(values) - min(values)
    return min(values) - reach, max(values) + reach


def _note(axes: Axes, place: float, text: str) -> None:
    """Words at the left edge of a row that has no dot."""
    behind = {"facecolor": svg.PAGE, "edgecolor": "none", "pad": 1.0}
    axes.text(
        0.015, place, text, transform=axes.get_yaxis_transform(), va="center", color=svg.MUTED, fontsize=8, bbox=behind
    )


def _legend(figure: Figure, handles: Sequence[Line2D], left: float, *, columns: int) -> None:
    figure.legend(
        handles=handles,
        ncols=columns,
        loc="upper left",
        bbox_to_anchor=(left, 0.995),
        borderaxespad=0.0,
        borderpad=0.0,
        handletextpad=0.5,
    )


def _handle(marker: str, color: str, label: str, *, hollow: bool = False) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="",
        marker=marker,
        color=color,
        markerfacecolor="none" if hollow else color,
        label=label,
        markersize=5.5,
    )
