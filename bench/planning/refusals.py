"""What can be refused when a plan is made, before anything is submitted."""

from __future__ import annotations

from bench import plugins
from bench.data.catalogue import entry
from bench.data.loader import Plan
from bench.data.views import augment
from bench.networks import encoders
from bench.spec import Pretrain


def check_pretrain(spec: Pretrain) -> None:
    """Raises BenchError for a network, view, batch or method setting that cannot work."""
    encoders.check_backbone(spec.backbone, [view.size for view in spec.views])
    for view in spec.views:
        augment.check_view(view)
    Plan(images=entry(spec.data.name).train_images, batch_size=spec.batch_size, seed=0)
    plugins.method_of(spec.method).check(spec.method, spec)
