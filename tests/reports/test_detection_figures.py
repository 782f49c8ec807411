"""Detection on a job page: test scenes with truth and predictions, and the AP of each class."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from bench.data.sets.scenes import run_lengths
from bench.files import Json
from bench.planning.graph import plan
from bench.runs.folder import RunFolder, Runs
from bench.runs.result import Provenance, Result
from bench.spec import Backbone, Data, Evaluate, Random, Resources
from evals.detection_coco import RECIPES
from reports.figures import detection
from reports.job_view import read_job
from reports.pages.job import job_page
from reports.pages.related import link

HOSTILE = "<script>alert(1)</script>"


def scene(*, score: float = 0.87) -> dict[str, Json]:
    """A 20 x 10 image with one object and one prediction, both with masks."""
    import torch

    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (10, 20, 30)).save(buffer, "PNG")
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[2:6, 3:9] = True
    lengths: Json = {key: list(values) for key, values in run_lengths(mask).items()}
    thing: dict[str, Json] = {"class": "seven", "box": [3, 2, 6, 4], "mask": lengths}
    image = base64.b64encode(buffer.getvalue()).decode()
    return {
        "image": image,
        "kind": "png",
        "width": 20,
        "height": 10,
        "truth": [thing],
        "predicted": [{**thing, "class": HOSTILE, "score": score}],
    }


def test_a_mask_comes_back_from_its_run_lengths() -> None:
    one = scene()["truth"]
    assert isinstance(one, list)
    assert isinstance(one[0], dict)
    mask = detection._mask(one[0]["mask"], (10, 20))
    assert mask is not None
    wanted = np.zeros((10, 20), dtype=bool)
    wanted[2:6, 3:9] = True
    assert (mask == wanted).all()
    assert detection._mask(one[0]["mask"], (20, 10)) is None
    assert detection._mask({"size": [10, 20], "counts": [1]}, (10, 20)) is None


def test_the_figure_shows_truth_and_prediction_as_text_and_images() -> None:
    drawn = detection.scene_figure([scene(), scene()], name="scenes", title="two scenes")
    assert drawn == detection.scene_figure([scene(), scene()], name="scenes", title="two scenes")
    ElementTree.fromstring(drawn)
    assert drawn.count("data:image/png;base64,") == 4
    for text in ("ground truth", "predicted", "seven", "0.87"):
        assert text in drawn
    assert "<script" not in drawn


@pytest.mark.parametrize("broken", [{}, {"image": "no base64!"}, {"image": base64.b64encode(b"no image").decode()}])
def test_a_damaged_scene_is_left_out(broken: dict[str, Json]) -> None:
    assert detection.scene_figure([broken], name="s", title="t") == ""
    assert detection.scene_figure([broken, scene()], name="s", title="t").count("data:image/png") == 2


def test_damaged_objects_are_left_out() -> None:
    odd = scene() | {"truth": [{"box": "none"}, {"class": "a", "box": [1, 2, None, 4]}, 7], "predicted": "none"}
    assert "data:image/png" in detection.scene_figure([odd], name="s", title="t")


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """A finished COCO job."""
    encoder = Random(backbone=Backbone(name="resnet10", base_channels=8, stem="small"))
    spec = Evaluate(encoder=encoder, protocol=RECIPES["embedded"], data=Data(name="scenes_coco", size=96))
    job = next(iter(plan([("Random | COCO", spec)])))
    run = Runs(tmp_path)[job.id]
    run.create(job, Resources())
    provenance = Provenance(
        started="2026-11-22T10:00:00+00:00",
        seconds=60.0,
        cpu_seconds=58.0,
        host="node",
        device="cpu",
        ranks=1,
        threads=1,
        commit="0123abc",
        versions={},
        resumed=0,
    )
    details: dict[str, Json] = {
        "ap_per_class": {"seven": {"box_ap": 41.27, "mask_ap": 38.0}, HOSTILE: {"box_ap": 12.0, "mask_ap": None}}
    }
    Result(job=job.id, metrics={"box_ap": 26.6, "mask_ap": 38.0}, details=details, provenance=provenance).write(
        run.result_file
    )
    (run.path / "pictures.json").write_text(json.dumps({"format": 1, "scenes": [scene()]}))
    return run


def test_the_job_page_shows_scenes_and_classes(finished: RunFolder) -> None:
    job_view = read_job(finished)
    assert job_view is not None
    page = job_page(job_view, link([], {}))
    assert "Test scenes" in page
    assert page.count("data:image/png;base64,") == 2
    assert "Average precision of each class" in page
    rows = re.findall(r'<th scope="row">([^<]*)</th><td>([^<]*)</td><td>([^<]*)</td>', page)
    assert ("seven", "41.3", "38.0") in rows
    assert any(cells[1:] == ("12.0", "\N{EN DASH}") for cells in rows)
    assert "<script>alert" not in page
    assert "ap per class" not in page  # not a second time as JSON


def test_damaged_pictures_are_named_and_break_nothing(finished: RunFolder) -> None:
    (finished.path / "pictures.json").write_text("{")
    job_view = read_job(finished)
    assert job_view is not None
    assert job_view.scenes == ()
    page = job_page(job_view, link([], {}))
    assert "pictures.json cannot be read" in page
    assert "Test scenes" not in page
