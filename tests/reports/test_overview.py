"""What stands above the tables: the index, methods against protocols, where the numbers come from, citations."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.planning.scales import scale_of
from bench.planning.translate import Change
from reports.build import build, read_records
from reports.pages import totals
from reports.pages.overview import overviews
from reports.pages.related import link
from reports.text import bibtex
from reports.words import title
from results.cells import plan_table
from results.store import Store
from results.table import Column, Row, Table
from results.view import view
from tests.reports.conftest import HOSTILE, TABLE, TOP1, Demo, fill
from tests.reports.test_build import Page

LINEAR, KNN = ("linear", "ImageNet", "top1"), ("knn", "ImageNet", "top1")


@pytest.fixture(scope="module")
def index(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(build([demo.embedded, demo.paper], demo.runs, tmp_path_factory.mktemp("out") / "report"))


def test_every_row_of_every_table_is_linked(index: Page, demo: Demo) -> None:
    links = [link for link in index.links if "#row-" in link]
    assert links == [
        f"{scale}/demo_table1.html#row-{place}" for scale in ("embedded", "paper") for place in range(1, 8)
    ]
    assert HOSTILE in index.text


def test_tables_stand_under_their_papers_with_their_order_agreement(index: Page) -> None:
    assert "SimCLR arXiv:2002.05709 SimCLR, table 1" in index.text
    assert "1.00n=2" in index.text.replace(" n=2", "n=2")


def test_provenance_sums_over_jobs_each_once(index: Page, demo: Demo) -> None:
    job_views = read_records([demo.embedded, demo.paper], demo.runs)
    done = [job_view for job_view in job_views.values() if job_view.result is not None]
    facts = dict(totals.provenance(list(job_views.values())))
    assert facts["CPU-hours"] == f"{118.0 * len(done) / 3600:.2f}"
    assert facts["GPU-hours"] == "0, no job ran on a GPU"
    assert facts["Energy"] == totals.RESUMED  # as all jobs of the demonstration
    assert (facts["Seeds"], facts["Commit"], facts["Version of torch"]) == ("0, 1", "0123abc+dirty", "2.9.0")
    assert re.match(rf"{len(done)} done, of them \d+ pretrainings; \d+ failed", facts["Jobs"])
    for text in facts.values():
        assert text in index.text


def test_gpu_hours_count_every_rank_and_several_commits_are_counted(own_demo: Demo) -> None:
    jobs = own_demo.embedded.cells["SimCLR, ResNet-50", "Param (M)"].jobs
    file = own_demo.runs[jobs[0]].result_file
    body = json.loads(file.read_text())
    body["provenance"] |= {"device": "cuda: NVIDIA A100", "ranks": 8, "seconds": 7200.0, "commit": "fffffff"}
    file.write_text(json.dumps(body))
    facts = dict(totals.provenance(list(read_records([own_demo.embedded], own_demo.runs).values())))
    assert facts["GPU-hours"] == "16.0"
    assert facts["Commit"].endswith("fffffff (1 jobs)")
    assert "cuda: NVIDIA A100 (1 jobs)" in facts["Hardware"]


def test_nothing_finished_has_no_provenance(demo: Demo, tmp_path: Path) -> None:
    runs = type(demo.runs)(tmp_path / "none")
    page = Page(build([view(plan_table(TABLE, scale_of("embedded"), 1), Store(runs))], runs, tmp_path / "out"))
    assert "No job has finished yet." in page.text


def test_sharing_is_shown(demo: Demo) -> None:
    twin = replace(demo.embedded, table=replace(TABLE, id="twin"))
    related = link([demo.embedded, twin], read_records([demo.embedded, twin], demo.runs))
    jobs = [related.of_view(one) for one in (demo.embedded, twin)]
    count = len(jobs[0])
    assert f"these would be {2 * count} jobs" in totals.saving(jobs)
    assert totals.saving(jobs).endswith(f"makes {count}.")
    assert totals.saving(jobs[:1]) == ""


def test_the_matrix_has_each_methods_own_run_once(demo: Demo) -> None:
    twin = replace(demo.embedded, table=replace(TABLE, id="twin", paper="Another"))
    (found,) = overviews([demo.embedded, twin])
    assert found.methods == ("pixels", "random", "simclr")
    assert found.protocols == (KNN, LINEAR)
    (entry,) = found.at("simclr", LINEAR)  # of the 1x network; both tables ask for the same jobs
    assert (entry.text, entry.href, entry.where) == ("95.2 ± 0.2", "embedded/demo_table1.html", "SimCLR, table 1")
    assert found.at("byol", LINEAR) == ()


def test_ablations_and_other_lengths_stay_out_of_the_matrix_and_variants_stand_apart(
    demo: Demo, tmp_path: Path
) -> None:
    columns = (
        Column(name="Top-1", metric="top1", protocol="linear"),
        Column(name="1 %", metric="top1", protocol="linear", options={"label_fraction": 0.01}),
        Column(name="changed", metric="top1", protocol="linear", change=Change(views={"blur": 0.0})),
    )
    rows = (
        Row(label="own", method="simclr"),
        Row(label="short", method="simclr", epochs=100.0),
        Row(label="ablation", method="simclr", change=Change(views={"gray": 0.0})),
        Row(label="theirs", missing="elsewhere"),
    )
    table = Table(id="t", paper="P", arxiv="", number="2", title="t", columns=columns, rows=rows, order_by="Top-1")
    runs = type(demo.runs)(tmp_path / "runs")
    fill(runs, table, {"own": 80.0, "short": 70.0, "ablation": 60.0}, "embedded", 1)
    (found,) = overviews([view(plan_table(table, scale_of("embedded"), 1), Store(runs))])
    assert {key: [(entry.text, entry.variant) for entry in entries] for key, entries in found.entries.items()} == {
        ("simclr", LINEAR): [("80.0", ""), ("80.0", "label_fraction 0.01")]
    }


def test_scales_are_kept_apart(demo: Demo) -> None:
    assert [found.scale for found in overviews([demo.embedded, demo.paper])] == ["embedded", "paper"]


def test_bibtex_has_what_the_table_file_knows() -> None:
    assert bibtex.entry(TABLE) == (
        "@misc{simclr-2002.05709,\n"
        "  title         = {{SimCLR}},\n"
        "  eprint        = {2002.05709},\n"
        "  archivePrefix = {arXiv},\n"
        "  url           = {https://arxiv.org/abs/2002.05709},\n"
        "}\n"
    )
    assert bibtex.entry(replace(TABLE, arxiv="")) == ""
    odd = bibtex.entry(replace(TABLE, paper="A & B} $x$ %"))
    assert r"{{A \& B\} \$x\$ \%}}" in odd
    assert odd.startswith("@misc{abx-")


def test_bibtex_of_all_tables_has_each_paper_once() -> None:
    assert (
        bibtex.entries([TABLE, replace(TABLE, id="b", number="7"), replace(TABLE, paper="X", arxiv="1")]).count("@misc")
        == 2
    )


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("6", "SimCLR, table 6"),
        ("B.1", "SimCLR, table B.1"),
        ("B1", "SimCLR, table B1"),
        ("IV", "SimCLR, table IV"),
        ("Fig. 3", "SimCLR, Fig. 3"),
        ("detection", "SimCLR, detection"),
    ],
)
def test_a_figure_is_not_called_a_table(number: str, expected: str) -> None:
    assert title(replace(TABLE, number=number)) == expected


def test_top1_of_the_demo_is_what_the_matrix_rests_on() -> None:
    assert TOP1["SimCLR, ResNet-50"] == pytest.approx(95.123456789)
