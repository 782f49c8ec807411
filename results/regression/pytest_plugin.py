"""A pytest fixture for people who guard a table in their own tests: `assert_table_matches_reference("barlow_table1")`.

Installed with the project (entry point `pytest11`), so it needs no import.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from results.regression.check import Report


class AssertTable(Protocol):
    """What the fixture gives."""

    def __call__(self, table: str, *, scale: str = "embedded", references: Path | None = None) -> Report:
        """Fails the test with the cells that regressed, are missing, or changed their protocol.

        Else returns the report.
        """


@pytest.fixture
def assert_table_matches_reference() -> AssertTable:
    """Compares the results of the site (bench.toml at or above the working folder) with the committed reference."""

    def matches(table: str, *, scale: str = "embedded", references: Path | None = None) -> Report:
        from bench.bench_toml import find_site
        from results.regression import check, reference

        report = check.check_table(table, scale, find_site(), root=references or reference.ROOT)
        if report.failures:
            pytest.fail(report.text, pytrace=False)
        return report

    return matches
