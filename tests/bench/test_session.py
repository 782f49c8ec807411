"""`bench check` of several tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import manifest, session
from bench.errors import BenchError
from bench.runs import Runs
from bench.site import Site
from results import checking
from results.check import Finding, compare
from results.reference import Measured

CELL = Measured(row="a", column="Top-1", mean=90.0, sd=0.5, n=3, higher_is_better=True, protocol="p")
TABLES = ("simclr_table1", "simclr_table6", "vicreg_table1")


@pytest.fixture
def one_was_run(here: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The second of TABLES was run, and its only cell is missing."""
    manifest.write(Runs(here.runs), manifest.Manifest("simclr_table6", "embedded", 1, (), (), 1, ()))
    manifest.write(Runs(here.runs), manifest.Manifest("vicreg_table1", "smoke", 1, (), (), 1, ()))
    real = checking.check

    def check(table: str, scale: str, site: Site, *, root: Path) -> checking.Report:
        if table != "simclr_table6":
            return real(table, scale, site, root=root)
        found: list[Finding] = list(compare([CELL], [], ()))
        return checking.Report(table=table, scale=scale, findings=tuple(found))

    monkeypatch.setattr(checking, "check", check)
    return here


def asked(site: Site, *tables: str) -> session.Request:
    return session.Request(site, tables, "embedded", 1, (), ())


def test_tables_that_were_never_run_are_named_and_the_others_checked(one_was_run: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert session.check(asked(one_was_run, *TABLES), None, None, update=False) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["not run: simclr_table1 at embedded", "not run: vicreg_table1 at embedded"]
    assert out[2].startswith("missing: a | Top-1")
    assert out[-1] == "simclr_table6 at embedded: 1 missing"


def test_what_was_not_run_does_not_fail_the_check(one_was_run: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "check", lambda table, scale, site, root: checking.Report(table=table, scale=scale, findings=()))
    assert session.check(asked(one_was_run, *TABLES), None, None, update=False) == 0


@pytest.mark.parametrize("tables", [("simclr_table1",), ("simclr_table1", "vicreg_table1")])
def test_when_nothing_that_was_asked_for_was_run_it_is_an_error(one_was_run: Site, tables: tuple[str, ...]) -> None:
    with pytest.raises(BenchError, match="simclr_table1 was not run at the scale 'embedded'"):
        session.check(asked(one_was_run, *tables), None, None, update=False)
    other = replace(asked(one_was_run, "vicreg_table1"), scale="smoke")
    with pytest.raises(BenchError, match="there is no reference"):
        session.check(other, None, one_was_run.root / "nowhere", update=False)
