"""Whether a regenerated table is still what it was.

Fresh cells against a committed reference, each with a tolerance of its own.

The reference, results/reference/<scale>/<table>.csv, keeps for each cell the mean, the sample standard deviation and
the number of seeds, with the protocol under which they were measured.

Where the fresh seeds begin with those of the reference and give the same mean to the last bit, nothing has changed,
however many more there are. Else a cell is judged by a moderated t-test (Smyth, 2004): a few seeds know their own
spread badly, so the cell's variance is shrunk towards the median variance of other cells with the weight of PRIOR
degrees of freedom (the median: one noisy row, an untrained network say, blinds no other). The others are the cells of
the same column; where these have fewer than PRIOR degrees of freedom, as when all have one seed, also those of the same
column name and protocol in every table of the scale; then all cells of the table that have a direction, which are
percentages; then all such of the scale. The cell takes part in the median, so that a single wild neighbour does not
blind it, but gives it no weight: its seeds count once. Nothing is a blanket number: a noisy column has a wide
tolerance, a quiet one a narrow; a column that never showed any spread has none. Simulated with three seeds on both
sides, an unchanged cell alarms in 0.1 % of cases in a column of 15 cells of equal spread, in 1.5 % where spreads differ
by a factor of e (standard deviation of their logarithm 1), and in 2 % where a column has two cells.

A reference of one seed (n = 1) has only the others to go by, which is said in the finding. The test stays as sharp as
that allows: t with PRIOR degrees of freedom, about ten median deviations between two single seeds. It is wide because
the true spreads of cells differ, and still too narrow for a row that is far noisier than its neighbours; more seeds
mend both. The spread of the fresh seeds never counts: a regression often shows as one seed of three that collapses, and
would excuse itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median_low
from typing import Literal, NamedTuple

from scipy.stats import t as student

from results.regression.reference import Deviation, Measured

PRIOR = 4.0  # degrees of freedom that the variance of other cells counts for
CONFIDENCE = 0.998  # of each cell, two-sided: a table of a hundred unchanged cells fails one time in five by chance

Outcome = Literal[
    "improved", "unchanged", "regressed", "changed", "missing", "new", "protocol changed", "not judged", "known"
]
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
        return f"{self.outcome}: {self.row} | {self.column}: {before} -> {now}{within}" + (
            f"; {self.reason}" if self.reason else ""
        )


class Spread(NamedTuple):
    """What other cells say of one's variance: their median variance, its degrees of freedom, and which they are."""

    variance: float
    degrees: int
    source: str = ""


def compare(
    reference: Sequence[Measured],
    fresh: Sequence[Measured],
    deviations: Iterable[Deviation] = (),
    elsewhere: Sequence[Measured] = (),
) -> list[Finding]:
    """One finding a cell, in the order of the fresh table, then what is missing from it.

    Cells are matched by row and column names. A known deviation (by row and column) never fails, whatever it is.
    elsewhere: reference cells of the scale's other tables, for the spread of cells whose own table says too little.
    """
    known = {(d.row, d.column): d for d in deviations}
    old = {(m.row, m.column): m for m in reference}
    new = {(m.row, m.column): m for m in fresh}
    found = []
    for key in [*new, *(key for key in old if key not in new)]:
        cell = old.get(key)
        finding = _judge(cell, new.get(key), spread_around(cell, reference, elsewhere) if cell else None)
        if key in known and finding.outcome != "unchanged":
            finding = _as_known(finding, known[key])
        found.append(finding)
    return found


def tolerance(cell: Measured, fresh_seeds: int, around: Spread | None) -> float | None:
    """Largest difference of means that seeds explain, in the column's unit.

    None when no seed has told anything about the spread.
    """
    own = cell.n - 1 if cell.sd is not None else 0
    prior = min(PRIOR, around.degrees) if around else 0.0
    degrees = own + prior
    if degrees <= 0:
        return None
    variance = (
        (own * cell.sd**2 if cell.sd is not None else 0.0) + (prior * around.variance if around else 0.0)
    ) / degrees
    return float(student.ppf((1 + CONFIDENCE) / 2, degrees)) * sqrt(variance * (1 / cell.n + 1 / fresh_seeds))


def spread_around(cell: Measured, reference: Sequence[Measured], elsewhere: Sequence[Measured] = ()) -> Spread | None:
    """The nearest group of other cells with PRIOR degrees of freedom, else the one with most.

    None where nothing has any spread to tell of.
    """
    others = [m for m in reference if (m.row, m.column) != (cell.row, cell.column)]
    column = [m for m in others if m.column == cell.column]
    alike = column + [m for m in elsewhere if (m.column, m.protocol) == (cell.column, cell.protocol)]
    repeated = [m for m in (cell, *alike) if m.sd is not None]
    # One seed of something trained may stand beside raw pixels, which never vary; a parameter count is what it is.
    if repeated and not any(m.sd for m in repeated) and (cell in repeated or cell.higher_is_better is None):
        return Spread(0.0, sum(m.n - 1 for m in alike), f"{len(alike)} other cells of this column, which never varied")
    groups = [("the same column", column), ("the same column in all tables", alike)]
    if cell.higher_is_better is not None:  # ranks and parameter counts have units of their own
        groups.append(("the table", [m for m in others if m.higher_is_better is not None]))
        groups.append(("the scale", groups[-1][1] + [m for m in elsewhere if m.higher_is_better is not None]))
    best: Spread | None = None
    for name, members in groups:
        varied = [m for m in members if m.sd]  # raw pixels, say, are left out
        degrees = sum(m.n - 1 for m in varied)
        if degrees > (best.degrees if best else 0):
            variances = [m.sd**2 for m in (cell, *varied) if m.sd]
            best = Spread(median_low(variances), degrees, f"{len(varied)} other cells of {name}")
        if best and best.degrees >= PRIOR:
            break
    return best


def _judge(old: Measured | None, new: Measured | None, around: Spread | None) -> Finding:
    known = old or new
    assert known is not None  # every key comes from one of the two

    def finding(outcome: Outcome, limit: float | None = None, reason: str = "") -> Finding:
        return Finding(
            row=known.row,
            column=known.column,
            outcome=outcome,
            reference=old,
            fresh=new,
            tolerance=limit,
            reason=reason,
        )

    if old is None:
        return finding("new")
    if new is None:
        return finding("missing")
    if old.protocol != new.protocol:
        return finding(
            "protocol changed",
            reason="the numbers do not mean the same: measure the reference anew with --update, with the reason in "
            "the changelog",
        )
    if old.mean in (new.mean, new.mean_of_first(old.n)):
        return finding("unchanged", 0.0)
    limit = tolerance(old, new.n, around)
    if limit is None:
        return finding(
            "not judged", reason="the reference has one seed and no cell like it any spread: measure it with more seeds"
        )
    single = f"the reference has n = 1, the spread is that of {around.source}" if old.n == 1 and around else ""
    difference = new.mean - old.mean
    if abs(difference) <= limit:
        return finding("unchanged", limit, single)
    if old.higher_is_better is None:
        return finding("changed", limit, single)
    return finding("improved" if (difference > 0) == old.higher_is_better else "regressed", limit, single)


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
