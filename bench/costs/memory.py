"""Predicted memory of a GPU at the peak of a job, from what was counted of its network and method.

One H100 measured the same within 15 % (docs/gpus.md): 84.7 MB a view of a ResNet-50's training in float32, here 86.5.
"""

from __future__ import annotations

from bench import plugins
from bench.contracts import Sizes
from bench.costs.known_peaks import count
from bench.costs.steps import Count, Network, Training
from bench.data.catalogue import entry
from bench.spec import Evaluate, Pixels, Precision, Pretrain, Spec

GIB = float(1 << 30)
CONTEXT = 0.6e9  # CUDA's own and its libraries' on a GPU, before the first tensor; measured on one H100
# Forwarded at once by an evaluation that says nothing of itself: evals/parts/slices.py.
FORWARDED, FORWARDED_WIDTH = 256, 2048


def predicted(spec: Spec, ranks: int = 1, *, recompute: bool = False) -> float:
    """Bytes of one GPU at the peak of a job of so many ranks; `recompute`: with checkpointed activations.

    Brings torch, for seconds, where a network or method was never counted (bench/costs/known_peaks.py).
    """
    if isinstance(spec, Pretrain):
        return CONTEXT + _training(spec, count(Training(spec, recompute)), ranks)
    return CONTEXT + _evaluation(spec, ranks, recompute=recompute)


def _training(spec: Pretrain, counted: Count, ranks: int) -> float:
    """Of a step: what is counted, with the activations of one chunk and the views of all of the rank's images."""
    images = spec.batch_size / ranks
    views = sum(_image(view.size) for view in spec.views)
    at_once = images / spec.chunks
    gradients = counted.trained if ranks > 1 else 0.0  # a second time, in the buckets that the ranks send each other
    return counted.fixed + counted.image * at_once + views * (images - at_once) + gradients


def _evaluation(spec: Evaluate, ranks: int, *, recompute: bool) -> float:
    from bench.networks.size import feature_dim  # brings torch

    if isinstance(spec.encoder, Pixels):
        return 0.0
    backbone, size, evaluation = spec.encoder.backbone, spec.data.size, plugins.evaluation_of(spec.protocol)
    precision: Precision = getattr(spec.protocol, "precision", "fp32")
    if evaluation.uses_ranks:  # its images have sizes of their own
        size, precision = 224, "fp32"
    data = entry(spec.data.name)
    frozen = count(Network(backbone, size, "fp32", trains=False))
    sizes = Sizes(
        weights=frozen.trained,
        feature_dim=feature_dim(backbone),
        forward=count(Network(backbone, size, precision, trains=False)).image,
        training=count(Network(backbone, size, precision, trains=True, recompute=recompute)).image,
        image=_image(size),
        train_images=data.train_images,
        test_images=data.test_images or data.train_images,
        classes=data.classes,
        ranks=ranks,
    )
    own = evaluation.memory(spec.protocol, sizes)
    if own is not None:
        return own
    return sizes.weights + min(FORWARDED, FORWARDED * FORWARDED_WIDTH / sizes.feature_dim) * sizes.forward


def _image(size: int) -> float:
    return 3.0 * 4 * size**2
