"""A report's input as the engine leaves it: real specs, real run folders, real views; only the numbers are made up."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.files import Json
from bench.planning.graph import Job, plan
from bench.planning.scales import scale_of
from bench.runs.folder import Runs
from bench.runs.result import Provenance, Result
from bench.spec import Evaluate, Pretrain, Resources
from evals.linear import Config as Linear
from results.cells import plan_table
from results.store import Store
from results.table import Column, Row, Table
from results.view import TableView, view

HOSTILE = "<script>alert('1 & 2')</script> 100 % | a_b"
LOG_LINE = "step 180 of 180, loss 0.92 <b>bold</b>"
FAILURE = "loss is nan at step 37 of 180 & <i>nothing</i> was saved"

TABLE = Table(
    id="demo_table1",
    paper="SimCLR",
    arxiv="2002.05709",
    number="1",
    title="A table & its <rows>",
    columns=(
        Column(name="Param (M)", metric="parameters_million", unit="M", digits=2, higher_is_better=None),
        Column(name="Top-1", metric="top1", protocol="linear"),
        Column(name="Top-5", metric="top5", protocol="linear"),
        Column(name="kNN Top-1", metric="top1", protocol="knn", printed=False),
    ),
    rows=(
        Row(
            label="Rotation",
            architecture="RevNet-50 (4x)",
            section="Theirs",
            missing="rotation",
            printed={"Param (M)": "86", "Top-1": "55.4"},
        ),
        Row(
            label=HOSTILE,
            architecture="ResNet-50",
            section="Theirs",
            missing="moco",
            printed={"Param (M)": "24", "Top-1": "60.6"},
        ),
        Row(
            label="SimCLR",
            architecture="ResNet-50",
            section="Ours",
            method="simclr",
            printed={"Param (M)": "24", "Top-1": "69.3", "Top-5": "89.0"},
        ),
        Row(
            label="SimCLR",
            architecture="ResNet-50 (2x)",
            section="Ours",
            method="simclr",
            width=2,
            printed={"Top-1": "74.2", "Top-5": "92.0"},
        ),
        Row(
            label="SimCLR",
            architecture="ResNet-50 (4x)",
            section="Ours",
            method="simclr",
            width=4,
            printed={"Top-1": "76.5", "Top-5": "93.2"},
        ),
    ),
    anchors=(
        Row(label="Raw pixels", method="pixels", note="no network"),
        Row(label="Random encoder", architecture="ResNet-50", method="random"),
    ),
    notes=("A note with <angle> brackets.",),
)

# Row name -> (top-1 of seed 0, or None where the pretraining fails); each seed adds 0.25.
TOP1 = {
    "SimCLR, ResNet-50": 95.123456789,
    "SimCLR, ResNet-50 (2x)": 96.0,
    "SimCLR, ResNet-50 (4x)": None,
    "Raw pixels": 90.8,
    "Random encoder, ResNet-50": 81.5,
}


@dataclass(frozen=True)
class Demo:
    """Views and the run folders behind them."""

    runs: Runs
    embedded: TableView
    paper: TableView  # the same table at the published scale, one seed


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """`embedded` with two seeds, complete but for a failed row; `paper` with one. Read only: shared by all tests."""
    return make_demo(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def own_demo(tmp_path: Path) -> Demo:
    """The same, for a test that damages run folders."""
    return make_demo(tmp_path / "runs")


def make_demo(root: Path) -> Demo:
    """Fill run folders for the demo table."""
    runs = Runs(root)
    views = []
    for scale, seeds in (("embedded", 2), ("paper", 1)):
        fill(runs, TABLE, TOP1, scale, seeds)
        views.append(view(plan_table(TABLE, scale_of(scale), seeds), Store(runs)))
    return Demo(runs, *views)


def fill(runs: Runs, table: Table, top1: dict[str, float | None], scale: str, seeds: int) -> None:
    """Run folders of all jobs of a table: done, failed or blocked as `top1` says.

    Rows it does not name stay pending.
    """
    for cell in plan_table(table, scale_of(scale), seeds).cells:
        if cell.row.name not in top1:
            continue
        value = top1[cell.row.name]
        for job in plan([(cell.label, cell.spec)]):
            run = runs[job.id]
            if run.job_file.exists():
                continue
            run.create(job, Resources(threads=2))
            if value is not None:
                finish(runs, job, value + 0.25 * cell.seed)
            elif isinstance(job.spec, Pretrain):
                run.fail("diverged", FAILURE)
                run.metrics.write_text("".join(curve_line(step, None) for step in range(1, 37)))
            else:
                run.fail("blocked", f"waits for {job.needs[0]}, which failed")


def finish(runs: Runs, job: Job, top1: float) -> None:
    """A result as a worker writes it."""
    run = runs[job.id]
    run.log.write_text(
        "\x1b[32mstarted\x1b[0m\n" + "".join(f"line {number}\n" for number in range(80)) + LOG_LINE + "\n"
    )
    provenance = Provenance(
        started="2025-11-22T10:00:00+00:00", seconds=63.4, cpu_seconds=118.0,
        host="node-17", device="cpu: a processor", ranks=1, threads=2,
        commit="0123abc+dirty", versions={"python": "3.11.2", "torch": "2.9.0"}, resumed=1,
    )  # fmt: skip
    if isinstance(job.spec, Pretrain):
        metrics = {
            "loss": 0.9182,
            "embedding_std": 0.061,
            "parameters_million": 0.31 * job.spec.backbone.width**2,
            "steps": 180,
        }
        run.metrics.write_text("".join(curve_line(step, top1) for step in range(1, 181)) + '{"step": 181, "lo')
        Result(job=job.id, metrics=metrics, provenance=provenance).write(run.result_file)
        return
    assert isinstance(job.spec, Evaluate)
    metrics = {"top1": top1, "top5": min(99.9, top1 + 3.5)}
    if not isinstance(job.spec.protocol, Linear):
        Result(job=job.id, metrics=metrics, provenance=provenance).write(run.result_file)
        return
    heads = [
        (rate, decay, head_accuracy(top1, rate, decay))
        for rate in job.spec.protocol.learning_rates
        for decay in job.spec.protocol.weight_decays
    ]
    sweep: list[Json] = [
        {"learning_rate": rate, "weight_decay": decay, "val_top1": accuracy} for rate, decay, accuracy in heads
    ]
    chosen = max(range(len(heads)), key=lambda head: heads[head][2])
    details: dict[str, Json] = {"chosen": sweep[chosen], "sweep": sweep, "train_images": 4000}
    Result(job=job.id, metrics=metrics, details=details, provenance=provenance).write(run.result_file)


def head_accuracy(top1: float, rate: float, decay: float) -> float:
    """A hill over the grid of a sweep."""
    return top1 - 2 * (math.log10(rate) + 1.5) ** 2 - 3 * abs(math.log10(decay + 1e-5) + 3)


def curve_line(step: int, top1: float | None) -> str:
    """A line of metrics.jsonl."""
    wobble = 0.05 * math.sin(1.7 * step + (top1 or 0.0))
    loss = 0.9 + 4.5 * math.exp(-step / 40) + wobble
    terms = {
        "loss": loss,
        "embedding_std": 0.088 - 0.03 * math.exp(-step / 30),
        "lr": 4e-3 * math.cos(step / 180 * math.pi / 2),
    }
    return json.dumps({"step": step, "steps": 180, "epoch": step / 15, "img_s": 1200.0} | terms) + "\n"
