"""Words and numbers as a reader sees them, shared by the pages and the text files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TypeGuard

from bench.wording import duration
from results.table import Row, Table
from results.view import Agreement, CellView, Status, TableView, number

REFERENCES = "References (ours, not in the paper)"
FEW_ROWS = 10  # below this a rank correlation is called weak evidence

GROUPS: Mapping[str, tuple[Status, ...]] = {
    "done": ("done",),
    "in progress": ("partial", "running"),
    "pending": ("pending", "stopped", "cancelled"),
    "failed": ("failed", "blocked"),
    "not implemented": ("not implemented",),
    "not asked": ("not asked",),
}


ALWAYS_COUNTED = ("done", "pending", "failed", "not implemented")  # in the index, even where there are none


def title(table: Table) -> str:
    """What a table is called: "SimCLR, table 6", "DirectCLR, Fig. 3".

    What has a name in place of a number goes by that.
    """
    numbered = re.fullmatch(r"[A-Z]?\.?\d+\w?|[IVX]+", table.number)
    return f"{table.paper}, table {table.number}" if numbered else f"{table.paper}, {table.number}"


def counts(view: TableView) -> dict[str, int]:
    """How many cells are in each group of states, references included; cells that nothing fills are left out."""
    statuses = [cell.status for cell in view.cells.values()]
    return {group: sum(status in members for status in statuses) for group, members in GROUPS.items()}


def sections(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Consecutive rows under one heading, in the paper's order."""
    return [(section, list(members)) for section, members in groupby(rows, key=lambda row: row.section)]


def gap(cell: CellView) -> str:
    """Measured minus published with its sign, "" when one of them is missing."""
    printed = number(cell.published)
    return "" if printed is None or cell.mean is None else signed(cell.mean - printed, cell.digits)


def signed(value: float, digits: int) -> str:
    """A number that always carries a sign; what rounds to zero carries none."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"\N{MINUS SIGN}{text}" if value < 0 else f"+{text}"


def agreement_sentence(agreement: Agreement) -> str:
    """Kendall's tau in plain words, with a warning when few rows stand behind it."""
    rows = f"n = {agreement.rows} {'row' if agreement.rows == 1 else 'rows'}"
    if agreement.tau is None:
        return (
            f"{agreement.column}: order agreement is not defined ({rows} with a printed and a measured value; "
            "it takes at least two, and both sides must differ)."
        )
    tau = f"{agreement.tau:.2f}".replace("-", "\N{MINUS SIGN}")
    return (
        f"{agreement.column}: Kendall's tau between the printed and the measured order is {tau} ({rows}). "
        f"{_weight(agreement)}"
    ).strip()


def _weight(agreement: Agreement) -> str:
    if agreement.rows >= FEW_ROWS:
        return ""
    if agreement.rows <= 6:
        return (
            f"This is weak evidence: {agreement.rows} rows in random order would agree fully 1 time in "
            f"{math.factorial(agreement.rows)}."
        )
    return f"This is weak evidence: {agreement.rows} rows are few for a rank correlation."


def took(seconds: object) -> str:
    """A duration in words; anything that is not a number as it stands."""
    return duration(seconds) if is_number(seconds) else str(seconds)


def compact(value: object) -> str:
    """A metric for people: six significant digits, thousands kept whole."""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return str(value)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it can be drawn: no bool, no NaN, no infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def row(values: object) -> list[float]:
    """The numbers of a list; nothing when there is anything else in it."""
    return (
        [float(value) for value in values if is_number(value)]
        if isinstance(values, list) and all(map(is_number, values))
        else []
    )


def matrix(rows: object) -> list[list[float]]:
    """Rows of equal length; nothing when they are not."""
    found = [row(one) for one in rows] if isinstance(rows, list) else []
    return found if found and found[0] and len({len(one) for one in found}) == 1 else []
