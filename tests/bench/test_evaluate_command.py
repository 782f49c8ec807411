"""`bench evaluate`: a checkpoint of one's own, from the file to the printed number."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.bench_toml import find_site
from bench.commands import evaluate
from bench.contracts import Context, Subject
from bench.errors import BenchError
from bench.identity import job_id
from bench.networks import encoders
from bench.planning.graph import Job
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.spec import Backbone, Data, Resources
from evals import knn
from tests.bench import tensor_bundle
from tests.conftest import BENCH, TINY, tiny_pretrain

# "resnet50" at the embedded scale
OURS = Backbone(name="resnet10", base_channels=8, stem="small", zero_init_residual=False)


def saved(folder: Path, seed: int = 0, backbone: Backbone = OURS, name: str = "my.pt") -> Path:
    """A checkpoint as a pretraining of this project leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"encoder": encoders.build(backbone, seed).state_dict(), "method": {"projector.0.weight": torch.ones(2, 2)}},
        folder / name,
    )
    return folder / name


def asked(path: Path, *protocols: str, **choices: object) -> evaluate.CheckpointRequest:
    return replace(evaluate.CheckpointRequest(find_site(), path, protocols or ("knn",), "embedded"), **choices)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_checkpoint_of_ones_own_is_evaluated_and_its_numbers_printed(workplace: Path) -> None:
    path = saved(workplace)
    command = [*BENCH, "evaluate", "--checkpoint", "my.pt", "--protocol", "knn", "--executor", "inline"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    keys = "layout [encoder] plain names: 72 keys matched, 0 missing, 1 left out (method.projector.0.weight)"
    assert keys in found.stdout
    assert "network resnet10 1x, inputs from 0 to 1" in found.stdout
    # The number is the one that the evaluation gives for this very network.
    network = encoders.build(OURS, seed=0).eval().requires_grad_(False)
    context = Context(
        site=Site(root=workplace, runs=workplace / "r", output=workplace, report=workplace),
        data=Data(name="mnist5k", size=32),
        seed=0,
        device=torch.device("cpu"),
        features=workplace / "features",
    )
    expected = knn.evaluate(knn.RECIPES["embedded"], Subject("here", network, network.feature_dim), context).metrics
    assert f"knn on mnist5k: top1 {expected['top1']:.2f} %, top5 {expected['top5']:.2f} %" in found.stdout
    assert "20 nearest neighbours by cosine" in found.stdout
    (job,) = re.findall(r"job (evaluate-[0-9a-f]{16})", found.stdout)
    origin = Runs(workplace / "runs")[job].result().details["encoder"]
    assert isinstance(origin, dict)
    assert (origin["file"], origin["weights"], origin["matched"], origin["missing"]) == ("my.pt", "file", 72, [])
    # Again: nothing to compute. The same bytes elsewhere: the same job. Other bytes: another.
    path.rename(workplace / "moved.pt")
    assert evaluate.run(asked(workplace / "moved.pt"), "inline") == 0
    assert len(list((workplace / "runs").glob("evaluate-*"))) == 1
    result = Runs(workplace / "runs")[job].result_file
    before = result.stat().st_mtime_ns
    assert evaluate.run(asked(workplace / "moved.pt"), "inline", force=True) == 0
    assert result.stat().st_mtime_ns > before
    other = evaluate.CheckpointRequest(find_site(), saved(workplace, seed=1), ("knn",), "embedded")
    assert evaluate.run(other, "local") == 0
    assert len(list((workplace / "runs").glob("evaluate-*"))) == 2


def test_a_mistake_is_one_line_and_exit_code_2(workplace: Path) -> None:
    found = subprocess.run(
        [*BENCH, "evaluate", "--checkpoint", "gone.pt", "-p", "knn"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stderr) == (2, "error: the checkpoint gone.pt is not there.\n")
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"protocols": ("knnn",)}, r"unknown evaluation 'knnn'\. Did you mean 'knn'"),
        ({"network": "resnet5"}, r"unknown architecture at scale embedded 'resnet5'\. Did you mean 'resnet50'"),
        (
            {"width": 2},
            (
                r"my\.pt \(\[encoder\] plain names\) is not a resnet10 2x: conv1\.weight is \(8, 3, 3, 3\), expected "
                r"\(16, 3, 3, 3\)"
            ),
        ),
        ({"width": 0}, r"resnet10: width 0 and base_channels 8 must be at least 1"),
        ({"network": "vit_base"}, r"holds no vit_digits 1x: not one of its \d+ keys"),
        ({"normalize": "imagnet"}, r"unknown --normalize 'imagnet'\. Did you mean 'imagenet'"),
        ({"variant": "simclrr"}, r"unknown variant of evaluation knn 'simclrr'"),
        ({"dataset": "imagenett"}, r"has no data set for 'imagenett'"),
        ({"scale": "embeded"}, r"unknown scale 'embeded'\. Did you mean 'embedded'"),
        ({"checkpoint": Path()}, r"is a folder, expected a checkpoint file"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_before_anything_runs(
    workplace: Path, choices: dict[str, object], message: str
) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        evaluate.run(asked(saved(workplace), **choices), "inline")
    assert "\n" not in str(caught.value)
    assert not list(workplace.glob("runs/evaluate-*"))


def test_weights_in_a_run_folder_bring_their_network_along(workplace: Path) -> None:
    spec = tiny_pretrain()
    run = Runs(workplace / "runs")[job_id(spec)]
    run.create(Job(id=job_id(spec), spec=spec, needs=(), label="tiny"), Resources())
    path = saved(run.path, backbone=TINY, name="weights.pt")
    assert evaluate.backbone_of(asked(path), path) == TINY
    assert evaluate.backbone_of(asked(path, normalize="imagenet"), path) == replace(TINY, normalize="imagenet")
    assert evaluate.backbone_of(asked(path, network="resnet50"), path) == OURS


def test_the_published_scale_takes_any_network_and_its_usual_inputs(workplace: Path) -> None:
    path = saved(workplace)
    backbone = evaluate.backbone_of(asked(path, scale="paper", network="resnet18", width=2), path)
    assert backbone == Backbone(name="resnet18", width=2, normalize="imagenet")
    assert evaluate.backbone_of(asked(path, scale="paper", normalize="none"), path) == Backbone(name="resnet50")
    index = tensor_bundle.write(workplace / "model.ckpt-1", {"a": torch.ones(3).numpy()})
    assert evaluate.backbone_of(asked(index, scale="paper"), index) == Backbone(name="resnet50", padding="tensorflow")


def test_missing_data_is_said_first(workplace: Path) -> None:
    network = Backbone(name="resnet18", normalize="imagenet")
    path = saved(workplace, backbone=network)
    with pytest.raises(BenchError, match="data set 'imagenet' needs a folder"):
        evaluate.run(asked(path, scale="paper", network="resnet18"), "inline")
