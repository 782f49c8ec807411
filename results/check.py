"""Is a regenerated table still what it was? Fresh cells against a committed reference, each with a tolerance of its own.

The reference, results/reference/<scale>/<table>.csv, keeps for each cell the mean, the sample standard deviation and the
number of seeds, with the protocol under which they were measured. A cell is judged by a moderated t-test (Smyth, 2004):
three seeds know their own spread badly, so its variance is shrunk towards the median variance of the column's cells with
the weight of PRIOR degrees of freedom (the median: one noisy row, an untrained network say, blinds no other). Nothing is
a blanket number: a noisy column has a wide tolerance, a quiet one a narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median_low
from typing import Literal

from scipy.stats import t as student

from results.reference import Deviation, Measured

PRIOR = 4.0  # degrees of freedom that the column's variance counts for
CONFIDENCE = 0.998  # of each cell, two-sided: a table of a hundred unchanged cells fails one time in five by chance

Outcome = Literal["improved", "unchanged", "regressed", "changed", "missing", "new", "protocol changed", "not judged", "known"]
FAILING: tuple[Outcome, ...] = ("regressed", "changed", "missing", "protocol changed")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one cell. `tolerance` is in the column's unit; None where there is no judgement."""

    row: str
    column: str
    outcome: Outcome
    reference: Measured | None
    fresh: Measured | None
    tolerance: float | None = None
    reason: str = ""  # of a known deviation, or why a cell is not judged

    @property
    def fails(self) -> bool:
        """Whether the check fails because of it."""
        return self.outcome in FAILING

    def sentence(self) -> str:
        """One line for a terminal or a test report."""
        before = "nothing" if self.reference is None else self.reference.text
        now = "nothing" if self.fresh is None else self.fresh.text
        within = "" if self.tolerance is None else f" (tolerance {self.tolerance:.2g})"
        return f"{self.outcome}: {self.row} | {self.column}: {before} -> {now}{within}" + (f"; {self.reason}" if self.reason else "")


def compare(reference: Sequence[Measured], fresh: Sequence[Measured], deviations: Iterable[Deviation] = ()) -> list[Finding]:
    """One finding a cell, in the order of the fresh table, then what is missing from it.

    Cells are matched by row and column names. A known deviation (by row and column) never fails, whatever it is.
    """
    known = {(d.row, d.column): d for d in deviations}
    old = {(m.row, m.column): m for m in reference}
    new = {(m.row, m.column): m for m in fresh}
    typical = _typical(reference)
    found = []
    for key in [*new, *(key for key in old if key not in new)]:
        finding = _judge(old.get(key), new.get(key), typical.get(key[1]))
        if key in known and finding.outcome != "unchanged":
            finding = _as_known(finding, known[key])
        found.append(finding)
    return found


def tolerance(cell: Measured, fresh_seeds: int, typical: tuple[float, int] | None) -> float | None:
    """Largest difference of means that seeds explain; None when no seed has told anything about the spread.

    typical: median variance of the column and its degrees of freedom.
    """
    own = cell.n - 1 if cell.sd is not None else 0
    prior = min(PRIOR, typical[1]) if typical else 0.0
    degrees = own + prior
    if degrees <= 0:
        return None
    variance = ((own * cell.sd**2 if cell.sd is not None else 0.0) + (prior * typical[0] if typical else 0.0)) / degrees
    return float(student.ppf((1 + CONFIDENCE) / 2, degrees)) * sqrt(variance * (1 / cell.n + 1 / fresh_seeds))


def _typical(cells: Iterable[Measured]) -> Mapping[str, tuple[float, int]]:
    """Per column, the lower median of the cells' variances and all their degrees of freedom; cells without spread (raw pixels, say) are left out."""
    columns: dict[str, list[Measured]] = {}
    for cell in cells:
        if cell.sd:
            columns.setdefault(cell.column, []).append(cell)
    return {name: (median_low((cell.sd or 0.0) ** 2 for cell in members), sum(cell.n - 1 for cell in members)) for name, members in columns.items()}


def _judge(old: Measured | None, new: Measured | None, typical: tuple[float, int] | None) -> Finding:
    known = old or new
    assert known is not None  # every key comes from one of the two

    def finding(outcome: Outcome, limit: float | None = None, reason: str = "") -> Finding:
        return Finding(row=known.row, column=known.column, outcome=outcome, reference=old, fresh=new, tolerance=limit, reason=reason)

    if old is None:
        return finding("new")
    if new is None:
        return finding("missing")
    if old.protocol != new.protocol:
        return finding(
            "protocol changed", reason="the numbers do not mean the same: measure the reference anew with --update, with the reason in the changelog"
        )
    if old.mean == new.mean:
        return finding("unchanged", 0.0)
    limit = tolerance(old, new.n, typical)
    if limit is None:
        return finding("not judged", reason="the reference has one seed and its column no spread: measure it with more seeds")
    difference = new.mean - old.mean
    if abs(difference) <= limit:
        return finding("unchanged", limit)
    if old.higher_is_better is None:
        return finding("changed", limit)
    return finding("improved" if (difference > 0) == old.higher_is_better else "regressed", limit)


def _as_known(finding: Finding, deviation: Deviation) -> Finding:
    reason = f"{finding.outcome}, known since {deviation.date}: {deviation.reason}"
    return Finding(
        row=finding.row,
        column=finding.column,
        outcome="known",
        reference=finding.reference,
        fresh=finding.fresh,
        tolerance=finding.tolerance,
        reason=reason,
    )
