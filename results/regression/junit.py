"""The outcome of a check as JUnit XML, for CI systems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from bench.files import write_atomic
from results.regression.check import Report


def write_junit(path: Path, scale: str, reports: Sequence[Report], left_out: Sequence[tuple[str, str]] = ()) -> None:
    """One test case a cell, one suite a table, for CI systems that read JUnit XML.

    A table that was not compared is one skipped case.
    """
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
            element = ElementTree.SubElement(
                suite, "testcase", classname=f"{report.table}.{report.scale}", name=f"{case.row} | {case.column}"
            )
            if case.fails:
                ElementTree.SubElement(element, "failure", type=case.outcome, message=case.sentence())
            elif case.outcome in ("known", "not judged"):
                ElementTree.SubElement(element, "skipped", message=case.sentence())
    for table, why in left_out:
        suite = ElementTree.SubElement(
            root, "testsuite", name=f"{table}@{scale}", tests="1", failures="0", errors="0", skipped="1"
        )
        case_of_table = ElementTree.SubElement(suite, "testcase", classname=f"{table}.{scale}", name="all cells")
        ElementTree.SubElement(case_of_table, "skipped", message=why)
    ElementTree.indent(root)
    write_atomic(
        path, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
    )
