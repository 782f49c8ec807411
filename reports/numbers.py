"""Numbers out of what evaluations left in their results, which may hold anything."""

from __future__ import annotations

import math
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Whether it can be drawn: no bool, no NaN, no infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def row(values: object) -> list[float]:
    """The numbers of a list; nothing when there is anything else in it."""
    return [float(value) for value in values if is_number(value)] if isinstance(values, list) and all(map(is_number, values)) else []


def matrix(rows: object) -> list[list[float]]:
    """Rows of equal length; nothing when they are not."""
    found = [row(one) for one in rows] if isinstance(rows, list) else []
    return found if found and found[0] and len({len(one) for one in found}) == 1 else []
