"""`bench check` of several tables at once, and the records that it keeps.

The engine's files are real, only the numbers are made up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.bench_toml import find_site
from bench.errors import BenchError
from bench.planning.graph import plan
from bench.planning.scales import scale_of
from bench.runs.folder import Runs
from bench.runs.plans import StoredPlan, of_graph
from bench.runs.plans import write as remember
from bench.runs.result import Provenance, Result
from bench.settings.overrides import Overrides
from bench.settings.site import Site
from reports.text.tables import to_markdown
from results.cells import load_table, plan_table
from results.regression import kept
from results.regression.check import check_all, fresh_view, update_all
from results.regression.junit import write_junit
from results.regression.reference import path_of, read, write

SCALE = "smoke"
MADE = Provenance(
    started="", seconds=1.0, cpu_seconds=1.0, host="h", device="cpu: x", ranks=1, threads=1, commit="c", versions={}
)
TABLE = '''"""{id}: a table of two rows that need no training."""
from results.table import Column, Row, Table

TABLE = Table(
    id="{id}", paper="Mine", arxiv="", number="1", title="A table",
    columns=(Column(name="Top-1", metric="top1", protocol="knn", options={{"neighbours": {neighbours}}}),),
    rows=(
        Row(label="Pixels", method="pixels"), Row(label="Random", method="random"),
        Row(label="Nobody's", missing="a_method"),
    ),
)
'''
TABLES = ("one", "two", "three", "four")


@pytest.fixture
def site(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Tables `one` to `four`; none was run."""
    folder = workplace / "plugins/tables"
    folder.mkdir(parents=True)
    for number, name in enumerate(TABLES, start=1):
        (folder / f"{name}.py").write_text(TABLE.format(id=name, neighbours=number))
    # The search path of plug-ins is worked out once in a process.
    import results.tables

    monkeypatch.setattr(results.tables, "__path__", [*results.tables.__path__, str(folder)])
    yield find_site()
    for name in TABLES:
        sys.modules.pop(f"results.tables.{name}", None)


def finish(site: Site, table: str, values: dict[str, list[float]]) -> None:
    """Leave what `bench run --seeds N` leaves.

    Values: row -> top-1 of each seed, a row that is not named stays pending.
    """
    runs = Runs(site.runs)
    seeds = max(map(len, values.values()))
    cells = plan_table(load_table(table), scale_of(SCALE), seeds).cells
    graph = plan((cell.label, cell.spec) for cell in cells)
    remember(runs, StoredPlan(table, SCALE, seeds, (), (), of_graph(graph)))
    for cell in cells:
        if cell.row.label in values:
            Result(job=cell.job, metrics={"top1": values[cell.row.label][cell.seed]}, provenance=MADE).write(
                runs[cell.job].result_file
            )


def test_every_table_that_can_be_is_compared_and_the_others_are_named(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "references"
    for table in ("one", "two", "three"):
        finish(site, table, {"Pixels": [80.0, 80.0], "Random": [60.0, 61.0]})
    update_all(["one", "two"], SCALE, site, root=root)
    write(path_of("four", SCALE, root), read(path_of("one", SCALE, root)))  # a reference of what nobody ran
    assert check_all(TABLES, SCALE, site, root=root).failures == []

    finish(site, "two", {"Pixels": [80.0, 80.0], "Random": [9.0, 10.0]})
    extra = replace(read(path_of("one", SCALE, root))[0], row="Dropped")
    write(path_of("one", SCALE, root), [*read(path_of("one", SCALE, root)), extra])
    found = check_all(TABLES, SCALE, site, root=root)
    assert found.left_out == (("three", "no reference"), ("four", "no results"))
    assert [(f.row, f.outcome) for f in found.failures] == [("Dropped", "missing"), ("Random", "regressed")]
    lines = found.text.splitlines()
    assert lines[:2] == ["three: no reference", "four: no results"]
    assert lines[-1] == "2 tables compared: cells 0 improved, 3 unchanged, 1 regressed, 1 missing, 0 new"

    write_junit(tmp_path / "junit.xml", SCALE, found.reports, found.left_out)
    suites = {suite.get("name"): suite for suite in ElementTree.parse(tmp_path / "junit.xml").getroot()}
    assert set(suites) == {f"{table}@{SCALE}" for table in TABLES}
    assert [suite.get("failures") for suite in suites.values()] == ["1", "1", "0", "0"]
    assert [skipped.get("message") for skipped in suites[f"three@{SCALE}"].iter("skipped")] == ["no reference"]


def test_nothing_to_compare_is_an_error_that_says_what_is_missing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"of 4 tables 4 no results\. `bench run` makes results"):
        check_all(TABLES, SCALE, site, root=tmp_path / "references")
    finish(site, "one", {"Pixels": [80.0], "Random": [60.0]})
    with pytest.raises(BenchError, match="of 4 tables 1 no reference; 3 no results"):
        check_all(TABLES, SCALE, site, root=tmp_path / "references")
    with pytest.raises(BenchError, match=r"there is no reference at .*`bench check --update` writes it"):
        check_all(["one"], SCALE, site, root=tmp_path / "references")


def test_update_of_all_writes_what_is_complete_and_says_what_is_not(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "references"
    finish(site, "one", {"Pixels": [80.0, 80.0], "Random": [60.0, 61.0]})
    finish(site, "two", {"Pixels": [80.0]})
    finish(site, "three", {"Pixels": [80.0], "Random": [60.0]})
    lines = update_all(TABLES, SCALE, site, root=root)
    assert lines[0] == f"wrote {path_of('one', SCALE, root)} (n = 2)"
    assert "(n = 1: one seed tells nothing of its own spread" in lines[1]
    assert lines[2].startswith("not written: two: 1 cells have not finished, e.g. Random | Top-1")
    assert lines[3:] == ["not written: no results of four"]
    assert not path_of("two", SCALE, root).exists()
    assert [(m.row, m.mean, m.n) for m in read(path_of("one", SCALE, root))] == [
        ("Pixels", 80.0, 2),
        ("Random", 60.5, 2),
    ]
    with pytest.raises(BenchError, match=r"no reference was written: two: 1 cells .*; no results of four"):
        update_all(["two", "four"], SCALE, site, root=root)


def test_a_reference_of_one_seed_borrows_the_spread_of_other_tables_and_says_so(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "references"
    finish(site, "one", {"Pixels": [80.0], "Random": [60.0]})
    finish(site, "two", {"Pixels": [80.0, 80.4, 80.2], "Random": [60.0, 60.6, 60.2]})
    update_all(["one", "two"], SCALE, site, root=root)
    finish(site, "one", {"Pixels": [80.7], "Random": [49.0]})
    text = check_all(["one"], SCALE, site, root=root).text
    assert "regressed: Random | Top-1: 60 (n=1) -> 49 (n=1)" in text
    assert "the reference has n = 1, the spread is that of 2 other cells of the scale" in text
    assert text.endswith(
        f"one at {SCALE}: 1 unchanged, 1 regressed; 2 with n = 1 in the reference, judged by the spread of other cells"
    )

    # With more seeds, of which the first gives the old digits, nothing has changed.
    finish(site, "one", {"Pixels": [80.0, 75.0], "Random": [60.0, 20.0]})
    assert "2 unchanged" in check_all(["one"], SCALE, site, root=root).text


def test_a_reference_leaves_records_from_which_the_table_can_be_made_again(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "references"
    finish(site, "one", {"Pixels": [80.0, 80.5], "Random": [60.0, 61.0]})
    finish(site, "two", {"Pixels": [70.0], "Random": [50.0]})
    update_all(["one", "two"], SCALE, site, root=root)
    elsewhere = replace(site, runs=tmp_path / "elsewhere")
    assert kept.unpack(Runs(elsewhere.runs), root) == 6
    for table in ("one", "two"):
        assert to_markdown(fresh_view(table, SCALE, elsewhere)) == to_markdown(fresh_view(table, SCALE, site))
    records = list(kept.read(kept.folder_of(root) / f"{SCALE}.jsonl"))
    assert [result.job for result in records] == sorted(result.job for result in records)
    assert all(result.provenance == replace(MADE, host="") for result in records)


def test_a_newer_result_takes_the_place_of_its_record_and_others_stay(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "references"
    for pixels in (80.0, 81.0):
        finish(site, "one", {"Pixels": [pixels], "Random": [60.0]})
        update_all(["one"], SCALE, site, root=root)
    records = kept.read(kept.folder_of(root) / f"{SCALE}.jsonl")
    assert sorted(result.metrics["top1"] for result in records) == [60.0, 81.0]


def test_damaged_and_absent_records_are_named(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "references"
    with pytest.raises(BenchError, match=r"no records under .*`bench check --update` writes them"):
        kept.unpack(Runs(tmp_path / "elsewhere"), root)
    finish(site, "one", {"Pixels": [80.0], "Random": [60.0]})
    update_all(["one"], SCALE, site, root=root)
    file = kept.folder_of(root) / f"{SCALE}.jsonl"
    file.write_text(file.read_text().splitlines()[0] + '\n{"job": \n')
    with pytest.raises(BenchError, match=r"line 2 of .*smoke\.jsonl is no record"):
        kept.unpack(Runs(tmp_path / "elsewhere"), root)


def test_what_bench_toml_changed_becomes_no_reference(site: Site, tmp_path: Path) -> None:
    finish(site, "one", {"Pixels": [80.0], "Random": [60.0]})
    graph = plan((cell.label, cell.spec) for cell in plan_table(load_table("one"), scale_of(SCALE), 1).cells)
    remember(Runs(site.runs), StoredPlan("one", SCALE, 1, (), (), of_graph(graph), Overrides(chunks=4)))
    with pytest.raises(BenchError, match=r"one was not run by the papers' recipes.*Chosen in bench.toml: 4 chunks"):
        update_all(["one"], SCALE, site, root=tmp_path / "references")
