"""A method, an evaluation and a table of one's own: three files in a folder, no list to edit."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import BENCH

pytestmark = pytest.mark.slow

METHOD = '''"""Toy: pull two views together and push the batch apart by its variance (arXiv:0000.00000)."""
from dataclasses import dataclass, field, replace

import torch
from methods import simclr


@dataclass(frozen=True, kw_only=True)
class Config:
    weight: float = 1.0
    VERSION: int = field(default=1, init=False)


class Method(torch.nn.Module):
    def __init__(self, config, encoder, facts):
        super().__init__()
        self.config, self.encoder = config, encoder
        self.projector = torch.nn.Linear(facts.feature_dim, 16)

    def embed(self, batch):
        return {"za": self.projector(self.encoder(batch.views[0])), "zb": self.projector(self.encoder(batch.views[1]))}

    def loss(self, z, labels):
        pull = (z["za"] - z["zb"]).square().mean()
        push = torch.relu(1 - z["za"].std(dim=0)).mean() + torch.relu(1 - z["zb"].std(dim=0)).mean()
        return {"loss": pull + self.config.weight * push, "pull": pull, "push": push}

    def after_step(self, progress):
        pass


RECIPES = {name: replace(recipe, method=Config()) for name, recipe in simclr.RECIPES.items()}
'''
EVALUATION = '''"""Counts dead channels of the representation."""
from dataclasses import dataclass, field

from bench.contracts import Metric, Outcome
from evals.parts.features import features_of

METRICS = {"dead": Metric("", higher_is_better=False)}


@dataclass(frozen=True, kw_only=True)
class Config:
    below: float = 1e-6
    VERSION: int = field(default=1, init=False)


RECIPES = {"embedded": Config(), "cifar": Config(), "paper": Config()}


def evaluate(config, subject, context):
    features, _ = features_of(subject, context)["test"]
    return Outcome(metrics={"dead": float((features.std(dim=0) < config.below).sum())})
'''
TABLE = '''"""Mine, table 1: https://arxiv.org/abs/0000.00000."""
from results.table import Column, Row, Table

TABLE = Table(
    id="mine_table1", paper="Mine", arxiv="0000.00000", number="1", title="A table of my own",
    columns=(
        Column(name="Top-1", metric="top1", protocol="knn"),
        Column(name="Dead", metric="dead", protocol="dead_channels", unit="", digits=0),
    ),
    rows=(
        Row(label="Toy", method="toy", printed={"Top-1": "50.0"}),
        Row(label="Random", method="random", printed={"Top-1": "40.0"}),
    ),
)
'''


@pytest.fixture
def plugged(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder, name, text in (
        ("methods", "toy", METHOD),
        ("evals", "dead_channels", EVALUATION),
        ("tables", "mine_table1", TABLE),
    ):
        (workplace / "plugins" / folder).mkdir(parents=True)
        (workplace / "plugins" / folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("BENCH_PLUGINS", str(workplace / "plugins"))
    return workplace


def bench(*arguments: str) -> str:
    found = subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_three_files_are_found_planned_trained_evaluated_and_reported(plugged: Path) -> None:
    assert "toy                Toy: pull two views together" in bench("list", "methods")
    assert "dead_channels      Counts dead channels" in bench("list", "evals")
    assert "mine_table1" in bench("list", "tables")
    assert "5 after each is taken once, 2 edges; 0 done, 5 to run" in bench(
        "plan", "--table", "mine_table1", "--scale", "smoke"
    )
    assert "| Toy |" in bench("run", "--table", "mine_table1", "--scale", "smoke")
    lines = list(csv.DictReader((plugged / "results/out/smoke/mine_table1.csv").read_text().splitlines()))
    assert [(line["row"], line["column"], line["status"]) for line in lines] == [
        ("Toy", "Top-1", "done"),
        ("Toy", "Dead", "done"),
        ("Random", "Top-1", "done"),
        ("Random", "Dead", "done"),
    ]
    page = (plugged / "reports/out/smoke/mine_table1.html").read_text()
    assert "A table of my own" in page
    job = next(line["job_ids"] for line in lines if line["row"] == "Toy")
    assert (plugged / f"reports/out/jobs/{job}.html").exists()


OLD_METHOD = METHOD.replace(
    "import torch\n", "import torch\nfrom methods._heads import mlp\nfrom methods._views import simclr_view\n"
).replace("torch.nn.Linear(facts.feature_dim, 16)", "mlp((facts.feature_dim, 16), last_norm=False)")
OLD_EVALUATION = EVALUATION.replace("evals.parts.features", "evals._features").replace(
    "from evals", "from evals._accuracy import top_k\nfrom evals._detection_weights import write_weights\nfrom evals", 1
)
OLD_TABLE = TABLE.replace("    rows=(", "    references=(Row(label='Pixels', method='pixels'),), rows=(")


def test_a_plugin_of_before_the_house_moved_goes_on_and_is_told_the_new_names(plugged: Path) -> None:
    for folder, name, text in (
        ("methods", "toy", OLD_METHOD),
        ("evals", "dead_channels", OLD_EVALUATION),
        ("tables", "mine_table1", OLD_TABLE),
    ):
        (plugged / "plugins" / folder / f"{name}.py").write_text(text)
    command = [*BENCH, "run", "--table", "mine_table1", "--scale", "smoke"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "| Toy |" in found.stdout
    assert "| Pixels |" in found.stdout
    for old, new in (
        ("methods._heads", "methods.parts.heads"),
        ("methods._views", "methods.parts.views"),
        ("evals._features", "evals.parts.features"),
        ("evals._accuracy", "evals.parts.accuracy"),
        ("evals._detection_weights", "evals.detection.weights"),
    ):
        assert f"FutureWarning: {old} is called {new} since version 0.2" in found.stderr
    assert "`references` is called `anchors` since version 0.2" in found.stderr
    log = next((plugged / "runs").glob("pretrain-*/log.txt")).read_text()  # a worker imports them as well
    assert "methods._heads is called methods.parts.heads" in log


def test_a_plugin_folder_that_is_not_there_is_named(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_PLUGINS", str(workplace / "gone"))
    found = subprocess.run([*BENCH, "list", "methods"], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 2
    assert "BENCH_PLUGINS names" in found.stderr


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "from bench.scales import SCALES, Change, scale_of",
            "bench.scales is called bench.planning.translate and bench.planning.scales since",
        ),
        ("from bench.site import Site, find_site", "bench.site is called bench.settings.site and bench.bench_toml"),
        ("from methods._heads import mlp", "methods._heads is called methods.parts.heads since version 0.2"),
        ("from evals._features import features_of", "evals._features is called evals.parts.features since"),
        ("from bench.data.augment import draw, gaussian_blur", "bench.data.augment is called bench.data.views.augment"),
    ],
)
def test_old_names_answer_whatever_is_imported_first(code: str, told: str) -> None:
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert f"FutureWarning: {told}" in found.stderr
