"""The method of a spec, with its initial weights."""

from __future__ import annotations

import torch
from torch import nn

from bench import plugins
from bench.contracts import Facts
from bench.data.catalogue import entry
from bench.networks import encoders
from bench.seeding import seed_of
from bench.spec import Pretrain


def build_method(spec: Pretrain, steps: int) -> nn.Module:
    """Encoder and method with the initial weights of the spec's seed."""
    encoder = encoders.build(spec.backbone, spec.seed)
    known = entry(spec.data.name)
    facts = Facts(
        backbone=spec.backbone,
        feature_dim=encoder.feature_dim,
        classes=known.classes,
        images=known.train_images,
        batch_size=spec.batch_size,
        steps=steps,
        seed=spec.seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(spec.seed, "method"))
        return plugins.method_of(spec.method).build(spec.method, encoder, facts)
