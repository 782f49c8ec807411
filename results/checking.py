"""`bench check`: the fresh results of one table against its reference, as a report for people, for CI (JUnit) and for pytest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from bench import manifest, scales
from bench.errors import BenchError
from bench.files import write_atomic
from bench.runs import Runs
from bench.site import Site
from results import reference
from results.check import Finding, compare
from results.store import Store
from results.table import load_table
from results.view import TableView, view

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
        return "\n".join([*lines, f"{self.table} at {self.scale}: {summary}"])


def check(table: str, scale: str, site: Site, *, root: Path = reference.ROOT) -> Report:
    """Compare what was run here with the reference. Raises BenchError when there is no reference or nothing was run.

    Rows and columns that the last `bench run` left out on purpose (--rows, --columns) are not held against it.
    """
    shown = fresh_view(table, scale, site)
    fresh = reference.measured(shown)
    known = reference.read(reference.path_of(table, scale, root))
    not_asked = {key for key, cell in shown.cells.items() if cell.status == "not asked"}
    wanted = [cell for cell in known if (cell.row, cell.column) not in not_asked]
    return Report(table=table, scale=scale, findings=tuple(compare(wanted, fresh, reference.deviations(table, scale, root))))


def update(table: str, scale: str, site: Site, *, root: Path = reference.ROOT) -> Path:
    """Make the finished results the reference. Raises BenchError when a cell that can run has not finished."""
    shown = fresh_view(table, scale, site)
    open_cells = [key for key, cell in shown.cells.items() if cell.status not in ("done", "none", "not implemented")]
    if open_cells:
        row, column = open_cells[0]
        raise BenchError(
            f"{table}: {len(open_cells)} cells have not finished, e.g. {row} | {column}: run the whole table before it becomes the reference."
        )
    path = reference.path_of(table, scale, root)
    reference.write(path, reference.measured(shown))
    return path


def fresh_view(table: str, scale: str, site: Site) -> TableView:
    """The table as the run folders of the site have it, with the seeds of its last run. Raises BenchError when it was never run."""
    runs = Runs(site.runs)
    last = next((m for m in manifest.read_all(runs) if (m.table, m.scale) == (table, scale)), None)
    if last is None:
        raise BenchError(f"{table} was not run at the scale {scale!r} under {runs.root}: `bench run --table {table} --scale {scale}` first.")
    found = replace(scales.scale_of(scale), chunks=last.chunks)
    return view(load_table(table), found, Store(runs), last.seeds, rows=last.rows, columns=last.columns, released=last.released)


def write_junit(path: Path, reports: Sequence[Report]) -> None:
    """One test case a cell, one suite a table, for CI systems that read JUnit XML."""
    root = ElementTree.Element("testsuites")
    for report in reports:
        cases = report.findings
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"{report.table}@{report.scale}",
            tests=str(len(cases)),
            failures=str(len(report.failures)),
            errors="0",
            skipped=str(sum(case.outcome in ("known", "not judged") for case in cases)),
        )
        for case in cases:
            element = ElementTree.SubElement(suite, "testcase", classname=f"{report.table}.{report.scale}", name=f"{case.row} | {case.column}")
            if case.fails:
                ElementTree.SubElement(element, "failure", type=case.outcome, message=case.sentence())
            elif case.outcome in ("known", "not judged"):
                ElementTree.SubElement(element, "skipped", message=case.sentence())
    ElementTree.indent(root)
    write_atomic(path, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n")
