"""The engine of detection_voc and detection_coco: encoder in, fine-tuned detector and its average precision out."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from bench.contracts import Context, Outcome, Subject
from bench.files import Json
from bench.seeding import seed_of
from bench.training.ranks import from_environment
from evals.detection import compat
from evals.detection.config import build_cfg
from evals.detection.recipes import Detector
from evals.detection.weights import load_encoder, spec_of


def run(detector: Detector, subject: Subject, context: Context, *, masks: bool) -> Outcome:
    """Fine-tune and test. With several ranks every rank takes part, and the first one's outcome counts.

    Raises BenchError where Detectron2 is missing, for an encoder without stages, and for data that are not whole; all
    of these before training. Raises Stopped and TrainingFailedError as `fine_tune` does.
    """
    backbone = spec_of(subject)
    compat.require()
    with compat.quiet(), _generators_kept(context.device):
        from detectron2.evaluation import inference_on_dataset
        from detectron2.modeling import build_model

        from evals.detection import (
            networks,  # noqa: F401  registers our backbones and heads
            pictures,
            scores,
        )
        from evals.detection.data import open_scenes, test_loader
        from evals.detection.train import fine_tune, precise_norms

        ranks = from_environment()
        scenes = open_scenes(context, masks=masks, first=ranks.first)
        cfg = build_cfg(
            detector,
            backbone,
            classes=len(scenes.classes),
            masks=masks,
            bitmasks=scenes.bitmasks,
            device=context.device,
        )
        torch.manual_seed(seed_of(context.seed, "detection", "heads"))
        model = build_model(cfg)
        copied = load_encoder(model, subject.network, backbone, detector.architecture)
        model = fine_tune(cfg, model, scenes, context, ranks)
        if detector.precise_norm:
            precise_norms(cfg, model, scenes, context, ranks, detector.precise_norm)
        workers = context.site.loader_workers(context.device.type)
        found = inference_on_dataset(
            model, test_loader(cfg, scenes.test, workers), scores.Predictions(scenes.test, voc=not masks)
        )
        if not ranks.first:
            return Outcome(metrics={})
        if masks:
            total, classes = scores.score_coco(found["found"], scenes.test, context.folder)
        else:
            total, classes = scores.score_voc(found["lines"], scenes.test, context.folder)
        if context.folder is not None:
            pictures.write(found["found"], scenes, context.folder)
    known: dict[str, Json] = {
        name: {key: None if math.isnan(value) else round(value, 4) for key, value in own.items()}
        for name, own in classes.items()
    }
    details: dict[str, Json] = {
        "ap_per_class": known,
        "train_images": len(scenes.train_items),
        "predictions": len(found["found"]),
        "encoder_values": copied,
        "detectron2": compat.describe(),
    }
    return Outcome(metrics=total, details=details)


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """Leave Python's, numpy's and torch's global generators as they were: Detectron2 draws from all three."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
