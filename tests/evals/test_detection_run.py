"""A detection job from end to end, short: scores equal their references, resume is exact, problems are named first."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.contracts import Attempt
from bench.data.sets import scenes
from bench.errors import BenchError, Stopped
from bench.runs.folder import RunFolder
from bench.spec import Data
from bench.training import checkpoint
from evals import detection_coco, detection_voc
from evals.detection import compat
from evals.detection.data import open_scenes, plan_batches
from tests.evals import detection_parts as parts

needs_detectron2 = pytest.mark.skipif(bool(compat.missing()), reason=compat.missing())


# -- batches -----------------------------------------------------------------------------------------------------------


def test_batches_hold_pairs_of_one_aspect_and_see_every_image_as_often() -> None:
    upright = [index % 3 == 0 for index in range(30)]  # 10 upright, 20 wide
    batches = plan_batches(upright, 4, 15, seed=1)
    assert [len(batch) for batch in batches] == [4] * 15
    assert all(upright[a] == upright[b] for batch in batches for a, b in zip(batch[::2], batch[1::2], strict=True))
    counts = np.bincount([image for batch in batches for image in batch], minlength=30)
    assert counts.min() == counts.max() == 2
    assert batches[:7] == plan_batches(upright, 4, 7, seed=1)  # what comes later changes nothing
    assert batches != plan_batches(upright, 4, 15, seed=2)


def test_an_odd_batch_needs_no_pairs() -> None:
    assert [len(batch) for batch in plan_batches([True] * 5 + [False], 3, 4, seed=0)] == [3] * 4


# -- scores ------------------------------------------------------------------------------------------------------------


def guesses(items: Sequence[Any], classes: int) -> list[dict[str, Any]]:
    """Predictions in COCO's format: the truth, shaken, sometimes of the wrong class, and some from nowhere."""
    from detectron2.structures import BoxMode

    rng = np.random.default_rng(0)
    found = []
    for item in items:
        for one in item["annotations"]:
            x, y, width, height = BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYWH_ABS)
            for _ in range(2):
                shaken = [float(v) for v in np.array([x, y, width, height]) + rng.normal(0, 2, 4)]
                label = int(rng.integers(classes)) if rng.random() < 0.3 else one["category_id"]
                found.append(
                    {"image_id": item["image_id"], "category_id": label, "bbox": shaken, "score": float(rng.random())}
                )
                if "segmentation" in one:
                    found[-1]["segmentation"] = {
                        **one["segmentation"],
                        "counts": one["segmentation"]["counts"].decode(),
                    }
    return found


@needs_detectron2
def test_coco_scores_are_pycocotools_and_detectron2s_on_the_saved_predictions(tmp_path: Path) -> None:
    compat.require()
    with compat.quiet():
        from detectron2.data import DatasetCatalog, MetadataCatalog
        from detectron2.evaluation import COCOEvaluator
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        from evals.detection import scores

        scenes = open_scenes(parts.context_of(tmp_path, "coco"), masks=True)
        found = guesses(DatasetCatalog.get(scenes.test), 10)
        total, classes = scores.score_coco(found, scenes.test, tmp_path)
        for kind, word in (("box", "bbox"), ("mask", "segm")):
            with contextlib.redirect_stdout(io.StringIO()):
                truth = COCO(MetadataCatalog.get(scenes.test).json_file)
                by_hand = COCOeval(truth, truth.loadRes(str(tmp_path / "predictions.json")), word)
                by_hand.evaluate()
                by_hand.accumulate()
                by_hand.summarize()
            assert [total[f"{kind}_ap{suffix}"] for suffix in ("", "50", "75")] == [
                100 * float(value) for value in by_hand.stats[:3]
            ]
            assert 5 < total[f"{kind}_ap"] < 95
        theirs = COCOEvaluator(scenes.test, tasks=("bbox", "segm"), distributed=False, use_fast_impl=False)
        theirs.reset()
        theirs._predictions = [{"image_id": one["image_id"], "instances": [one]} for one in found]
        with contextlib.redirect_stdout(io.StringIO()):
            reference = theirs.evaluate()
    for kind, word in (("box", "bbox"), ("mask", "segm")):
        assert total[f"{kind}_ap75"] == reference[word]["AP75"]
        for name, own in classes.items():
            assert own[f"{kind}_ap"] == pytest.approx(reference[word][f"AP-{name}"], nan_ok=True)


@needs_detectron2
def test_voc_scores_are_detectron2s(tmp_path: Path) -> None:
    compat.require()
    with compat.quiet():
        from detectron2.data import DatasetCatalog
        from detectron2.evaluation import PascalVOCDetectionEvaluator
        from detectron2.structures import Boxes, Instances

        from evals.detection import scores

        scenes = open_scenes(parts.context_of(tmp_path, "voc"), masks=False)
        items = DatasetCatalog.get(scenes.test)
        found = guesses(items, 10)
        ours, theirs = scores.Predictions(scenes.test, voc=True), PascalVOCDetectionEvaluator(scenes.test)
        for evaluator in (ours, theirs):
            evaluator.reset()
            for item in items:
                own = [one for one in found if one["image_id"] == item["image_id"]]
                corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in own)])
                instances = Instances((item["height"], item["width"]), pred_boxes=Boxes(corners))
                instances.scores = torch.tensor([one["score"] for one in own])
                instances.pred_classes = torch.tensor([one["category_id"] for one in own])
                evaluator.process([item], [{"instances": instances}])
        gathered = ours.evaluate()
        total, classes = scores.score_voc(gathered["lines"], scenes.test, tmp_path)
        reference = theirs.evaluate()["bbox"]
    assert (total["box_ap"], total["box_ap50"], total["box_ap75"]) == (
        reference["AP"],
        reference["AP50"],
        reference["AP75"],
    )
    assert 5 < total["box_ap"] < 95
    assert len(gathered["found"]) == len(found)
    assert np.mean([own["box_ap"] for own in classes.values()]) == pytest.approx(total["box_ap"])
    assert len(list((tmp_path / "predictions").glob("comp4_det_test_*.txt"))) == 10


@needs_detectron2
def test_a_detector_that_finds_nothing_scores_nothing(tmp_path: Path) -> None:
    compat.require()
    with compat.quiet():
        from evals.detection import scores

        scenes = open_scenes(parts.context_of(tmp_path, "coco"), masks=True)
        total, _ = scores.score_coco([], scenes.test, tmp_path)
        assert set(total.values()) == {0.0}
        scenes = open_scenes(parts.context_of(tmp_path, "voc"), masks=False)
        total, _ = scores.score_voc({}, scenes.test, None)
        assert set(total.values()) == {0.0}


# -- jobs --------------------------------------------------------------------------------------------------------------


@needs_detectron2
@pytest.mark.parametrize(("kind", "variant"), [("coco", "twist"), ("coco", ""), ("voc", "")])
def test_a_stopped_job_goes_on_and_ends_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, variant: str
) -> None:
    module = detection_coco if kind == "coco" else detection_voc
    shape = module.VARIANTS[variant]["embedded"] if variant else module.RECIPES["embedded"]
    changes = {"architecture": shape.architecture, "head_norm": shape.head_norm, "narrow": shape.narrow}
    whole = parts.run(kind, parts.context_of(tmp_path, kind, folder="whole"), **changes)
    asked = iter([False, False, True])
    monkeypatch.setattr(checkpoint, "SECONDS", 1e9)
    long = Attempt(began=time.monotonic() - 1e6)
    with pytest.raises(Stopped, match="after step 3"):
        parts.run(kind, replace(parts.context_of(tmp_path, kind, lambda: next(asked)), attempt=long), **changes)
    assert checkpoint.spent_before(RunFolder(tmp_path / "job")).seconds > 1e6
    again = parts.run(kind, parts.context_of(tmp_path, kind), **changes)
    assert dict(again.metrics) == dict(whole.metrics)
    lines = [
        [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in ("whole", "job")
    ]
    assert [line["step"] for line in lines[0]] == [1, 2, 3, 4, 5, 6]
    for mine, theirs in zip(*lines, strict=True):
        assert {k: v for k, v in mine.items() if k not in ("img_s", "seconds")} == {
            k: v for k, v in theirs.items() if k not in ("img_s", "seconds")
        }
    assert {"steps", "loss", "lr", "img_s", "seconds", "loss_rpn_cls", "loss_cls"} <= lines[0][-1].keys()
    assert lines[0][-1]["lr"] == pytest.approx(0.1 * lines[0][3]["lr"])  # the schedule came along
    same = [
        sorted(file.relative_to(tmp_path / folder) for file in (tmp_path / folder).rglob("*.*"))
        for folder in ("whole", "job")
    ]
    names = [name for name in same[0] if name.suffix in (".json", ".txt")]
    assert names
    # predictions too
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "job" / name).read_bytes() for name in names)
    assert set(whole.details["ap_per_class"]) == set(scenes.CLASSES)  # type: ignore[arg-type]
    assert len(json.loads((tmp_path / "job" / "pictures.json").read_text())["scenes"]) == 6


def started(root: Path, kind: str, iterations: int, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(parts.__file__)), str(root), kind, str(iterations)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with (root / "log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, **environment, "PYTHONPATH": path}, stdout=log, stderr=log)


@pytest.mark.slow
@needs_detectron2
def test_kill_9_in_the_middle_gives_the_same_average_precision(tmp_path: Path) -> None:
    process = started(tmp_path, "voc", 12)
    metrics = tmp_path / "job" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 5):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "job" / "result.json").exists()
    assert started(tmp_path, "voc", 12).wait(timeout=240) == 0, (tmp_path / "log").read_text()
    assert "going on after step" in (tmp_path / "log").read_text()
    whole = parts.run("voc", parts.context_of(tmp_path, "voc", folder="whole"), iterations=12, steps=(11,))
    assert json.loads((tmp_path / "job" / "result.json").read_text()) == dict(whole.metrics)
    assert (tmp_path / "job" / "pictures.json").read_bytes() == (tmp_path / "whole" / "pictures.json").read_bytes()


@pytest.mark.slow
@needs_detectron2
def test_two_ranks_train_one_detector(tmp_path: Path) -> None:
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000)}
    ranks = [started(tmp_path, "coco", 4, RANK=str(rank), LOCAL_RANK=str(rank), **world) for rank in range(2)]
    assert [process.wait(timeout=240) for process in ranks] == [0, 0], (tmp_path / "log").read_text()
    alone = parts.context_of(tmp_path, "coco", folder="alone")
    parts.run("coco", alone, iterations=4, steps=(3,))
    two, one = (
        [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in ("job", "alone")
    )
    assert [line["step"] for line in two] == [1, 2, 3, 4]
    # The same images and norms over both ranks' halves; regions are drawn by each rank, so the losses are near, not
    # equal.
    for mine, theirs in zip(two, one, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.6)
    assert (tmp_path / "job" / "predictions.json").exists()


@needs_detectron2
def test_a_damaged_image_is_named_before_training(tmp_path: Path) -> None:
    context = parts.context_of(tmp_path, "voc")
    victim = sorted((tmp_path / "features" / f"scenes_voc-v{scenes.VERSION}").glob("VOC2012/JPEGImages/*.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(BenchError, match=f"{victim.name} cannot be decoded"):
        parts.run("voc", context)
    assert not (tmp_path / "job" / "metrics.jsonl").exists()


@needs_detectron2
def test_a_protocol_refuses_data_in_another_layout(tmp_path: Path) -> None:
    from dataclasses import replace

    context = parts.context_of(tmp_path, "voc")
    with pytest.raises(BenchError, match=r"VOC's layout \(voc0712 or scenes_voc\), found 'mnist5k'"):
        parts.run("voc", replace(context, data=Data(name="mnist5k", size=32)))


@needs_detectron2
def test_global_generators_are_left_as_they_were(tmp_path: Path) -> None:
    import random

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = random.random(), float(np.random.rand()), float(torch.rand(()))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    parts.run("voc", parts.context_of(tmp_path, "voc"), iterations=1, steps=(), precise_norm=0)
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == wanted
