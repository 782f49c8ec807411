from __future__ import annotations

import random
from statistics import stdev

import pytest

from bench.errors import BenchError
from bench.planning.scales import scale_of
from bench.runs.folder import Runs
from bench.runs.result import Provenance, Result
from reports.pages.difference import differences
from results.cells import CellJob, load_table, plan_table
from results.store import Store
from results.table import Column, Row, Table
from results.view import TableView, kendall_tau, verdict, view

TABLE = load_table("simclr_table6")
EMBEDDED, PAPER = scale_of("embedded"), scale_of("paper")
PROVENANCE = Provenance(
    started="", seconds=1.0, cpu_seconds=1.0, host="h", device="cpu: x", ranks=1, threads=1, commit="c", versions={}
)


def finish(runs: Runs, job: str, **metrics: float) -> None:
    Result(job=job, metrics=metrics, provenance=PROVENANCE).write(runs[job].result_file)


def cells_of(row: str, column: str, seeds: int = 1) -> list[CellJob]:
    return [c for c in plan_table(TABLE, EMBEDDED, seeds).cells if (c.row.name, c.column.name) == (row, column)]


def seen(runs: Runs, seeds: int = 1) -> TableView:
    return view(plan_table(TABLE, EMBEDDED, seeds), Store(runs))


def test_mean_sd_and_n_over_the_finished_seeds(runs: Runs) -> None:
    cells = cells_of("SimCLR (ours), ResNet-50", "Top-1", seeds=3)
    for cell, value in zip(cells, (94.0, 95.0), strict=False):
        finish(runs, cell.job, top1=value, top5=99.0)
    cell_view = seen(runs, seeds=3).cells["SimCLR (ours), ResNet-50", "Top-1"]
    assert cell_view.measured == (94.0, 95.0)
    assert cell_view.status == "partial"
    assert cell_view.mean == 94.5
    assert cell_view.sd == pytest.approx(stdev([94.0, 95.0]))
    assert cell_view.text == "94.5 ± 0.7 (n=2) (2 of 3 seeds, partial)"
    assert cell_view.published == "69.3"
    assert cell_view.jobs == tuple(c.job for c in cells)


def test_what_was_not_asked_for_and_cannot_be_planned_refuses_nothing_that_was(runs: Runs) -> None:
    good = Column(name="kNN", metric="top1", protocol="knn")
    bad = Column(name="Bad", metric="top1", protocol="knn", variant="nosuch")
    rows = (Row(label="A", method="random"), Row(label="B", method="nobodys"))
    table = Table(id="own", paper="p", arxiv="", number="1", title="t", columns=(good, bad), rows=rows, order_by="kNN")
    with pytest.raises(BenchError, match="unknown variant of evaluation knn 'nosuch'"):
        plan_table(table, EMBEDDED, rows=["A"])
    with pytest.raises(BenchError, match="unknown method 'nobodys'"):
        plan_table(table, EMBEDDED, columns=["kNN"])
    planned = plan_table(table, EMBEDDED, 3, rows=["A"], columns=["kNN"])
    assert [(cell.row.name, cell.column.name, cell.seed) for cell in planned.cells] == [
        ("A", "kNN", n) for n in range(3)
    ]
    shown = view(planned, Store(runs))
    assert {key: cell.status for key, cell in shown.cells.items() if key != ("A", "kNN")} == dict.fromkeys(
        [("A", "Bad"), ("B", "kNN"), ("B", "Bad")], "not asked"
    )
    assert "unknown method 'nobodys'" in shown.cells["B", "kNN"].message
    assert "unknown variant" in shown.protocols["Bad"]


def test_states_of_cells(runs: Runs) -> None:
    name = "SimCLR (ours), ResNet-50"
    assert seen(runs).cells[name, "Top-1"].status == "pending"
    assert seen(runs).cells["PIRL, ResNet-50", "Top-1"].status == "not implemented"
    assert seen(runs).cells["PIRL, ResNet-50", "Param (M)"].status == "none"
    assert seen(runs).cells["Raw pixels", "Param (M)"].status == "none"
    job = cells_of(name, "Top-1")[0].job
    runs[job].fail("error", "no luck")
    assert seen(runs).cells[name, "Top-1"].status == "failed"
    assert seen(runs).cells[name, "Top-1"].message == "no luck"
    assert (name, "Top-1") in seen(runs).failed
    runs[job].fail("blocked", "needs pretrain-1")
    assert seen(runs).cells[name, "Top-1"].status == "blocked"
    runs[job].forget_failure()
    runs[job].checkpoint.touch()
    assert seen(runs).cells[name, "Top-1"].status == "stopped"


def test_a_cell_that_was_not_asked_for_says_so_but_keeps_its_result(runs: Runs) -> None:
    name = "SimCLR (ours), ResNet-50"
    finish(runs, cells_of(name, "Top-1")[0].job, top1=94.0, top5=99.0)
    part = view(plan_table(TABLE, EMBEDDED, 1, rows=["random"], columns=["kNN Top-1"]), Store(runs))
    assert part.cells[name, "Top-1"].status == "done"
    assert part.cells[name, "kNN Top-1"].status == "not asked"
    assert part.cells["Random encoder, ResNet-50", "kNN Top-1"].status == "pending"


def test_raw_pixels_of_imagenet_are_not_planned_and_their_cells_say_so(runs: Runs) -> None:
    planned = plan_table(TABLE, PAPER)
    assert {cell.row.name for cell in planned.cells}.isdisjoint({"Raw pixels"})
    shown = view(planned, Store(runs)).cells["Raw pixels", "kNN Top-1"]
    assert (shown.status, shown.text) == ("not at this size", "not at this size")
    assert "the pixels of 1,268,356 images of 224 px are" in shown.message
    # asked for by name it refuses nothing, and smaller images are as they were
    assert len(plan_table(TABLE, PAPER, rows=["Raw pixels"], columns=["kNN Top-1"]).graph) == 0
    for scale in (EMBEDDED, scale_of("cifar")):
        assert any(cell.row.name == "Raw pixels" for cell in plan_table(TABLE, scale).cells)
    # what trains a toy of its own reads no pixels
    assert plan_table(load_table("directclr_fig3"), PAPER).cells


def test_a_damaged_result_is_a_problem_not_a_number(runs: Runs) -> None:
    name = "SimCLR (ours), ResNet-50"
    job = cells_of(name, "Top-1")[0].job
    finish(runs, job, top1=94.0, top5=99.0)
    runs[job].result_file.write_text('{"format": 99}')
    found = seen(runs)
    assert found.cells[name, "Top-1"].measured == ()
    assert "format 99" in found.problems[0]


def test_a_result_without_the_metric_is_a_failure_not_a_gap(runs: Runs) -> None:
    name = "SimCLR (ours), ResNet-50"
    finish(runs, cells_of(name, "Top-1")[0].job, top5=99.0)
    assert seen(runs).cells[name, "Top-1"].status == "failed"
    assert seen(runs).cells[name, "Top-1"].message == "no metric 'top1'"


def test_only_the_published_scale_is_held_against_the_printed_numbers(runs: Runs) -> None:
    assert seen(runs).cells["SimCLR (ours), ResNet-50", "Top-1"].verdict is None
    assert "This is not ImageNet" in seen(runs).caveat
    published = view(plan_table(TABLE, PAPER, 1), Store(runs))
    assert published.cells["SimCLR (ours), ResNet-50", "Top-1"].verdict == "not run"
    assert published.caveat == ""


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ((), "not run"),
        ((69.34,), "match"),
        ((69.4,), "above"),
        ((68.0,), "below"),
        ((68.0, 70.0), "within noise"),
        ((68.0, 68.1), "below"),
        ((69.2, 69.4), "match"),
    ],
)
def test_verdicts(measured: tuple[float, ...], expected: str) -> None:
    assert verdict("69.3", measured) == expected


def test_agreement_counts_the_rows_that_have_both_values(runs: Runs) -> None:
    for row, value in (
        ("SimCLR (ours), ResNet-50", 90.0),
        ("SimCLR (ours), ResNet-50 (2x)", 95.0),
        ("SimCLR (ours), ResNet-50 (4x)", 93.0),
    ):
        finish(runs, cells_of(row, "Top-1")[0].job, top1=value, top5=99.0)
    found = {a.column: a for a in seen(runs).agreement}
    assert set(found) == {"Top-1", "Top-5"}  # neither the parameter count nor our own columns
    assert found["Top-1"].rows == 3
    assert found["Top-1"].tau == pytest.approx(1 / 3)
    assert found["Top-5"].tau is None  # all measured values equal: no order


def test_kendall_tau_equals_scipy_with_and_without_ties() -> None:
    from scipy.stats import kendalltau

    rng = random.Random(0)
    for _ in range(200):
        pairs = [(float(rng.randint(0, 5)), float(rng.randint(0, 5))) for _ in range(rng.randint(2, 9))]
        ours = kendall_tau(pairs)
        if ours is not None:
            assert ours == pytest.approx(float(kendalltau([a for a, _ in pairs], [b for _, b in pairs]).statistic))
        else:
            assert len({a for a, _ in pairs}) == 1 or len({b for _, b in pairs}) == 1


def test_at_the_smoke_scale_no_order_is_held_against_the_printed_one(runs: Runs) -> None:
    planned = plan_table(TABLE, scale_of("smoke"), 1)
    for place, cell in enumerate(planned.cells):
        finish(runs, cell.job, top1=90.0 + place, top5=90.0 + place)
    found = view(planned, Store(runs))
    assert any(cell.mean is not None for cell in found.cells.values())
    assert found.agreement == ()
    assert differences(found) == {}
    assert "compare the order" not in found.caveat
    assert "neither values nor the order of rows mean anything" in found.caveat
