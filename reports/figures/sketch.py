"""Panels of lines as SVG text: a job page's curves, drawn in a millisecond where matplotlib takes a hundred.

A report of thousands of jobs has thousands of such figures. They carry matplotlib's ticks and the colours of svg.py, so
that they stand beside its figures as if they were of the same hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from matplotlib.ticker import MaxNLocator

from reports.figures import svg

Point = tuple[float, float]

INCH = 72.0  # points of the drawing
CHARACTER = 4.6  # width of one at the small size, in points: a generous guess, since the page chooses the font
LINE = 15.0  # height of a line of the legend
MOST_POINTS = 400  # of one line; more cannot be told apart at this size
_LOCATOR = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
_DASHES = {"-": "", "--": "5 2.4", ":": "1.4 2", "-.": "6 2 1.4 2"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points, in data units."""

    points: Sequence[Point]
    colour: str  # of svg.py
    dash: svg.Dash = "-"
    marks: bool = False  # a dot on every point
    ring: bool = False  # a wide ring on every point, and no line


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes."""

    lines: Sequence[Line]
    title: str = ""
    x: str = ""
    y: str = ""
    ticks: Sequence[tuple[float, str]] = ()  # of x; without them round numbers
    floor: float | None = None  # least y that has to be seen


@dataclass(frozen=True, kw_only=True)
class Key:
    """An entry of the legend."""

    label: str
    line: Line = field(default_factory=lambda: Line(points=(), colour=svg.INK))


def draw(
    panels: Sequence[Panel],
    *,
    name: str,
    title: str,
    columns: int = 3,
    width: float = 2.75,
    height: float = 2.05,
    keys: Sequence[Key] = (),
) -> str:
    """The panels, row by row, as an `<svg>` element; `width` and `height` of one panel in inches. "" without a point.

    `name` is unique on the page and begins every id; `title` is read aloud. What is not finite must be left out before.
    """
    panels = [panel for panel in panels if any(line.points for line in panel.lines)]
    if not panels:
        return ""
    columns = min(columns, len(panels))
    full = columns * width * INCH
    legend, top = _legend(keys, full)
    body = []
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        body.append(
            _panel(
                panel,
                column * width * INCH,
                top + row * height * INCH,
                width * INCH,
                height * INCH,
                f"{name}-clip-{place}",
            )
        )
    rows = math.ceil(len(panels) / columns)
    label = quoteattr(svg.clean(title))
    inches = full / INCH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full:g} {top + rows * height * INCH:g}" role="img" '
        f'aria-label={label} class="figure" '
        f'style="max-width: {inches:.2f}in; min-width: {min(inches, 4.4):.2f}in; stroke-linejoin: round">'
        f"<title>{escape(svg.clean(title))}</title>{legend}{''.join(body)}</svg>"
    )


def _panel(panel: Panel, left: float, top: float, width: float, height: float, clip: str) -> str:
    across = _span([x for line in panel.lines for x, _ in line.points], pad=0.03)
    floor = -math.inf if panel.floor is None else panel.floor
    up = _span([max(y, floor) for line in panel.lines for _, y in line.points], pad=0.06)
    marks = [(value, text) for value, text in (panel.ticks or _round_ticks(*across)) if across[0] <= value <= across[1]]
    levels = _round_ticks(*up)
    head, foot = (22.0 if panel.title else 9.0), (32.0 if panel.x else 19.0)
    side = (16.0 if panel.y else 5.0) + CHARACTER * max((len(text) for _, text in levels), default=1)
    x0, x1, y0, y1 = left + side, left + width - 9, top + head, top + height - foot

    def place(point: Point) -> Point:
        return (
            x0 + (point[0] - across[0]) / (across[1] - across[0]) * (x1 - x0),
            y1 - (point[1] - up[0]) / (up[1] - up[0]) * (y1 - y0),
        )

    found = [
        (
            f'<clipPath id="{clip}"><rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" '
            f'height="{y1 - y0:.1f}"/></clipPath>'
        )
    ]
    if panel.title:
        found.append(_text(x0, top + 13, panel.title, 9.5, svg.INK))
    for value, text in levels:
        y = place((across[0], value))[1]
        found += [_rule(x0, y, x1, y), _text(x0 - 4, y + 3, text, 8, svg.MUTED, "end")]
    for value, text in marks:
        x = place((value, up[0]))[0]
        found += [_rule(x, y0, x, y1), _text(x, y1 + 11, text, 8, svg.MUTED, "middle")]
    found += [_text((x0 + x1) / 2, y1 + 24, panel.x, 8.5, svg.MUTED, "middle")] if panel.x else []
    if panel.y:
        middle = (y0 + y1) / 2
        found.append(
            _text(
                left + 9,
                middle,
                panel.y,
                8.5,
                svg.MUTED,
                "middle",
                f' transform="rotate(-90 {left + 9:.1f} {middle:.1f})"',
            )
        )
    drawn = "".join(_line(line, [place(point) for point in thinned(line.points)]) for line in panel.lines)
    return "".join(found) + f'<g clip-path="url(#{clip})">{drawn}</g>'


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most MOST_POINTS points: the least and greatest of each stretch, in their order, so that no peak is lost."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return kept


def _line(line: Line, points: Sequence[Point]) -> str:
    colour = _colour(line.colour)
    if line.ring:
        return "".join(
            f'<circle cx="{x:.2f}" cy="{y:.2f}" r="5.2" style="fill: none; stroke: {colour}; stroke-width: 1.7"/>'
            for x, y in points
        )
    dash = f"; stroke-dasharray: {_DASHES[line.dash]}" if _DASHES[line.dash] else ""
    path = "L ".join(f"{x:.2f} {y:.2f} " for x, y in points)
    drawn = (
        f'<path d="M {path}" style="fill: none; stroke: {colour}; stroke-width: 1.4{dash}"/>' if len(points) > 1 else ""
    )
    # A single point makes no line: a run that has just begun would be invisible without a mark.
    dots = (
        "".join(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="2" style="fill: {colour}"/>' for x, y in points)
        if line.marks or len(points) == 1
        else ""
    )
    return drawn + dots


def _legend(keys: Sequence[Key], width: float) -> tuple[str, float]:
    """The legend and its height, entries side by side as far as they fit."""
    found, x, y = [], 6.0, 10.0
    for key in keys:
        needed = 34 + CHARACTER * 1.12 * len(svg.clean(key.label))
        if x > 6 and x + needed > width:
            x, y = 6.0, y + LINE
        sample = [(x + 9, y - 3)] if key.line.ring else [(x, y - 3), (x + 18, y - 3)]
        found += [_line(Line(points=(), colour=key.line.colour, dash=key.line.dash, ring=key.line.ring), sample)]
        found += [_text(x + 23, y, key.label, 8.5, svg.INK)]
        x += needed
    return "".join(found), (y + 4 if keys else 0.0)


def _text(x: float, y: float, text: str, size: float, colour: str, anchor: str = "start", more: str = "") -> str:
    style = f"font-size: {size:g}px; text-anchor: {anchor}; fill: {_colour(colour)}"
    return f'<text x="{x:.1f}" y="{y:.1f}" style="{style}"{more}>{escape(svg.clean(text))}</text>'


def _rule(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<path d="M {x0:.1f} {y0:.1f} L {x1:.1f} {y1:.1f}" style="stroke: {_colour(svg.RULE)}; stroke-width: 0.6"/>'


def _colour(colour: str) -> str:
    return f"var({svg.VARIABLES[colour]}, {colour})"


def _span(values: Sequence[float], pad: float) -> tuple[float, float]:
    """Least and greatest with a margin; a single value gets a stretch around it."""
    low, high = min(values), max(values)
    reach = (high - low) * pad or max(abs(high), 1e-9) * 0.1
    return low - reach, high + reach


def _round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    values = [float(value) for value in _LOCATOR.tick_values(low, high) if low <= value <= high]
    step = values[1] - values[0] if len(values) > 1 else max(abs(high - low), 1e-12)
    largest = max((abs(value) for value in values), default=0.0)
    if largest >= 1e6 or 0 < largest < 1e-3:
        return [
            (
                value,
                f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-").replace("-", svg.MINUS)
                if abs(value) > step / 1e6
                else "0",
            )
            for value in values
        ]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += round(step * 10**digits, 6) != round(step * 10**digits)  # steps of 2.5
    return [
        (value, f"{value:.{digits}f}".replace("-", svg.MINUS) if abs(value) > step / 1e6 else "0") for value in values
    ]
