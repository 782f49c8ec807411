"""`bench check`: fresh results of tables against their references, as a report for people, CI (JUnit) and pytest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, one_line
from bench.planning import scales
from bench.runs import plans
from bench.runs.folder import Runs
from bench.settings.site import Site
from results.cells import plan_again
from results.regression import kept, reference
from results.regression.judge import Finding, compare
from results.store import Store
from results.view import TableView, view

NOT_WRITTEN = "not written: "  # begins the lines of tables that became no reference
COUNTED = ("improved", "unchanged", "regressed", "missing", "new")  # in the summary, even where there are none
TALK = ("regressed", "changed", "missing", "protocol changed", "known", "not judged", "improved", "new")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of every cell of one table at one scale."""

    table: str
    scale: str
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> list[Finding]:
        """The cells that make the check fail."""
        return [finding for finding in self.findings if finding.fails]

    @property
    def text(self) -> str:
        """All that is not unchanged, cell by cell, then the counts."""
        lines = [finding.sentence() for outcome in TALK for finding in self.findings if finding.outcome == outcome]
        counts = Counter(finding.outcome for finding in self.findings)
        summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()) or "no cell"
        single = sum(finding.reference is not None and finding.reference.n == 1 for finding in self.findings)
        alone = f"; {single} with n = 1 in the reference, judged by the spread of other cells" if single else ""
        return "\n".join([*lines, f"{self.table} at {self.scale}: {summary}{alone}"])


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Several tables. `left_out`: (table, why) of those that were not compared, which is no failure."""

    reports: tuple[Report, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def failures(self) -> list[Finding]:
        """Of all tables that were compared."""
        return [finding for report in self.reports for finding in report.failures]

    @property
    def text(self) -> str:
        """What was not compared and why, each report, and of several tables one line of counts at the end."""
        lines = [*(f"{table}: {why}" for table, why in self.left_out), *(report.text for report in self.reports)]
        if len(self.reports) + len(self.left_out) > 1:
            counts = Counter(finding.outcome for report in self.reports for finding in report.findings)
            words = [*COUNTED, *(outcome for outcome in counts if outcome not in COUNTED)]
            tables = "1 table" if len(self.reports) == 1 else f"{len(self.reports)} tables"
            told = ", ".join(f"{counts[word]} {word}" for word in words)  # type: ignore[index]
            lines.append(f"{tables} compared: cells {told}")
        return "\n".join(lines)


def check_all(tables: Sequence[str], scale: str, site: Site, *, root: Path = reference.ROOT) -> Checked:
    """Compare every table that has results and a reference, and name the others.

    Raises BenchError when there is none to compare.
    """
    reports, left_out = [], []
    was_run = _was_run(scale, site)
    for table in tables:
        if why := _why_not(table, scale, was_run, root):
            left_out.append((table, why))
        else:
            reports.append(check_table(table, scale, site, root=root))
    if not reports:
        if len(tables) == 1:
            check_table(tables[0], scale, site, root=root)  # raises, and says what to do
        counted = "; ".join(f"{count} {why}" for why, count in Counter(why for _, why in left_out).items())
        raise BenchError(
            f"nothing to compare at the scale {scale!r}: of {len(tables)} tables {counted}. "
            "`bench run` makes results, `bench check --update` references."
        )
    return Checked(reports=tuple(reports), left_out=tuple(left_out))


def _was_run(scale: str, site: Site) -> set[str]:
    return {found.table for found in plans.read_all(Runs(site.runs)) if found.scale == scale}


def _why_not(table: str, scale: str, was_run: set[str], root: Path) -> str:
    if table not in was_run:
        return "no results"
    return "" if reference.path_of(table, scale, root).exists() else "no reference"


def check_table(table: str, scale: str, site: Site, *, root: Path = reference.ROOT) -> Report:
    """Compare what was run here with the reference. Raises BenchError when there is no reference or nothing was run.

    Rows and columns that the last `bench run` left out on purpose (--rows, --columns) are not held against it.
    """
    shown = fresh_view(table, scale, site)
    fresh = reference.measured(shown)
    known = reference.read(reference.path_of(table, scale, root))
    not_asked = {key for key, cell in shown.cells.items() if cell.status in ("not asked", "not at this size")}
    wanted = [cell for cell in known if (cell.row, cell.column) not in not_asked]
    others = reference.read_others(table, scale, root)
    return Report(
        table=table,
        scale=scale,
        findings=tuple(compare(wanted, fresh, reference.deviations(table, scale, root), others)),
    )


def update(table: str, scale: str, site: Site, *, root: Path = reference.ROOT) -> Path:
    """Make the finished results the reference, and keep them.

    Raises BenchError when a cell that can run has not finished, when none has, or when bench.toml changed the recipes.
    """
    shown = fresh_view(table, scale, site)
    closed = ("done", "none", "not implemented", "not at this size")
    open_cells = [key for key, cell in shown.cells.items() if cell.status not in closed]
    if open_cells:
        row, column = open_cells[0]
        raise BenchError(
            f"{table}: {len(open_cells)} cells have not finished, e.g. {row} | {column}: run the whole table before "
            "it becomes the reference."
        )
    cells = reference.measured(shown)
    if not cells:
        raise BenchError(f"{table}: no cell of it can be measured at the scale {scale!r}.")
    last = _last_run(table, scale, site)
    if chosen := scales.scale_of(scale, last.overrides).overrides.sentence():
        raise BenchError(f"{table} was not run by the papers' recipes, and a reference holds what those give. {chosen}")
    path = reference.path_of(table, scale, root)
    reference.write(path, cells)
    kept.keep(Runs(site.runs), [job.id for job in last.jobs], scale, kept.folder_of(root))
    return path


def update_all(tables: Sequence[str], scale: str, site: Site, *, root: Path = reference.ROOT) -> list[str]:
    """Write the reference of every table that has all its results; a line a table, for the others with what is missing.

    Raises BenchError when none was written.
    """
    if len(tables) == 1:
        return [_written(update(tables[0], scale, site, root=root))]
    lines, problems = [], []
    was_run = _was_run(scale, site)
    for table in tables:
        if table not in was_run:
            continue
        try:
            lines.append(_written(update(table, scale, site, root=root)))
        except BenchError as error:
            problems.append(one_line(error))
    if absent := [table for table in tables if table not in was_run]:
        problems.append(f"no results of {', '.join(absent)}")
    if not lines:
        raise BenchError(f"no reference was written: {'; '.join(problems)}")
    return [*lines, *(f"{NOT_WRITTEN}{problem}" for problem in problems)]


def _written(path: Path) -> str:
    seeds = sorted({cell.n for cell in reference.read(path)})
    single = ": one seed tells nothing of its own spread, with --seeds 3 the check is sharper" if seeds[0] == 1 else ""
    return f"wrote {path} (n = {', '.join(map(str, seeds))}{single})"


def fresh_view(table: str, scale: str, site: Site) -> TableView:
    """The table as the run folders of the site have it, with the seeds of its last run.

    Raises BenchError when it was never run.
    """
    return view(plan_again(_last_run(table, scale, site)), Store(Runs(site.runs)))


def _last_run(table: str, scale: str, site: Site) -> plans.StoredPlan:
    runs = Runs(site.runs)
    last = next((m for m in plans.read_all(runs) if (m.table, m.scale) == (table, scale)), None)
    if last is None:
        raise BenchError(
            f"{table} was not run at the scale {scale!r} under {runs.root}: `bench run --table {table} --scale "
            f"{scale}` first."
        )
    return last
