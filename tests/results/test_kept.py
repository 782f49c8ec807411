"""The committed records and references of the project itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.bench_toml import find_site
from bench.runs import plans
from bench.runs.folder import Runs
from bench.settings.site import Site
from reports.serve import build_site
from results.regression import kept, reference
from results.regression.check import fresh_view


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """As if every table with a reference had been run here."""
    folder = tmp_path_factory.mktemp("recorded")
    site = replace(find_site(folder), runs=folder / "runs", report=folder / "report")
    assert kept.unpack(Runs(site.runs)) > 0
    return site


def test_every_reference_is_what_the_records_give(recorded: Site) -> None:
    made = plans.read_all(Runs(recorded.runs))
    assert {(m.scale, m.table) for m in made} == {
        (file.parent.name, file.stem) for file in reference.ROOT.glob("*/*.csv") if file.stem != reference.DEVIATIONS
    }
    for m in made:
        assert reference.measured(fresh_view(m.table, m.scale, recorded)) == reference.read(
            reference.path_of(m.table, m.scale)
        ), m.name


def test_no_record_names_a_machine() -> None:
    for path in kept.folder_of(reference.ROOT).glob("*.jsonl"):
        assert all(result.provenance.host == "" for result in kept.read(path))


def test_the_report_can_be_built_from_the_records_alone(recorded: Site, tmp_path: Path) -> None:
    index = build_site(recorded, Runs(recorded.runs), tmp_path / "report")
    pages = {(path.parent.name, path.name) for path in index.parent.rglob("*.html")}
    tables = {(m.scale, f"{m.table}.html") for m in plans.read_all(Runs(recorded.runs))}
    assert tables <= pages
