"""A detection job of seconds, for tests; also run as a process of its own: `python detection_parts.py FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.contracts import Context, Outcome, Subject
from bench.data.sets import scenes
from bench.networks import encoders
from bench.settings.site import Site
from bench.spec import Backbone, Data
from bench.training import checkpoint
from bench.training.ranks import from_environment, process_group
from evals import detection_coco, detection_voc

FEW: Mapping[scenes.Part, int] = {"train": 12, "test": 6}


def few_scenes(cache: Path) -> None:
    """Write both sets with few scenes, before a job would write them whole."""
    before = scenes.SCENES
    scenes.draw_scenes.cache_clear()
    try:
        scenes.SCENES = FEW
        for name in ("scenes_coco", "scenes_voc"):
            scenes.scene_folder(name, 96, cache)
    finally:
        scenes.SCENES = before
        scenes.draw_scenes.cache_clear()


def quick(kind: str, **changes: Any) -> Any:
    """The embedded recipe, cut to a few iterations."""
    config = (detection_coco if kind == "coco" else detection_voc).RECIPES["embedded"]
    narrow = replace(config.narrow, proposals=(100, 16, 100, 8), sampled_anchors=16, sampled_regions=8, detections=10)
    return replace(
        config,
        **(
            {"iterations": 6, "steps": (4,), "warmup": 2, "batch_size": 4, "precise_norm": 2, "narrow": narrow}
            | changes
        ),
    )


def context_of(root: Path, kind: str, should_stop: Callable[[], bool] = bool, *, folder: str = "job") -> Context:
    """A job's surroundings below `root`, with few scenes."""
    few_scenes(root / "features")
    (root / folder).mkdir(parents=True, exist_ok=True)
    site = Site(root=root, runs=root, output=root, report=root)
    data = Data(name=f"scenes_{kind}", size=96)
    cpu = torch.device("cpu")
    return Context(
        site=site,
        data=data,
        seed=5,
        device=cpu,
        features=root / "features",
        folder=root / folder,
        should_stop=should_stop,
    )


def tiny() -> Subject:
    """A random network of 32 features."""
    network = encoders.build(Backbone(name="resnet10", base_channels=4, stem="small", zero_init_residual=False), seed=0)
    return Subject(key="random-tiny", network=network.eval().requires_grad_(False), feature_dim=network.feature_dim)


def run(kind: str, context: Context, **changes: Any) -> Outcome:
    """Evaluate."""
    evaluate = detection_coco.evaluate if kind == "coco" else detection_voc.evaluate
    return evaluate(quick(kind, **changes), tiny(), context)


def main(root: Path, kind: str, iterations: int) -> None:
    """The job, saving after every iteration; the first rank leaves its metrics in result.json."""
    torch.set_num_threads(1)
    checkpoint.SECONDS = 0.0
    ranks = from_environment()
    with process_group(ranks, torch.device("cpu")):
        outcome = run(kind, context_of(root, kind), iterations=iterations, steps=(iterations - 1,))
    if ranks.first:
        (root / "job" / "result.json").write_text(json.dumps(dict(outcome.metrics)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    os._exit(0)  # gloo's threads may take their time
