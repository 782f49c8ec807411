"""How a measured cell differs from the printed one: by sign, by words, and by a shade that nobody has to see.

At the published scale that is the difference of the values. Elsewhere the values mean different things, and it is the
difference of the ranks: how many places a row stands higher or lower in its column than in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.planning.scales import scale_of
from reports.words import gap
from results.table import Column
from results.view import TableView, number

SMALL, LARGE = 0.5, 2.0  # percentage points: what papers call noise, and what they call a gain


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`text` is shown, `spoken` is read aloud.

    `shade` is a class of the style sheet: up-1 to up-3, down-1 to down-3, or "same".
    """

    text: str
    spoken: str
    shade: str


TINY = 1e-9  # what sums of rounded numbers may be off


def differences(view: TableView) -> Mapping[tuple[str, str], Difference]:
    """By row and column, for every cell that has a printed and a measured value; references have none."""
    found: dict[tuple[str, str], Difference] = {}
    if view.caveat and not scale_of(view.scale).ordered:
        return found
    for column in view.columns:
        if column.higher_is_better is None:
            continue
        of_column = _places(view, column) if view.caveat else _values(view, column)
        found.update({(row, column.name): difference for row, difference in of_column.items()})
    return found


def _values(view: TableView, column: Column) -> dict[str, Difference]:
    found = {}
    for row in view.rows:
        cell = view.cell(row, column)
        text, printed = gap(cell), number(cell.published)
        if not text or printed is None or cell.mean is None:
            continue
        size = abs(cell.mean - printed)
        # A percentage is judged in points; anything else by its share of the printed value.
        size = size if column.unit == "%" else 100 * size / max(abs(printed), 1e-12)
        level = 1 if size < SMALL else 2 if size < LARGE else 3
        better = (cell.mean > printed) == column.higher_is_better
        shade = "same" if cell.verdict in ("match", "within noise") else f"{'up' if better else 'down'}-{level}"
        found[row.name] = Difference(
            text=f"{text} {cell.verdict or ''}".strip(), spoken="gap to the paper ", shade=shade
        )
    return found


def _places(view: TableView, column: Column) -> dict[str, Difference]:
    sign = 1 if column.higher_is_better else -1
    values, spread = {}, {}
    for row in view.rows:
        cell = view.cell(row, column)
        printed = number(cell.published)
        if printed is not None and cell.mean is not None:
            spread[row.name] = round(cell.sd or 0.0, column.digits)
            values[row.name] = (sign * printed, sign * round(cell.mean, column.digits))
    if len(values) < 2:
        return {}
    found = {}
    for name, (printed, measured) in values.items():
        before = 1 + sum(other > printed for other, _ in values.values())
        now = 1 + sum(other > measured for _, other in values.values())
        moved = before - now
        # the ranks that it could as well have: before and after all rows whose spread meets its own
        near = [abs(other - measured) <= spread[row] + spread[name] + TINY for row, (_, other) in values.items()]
        apart = [row for row, close in zip(values, near, strict=True) if not close]
        best = 1 + sum(values[row][1] > measured for row in apart)
        covered = best <= before <= best + sum(near) - 1
        share = abs(moved) / (len(values) - 1)
        level = 1 if share <= 0.15 else 2 if share <= 0.4 else 3
        arrow, word, shade = (
            ("=", "as in the paper", "same")
            if not moved
            else ("\N{BLACK UP-POINTING TRIANGLE}", "higher than in the paper", f"up-{level}")
            if moved > 0
            else ("\N{BLACK DOWN-POINTING TRIANGLE}", "lower than in the paper", f"down-{level}")
        )
        if moved and covered and any(spread.values()):
            word, shade = f"{word}, within the spread of the seeds", "same"
        places = f"{abs(moved)} {'place' if abs(moved) == 1 else 'places'} {word}" if moved else word
        found[name] = Difference(
            text=f"{arrow}{abs(moved) or ''} #{now}",
            spoken=f"rank {now} of {len(values)}, {before} in the paper: {places}",
            shade=shade,
        )
    return found
